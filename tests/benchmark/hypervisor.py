# SPDX-License-Identifier: Apache-2.0
"""A hypervisor of a fleet: small guests, their volumes, and an agent.

Here: how it is started and ended, and what can be seen of it from outside.
Not here: who else is in the fleet (fleet.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import libvirt

from nova_ext.virt.private import PrivateLibvirtd
from nova_ext.virt.sample import create_volume
from nova_ext.virt.sample_chain import make_overlay, qemu_chain
from tests.benchmark import cpu
from tests.benchmark.rig import MeasuringFailed
from tests.fixtures.cinder import Attachment, CinderDouble
from tests.fixtures.host import short_directory
from tests.fixtures.rabbitmq import RabbitMQ
from tests.fixtures.serve import write_config

VOLUMES = 50
_DISKS = 5
_SIZE_BYTES = 64 << 20
_DATA_BYTES = 1 << 20
_START_SECONDS = 120.0
# Paused: what it would do costs time, and matters to nobody here.
_GUEST = """
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    {disks}
  </devices>
</domain>
"""
_DISK = """
<disk type='file' device='disk'>
  <driver name='qemu' type='raw'/>
  <source file='{path}'/>
  <target dev='{target}' bus='virtio'/>
  <serial>{volume_id}</serial>
</disk>
"""


class Volume:
    """A volume of a guest, and the files that are to become its layers.

    :ivar layers: the base first
    """

    def __init__(self, share: pathlib.Path) -> None:
        self.id = str(uuid.uuid4())
        path = share / f'volume-{self.id}'
        create_volume(path, size_bytes=_SIZE_BYTES)
        with path.open('r+b') as file:
            file.write(self.data)
        self.layers = [path]
        self._ahead: list[tuple[str, pathlib.Path]] = []

    @property
    def data(self) -> bytes:
        """What it begins with."""
        return self.id.encode().ljust(64, b'.') * (_DATA_BYTES // 64)

    def prepare(self, number: int) -> None:
        """Do Cinder's part of so many snapshots, before they are asked for."""
        active, disk_format = self.layers[-1], 'raw'
        for _ in range(number):
            snapshot_id = str(uuid.uuid4())
            name = f'volume-{self.id}.{snapshot_id}'
            active = make_overlay(active, name, disk_format, _SIZE_BYTES)
            disk_format = 'qcow2'
            self._ahead.append((snapshot_id, active))
        self._ahead.reverse()

    def next(self) -> tuple[str, pathlib.Path] | None:
        """The id and the new file of the next snapshot, if there is one."""
        return self._ahead.pop() if self._ahead else None


@dataclasses.dataclass
class Host:
    """A hypervisor and its agent.

    :ivar volumes: those of its guests
    """

    name: str
    directory: pathlib.Path
    volumes: list[Volume]
    domains: list[Any]
    agent: subprocess.Popen[bytes]

    def chain(self, volume: Volume) -> list[str]:
        """The files that QEMU has open, the base first."""
        domain = self.domains[self.volumes.index(volume) // _DISKS]
        layers = qemu_chain(domain, volume.id)
        return [path for path, _ in reversed(layers)]

    @property
    def log(self) -> pathlib.Path:
        """Of the agent."""
        return self.directory / 'agent.log'

    def memory(self, what: str = 'VmRSS') -> float:
        """MiB of the agent, now or as `VmHWM` at most until now."""
        text = pathlib.Path(f'/proc/{self.agent.pid}/status').read_text()
        lines = dict(line.split(':', 1) for line in text.splitlines())
        return int(lines[what].split()[0]) / 1024

    def cpu(self) -> float:
        """Seconds that the agent has used."""
        return cpu.seconds(self.agent.pid)

    def end_agent(self) -> None:
        """SIGTERM, as an operator does."""
        self.agent.terminate()
        self.agent.wait(60)


def cinder_options(cinder: CinderDouble) -> dict[str, str]:
    """How agents and the API reach it."""
    return {'auth_type': 'none', 'endpoint': cinder.endpoint}


@contextlib.contextmanager
def running(
    name: str, broker: RabbitMQ, cinder: CinderDouble, snapshots: int
) -> Iterator[Host]:
    """Until this context ends; the agent may not listen yet."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(short_directory())
        libvirtd = PrivateLibvirtd(directory)
        stack.enter_context(libvirtd)
        connection = libvirt.open(libvirtd.uri)
        stack.callback(connection.close)
        share = directory / 'share'
        share.mkdir()
        volumes = [Volume(share) for _ in range(VOLUMES)]
        with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda one: one.prepare(snapshots), volumes))
        domains = []
        for number in range(0, VOLUMES, _DISKS):
            domain = _guest(connection, volumes[number : number + _DISKS])
            domains.append(domain)
            for volume in volumes[number : number + _DISKS]:
                cinder.add_volume(
                    volume.id, Attachment(domain.UUIDString(), name)
                )
        config = write_config(
            directory / 'agent.conf',
            {
                'DEFAULT': {
                    'log_file': directory / 'agent.log',
                    'transport_url': broker.url,
                },
                'nova_ext_agent': {
                    'host': name,
                    'state_dir': directory,
                    'libvirt_uri': libvirtd.uri,
                    'reports': 'cinder',
                    'rpc': True,
                },
                'nova_ext_cinder': cinder_options(cinder),
            },
        )
        agent = subprocess.Popen(
            [sys.executable, '-m', 'nova_ext.cmd.agent']
            + ['--config-file', str(config)],
            stderr=subprocess.DEVNULL,
        )
        host = Host(name, directory, volumes, domains, agent)
        stack.callback(host.end_agent)
        yield host


def _guest(connection: Any, volumes: list[Volume]) -> Any:
    disks = [
        _DISK.format(
            path=volume.layers[0],
            target=f'vd{"abcdefgh"[number]}',
            volume_id=volume.id,
        )
        for number, volume in enumerate(volumes)
    ]
    identity = str(uuid.uuid4())
    xml = _GUEST.format(
        name=f'small-{identity[:8]}', uuid=identity, disks=''.join(disks)
    )
    return connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED)


def wait_listening(host: Host) -> None:
    """:raises: :class:`tests.benchmark.rig.MeasuringFailed`"""
    deadline = time.monotonic() + _START_SECONDS
    while not (
        host.log.exists()
        and 'Listening on the message bus' in host.log.read_text()
    ):
        if host.agent.poll() is not None or time.monotonic() > deadline:
            raise MeasuringFailed(f'{host.name} does not listen')
        time.sleep(0.05)
