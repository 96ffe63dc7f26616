# SPDX-License-Identifier: Apache-2.0
"""The sample guest of the demo and the tests, and the check of its records.

A virtual machine without an operating system writes numbered, checksummed
records to its data disk for ever and reports each on its serial line, so that
whoever reads the disk afterwards can prove that nothing was lost. The guest's
program is in ``sample_boot.S``.

No service code may use this module: it creates and destroys guests, which the
rest of this package never does.
"""

from __future__ import annotations

import base64
import os
import pathlib
import re
import struct
import time
import types
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from nova_ext.virt.sample_records import (
    BLOCK_SIZE,
    RING_BLOCKS,
    Records,
    qemu_img,
    read_records,
    scan_records,
)

if TYPE_CHECKING:
    import libvirt

__all__ = [
    'RING_BLOCKS',
    'Records',
    'SampleGuest',
    'create_volume',
    'read_records',
    'scan_records',
]

_BOOT_CODE = base64.b64decode(
    '6w4AAAAAAAABAAAAAAAAAPoxwI7YjsCO0LwAfPz7oQx8owh+ZqEEfGYx0mb3Ngh8ZokW'
    'BH5mweIDZokWDH1moQR8ZkBmowB+ZmnAuXk3nmYx278UgLn7A2ZpwA1mGQBmBV/zbjxm'
    'AcNmq+LsvwCAvvx8ZqVmpWahAH5mAcNmq2ahBH5mAcNmq2aTZvfYZqvHBgZ9CAC4AEOy'
    'gb4Efc0Tch9m/wYEfLAr6B4Agz4MfAAPhHD//w4Ifg+FaP/06V7/sCHoBAD06VX/6B8A'
    'ZosuAH65CABmwcUEiegkDzwKcgIEJwQw6AQA4uuwCojEuv0D7KggdPuI4Lr4A+7DTk9W'
    'QUVYVDEQAAgAAIA='
)
BOOT_SECTOR = _BOOT_CODE.ljust(510, b'\0') + b'\x55\xaa'
_BOOT_PARAMETERS = struct.Struct('<IIH')  # written, ring, burst
_BOOT_PARAMETERS_AT = 4
# The BIOS finds no disk in a smaller image.
_BOOT_IMAGE_SIZE = 1 << 20
_REPORT = re.compile(rb'^\+([0-9a-f]{8})$', re.MULTILINE)


def create_volume(
    path: pathlib.Path, disk_format: str = 'raw', size_bytes: int = 1 << 30
) -> None:
    """Make an empty volume, with the mode that Cinder's NFS driver gives.

    :raises RuntimeError: with the words of qemu-img, if it can't
    """
    qemu_img('create', '-f', disk_format, str(path), str(size_bytes))
    path.chmod(0o666)


class SampleGuest:
    """A guest that writes records to a volume; as a context, for its length.

    The user that the hypervisor runs as must be able to search ``directory``
    and the volume's directory and to read and write the volume. A restart
    goes on after the last record that was reported.

    :param connection: a libvirt URI, or an open connection
    :param directory: receives the boot image and the serial log
    :param volume_path: absolute path of the volume's active layer
    :param volume_id: becomes the serial of the disk
    :param ring_blocks: blocks of 4 KiB of the volume that are written in turn
    :param burst: records per timer tick (18.2 a second), 0 for no rest
    :param written: the last record that the volume holds already
    :param paused: start with the CPU stopped; :meth:`resume` starts it
    :param customise: changes the domain's XML before it is used
    """

    #: name of the volume's disk in the guest
    target = 'vdb'

    def __init__(
        self,
        connection: str | libvirt.virConnect,
        directory: pathlib.Path,
        *,
        volume_path: pathlib.Path,
        volume_id: str,
        name: str = 'sample',
        disk_format: str = 'raw',
        ring_blocks: int = RING_BLOCKS,
        burst: int = 4,
        written: int = 0,
        paused: bool = False,
        persistent: bool = True,
        customise: Callable[[ElementTree.Element], None] | None = None,
    ) -> None:
        self.uuid = str(uuid.uuid4())
        self.name = name
        self.directory = directory
        self.volume_path = volume_path
        self.volume_id = volume_id
        self.disk_format = disk_format
        self.ring_blocks = ring_blocks
        self._connection = connection
        self._burst = burst
        self._written = written
        self._paused = paused
        self._persistent = persistent
        self._customise = customise
        self._boot_image = directory / f'{name}.boot'
        self._serial_log = directory / f'{name}.serial'

    def start(self) -> None:
        """Create the guest, or start it again with the layers it had.

        :raises libvirt.libvirtError: if libvirt or QEMU refuses
        """
        import libvirt

        domain = self._find()
        self._prepare_files(fresh=domain is None)
        flags = libvirt.VIR_DOMAIN_START_PAUSED if self._paused else 0
        if domain is not None:
            domain.createWithFlags(flags)
        elif not self._persistent:
            self._connect().createXML(self._domain_xml(), flags)
        else:
            domain = self._connect().defineXML(self._domain_xml())
            try:
                domain.createWithFlags(flags)
            except libvirt.libvirtError:
                domain.undefine()
                raise

    def suspend(self) -> None:
        """Stop the CPU; returns once nothing is written any more."""
        self.domain.suspend()

    def resume(self) -> None:
        self.domain.resume()

    def destroy(self) -> None:
        """Pull the plug and forget the guest; its files stay."""
        import libvirt

        gone = (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN)
        domain = self._find()
        if domain is not None:
            steps = [domain.destroy] if domain.isActive() else []
            if domain.isPersistent():
                steps.append(domain.undefine)
            for step in steps:
                try:
                    step()
                except libvirt.libvirtError as error:
                    # It may have ended by itself since we looked.
                    if error.get_error_code() not in gone:
                        raise

    def __enter__(self) -> SampleGuest:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.destroy()

    @property
    def domain(self) -> libvirt.virDomain:
        """The guest at libvirt; a RuntimeError if libvirt knows it not."""
        domain = self._find()
        if domain is None:
            raise RuntimeError(f'libvirt has no guest {self.uuid}')
        return domain

    def reported(self) -> int:
        """Return the last record that the disk acknowledged, 0 before."""
        try:
            with self._serial_log.open('rb') as log:
                # Enough to end in a report, unless writes were refused since.
                log.seek(max(log.seek(0, os.SEEK_END) - BLOCK_SIZE, 0))
                numbers = _REPORT.findall(log.read())
                if not numbers:
                    log.seek(0)
                    numbers = _REPORT.findall(log.read())
        except FileNotFoundError:
            return 0
        return int(numbers[-1], 16) if numbers else 0

    def wait_reported(self, number: int, timeout: float = 30.0) -> int:
        """Wait until ``number`` or a later record is reported; return it.

        :param timeout: in seconds
        :raises TimeoutError: with the end of the serial log
        """
        deadline = time.monotonic() + timeout
        while (last := self.reported()) < number:
            if time.monotonic() > deadline:
                tail = b''
                if self._serial_log.exists():
                    tail = self._serial_log.read_bytes()[-60:]
                raise TimeoutError(
                    f'guest {self.name} reported {last} of {number} records '
                    f'in {timeout} s; its serial line ends in {tail!r}'
                )
            time.sleep(0.01)
        return last

    def _connect(self) -> libvirt.virConnect:
        import libvirt

        # Anew each time: without an event loop, a connection notices only by
        # failing that libvirtd was restarted.
        if isinstance(self._connection, str):
            return libvirt.open(self._connection)
        return self._connection

    def _find(self) -> libvirt.virDomain | None:
        # Not a lookup by uuid: libvirt prints those that fail on stderr.
        for domain in self._connect().listAllDomains():
            if domain.UUIDString() == self.uuid:
                return domain
        return None

    def _prepare_files(self, fresh: bool) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if fresh:
            self._serial_log.write_bytes(b'')
            self._serial_log.chmod(0o666)
        else:
            self._written = max(self._written, self.reported())
        sector = bytearray(BOOT_SECTOR)
        _BOOT_PARAMETERS.pack_into(sector, _BOOT_PARAMETERS_AT, self._written,
                                   self.ring_blocks, self._burst)  # fmt: skip
        self._boot_image.write_bytes(sector.ljust(_BOOT_IMAGE_SIZE, b'\0'))
        self._boot_image.chmod(0o644)

    def _domain_xml(self) -> str:
        def add(parent: ElementTree.Element, tag: str, text: str | None = None,
                **attributes: str) -> ElementTree.Element:  # fmt: skip
            child = ElementTree.SubElement(parent, tag, attributes)
            child.text = text
            return child

        # Emulated always: a real-mode guest is faster so than with KVM, and
        # no access to /dev/kvm is needed.
        root = ElementTree.Element('domain', type='qemu')
        add(root, 'name', self.name)
        add(root, 'uuid', self.uuid)
        add(root, 'memory', '16', unit='MiB')
        add(root, 'vcpu', '1')
        add(add(root, 'os'), 'type', 'hvm', arch='x86_64', machine='pc')
        devices = add(root, 'devices')
        add(devices, 'controller', type='usb', model='none')
        add(devices, 'memballoon', model='none')
        boot = add(devices, 'disk', type='file', device='disk')
        add(boot, 'driver', name='qemu', type='raw')
        add(boot, 'source', file=str(self._boot_image))
        add(boot, 'target', dev='vda', bus='virtio')
        add(boot, 'readonly')
        add(boot, 'boot', order='1')
        data = add(devices, 'disk', type='file', device='disk')
        add(data, 'driver', name='qemu', type=self.disk_format,
            cache=_cache_mode(self.volume_path))  # fmt: skip
        add(data, 'source', file=str(self.volume_path))
        add(data, 'target', dev=self.target, bus='virtio')
        add(data, 'serial', self.volume_id)
        # The BIOS drives only the disks that are in its boot order.
        add(data, 'boot', order='2')
        serial = add(devices, 'serial', type='file')
        add(serial, 'source', path=str(self._serial_log), append='on')
        add(serial, 'target', port='0')
        if self._customise is not None:
            self._customise(root)
        return ElementTree.tostring(root, encoding='unicode')


def _cache_mode(path: pathlib.Path) -> str:
    """Return the cache mode that is safe on a share, as Nova chooses it."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return 'writethrough'
    return 'none'
