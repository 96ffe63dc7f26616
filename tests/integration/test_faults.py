# SPDX-License-Identifier: Apache-2.0
"""A guest, or a block job of it, is ended in the middle of the work.

A merge that did not come to its end is told as failed, without a progress,
and only once the chain is verified to be as before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from nova_ext import exception
from nova_ext.virt.private import PrivateLibvirtd
from nova_ext.virt.sample_records import qemu_img
from tests.fixtures.merge import (
    DONE,
    KINDS,
    SlowMerge,
    open_files,
    slow_share,
    stopped,
    wait_for_state,
    wait_until,
)
from tests.integration.test_delete import Share

pytest_plugins = ['tests.fixtures.host']

# QEMU 7.2, as libvirt counts it, keeps back what it pulled; 6.2, 8.2 and 10.0
# have written it out at the end. Nobody promises either.
_KEEPS_BACK = range(7_002_000, 7_003_000)


def _kill(share: Share) -> None:
    share.kill_qemu()


def _destroy(share: Share) -> None:
    share.host.guest.domain.destroy()


@pytest.fixture(params=KINDS)
def merge(
    request: pytest.FixtureRequest, libvirtd: PrivateLibvirtd
) -> Iterator[SlowMerge]:
    with slow_share(libvirtd) as share:
        yield SlowMerge(share, request.param)


def test_a_merge_that_somebody_else_cancels(merge: SlowMerge) -> None:
    merge.assert_under_way()
    merge.host.guest.domain.blockJobAbort(merge.host.guest.target)
    merge.assert_failed()
    merge.assert_retry_succeeds()


@pytest.mark.parametrize('end', [_kill, _destroy])
def test_a_guest_that_ends_in_a_merge(
    merge: SlowMerge, end: Callable[[Share], None]
) -> None:
    end(merge.share)
    merge.assert_failed()
    merge.host.guest.start()
    merge.share.assert_the_same()
    merge.assert_retry_succeeds()


def test_a_guest_that_is_forgotten_in_a_merge(
    libvirtd: PrivateLibvirtd,
) -> None:
    # Of a transient guest nothing is left but the files.
    with slow_share(libvirtd, {'persistent': False}) as share:
        merge = SlowMerge(share, 'pull')
        _destroy(share)
        merge.assert_failed()
        with pytest.raises(exception.VolumeNotAttached, match='No instance'):
            merge.retry()


@pytest.mark.parametrize('kind', ['pull', 'commit'])
def test_a_guest_killed_between_a_merge_and_the_look_at_it(
    libvirtd: PrivateLibvirtd, kind: str
) -> None:
    # Nobody can say that QEMU had written out what it merged.
    with slow_share(libvirtd) as share:
        merge = SlowMerge(share, kind)
        with _ended_unseen(merge):
            pass
        _assert_in_doubt(merge)


def test_a_guest_restarted_between_a_pull_and_the_look_at_it(
    libvirtd: PrivateLibvirtd,
) -> None:
    # The same, and the new QEMU cannot say it either.
    with slow_share(libvirtd) as share:
        merge = SlowMerge(share, 'pull')
        share.host.guest.suspend()
        active = share.host.directory / merge.chain[0]
        copy = share.host.directory / 'copy'
        _run('convert', '-U', '-O', 'raw', active, copy)
        with _ended_unseen(merge):
            if merge.host.guest.domain.connect().getVersion() in _KEEPS_BACK:
                with pytest.raises(RuntimeError):
                    # What QEMU had pulled is lost with it, as the header does
                    # not show: if it never is, this test proves nothing.
                    _run('compare', '-U', copy, active)
            share.host.guest.start()
        _assert_in_doubt(merge)


def _assert_in_doubt(merge: SlowMerge) -> None:
    """It failed, no file that may be needed is gone, and it says so."""
    wait_for_state(merge.host, 'FAILED')
    merge.end()
    assert DONE not in merge.told()
    assert merge.told()[-1] == ('error_deleting', None)
    assert merge.share.files() >= set(merge.chain)
    assert f'-b {merge.chain[1]} {merge.chain[0]}' in merge.host.log()


@contextlib.contextmanager
def _ended_unseen(merge: SlowMerge) -> Iterator[None]:
    """A merge ended and its guest was killed, and the agent saw neither."""
    # The files that QEMU has open at the report are none of its any more.
    merge.host.double.clear_faults()
    with stopped(merge.agent_pid):
        merge.let_go()
        wait_until(
            lambda: merge.chain[1] not in open_files(merge.host), merge.host
        )
        merge.share.kill_qemu()
        wait_until(lambda: not merge.host.guest.domain.isActive(), merge.host)
        yield


def _run(*arguments: object) -> None:
    qemu_img(*map(str, arguments))
