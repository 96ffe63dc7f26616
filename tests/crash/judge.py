# SPDX-License-Identifier: Apache-2.0
"""What must hold after a run, whoever died in it: the data, byte by byte."""

from __future__ import annotations

import pathlib
import subprocess

import libvirt

from nova_ext.virt.sample import read_records
from nova_ext.virt.sample_records import BLOCK_SIZE
from tests.crash.operations import RUNNING, STOPPED
from tests.crash.share import CrashShare
from tests.fixtures import image
from tests.fixtures.cinder_volume import is_qcow2


class Judge:
    """Finds what is lost.

    :param state: of the guest during the run
    :param qemu_died: whether space may be wasted in images
    :ivar compared: bytes that were read back
    """

    def __init__(self, share: CrashShare, state: str, qemu_died: bool) -> None:
        self._share = share
        self._host = share.host
        self._state = state
        self._qemu_died = qemu_died
        self._seen: pathlib.Path | None = None
        self.losses: list[str] = []
        self.compared = 0

    def remember(self) -> None:
        """Note what is seen on the volume, where the guest writes nothing."""
        if self._state != RUNNING:
            active = self._host.directory / self._share.chain_counted()[0]
            self._seen = self._host.directory / 'seen'
            self._share.convert(active, self._seen)

    def judge(self, uncounted: list[str], told: bool) -> list[str]:
        """Look at everything; what is lost.

        The guest's plug is pulled, and it is started again: what is right
        only in the memory of QEMU or libvirt is not right.

        :param uncounted: layers on top that Cinder does not know of
        :param told: whether we said that libvirt lost the chain, and how to
            mend that
        """
        chain = uncounted + self._share.chain_counted()
        guest = self._host.guest
        if self._host.is_active():
            self._expect('chain that QEMU has open', self._host.chain(), chain)
            if not told:
                self._expect("libvirt's chain", self._host.defined(), chain)
            if self._state == RUNNING:
                guest.suspend()
            self._check_images(chain)
            self._host.pull_the_plug()
        else:
            self._check_images(chain)
        self._compare(chain)
        if told:
            self._host.mend(chain[0])
        try:
            guest.start()
        except libvirt.libvirtError as error:
            self.losses.append(f'the guest cannot start: {error}')
            return self.losses
        self._expect('chain after a start', self._host.chain(), chain)
        try:
            guest.wait_reported(guest.reported() + 3)
        except TimeoutError as error:
            self.losses.append(f'the guest cannot write: {error}')
        return self.losses

    def _check_images(self, chain: list[str]) -> None:
        for name in chain:
            path = self._host.directory / name
            if not path.exists():
                self.losses.append(f'{name} is gone')
                continue
            if not _is_qcow2(path):
                continue
            try:
                image.check(path, killed=self._qemu_died)
            except AssertionError as error:
                self.losses.append(str(error))

    def _compare(self, chain: list[str]) -> None:
        for snapshot_id, copy in self._share.kept().items():
            held = self._share.holder(snapshot_id)
            if held.name not in chain:
                self.losses.append(f'{held.name} is in no chain')
            self._same(f'content of snapshot {snapshot_id}', copy, held)
        active = self._host.directory / chain[0]
        if self._seen is not None:
            self._same('content of the volume', self._seen, active)
        image_format = 'qcow2' if _is_qcow2(active) else 'raw'
        records = read_records(active, image_format)
        self.compared += records.count * BLOCK_SIZE
        if records.bad or records.count != records.last:
            self.losses.append(f'records: {records}')
        elif records.count < self._host.guest.reported():
            self.losses.append(
                f'{self._host.guest.reported()} records were reported, and '
                f'there are {records.count}'
            )

    def _same(self, what: str, one: pathlib.Path, other: pathlib.Path) -> None:
        done = subprocess.run(
            ['qemu-img', 'compare', '-U', str(one), str(other)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            self.losses.append(f'{what}: {done.stdout} {done.stderr}')
        self.compared += image.data_bytes(one)

    def _expect(self, what: str, is_now: object, wanted: object) -> None:
        if is_now != wanted:
            self.losses.append(f'{what}: {is_now}, and not {wanted}')


def _is_qcow2(path: pathlib.Path) -> bool:
    with path.open('rb') as file:
        return is_qcow2(file.read(4))


def prepare(share: CrashShare, state: str) -> None:
    """Bring the guest into the state in which the operation meets it."""
    if state == STOPPED:
        share.host.guest.domain.destroy()
    elif state != RUNNING:
        share.host.guest.suspend()
