# SPDX-License-Identifier: Apache-2.0
"""Several disks of one guest are switched and merged at the same time.

QEMU (7.2 and 10.0) dies where a pull ends at the moment at which another of
its disks is worked on; without turns it does here within a second or two.
"""

from __future__ import annotations

import contextlib
import pathlib
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any
from xml.etree import ElementTree

from nova_ext import context
from nova_ext.virt.private import PrivateLibvirtd
from nova_ext.virt.sample import create_volume
from nova_ext.virt.sample_records import qemu_img
from tests.fixtures import image
from tests.fixtures.cinder import Attachment
from tests.fixtures.cinder_volume import CinderVolume
from tests.fixtures.host import SIZE, Host, short_directory
from tests.fixtures.libvirt import qemu_pid

pytest_plugins = ['tests.fixtures.host']

_DISKS, _CYCLES = 4, 2


class Volumes:
    """The volumes of one guest beside the one that it writes to."""

    def __init__(self, directory: pathlib.Path, data_bytes: int) -> None:
        self._data_bytes = data_bytes
        self.paths = {}
        for _ in range(_DISKS):
            volume_id = str(uuid.uuid4())
            path = directory / f'volume-{volume_id}'
            create_volume(path, 'raw', SIZE)
            with path.open('r+b') as file:
                file.write(self._data(volume_id))
            self.paths[volume_id] = path

    def check(self, volume_id: str, path: pathlib.Path) -> None:
        """See that an image is in order and holds what it began with."""
        image.check(path)
        held = path.with_name('held')
        qemu_img('convert', '-O', 'raw', str(path), str(held))
        with held.open('rb') as file:
            assert file.read(self._data_bytes) == self._data(volume_id)

    def _data(self, volume_id: str) -> bytes:
        return volume_id[:32].encode() * (self._data_bytes // 32)

    def attach(self, domain: ElementTree.Element) -> None:
        devices = domain.find('devices')
        assert devices is not None
        for (volume_id, path), target in zip(
            self.paths.items(), 'cdefgh', strict=False
        ):
            disk = ElementTree.fromstring(
                '<disk type="file" device="disk">'
                '<driver name="qemu" type="raw"/><source/>'
                '<target bus="virtio"/><serial/></disk>'
            )
            for name, key, value in (
                ('source', 'file', str(path)),
                ('target', 'dev', f'vd{target}'),
            ):
                part = disk.find(name)
                assert part is not None
                part.set(key, value)
            serial = disk.find('serial')
            assert serial is not None
            serial.text = volume_id
            devices.append(disk)


@contextlib.contextmanager
def _running(
    libvirtd: PrivateLibvirtd, data_bytes: int, **options: int
) -> Iterator[tuple[Host, Volumes]]:
    with short_directory() as directory:
        made = Volumes(directory, data_bytes)
        host = Host(
            directory, libvirtd, guest={'customise': made.attach}, **options
        )
        with host.running():
            host.guest.wait_reported(1)
            yield host, made


class Cinder:
    """Cinder-volume's double for the volumes of a guest."""

    def __init__(self, host: Host, *volume_ids: str) -> None:
        self.host = host
        self.volume = CinderVolume(
            host.double, host.directory, create_limit=90, delete_limit=90
        )
        self._who: Any = context.RequestContext(user_id='cinder')
        for volume_id in volume_ids:
            host.double.add_volume(
                volume_id, Attachment(host.guest.uuid, 'this-host')
            )

    def create(self, volume_id: str) -> str:
        snapshot_id = str(uuid.uuid4())
        self.volume.create(
            volume_id,
            snapshot_id,
            lambda *a: self.host.api.volume_snapshot_create(self._who, *a),
        )
        return snapshot_id

    def delete(self, snapshot_id: str) -> None:
        self.volume.delete(
            snapshot_id,
            lambda _, info: self.host.api.volume_snapshot_delete(
                self._who, info['volume_id'], snapshot_id, info
            ),
        )


def _wait_until(condition: Callable[[], object], host: Host) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, host.log()
        time.sleep(0.02)


def test_disks_of_a_guest_at_the_same_time(libvirtd: PrivateLibvirtd) -> None:
    with _running(libvirtd, 1 << 20) as (host, made):
        cinder = Cinder(host, host.volume_id, *made.paths)
        pid = qemu_pid(host.guest.uuid)

        def work(volume_id: str) -> None:
            for _ in range(_CYCLES):
                # Deleted in this order they are a commit and a pull.
                older, younger = (cinder.create(volume_id) for _ in range(2))
                cinder.delete(older)
                cinder.delete(younger)

        with futures.ThreadPoolExecutor(_DISKS + 1) as pool:
            list(pool.map(work, [host.volume_id, *made.paths]))
        _wait_until(lambda: set(host.states()) == {'DONE'}, host)
        assert qemu_pid(host.guest.uuid) == pid
        host.guest.wait_reported(host.guest.reported() + 2)
        host.guest.destroy()
        for volume_id in made.paths:
            (name,) = cinder.volume.chain(volume_id)
            made.check(volume_id, host.directory / name)


def test_a_switch_does_not_wait_for_the_end_of_a_long_pull(
    libvirtd: PrivateLibvirtd,
) -> None:
    with _running(libvirtd, 16 << 20, bandwidth=1) as (host, made):
        pulled, other, *_ = made.paths
        cinder = Cinder(host, pulled, other)
        snapshot_id = cinder.create(pulled)
        with futures.ThreadPoolExecutor(1) as pool:
            deleted = pool.submit(cinder.delete, snapshot_id)
            host.wait_for_last_state('RUNNING')
            cinder.create(other)
            assert not deleted.done()
            _wait_until(lambda: host.guest.domain.blockJobInfo('vdc'), host)
            # What is left of it takes a quarter of an hour so.
            host.guest.domain.blockJobSetSpeed('vdc', 0, 0)
            deleted.result()
        assert 'Stepping aside' in host.log()
        host.guest.destroy()
        for volume_id, layers in ((pulled, 1), (other, 2)):
            chain = cinder.volume.chain(volume_id)
            assert len(chain) == layers
            made.check(volume_id, host.directory / chain[0])
