# SPDX-License-Identifier: Apache-2.0
"""A host and its guests without libvirt, for the unit tests of the agent.

That they can be asked what the real ones can is a test of the integration
suite, where libvirt is (tests/integration/test_binding.py).
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple
from xml.etree import ElementTree

from nova_ext import exception
from nova_ext.virt import chain
from tests.unit.virt import qcow2

VOLUME, INSTANCE, TARGET = 'volume-id', 'instance-id', 'vdb'
DEFINITION = (
    '<domain type="kvm"><os><type>hvm</type></os><devices>'
    '<emulator>/usr/bin/qemu</emulator>'
    '<disk type="file"><driver type="qcow2" cache="none"/>'
    '<source file="/share/v.s2"/><backingStore/>'
    f'<target dev="{TARGET}"/><serial>{VOLUME}</serial></disk>'
    '<disk type="file"><target dev="vda"/></disk>'
    '</devices></domain>'
)


def unreachable() -> exception.HypervisorUnavailable:
    """What is raised where libvirt is lost."""
    return exception.HypervisorUnavailable(uri='qemu:///fake', reason='gone')


def refusal(reason: str = 'no', code: int = 1) -> exception.HypervisorError:
    """What is raised where libvirt refuses."""
    return exception.HypervisorError(code=code, reason=reason)


class Attachment(NamedTuple):
    """A volume as a disk of a guest."""

    guest: Guest
    domain: chain.Domain
    disk: chain.Disk


class Guest:
    """A guest whose state a test sets.

    :ivar calls: what was asked for that changes something, in order
    :ivar errors: method name → what it raises
    """

    def __init__(
        self, *disks: chain.Disk, uuid: str = INSTANCE, agent: Any = None
    ) -> None:
        self.uuid = uuid
        self.disks = disks
        self.agent = agent
        self.said_state = 'running'
        self.number: int | None = 1
        self.next_start: chain.Domain | None = None
        self.saved = self.working = self.occupied = False
        self.jobs: dict[str, object] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.errors: dict[str, Exception] = {}

    def describe(self) -> chain.Domain:
        self._check('describe')
        return chain.Domain(
            self.uuid, 'guest', self.disks, self.agent, number=self.number
        )

    def stored(self) -> chain.Domain:
        return self.next_start or self.describe()

    def state(self) -> str:
        return self.said_state

    def has_managed_save(self) -> bool:
        return self.saved

    def has_job(self) -> bool:
        return self.working

    def is_occupied(self) -> bool:
        return self.occupied

    def block_job(self, target: str) -> object | None:
        self._check('block_job')
        return self.jobs.get(target)

    def snapshot(
        self, target: str, new_path: str, others: Iterable[str]
    ) -> None:
        self._called('snapshot', target, new_path, sorted(others))

    def pull(self, target: str, base: str | None, bandwidth: int = 0) -> None:
        self._called('pull', target, base, bandwidth)

    def commit(
        self, target: str, base: str, top: str | None, bandwidth: int = 0
    ) -> None:
        self._called('commit', target, base, top, bandwidth)

    def pivot(self, target: str) -> None:
        self._called('pivot', target)

    def limit(self, target: str, bandwidth: int) -> None:
        self._called('limit', target, bandwidth)

    def forget_backing(self, target: str) -> str:
        self._called('forget_backing', target)
        return DEFINITION

    def end(self) -> None:
        self._called('end')

    def flush(self, target: str) -> None:
        self._called('flush', target)

    def cancel(self, target: str) -> None:
        self._called('cancel', target)

    def freeze(self, seconds: int) -> None:
        self._called('freeze', seconds)

    def thaw(self, seconds: int) -> None:
        self._called('thaw', seconds)

    def _called(self, *call: Any) -> None:
        self.calls.append(call)
        self._check(call[0])

    def _check(self, name: str) -> None:
        if name in self.errors:
            raise self.errors[name]


class Host:
    """A host of such guests; `error` is raised by whatever it is asked."""

    def __init__(self, *guests: Guest) -> None:
        self.guests = list(guests)
        self.error: Exception | None = None
        self.started: list[ElementTree.Element] = []

    def connect(self) -> Any:
        if self.error is not None:
            raise self.error

    def guest(self, uuid: str) -> Guest | None:
        self.connect()
        for guest in self.guests:
            if guest.uuid == uuid:
                return guest
        return None

    def described(self, uuid: str) -> tuple[Guest, chain.Domain] | None:
        guest = self.guest(uuid)
        return None if guest is None else (guest, guest.describe())

    def start_paused(self, xml: str) -> Guest:
        self.connect()
        root = ElementTree.fromstring(xml)
        uuid = root.findtext('uuid', '')
        self.guests.append(Guest(disk(serial=None), uuid=uuid))
        self.started.append(root)
        return self.guests[-1]

    def attachments(self, volume_id: str) -> list[Attachment]:
        self.connect()
        return [
            Attachment(guest, guest.describe(), disk)
            for guest in self.guests
            for disk in guest.disks
            if disk.serial == volume_id
        ]


def disk(*layers: tuple[str, str], **changes: Any) -> chain.Disk:
    """The disk of the volume; `layers` are paths and formats, top first."""
    return chain.Disk(
        **{
            'target': TARGET,
            'serial': VOLUME,
            'type': 'file',
            'layers': tuple(chain.Layer(*layer) for layer in layers),
            'readonly': False,
            'encrypted': False,
            'busy': False,
            **changes,
        }
    )


class Share:
    """A directory with the files of a volume, and the locks of QEMU.

    :ivar opened: name → whether for writing too, of what QEMU has open
    """

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.opened: dict[str, bool] = {}

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def raw(self, name: str, size: int = 1 << 30) -> None:
        with (self.directory / name).open('wb') as file:
            file.truncate(size)

    def qcow2(
        self,
        name: str,
        backing: str = '',
        backing_format: str = 'raw',
        **header: Any,
    ) -> None:
        qcow2.make(
            self.directory / name,
            backing=backing.encode(),
            backing_format=backing_format.encode(),
            **header,
        )

    def disk(self, *names: str, base: str = 'raw') -> chain.Disk:
        """A disk of these files, all qcow2 but the last."""
        formats = ['qcow2'] * (len(names) - 1) + [base]
        return disk(
            *((self.path(n), f) for n, f in zip(names, formats, strict=True))
        )

    def open(self, *names: str) -> None:
        """QEMU has this chain open, and nothing else."""
        self.opened = {name: name == names[0] for name in names}
