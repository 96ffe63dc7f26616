# SPDX-License-Identifier: Apache-2.0
"""DELETE once more: what is under way or done is not begun again.

Cinder-volume can die while it waits. Its administrator resets the snapshot,
the user deletes it again, and Cinder computes the request anew from files
that have changed since.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from nova_ext import exception
from tests.fixtures.cinder_volume import ServiceDown
from tests.fixtures.host import Host
from tests.integration.test_delete import DONE, Merge, Share, _wait_until
from tests.integration.test_delete import _slow_share as slow_share

pytest_plugins = ['tests.fixtures.host']


@pytest.fixture
def share(host: Host) -> Share:
    return Share(host)


def _unheard(share: Share, snapshot_id: str) -> dict[str, Any]:
    """Merge a snapshot away while cinder-volume is away; what it asked."""
    asked: dict[str, Any] = {}

    def compute_delete(snapshot_id: str, info: dict[str, Any]) -> None:
        asked.update(info)
        share.compute_delete(snapshot_id, info)
        share.cinder.crash()

    with pytest.raises(ServiceDown):
        share.cinder.delete(snapshot_id, compute_delete)
    history = share.host.double.history
    _wait_until(lambda: history(snapshot_id)[-1] == DONE[1], share.host)
    share.cinder.recover()
    share.host.double.set_snapshot(snapshot_id, 'error')
    share.host.wait_for_last_state('UNCLAIMED')
    return asked


def test_a_commit_that_cinder_did_not_note_is_reported_again(
    share: Share,
) -> None:
    older = share.snapshot()
    share.snapshot()
    _unheard(share, older)
    chain = share.host.chain()
    share.delete(older)
    assert share.host.chain() == chain
    share.host.wait_for_last_state('DONE')
    share.assert_nothing_lost()


def test_a_pull_that_cinder_did_not_note_loses_nothing(share: Share) -> None:
    share.snapshot()
    middle, newest = share.snapshot(), share.snapshot()
    asked = _unheard(share, newest)
    chain, files = share.host.chain(), share.files()
    with pytest.raises(exception.SnapshotMerged, match='would lose another'):
        share.cinder.delete(newest, share.compute_delete)
    assert (share.host.chain(), share.files()) == (chain, files)
    # Nor does the next one do harm, before the .info file is mended.
    with pytest.raises(exception.SnapshotNotInChain, match='took no note'):
        share.cinder.delete(middle, share.compute_delete)
    assert (share.host.chain(), share.files()) == (chain, files)
    # The very same request is answered as it was.
    share.host.double.set_snapshot(newest, 'deleting', '0%')
    share.compute_delete(newest, asked)
    history = share.host.double.history
    _wait_until(lambda: history(newest)[-1] == DONE[1], share.host)
    # As the message says it.
    info = share.cinder.info(share.volume_id)
    doomed, active = info[middle], info.pop(newest)
    assert doomed not in chain
    info[middle] = active
    share.cinder._write_info(share.volume_id, info)
    share.host.double.set_snapshot(newest, 'available')
    share.cinder.delete(newest, share.compute_delete)
    share._frozen.pop(newest).unlink()
    (share.host.directory / doomed).unlink()
    share.host.double.set_snapshot(middle, 'available')
    share.assert_the_same()
    share.delete(middle)
    share.assert_nothing_lost()


def test_the_same_request_meanwhile_joins_it(libvirtd: Any) -> None:
    with slow_share(libvirtd) as share:
        merge = Merge(share)
        info = {
            'type': 'qcow2',
            'volume_id': share.volume_id,
            'file_to_merge': None,
            'merge_target_file': None,
        }
        jobs = len(share.host.states())
        repeats = [
            threading.Thread(
                target=share.compute_delete, args=(merge.snapshot_id, info)
            )
            for _ in range(5)
        ]
        for thread in repeats:
            thread.start()
        for thread in repeats:
            thread.join(30)
            assert not thread.is_alive()
        share.host.kill_agent()
        share.host.start_agent()
        share.compute_delete(merge.snapshot_id, info)
        assert len(share.host.states()) == jobs
        # Another one is refused meanwhile.
        with pytest.raises(exception.SnapshotMerged):
            share.compute_delete(
                merge.snapshot_id, {**info, 'file_to_merge': merge.chain[1]}
            )
        merge.let_go()
        merge.end()
        assert merge.told() == DONE
