# SPDX-License-Identifier: Apache-2.0
"""What it costs to find who has a volume, on hosts with few and many guests.

The guests are those of libvirt's test driver, in this process: a look-up
asks it for as much as a libvirtd. How it goes with QEMU is in merge.py.
"""

from __future__ import annotations

import contextlib
import statistics
import time
import uuid
from pathlib import Path

from nova_ext.virt.host import Host
from tests.benchmark.report import Goal, Row, Section
from tests.benchmark.rig import MeasuringFailed
from tests.fixtures.host import short_directory

_SIZES = (1, 20, 200, 1000)
_LIMIT = 1.2
_COUNT = 50
_NODE = '<node>{}</node>'
_GUEST = """
<domain type='test'>
  <name>guest-{name}</name>
  <uuid>{name}</uuid>
  <memory unit='MiB'>16</memory>
  <os><type>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='/nowhere/{serial}'/>
      <target dev='vda' bus='virtio'/>
      <serial>{serial}</serial>
    </disk>
  </devices>
</domain>
"""


def _host(path: Path, number: int) -> tuple[Host, str]:
    """A host with so many guests, and the volume of one of them."""
    volumes = [str(uuid.uuid4()) for _ in range(number)]
    path.write_text(
        _NODE.format(
            ''.join(
                _GUEST.format(name=uuid.uuid4(), serial=volume_id)
                for volume_id in volumes
            )
        )
    )
    host = Host(f'test://{path}')
    if host.volumes() != {*volumes}:
        raise MeasuringFailed(f'not all of {number} guests were found')
    return host, volumes[number // 2]


def measure(short: bool, others: bool) -> Section:
    """Look-up after look-up, on each host in turn.

    :raises: :class:`tests.benchmark.rig.MeasuringFailed`
    """
    rounds = 30 if short else 150
    taken: dict[int, list[float]] = {size: [] for size in _SIZES}
    with short_directory() as directory, contextlib.ExitStack() as stack:
        hosts = {}
        for size in _SIZES:
            hosts[size] = _host(directory / f'{size}.xml', size)
            stack.callback(hosts[size][0].close)
        for _ in range(rounds):
            for size, (host, volume_id) in hosts.items():
                began = time.process_time()
                for _ in range(_COUNT):
                    found = host.attachments(volume_id)
                seconds = time.process_time() - began
                if len(found) != 1:
                    raise MeasuringFailed(f'{volume_id} was not found')
                taken[size].append(seconds / _COUNT)
    growth = statistics.median(
        many / one for many, one in zip(taken[1000], taken[1], strict=True)
    )
    return Section(
        title=f'lookup: {rounds} rounds of {_COUNT} look-ups; ms of CPU each',
        rows=[
            Row(f'look-up among {size} guests', taken[size], size == 1)
            for size in _SIZES
        ],
        goals=[Goal('look-up, 1000 guests / 1', growth, _LIMIT)],
    )
