# SPDX-License-Identifier: Apache-2.0
"""Layers are merged away below a guest that writes, as Cinder orders it.

Cinder-volume's double makes the requests and removes files when it is told
that they are done with; what a snapshot held must be the same ever after.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nova_ext import context, exception
from nova_ext.virt.image import locks
from nova_ext.virt.private import PrivateLibvirtd
from nova_ext.virt.sample import read_records
from tests.fixtures import image
from tests.fixtures.cinder import Attachment, Request
from tests.fixtures.cinder_volume import (
    CinderVolume,
    SnapshotFailed,
    backing_name,
)
from tests.fixtures.host import Host, short_directory
from tests.fixtures.libvirt import qemu_pid

pytest_plugins = ['tests.fixtures.host']

DONE = [('deleting', '0%'), ('deleting', '90%')]


class Share:
    """A guest's volume, as cinder-volume sees and changes it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.volume_id = host.volume_id
        self.cinder = CinderVolume(host.double, host.directory)
        host.double.add_volume(
            host.volume_id, Attachment(host.guest.uuid, 'this-host')
        )
        self._frozen: dict[str, pathlib.Path] = {}
        self.open_at_the_report: list[set[str]] = []
        self._qemu_killed = False
        host.double.answer_with(500, times=None, when=self._observe)

    def kill_qemu(self, guest_uuid: str = '') -> None:
        """SIGKILL for the QEMU of this guest, or of another that has it."""
        self._qemu_killed = True
        os.kill(qemu_pid(guest_uuid or self.host.guest.uuid), signal.SIGKILL)

    def snapshot(self) -> str:
        """A snapshot, with a copy of what it holds."""
        self.host.guest.wait_reported(self.host.guest.reported() + 3)
        snapshot_id = str(uuid.uuid4())
        self.cinder.create(self.volume_id, snapshot_id, self.compute_create)
        copy = self.host.directory / f'copy-{snapshot_id}'
        source = self._held_by(snapshot_id)
        _run('convert', '-U', '-O', 'raw', source, copy)
        self._frozen[snapshot_id] = copy
        return snapshot_id

    def delete(self, snapshot_id: str) -> None:
        """Delete a snapshot; the others hold what they held."""
        before = self.files()
        self.cinder.delete(snapshot_id, self.compute_delete)
        (doomed,) = before - self.files()
        assert doomed not in self.open_at_the_report[-1]
        told = [
            report
            for report in self.host.double.history(snapshot_id)
            # On a slow machine it is shown how far it is, too.
            if report[1] in (None, '0%', '90%')
        ]
        assert told[-2:] == DONE
        self._frozen.pop(snapshot_id).unlink()
        self.assert_the_same()

    def assert_the_same(self) -> None:
        """Every snapshot holds what it held when it was made."""
        chain = self.cinder.chain(self.volume_id)
        assert self.host.chain() == chain
        for snapshot_id, copy in self._frozen.items():
            held = self._held_by(snapshot_id)
            assert held.name in chain
            _run('compare', '-U', '-q', copy, held)

    def assert_nothing_lost(self) -> None:
        """All that the guest was told is written is there."""
        guest = self.host.guest
        guest.wait_reported(guest.reported() + 5)
        guest.suspend()
        active = self.host.directory / self.host.chain()[0]
        records = read_records(active, _format(active))
        assert (records.bad, records.count) == (0, records.last)
        assert records.count >= guest.reported()
        image.check(active, killed=self._qemu_killed)
        guest.resume()

    def files(self) -> set[str]:
        """Names of the files that volume and snapshots are made of."""
        return {
            path.name
            for path in self.host.directory.glob('volume-*')
            if path.suffix != '.info'
        }

    def compute_create(self, volume_id: str, info: dict[str, Any]) -> None:
        who = context.RequestContext(user_id='cinder')
        self.host.api.volume_snapshot_create(who, volume_id, info)

    def compute_delete(self, snapshot_id: str, info: dict[str, Any]) -> None:
        who = context.RequestContext(user_id='cinder')
        self.host.api.volume_snapshot_delete(
            who, info['volume_id'], snapshot_id, info
        )

    def _held_by(self, snapshot_id: str) -> pathlib.Path:
        overlay = self.cinder.info(self.volume_id)[snapshot_id]
        held = backing_name(self.host.directory / overlay)
        assert held is not None
        return self.host.directory / held

    def _observe(self, request: Request) -> bool:
        if (request.update or {}) == {'status': 'deleting', 'progress': '90%'}:
            self.open_at_the_report.append(_open_files(self.host))
        return False


def _run(*arguments: object) -> None:
    subprocess.run(['qemu-img', *map(str, arguments)], check=True)


def _format(path: pathlib.Path) -> str:
    with path.open('rb') as file:
        return 'qcow2' if file.read(4) == b'QFI\xfb' else 'raw'


def _open_files(host: Host) -> set[str]:
    """Names of the files that the guest's QEMU has open, by the kernel; of a
    guest that is off those that any QEMU has locked.
    """
    if not host.guest.domain.isActive():
        files = host.directory.glob('volume-*')
        return {file.name for file in files if locks(str(file)).opened}
    directory = pathlib.Path('/proc', str(qemu_pid(host.guest.uuid)), 'fd')
    found = set()
    for entry in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(os.path.basename(os.readlink(entry)))
    return found


@pytest.fixture
def share(host: Host) -> Share:
    return Share(host)


def _wait_until(condition: Callable[[], object], host: Host) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, host.log()
        time.sleep(0.005)


@pytest.mark.parametrize('order', list(itertools.permutations((1, 2, 3))))
def test_three_snapshots_are_deleted_in_any_order(
    share: Share, order: tuple[int, ...]
) -> None:
    snapshots = [share.snapshot() for _ in order]
    assert len(share.host.chain()) == 4
    for number in order:
        share.delete(snapshots[number - 1])
        share.host.guest.wait_reported(share.host.guest.reported() + 3)
    assert share.files() == set(share.host.chain())
    assert len(share.files()) == 1
    share.assert_nothing_lost()
    _wait_until(lambda: set(share.host.states()) == {'DONE'}, share.host)


def test_after_all_that_it_starts_again(share: Share) -> None:
    first, second = share.snapshot(), share.snapshot()
    share.delete(second)
    third = share.snapshot()
    share.delete(first)
    share.host.guest.domain.destroy()
    share.host.guest.start()
    share.assert_the_same()
    share.delete(third)
    share.host.guest.domain.destroy()
    share.host.guest.start()
    share.assert_nothing_lost()


@pytest.mark.parametrize('doomed', ['newest', 'middle', 'only'])
def test_what_was_merged_survives_the_death_of_qemu(
    share: Share, doomed: str
) -> None:
    # Cinder removes the file once it is told; what was in it must be
    # elsewhere on disk by then, and not in QEMU's memory.
    count = 1 if doomed == 'only' else 3
    snapshots = [share.snapshot() for _ in range(count)]
    share.host.guest.suspend()
    active = share.host.directory / share.host.chain()[0]
    copy = share.host.directory / 'copy'
    _run('convert', '-U', '-O', 'raw', active, copy)

    def die(request: Request) -> bool:
        if (request.update or {}).get('progress') == '90%':
            share.kill_qemu()
        return False

    share.host.double.answer_with(500, times=None, when=die)
    snapshot_id = snapshots[1 if doomed == 'middle' else -1]
    share.cinder.delete(snapshot_id, share.compute_delete)
    _run('compare', '-q', copy, active)


def test_progress_that_is_left_over_is_not_taken_for_ours(
    share: Share,
) -> None:
    # A backup of an attached volume leaves deleting + 90%.
    kept = share.snapshot()
    temporary = str(uuid.uuid4())
    before = share.files()
    share.cinder.clone(
        share.volume_id,
        temporary,
        share.compute_create,
        share.compute_delete,
    )
    (doomed,) = before - share.files()
    # It was removed when it was done with, and not before.
    assert doomed not in share.open_at_the_report[-1]
    assert share.host.double.history(temporary)[-2:] == DONE
    share.assert_the_same()
    share.delete(kept)
    share.assert_nothing_lost()


def test_what_is_no_merge_of_one_layer_is_refused(share: Share) -> None:
    first, second = share.snapshot(), share.snapshot()
    chain, jobs = share.host.chain(), len(share.host.states())
    base, old, new = reversed(chain)
    share.host.double.set_snapshot(second, 'deleting', '0%')
    for file_to_merge, target in (
        (None, None),
        (base, None),
        (old, None),
        (new, None),
        (new, old),
        (new, base),
        (base, old),
        ('absent', base),
        (old, 'absent'),
    ):
        info = {
            'type': 'qcow2',
            'volume_id': share.volume_id,
            'file_to_merge': file_to_merge,
            'merge_target_file': target,
        }
        if (file_to_merge, target) == (base, None):
            # This is the one that is asked for: `old` is pulled.
            continue
        with pytest.raises(exception.SnapshotNotInChain):
            share.compute_delete(second, info)
    assert share.host.chain() == chain
    assert len(share.host.states()) == jobs
    assert share.host.double.history(second)[-1][0] == 'creating'
    share.host.double.set_snapshot(second, 'available', '100%')
    share.delete(second)
    share.delete(first)


@pytest.mark.parametrize('off', [False, True])
def test_a_layer_with_snapshots_inside_is_not_merged_away(
    share: Share, off: bool
) -> None:
    """Cinder did not make them, and would remove them with the file."""
    older = share.snapshot()
    share.snapshot()
    domain = share.host.guest.domain
    domain.destroy()
    doomed = share.host.directory / share.host.chain()[1]
    _run('snapshot', '-c', 'mine', doomed)
    if not off:
        domain.create()
    with pytest.raises(exception.SnapshotNotInChain, match='inside'):
        share.delete(older)
    assert doomed.exists()
    if not off:
        domain.destroy()
    _run('snapshot', '-d', 'mine', doomed)
    share.host.double.set_snapshot(older, 'available')
    share.delete(older)


@pytest.mark.parametrize('code', [400, 404, 401, 403, 500, 503])
def test_nothing_is_merged_that_cinder_does_not_await(
    share: Share, code: int
) -> None:
    snapshot_id = share.snapshot()
    chain = share.host.chain()
    share.host.double.answer_with(code, when=lambda request: True)
    share.host.double._faults.reverse()
    with pytest.raises(exception.NovaExtException, match=str(code)):
        share.cinder.delete(snapshot_id, share.compute_delete)
    assert share.host.chain() == chain
    assert share.open_at_the_report == []
    share.assert_nothing_lost()


class Merge:
    """A deletion whose merge is slow until it is let go."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self.host = share.host
        self.snapshot_id = share.snapshot()
        self.chain = self.host.chain()
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._delete)
        self._thread.start()
        _wait_until(self._slow_down, self.host)

    def told(self) -> list[tuple[str, str | None]]:
        """What Cinder was told of the deletion, without how far it is."""
        return [
            report
            for report in self.host.double.history(self.snapshot_id)
            if 'deleting' in report[0] and report[1] in ('0%', '90%', None)
        ]

    def let_go(self) -> None:
        self.host.guest.domain.blockJobSetSpeed(self.host.guest.target, 0)

    def end(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive(), self.host.log()

    def _delete(self) -> None:
        try:
            self.share.cinder.delete(
                self.snapshot_id, self.share.compute_delete
            )
        except Exception as error:
            self.error = error

    def _slow_down(self) -> bool:
        domain, target = self.host.guest.domain, self.host.guest.target
        if not domain.blockJobInfo(target):
            return False
        domain.blockJobSetSpeed(target, 1)
        return bool(domain.blockJobInfo(target))


@contextlib.contextmanager
def _slow_share(libvirtd: PrivateLibvirtd, **options: Any) -> Iterator[Share]:
    """A share where the volume holds much that takes a while to be read."""
    with short_directory() as directory:
        host = Host(directory, libvirtd, **options)
        with host.volume.open('r+b') as volume:
            # Behind what the guest writes.
            volume.seek(300 << 20)
            for _ in range(400):
                volume.write(b'x' * (1 << 20))
        with host.running():
            host.guest.wait_reported(1)
            yield Share(host)


def test_a_merge_goes_on_while_the_agent_is_away(
    libvirtd: PrivateLibvirtd,
) -> None:
    with _slow_share(libvirtd) as share:
        merge = Merge(share)
        share.host.kill_agent()
        share.host.start_agent()
        share.host.wait_for_last_state('RUNNING')
        share.host.restart_libvirtd()
        assert share.host.chain() == merge.chain
        assert share.open_at_the_report == []
        merge.let_go()
        merge.end()
        assert merge.error is None
        assert len(share.host.chain()) == 1
        assert merge.told() == DONE
        share.assert_nothing_lost()


def test_a_merge_over_its_time_is_cancelled(libvirtd: PrivateLibvirtd) -> None:
    with _slow_share(libvirtd, delete_deadline=10) as share:
        merge = Merge(share)
        merge.end()
        assert isinstance(merge.error, SnapshotFailed)
        assert 'error_deleting' in str(merge.error)
        # No 90%, which Cinder would find at the next attempt.
        assert merge.told() == [
            ('deleting', '0%'),
            ('error_deleting', None),
        ]
        assert share.host.chain() == merge.chain
        share.assert_the_same()
        assert share.host.states()[-1] == 'FAILED'
        # Cinder's administrator resets it, and its user deletes it again.
        share.host.double.set_snapshot(merge.snapshot_id, 'available')
        share.delete(merge.snapshot_id)
        share.assert_nothing_lost()
