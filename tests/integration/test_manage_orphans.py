# SPDX-License-Identifier: Apache-2.0
"""Switches and merges that Cinder does not count, and how operators end them.

The guest writes all the time; what it was told is written is never lost.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest

from nova_ext import exception
from nova_ext.virt.private import PrivateLibvirtd
from nova_ext.virt.sample import read_records
from tests.fixtures.cinder import Attachment, Request
from tests.fixtures.host import Host, short_directory
from tests.fixtures.libvirt import qemu_pid
from tests.fixtures.merge import fill, wait_until
from tests.integration.test_delete import Share
from tests.integration.test_manage import manage

pytest_plugins = ['tests.fixtures.host']


class Orphan:
    """A guest on an overlay that Cinder does not count."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.attachment = Attachment(
            host.guest.uuid,
            'this-host',
            connection_info={'name': host.volume.name},
        )
        host.double.add_volume(host.volume_id, self.attachment)
        self.snapshot_id, self.overlay = host.snapshot(), host.overlay()
        host.double.answer_with(500, times=None, when=self._give_up)
        host.create(self.snapshot_id, self.overlay.name)
        host.wait_for_last_state('ORPHANED')
        host.double.clear_faults()
        # It goes on to write, and what it writes must be kept.
        host.guest.wait_reported(host.guest.reported() + 3)

    def _give_up(self, request: Request) -> bool:
        if (request.update or {}).get('progress') == '90%':
            self.host.double.set_snapshot(self.snapshot_id, 'error')
        return False

    def roll_back(self, *options: str, status: int = 0) -> str:
        """What the command prints."""
        return manage(self.host, 'rollback', 1, *options, status=status)[0]

    def forbidden(self) -> list[str]:
        """The witnesses that forbid it; nothing is done."""
        found = json.loads(self.roll_back('--yes', '--json', status=1))
        assert (found['allowed'], found['job_id']) == (False, None)
        assert self.host.chain()[0] == self.overlay.name
        return [
            line['witness'] for line in found['evidence'] if not line['allows']
        ]

    def merging(self) -> bool:
        """Whether a block job is under way."""
        return bool(
            self.host.guest.domain.blockJobInfo(self.host.guest.target)
        )

    def assert_undone(self) -> None:
        """The guest is where it was, with all that it wrote, for good."""
        self.host.assert_untouched()
        assert self.host.states()[:2] == ['FAILED', 'DONE']
        # What it has been told is on disk, whatever becomes of QEMU.
        os.kill(qemu_pid(self.host.guest.uuid), signal.SIGKILL)
        records = read_records(self.host.volume, 'raw')
        assert (records.bad, records.count) == (0, records.last)
        assert records.count >= self.host.guest.reported()


@pytest.fixture
def orphan(host: Host) -> Orphan:
    return Orphan(host)


def test_a_switch_is_undone_when_a_person_says_so(orphan: Orphan) -> None:
    host = orphan.host
    told = host.double.history(orphan.snapshot_id)
    shown = orphan.roll_back()
    assert 'FORBIDS' not in shown
    assert shown.count('allows it: ') == 7
    assert 'say --yes' in shown
    assert host.states() == ['ORPHANED']
    assert '2 DONE rollback' in orphan.roll_back('--yes')
    # Cinder counts the snapshot as failed, as it did.
    assert host.double.history(orphan.snapshot_id) == told
    assert '0 orphaned' in host.api.check()
    # Cinder's next snapshot finds what it expects.
    after = host.overlay()
    host.create(host.snapshot(), after.name)
    assert host.chain() == [after.name, host.volume.name]


def test_what_was_undone_survives_qemu(orphan: Orphan) -> None:
    orphan.roll_back('--yes')
    orphan.assert_undone()


def _names_it_active(orphan: Orphan) -> None:
    path = orphan.host.directory / f'{orphan.host.volume.name}.info'
    path.write_text(json.dumps({'active': orphan.overlay.name}))


def _names_the_snapshot(orphan: Orphan) -> None:
    path = orphan.host.directory / f'{orphan.host.volume.name}.info'
    names = {'active': orphan.host.volume.name, orphan.snapshot_id: 'lost'}
    path.write_text(json.dumps(names))


def _is_attached(orphan: Orphan) -> None:
    orphan.attachment.connection_info = {'name': orphan.overlay.name}


def _is_available(orphan: Orphan) -> None:
    orphan.host.double.set_snapshot(orphan.snapshot_id, 'available')


def _is_down(orphan: Orphan) -> None:
    orphan.host.double.stop_listening()


def _is_off(orphan: Orphan) -> None:
    orphan.host.guest.domain.destroy()


def _has_an_overlay_more(orphan: Orphan) -> None:
    host = orphan.host
    more = host.overlay(orphan.overlay)
    host.create(host.snapshot(), more.name)
    host.guest.domain.blockCommit(
        host.guest.target, str(orphan.overlay), None, 0, 4
    )
    deadline = time.monotonic() + 30
    while "ready='yes'" not in host.guest.domain.XMLDesc():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    host.guest.domain.blockJobAbort(host.guest.target, 2)


@pytest.mark.parametrize(
    ('change', 'witnesses'),
    [
        (_names_it_active, [".info file of Cinder's"]),
        (_names_the_snapshot, [".info file of Cinder's"]),
        (_is_attached, ['attachments in Cinder']),
        (_is_available, ['snapshot in Cinder']),
        (_is_down, ['Cinder']),
        (_is_off, ['instance']),
        (_has_an_overlay_more, ['later jobs']),
    ],
)
def test_one_witness_is_enough_to_forbid_it(orphan, change, witnesses) -> None:  # type: ignore
    change(orphan)
    assert orphan.forbidden() == witnesses


@pytest.fixture
def slow(libvirtd: PrivateLibvirtd) -> Iterator[Orphan]:
    """An orphan, and a bandwidth at which a rollback takes seconds."""
    with short_directory() as directory:
        with Host(directory, libvirtd, bandwidth=1).running() as host:
            host.guest.wait_reported(1)
            orphan = Orphan(host)
            fill(host)
            yield orphan


def test_an_agent_that_dies_in_it_goes_on(slow: Orphan) -> None:
    host = slow.host
    number = _begin(slow)
    host.kill_agent()
    host.start_agent()
    assert host.chain()[0] == slow.overlay.name
    manage(host, 'limit', number, 0)
    host.wait_for_last_state('DONE')
    slow.assert_undone()


def test_it_can_be_cancelled(slow: Orphan) -> None:
    number = _begin(slow)
    manage(slow.host, 'cancel', number)
    slow.host.wait_for_last_state('FAILED')
    assert slow.host.states() == ['ORPHANED', 'FAILED']
    assert slow.host.chain()[0] == slow.overlay.name
    slow.roll_back()


def _begin(orphan: Orphan) -> int:
    """A rollback that is under way; its number."""
    answer = orphan.host.api.ask(
        'job_rollback', {'job_id': 1, 'confirmed': True}, timeout=30.0
    )
    orphan.host.wait_for_last_state('RUNNING')
    wait_until(orphan.merging, orphan.host)
    return answer['job_id']


def test_a_layer_that_was_merged_in_vain_is_told_again(host: Host) -> None:
    share = Share(host)
    snapshot_id = share.snapshot()
    row = host.double.snapshots[snapshot_id]

    def give_up(request: Request) -> bool:
        told = (request.update or {}).get('progress') == '90%'
        if told and request.update['status'] == 'deleting':
            host.double.set_snapshot(snapshot_id, 'error_deleting')
        return False

    host.double.set_snapshot(snapshot_id, 'deleting', '0%')
    host.double.answer_with(500, times=None, when=give_up)
    base = {'file_to_merge': None, 'merge_target_file': None}
    share.compute_delete(
        snapshot_id, {'volume_id': host.volume_id, 'type': 'qcow2', **base}
    )
    host.wait_for_last_state('UNCLAIMED')
    host.double.clear_faults()
    # It is refused again, as long as Cinder does not wait for it.
    manage(host, 'retry', 2)
    host.wait_for_last_state('UNCLAIMED')
    manage(host, 'abandon', 2, status=1)
    host.double.set_snapshot(snapshot_id, 'deleting', '0%')
    manage(host, 'retry', 2)
    host.double.wait_for(lambda: row.progress == '90%')
    host.double.remove_snapshot(snapshot_id)
    host.wait_for_last_state('DONE')
    assert 'nothing is left' in manage(host, 'retry', 2, status=1)[1]


def test_a_report_that_waits_is_tried_at_once_or_left(host: Host) -> None:
    snapshot_id, overlay = host.snapshot(), host.overlay()
    host.double.answer_with(
        500,
        times=None,
        when=lambda request: (request.update or {}).get('progress') == '90%',
    )
    host.create(snapshot_id, overlay.name)
    deadline = time.monotonic() + 30
    while len(host.double.history(snapshot_id)) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # The next try would be seconds away.
    before = len(host.double.history(snapshot_id))
    manage(host, 'retry', 1)
    host.double.wait_for(
        lambda: len(host.double.history(snapshot_id)) > before, timeout=2.0
    )
    manage(host, 'abandon', 1)
    host.wait_for_last_state('ABANDONED')
    out, _ = manage(host, 'show', 1)
    assert 'abandoned by an operator when it was REPORTING' in out
    # It stays where it is, and is over.
    assert host.chain() == [overlay.name, host.volume.name]
    assert json.loads(manage(host, 'list', '--json')[0]) == []
    with pytest.raises(exception.InvalidOverlay, match='its backing file'):
        host.create(host.snapshot(), host.overlay().name)
