# SPDX-License-Identifier: Apache-2.0
"""The volume of a run as Cinder has it, watched for false reports.

A report is judged the moment it comes, before Cinder acts on it, by what the
kernel says of QEMU and by files alone: nothing that may be dead is asked.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from nova_ext.virt.image import locks
from nova_ext.virt.sample_records import qemu_img
from tests.crash import plan as crash_plan
from tests.crash.rig import CrashHost, Stuck, wait_for
from tests.fixtures.cinder import Request
from tests.fixtures.cinder_volume import CinderVolume, backing_name
from tests.integration.test_delete import Share

_FAILED = ('error', 'error_deleting')
_CINDER_FIRST = 2.0  # seconds


class CrashShare(Share):
    """A share whose every report is looked at.

    :param limit: seconds that Cinder waits for a report
    """

    host: CrashHost

    def __init__(self, host: CrashHost, limit: float) -> None:
        super().__init__(host)
        host.double.clear_faults()
        host.double.answer_with(500, times=None, when=self._judge)
        self.cinder = CinderVolume(
            host.double,
            host.directory,
            create_limit=limit,
            delete_limit=limit,
        )
        self.false: list[str] = []
        self.give_up = self.write_protect = False
        self._created: str | None = None
        self._doomed: str | None = None

    def create(self) -> str:
        """A snapshot that is to be judged; its id.

        :raises: what the compute API raises, SnapshotFailed
        """
        snapshot_id = str(uuid.uuid4())
        self._created = f'volume-{self.volume_id}.{snapshot_id}'
        active = self.host.directory / self.cinder._active(self.volume_id)
        self.cinder.create(self.volume_id, snapshot_id, self.compute_create)
        self.keep(snapshot_id, active)
        return snapshot_id

    def keep(self, snapshot_id: str, layer: pathlib.Path) -> None:
        """Remember what a snapshot that was just made holds."""
        copy = self.host.directory / f'copy-{snapshot_id}'
        self.convert(layer, copy)
        self._frozen[snapshot_id] = copy

    def delete(self, snapshot_id: str) -> None:
        """Delete a snapshot, with the deletion judged.

        :raises: what the compute API raises, SnapshotFailed
        """
        self._doomed = self._layer_merged_for(snapshot_id)
        self._frozen.pop(snapshot_id, None)
        self.cinder.delete(snapshot_id, self.compute_delete)

    def compute_create(self, volume_id: str, info: dict[str, Any]) -> None:
        with self._protected(info['new_file']):
            super().compute_create(volume_id, info)

    def compute_delete(self, snapshot_id: str, info: dict[str, Any]) -> None:
        with self._protected(info['merge_target_file']):
            super().compute_delete(snapshot_id, info)

    @contextlib.contextmanager
    def _protected(self, name: str) -> Iterator[None]:
        """QEMU can't write to a file for the time, if that is wanted."""
        path = self.host.directory / name if self.write_protect else None
        if path is not None:
            path.chmod(0o444)
        try:
            yield
        finally:
            if path is not None:
                path.chmod(0o666)

    def reset(self, snapshot_id: str) -> None:
        """What an administrator does after error_deleting."""
        self.host.double.set_snapshot(snapshot_id, 'available')

    def convert(self, layer: pathlib.Path, copy: pathlib.Path) -> None:
        """Copy what is seen through a layer into a raw file."""
        qemu_img('convert', '-U', '-O', 'raw', str(layer), str(copy))

    def chain_counted(self) -> list[str]:
        """The layers by Cinder's notes and the headers, active first."""
        return self.cinder.chain(self.volume_id)

    def kept(self) -> dict[str, pathlib.Path]:
        """Snapshot id → copy of what it holds, of those that must be."""
        return dict(self._frozen)

    def holder(self, snapshot_id: str) -> pathlib.Path:
        """The file through which a snapshot is seen, by Cinder's notes."""
        return self._held_by(snapshot_id)

    def drop(self, snapshot_id: str) -> None:
        """Remove the row of a snapshot that failed to be made."""
        self.host.double.remove_snapshot(snapshot_id)
        self._created = None

    def _layer_merged_for(self, snapshot_id: str) -> str | None:
        info = self.cinder.info(self.volume_id)
        overlay = info.get(snapshot_id)
        if overlay is None:
            return None
        if overlay != info['active']:
            return overlay
        return backing_name(self.host.directory / overlay)

    def _judge(self, request: Request) -> bool:
        update = request.update or {}
        status, progress = update.get('status'), update.get('progress')
        if progress == '90%' and self.give_up and request.snapshot_id:
            self.give_up = False
            failed = _FAILED[status == 'deleting']
            self.host.double.set_snapshot(request.snapshot_id, failed)
        if status in _FAILED and self.write_protect and request.snapshot_id:
            self._let_cinder_be_first(request.snapshot_id, status)
        if (status, progress) == ('deleting', '90%') and self._doomed:
            if self._doomed in self.open_files() | self._needed():
                self._blame('deleting 90%, and what Cinder removes is in use')
        elif (status, progress) == ('creating', '90%') and self._created:
            if not self.switched(self._created):
                self._blame('creating 90%, and the guest has not switched')
        elif status == 'error' and self._created:
            if self.switched(self._created):
                self._blame('error, and the guest has switched')
        elif status in _FAILED and progress:
            self._blame(f'{status} with progress, which sticks')
        return False

    def _let_cinder_be_first(self, snapshot_id: str, status: str) -> None:
        """Hear a report after what Cinder does on the answer of a request.

        The two race, and which points are passed depends on who wins. Who
        has died meanwhile is not waited for.
        """
        with contextlib.suppress(Stuck):
            wait_for(
                lambda: (
                    self.host.double.snapshots[snapshot_id].status == status
                ),
                'Cinder does not hear of the failure',
                _CINDER_FIRST,
            )

    def _blame(self, what: str) -> None:
        self.false.append(what)

    def switched(self, name: str) -> bool:
        """Whether a new file is where the guest writes, or will write."""
        if crash_plan.qemu_pids(self.host.directory):
            # Opened only, and even locked, it is not yet in use: with a
            # switch QEMU gives up its lock for writing on what is below.
            path = self.host.directory / name
            below = path.parent / str(backing_name(path))
            return locks(str(path)).writable and not (
                locks(str(below)).writable
            )
        return name == self.stored()

    def open_files(self) -> set[str]:
        """Names of the files that any QEMU of this share has open."""
        found = set()
        for pid in crash_plan.qemu_pids(self.host.directory):
            for entry in pathlib.Path('/proc', str(pid), 'fd').glob('*'):
                with contextlib.suppress(FileNotFoundError):
                    found.add(os.path.basename(os.readlink(entry)))
        return found

    def stored(self) -> str:
        """The active layer that the guest's stored definition names."""
        path = (
            self.host.libvirtd.directory
            / 'libvirt/qemu'
            / f'{self.host.guest.name}.xml'
        )
        root = ElementTree.parse(path).getroot()
        for disk in root.iterfind('devices/disk'):
            if disk.findtext('serial') == self.volume_id:
                source = disk.find('source')
                assert source is not None
                return os.path.basename(source.get('file', ''))
        raise LookupError(path)

    def _needed(self) -> set[str]:
        """What is below the active layer by the headers, or holds what a
        snapshot held that is not being deleted.
        """
        holders = {self.holder(snapshot).name for snapshot in self._frozen}
        return holders | set(self.chain_counted()[1:])
