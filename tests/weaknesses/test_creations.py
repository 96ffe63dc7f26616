# SPDX-License-Identifier: Apache-2.0
"""W3 to W7, W9 and W27: what a switch is not made on, and who hears of it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
import uuid
from collections.abc import Callable

import pytest

from tests.fixtures.cinder import Request
from tests.fixtures.cinder_volume import SnapshotFailed
from tests.fixtures.host import Host
from tests.fixtures.linux import Linux, is_clean, make_file_system
from tests.fixtures.merge import stopped, wait_for_state, wait_until
from tests.integration.test_delete import Share
from tests.integration.test_quiesce import _ask, _wait_for_agent
from tests.weaknesses.sites import Refused, Site

pytest_plugins = [
    'tests.fixtures.host',
    'tests.fixtures.linux',
    'tests.fixtures.rabbitmq',
]

_WATCHED_SECONDS = 6.0
# Nova asks Cinder twice a second.
_NOVA_S_LOOKS = 2 * _WATCHED_SECONDS


def _is_outcome(request: Request) -> bool:
    return (request.update or {}).get('progress') == '90%'


def _create(share: Share) -> str:
    """Create a snapshot as Cinder does; its id."""
    snapshot_id = str(uuid.uuid4())
    share.cinder.create(share.volume_id, snapshot_id, share.compute_create)
    return snapshot_id


def _refused(share: Share, call: Callable[[], object], words: str) -> Refused:
    """What is answered with a 400, and changes and begins nothing."""
    jobs = len(share.host.states())
    with pytest.raises(Refused, match=words) as refusal:
        call()
    assert refusal.value.status == 400
    assert len(share.host.states()) == jobs
    return refusal.value


def test_w03_a_suspended_guest_is_refused(share: Share) -> None:
    """Nova switches the stored definition of a suspended guest, which then
    resumes on the file that was to be frozen; here POST and DELETE are
    refused while there is a saved memory image.
    """
    host, known = share.host, share.snapshot()
    chain = host.chain()
    host.guest.domain.managedSave(0)
    words = 'has a saved memory image'
    _refused(share, lambda: _create(share), words)
    _refused(
        share,
        lambda: share.cinder.delete(known, share.compute_delete),
        words,
    )
    host.guest.domain.create()
    assert host.chain() == chain
    share.assert_nothing_lost()


def test_w04_what_comes_late_is_not_begun(site: Site) -> None:
    """Nova casts to a host that is down, where the switch is made when it
    is back, be it days later; here the caller hears 503, and a request that
    the agent reads too late, or that Cinder has given up, begins nothing.
    """
    with site.share(reply_wait=1) as share:
        host = share.host
        late = host.snapshot()
        with stopped(host._agent.pid):
            with pytest.raises(Refused) as refusal:
                host.create(late, host.overlay().name)
        assert refusal.value.status == 503
        wait_until(lambda: 'came too late' in host.log(), host)
        assert host.double.history(late) == []
        given_up = host.snapshot('error')
        with pytest.raises(Refused, match='does not await') as refusal:
            host.create(given_up, host.overlay().name)
        assert refusal.value.status == 400
        host.stop_agent()
        with pytest.raises(Refused, match='Start nova-ext-agent') as refusal:
            host.create(host.snapshot(), host.overlay().name)
        assert refusal.value.status == 503
        host.start_agent()
        host.assert_untouched()


def test_w05_an_overlay_that_leaves_a_layer_out_is_refused(
    share: Share,
) -> None:
    """Nova does not look at the header of new_file, so that after a switch
    that Cinder does not count the next one loses what was written between;
    here the header must name the active layer.
    """
    host = share.host

    def give_up(request: Request) -> bool:
        if _is_outcome(request):
            host.double.set_snapshot(request.snapshot_id, 'error')
        return False

    host.double.answer_with(500, times=None, when=give_up)
    with pytest.raises(SnapshotFailed):
        _create(share)
    wait_for_state(host, 'ORPHANED')
    host.double.clear_faults()
    chain = host.chain()
    assert len(chain) == 2
    refusal = _refused(share, lambda: _create(share), 'its backing file is')
    assert chain[0] in str(refusal)
    # The next start reads headers.
    host.guest.domain.destroy()
    host.guest.start()
    assert host.chain() == chain
    share.assert_nothing_lost()


def test_w06_cinder_is_told_until_it_hears(share: Share) -> None:
    """Nova reports once and drops the error, so that Cinder gives up what
    the guest is on; here it is reported until it is heard, the stored
    definition names the new file, and what was given up is shown.
    """
    host = share.host
    host.double.answer_with(503, times=2, when=_is_outcome)
    host.double.drop(when=_is_outcome)
    known = _create(share)
    assert host.double.snapshots[known].status == 'available'
    reports = host.double.history(known)
    assert reports.count(('creating', '90%')) == 4
    host.guest.domain.destroy()
    host.guest.start()
    assert host.chain() == share.cinder.chain(share.volume_id)
    assert '0 orphaned' in host.api.check()
    given_up = host.snapshot()
    overlay = host.overlay(host.directory / host.chain()[0])
    host.create(given_up, overlay.name)
    host.double.set_snapshot(given_up, 'error')
    wait_for_state(host, 'ORPHANED')
    assert '1 orphaned' in host.api.check()


def test_w07_nobody_waits_for_what_was_not_begun(share: Share) -> None:
    """Nova tells Cinder nothing where the guest is gone or the request is
    incomplete, and Cinder waits ten minutes; here the answer says it, and
    the snapshot is in error at once.
    """
    host, started = share.host, time.monotonic()
    for key, value in (('type', 'raw'), ('snapshot_id', None)):
        info = {'type': 'qcow2', 'new_file': 'file', 'snapshot_id': 'any'}
        info[key] = value  # type: ignore[assignment]
        with pytest.raises(Refused, match=key) as refusal:
            share.compute_create(share.volume_id, info)
        assert refusal.value.status == 400
    known = _create(share)
    host.guest.destroy()
    words = 'No instance of this host'
    with pytest.raises(Refused, match=words):
        _create(share)
    with pytest.raises(Refused, match=words):
        share.cinder.delete(known, share.compute_delete)
    rows = [row.status for row in host.double.snapshots.values()]
    assert sorted(rows) == ['error', 'error_deleting']
    assert time.monotonic() - started < 20


def test_w09_cinder_is_not_asked_for_ever(share: Share) -> None:
    """Nova asks Cinder twice a second without end whether it noted the
    snapshot, and holds a thread; here it is asked ever less often, nobody
    waits for it, and after a day, in which Cinder may have copied the volume
    for a backup, it ends as orphaned.
    """
    host, snapshot_id = share.host, share.host.snapshot()

    def looks() -> int:
        return sum(
            request.method == 'GET' and request.snapshot_id == snapshot_id
            for request in host.double.requests
        )

    host.create(snapshot_id, host.overlay().name)
    assert host.states() == ['CONFIRMING']
    time.sleep(_WATCHED_SECONDS)
    assert 1 <= looks() <= _NOVA_S_LOOKS / 2
    host.kill_agent()
    _move_deadline(host, -90_000)
    host.start_agent()
    wait_for_state(host, 'ORPHANED')
    ended = looks()
    time.sleep(2)
    assert looks() == ended


def _move_deadline(host: Host, seconds: float) -> None:
    """As if that time had passed while no agent ran."""
    path = host.state / 'journal.sqlite'
    with contextlib.closing(sqlite3.connect(path)) as journal, journal:
        ((identity, text),) = journal.execute('SELECT id, document FROM jobs')
        document = json.loads(text)
        document['deadline'] += seconds
        journal.execute(
            'UPDATE jobs SET document = ? WHERE id = ?',
            (json.dumps(document), identity),
        )


def test_w27_who_froze_the_guest_keeps_it_frozen(
    site: Site, linux: Linux
) -> None:
    """Nova freezes for an image and then again for the volume, which fails,
    and with that the snapshot where freezing is required; here a guest that
    is frozen already is as good as one that we froze, and stays so.
    """
    with site.share(
        guest={'customise': linux.customise},
        prepare=make_file_system,
        quiesce='required',
    ) as share:
        host = share.host
        _wait_for_agent(host)
        host.guest.domain.fsFreeze()
        _create(share)
        assert is_clean(host.volume)
        assert _ask(host, 'guest-fsfreeze-status') == 'frozen'
        host.guest.domain.fsThaw()
        host.guest.wait_reported(host.guest.reported() + 3)
