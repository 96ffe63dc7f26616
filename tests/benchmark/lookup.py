# SPDX-License-Identifier: Apache-2.0
"""What it costs to find who has a volume, on hosts with few and many guests.

A few are of QEMU, and the CPU time is that of libvirtd, too; the many are of
libvirt's test driver, in this process, which is asked for as much.
"""

from __future__ import annotations

import contextlib
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt

from nova_ext.virt.host import Host
from nova_ext.virt.private import PrivateLibvirtd
from tests.benchmark import cpu
from tests.benchmark.crowd import crowd
from tests.benchmark.report import Goal, Row, Section
from tests.benchmark.rig import MeasuringFailed
from tests.fixtures.host import short_directory

_SIZES = (1, 20, 200, 1000)
_REAL_SIZES = (1, 20)
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


@contextlib.contextmanager
def _real_host(number: int) -> Iterator[tuple[Host, str, int]]:
    """The same with QEMU, and the process id of its libvirtd."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(short_directory())
        directory.chmod(0o755)
        libvirtd = stack.enter_context(PrivateLibvirtd(directory))
        host = Host(libvirtd.uri)
        stack.callback(host.close)
        host.connect()
        connection = libvirt.open(libvirtd.uri)
        stack.callback(connection.close)
        volumes = stack.enter_context(crowd(connection, directory, number))
        assert libvirtd.pid is not None
        yield host, volumes[number // 2], libvirtd.pid


def _take(host: Host, volume_id: str, clock: Callable[[], float]) -> float:
    """Seconds of CPU time of a look-up."""
    # What guests that began or ended left to be looked at.
    host.attachments(volume_id)
    began = clock()
    for _ in range(_COUNT):
        found = host.attachments(volume_id)
    seconds = clock() - began
    if len(found) != 1:
        raise MeasuringFailed(f'{volume_id} was not found')
    return seconds / _COUNT


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
                taken[size].append(_take(host, volume_id, time.process_time))
    real = _real(rounds)
    return Section(
        title=f'lookup: {rounds} rounds of {_COUNT} look-ups; ms of CPU each',
        rows=[
            *(
                Row(f'look-up among {size} guests', taken[size], size == 1)
                for size in _SIZES
            ),
            *(
                Row(f'look-up among {size} of QEMU, with libvirtd', seconds)
                for size, seconds in real.items()
            ),
        ],
        goals=[
            Goal('look-up, 1000 guests / 1', _growth(taken), _LIMIT),
            Goal('look-up, 20 of QEMU / 1', _growth(real), _LIMIT),
        ],
    )


def _real(rounds: int) -> dict[int, list[float]]:
    taken: dict[int, list[float]] = {size: [] for size in _REAL_SIZES}
    with contextlib.ExitStack() as stack:
        hosts = {
            size: stack.enter_context(_real_host(size)) for size in _REAL_SIZES
        }
        for _ in range(rounds):
            for size, (host, volume_id, pid) in hosts.items():

                def clock(pid: int = pid) -> float:
                    return time.process_time() + cpu.seconds(pid)

                taken[size].append(_take(host, volume_id, clock))
    return taken


def _growth(taken: dict[int, list[float]]) -> float:
    """How many times as long it takes among the most as among the fewest."""
    sizes = sorted(taken)
    return statistics.median(
        many / one
        for many, one in zip(taken[sizes[-1]], taken[sizes[0]], strict=True)
    )
