# SPDX-License-Identifier: Apache-2.0
"""libvirt, or the monitor of a guest, is lost and comes back.

While nothing can be known nothing is reported and nothing is begun; what
became of the work meanwhile is found out when libvirt is back.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import threading
import time
import uuid
from collections.abc import Iterator
from unittest import mock

import libvirt
import pytest

from nova_ext import exception
from nova_ext.virt import index
from nova_ext.virt.host import Host as VirtHost
from nova_ext.virt.private import PrivateLibvirtd
from tests.fixtures.host import Host, short_directory
from tests.fixtures.libvirt import qemu_pid
from tests.fixtures.merge import (
    ASKED,
    KINDS,
    SlowMerge,
    slow_share,
    stopped,
    wait_until,
)

pytest_plugins = ['tests.fixtures.host']


@pytest.fixture(autouse=True)
def _libvirtd_is_back(libvirtd: PrivateLibvirtd) -> Iterator[None]:
    """Also if a test left it dead."""
    libvirtd.start()
    yield
    libvirtd.start()


def test_a_merge_goes_on_when_libvirt_is_back(
    libvirtd: PrivateLibvirtd,
) -> None:
    with slow_share(libvirtd) as share:
        merge = SlowMerge(share, 'pull')
        libvirtd.kill()
        time.sleep(4)
        merge.assert_under_way()
        with pytest.raises(exception.HypervisorUnavailable):
            share.host.api.check()
        libvirtd.start()
        assert share.host.chain() == merge.chain
        merge.assert_under_way()
        merge.let_go()
        merge.assert_done()


@pytest.mark.parametrize('kind', KINDS)
def test_a_merge_that_ends_without_libvirt(
    libvirtd: PrivateLibvirtd, kind: str
) -> None:
    with slow_share(libvirtd) as share:
        merge = SlowMerge(share, kind)
        merge.let_go()
        libvirtd.kill()
        merge.assert_under_way()
        assert share.cinder.chain(share.volume_id) == merge.chain
        # QEMU ends it alone, but for the file, which libvirt has it close.
        wait_until(
            lambda: len(share.cinder.chain(share.volume_id)) == 2, share.host
        )
        time.sleep(1)
        merge.assert_under_way()
        libvirtd.start()
        merge.assert_done()


def test_requests_while_libvirt_is_away_begin_nothing(
    libvirtd: PrivateLibvirtd,
) -> None:
    with slow_share(libvirtd) as share:
        host = share.host
        known, jobs = share.snapshot(), host.states()
        told = len(host.double.requests)
        active = host.directory / host.chain()[0]
        snapshot_id, overlay = host.snapshot(), host.overlay(active)
        libvirtd.kill()
        with pytest.raises(exception.HypervisorUnavailable, match='libvirt'):
            host.create(snapshot_id, overlay.name)
        with pytest.raises(exception.HypervisorUnavailable, match='libvirt'):
            share.cinder.delete(known, share.compute_delete)
        assert len(host.states()) == len(jobs)
        assert host.double.history(snapshot_id) == []
        assert ASKED not in host.double.history(known)
        libvirtd.start()
        assert host.chain()[0] == active.name
        host.double.set_snapshot(known, 'available')
        share.delete(known)
        share.assert_nothing_lost()
        assert host.double.requests[told:]


@pytest.mark.parametrize('kind', KINDS)
def test_a_guest_that_hangs_in_a_merge(
    libvirtd: PrivateLibvirtd, kind: str
) -> None:
    # As where QEMU waits for a file server: its monitor does not answer.
    with slow_share(libvirtd) as share:
        merge = SlowMerge(share, kind)
        merge.let_go()
        with stopped(qemu_pid(share.host.guest.uuid)):
            time.sleep(3)
            merge.assert_under_way()
            started = time.monotonic()
            share.host.api.check()
            assert time.monotonic() - started < 2
        merge.assert_done()


@pytest.mark.parametrize('kind', KINDS)
def test_a_definition_that_missed_a_merge_is_mended(
    libvirtd: PrivateLibvirtd, kind: str
) -> None:
    with slow_share(libvirtd) as share:
        merge = SlowMerge(share, kind)
        domain = share.host.guest.domain
        # Of three layers the one in the middle disappears in any case.
        doomed = merge.chain[1]
        before = _stored_disk(domain, share.volume_id)
        assert doomed in before
        share.host.kill_agent()
        merge.let_go()
        target = share.host.guest.target
        wait_until(lambda: not domain.blockJobInfo(target), share.host)
        # As it is where libvirtd is killed at the end of a job.
        config = libvirt.VIR_DOMAIN_AFFECT_CONFIG
        domain.updateDeviceFlags(before, config)
        assert doomed in _stored_disk(domain, share.volume_id)
        share.host.start_agent()
        merge.assert_done()
        assert doomed not in _stored_disk(domain, share.volume_id)
        domain.destroy()
        domain.create()
        assert len(share.host.chain()) == 2


def _stored_disk(domain: libvirt.virDomain, volume_id: str) -> str:
    """The disk of the next start."""
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    disks = re.findall(r'<disk .*?</disk>', xml, re.DOTALL)
    (disk,) = (disk for disk in disks if volume_id in disk)
    return disk


def test_what_was_taken_for_a_lost_libvirt_is_given_back(
    libvirtd: PrivateLibvirtd,
) -> None:
    with contextlib.closing(VirtHost(libvirtd.uri)) as host:
        descriptors = []
        for _ in range(4):
            assert host.attachments('nobody-has-it') == []
            descriptors.append(len(os.listdir('/proc/self/fd')))
            libvirtd.kill()
            libvirtd.start()
        # Others in this process have some for a while; what is never given
        # back grows each time.
        assert descriptors != sorted({*descriptors}), descriptors


_HUNG = """
<domain type='qemu'>
  <name>hung</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>16</memory>
  <os><type arch='x86_64'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{path}'/>
      <target dev='vda' bus='virtio'/>
      <serial>{serial}</serial>
    </disk>
  </devices>
</domain>
"""


class _HungGuest:
    """A guest whose start waits for a file server, until it is let go."""

    def __init__(self, directory: pathlib.Path, uri: str) -> None:
        self.uuid, self.volume_id = str(uuid.uuid4()), str(uuid.uuid4())
        self._fifo = directory / 'fifo'
        os.mkfifo(self._fifo)
        self._fifo.chmod(0o666)
        xml = _HUNG.format(
            uuid=self.uuid, path=self._fifo, serial=self.volume_id
        )
        self._domain = libvirt.open(uri).defineXML(xml)
        self._thread = threading.Thread(target=self._start)

    def __enter__(self) -> _HungGuest:
        self._thread.start()
        # libvirtd has it open for reading.
        deadline = time.monotonic() + 30
        while self._domain.connect().isAlive():
            asked = threading.Thread(target=self._domain.state, daemon=True)
            asked.start()
            asked.join(0.5)
            if asked.is_alive():
                break
            assert time.monotonic() < deadline
        return self

    def let_go(self) -> None:
        while self._thread.is_alive():
            with contextlib.suppress(OSError):
                os.close(os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK))
            self._thread.join(0.1)

    def __exit__(self, *_: object) -> None:
        self.let_go()
        self._domain.undefine()

    def _start(self) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            self._domain.create()


def test_a_guest_whose_start_hangs_holds_nothing_else_up(host: Host) -> None:
    active = host.volume
    with _HungGuest(host.directory, host.uri):
        for _ in range(2):
            host.api.check()
            active, snapshot_id = host.overlay(active), host.snapshot()
            host.create(snapshot_id, active.name)
            host.double.set_snapshot(snapshot_id, 'available')
            host.wait_for_last_state('DONE')
        host.volume_id = str(uuid.uuid4())
        with pytest.raises(exception.HypervisorUnavailable, match='virsh'):
            host.create(host.snapshot(), active.name)
        host.api.check()
    with pytest.raises(exception.VolumeNotAttached):
        host.create(host.snapshot(), active.name)


def test_looks_at_a_guest_that_hangs_do_not_pile_up(
    libvirtd: PrivateLibvirtd,
) -> None:
    with (
        short_directory() as directory,
        contextlib.closing(VirtHost(libvirtd.uri)) as host,
    ):
        host.volumes()
        found: list[object] = []
        refused: list[str] = []

        def look() -> None:
            try:
                found.append(host.described(hung.uuid))
            except exception.HypervisorUnavailable as error:
                refused.append(str(error))

        looks = [threading.Thread(target=look) for _ in range(6)]
        with (
            mock.patch.object(index, 'PATIENCE_SECONDS', 0.5),
            _HungGuest(directory, libvirtd.uri) as hung,
        ):
            for thread in looks:
                thread.start()
            deadline = time.monotonic() + 30
            while len(refused) < len(looks) - 1:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert all(hung.uuid in reason for reason in refused)
            with pytest.raises(exception.HypervisorUnavailable):
                host.volumes()
            assert host.described(str(uuid.uuid4())) is None
            hung.let_go()
            deadline = time.monotonic() + 30
            for thread in looks:
                thread.join(30)
            assert len(found) == 1
            # It is all over when the look at all guests is.
            while hung.volume_id not in _volumes(host):
                assert time.monotonic() < deadline
        assert host.attachments(hung.volume_id) == []


def _volumes(host: VirtHost) -> set[str]:
    try:
        return host.volumes()
    except exception.HypervisorUnavailable:
        return set()
