# SPDX-License-Identifier: Apache-2.0
"""Many guests on one host, each with a process and a volume.

They are paused: they are there to be found, and not to do anything.
"""

from __future__ import annotations

import contextlib
import pathlib
import uuid
from collections.abc import Iterator

import libvirt

_GUEST = """
<domain type='qemu'>
  <name>crowd-{number}</name>
  <memory unit='MiB'>16</memory>
  <os><type arch='x86_64'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{path}'/>
      <target dev='vda' bus='virtio'/>
      <serial>{serial}</serial>
    </disk>
  </devices>
</domain>
"""


@contextlib.contextmanager
def crowd(
    connection: libvirt.virConnect, directory: pathlib.Path, number: int
) -> Iterator[list[str]]:
    """So many guests, until this context ends; the ids of their volumes.

    :param directory: where QEMU may read
    """
    volumes = [str(uuid.uuid4()) for _ in range(number)]
    with contextlib.ExitStack() as stack:
        for count, volume_id in enumerate(volumes):
            path = directory / f'crowd-{count}'
            path.touch(mode=0o666)
            path.chmod(0o666)
            xml = _GUEST.format(number=count, path=path, serial=volume_id)
            domain = connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED)
            stack.callback(domain.destroy)
        yield volumes
