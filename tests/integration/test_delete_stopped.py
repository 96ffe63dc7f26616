# SPDX-License-Identifier: Apache-2.0
"""Layers are merged away below a guest that is off, by a stand-in for it.

Afterwards the guest starts, and everything is where it was (W32).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from xml.etree import ElementTree

import libvirt
import pytest

from nova_ext.agent import merge
from nova_ext.agent.admission import Admission
from nova_ext.agent.hypervisor import Hypervisor
from nova_ext.agent.transition import Chain
from nova_ext.virt import host as host_module
from nova_ext.virt import image
from nova_ext.virt.private import PrivateLibvirtd
from tests.fixtures.cinder_volume import SnapshotFailed
from tests.fixtures.host import Host, short_directory
from tests.fixtures.libvirt import qemu_pid
from tests.fixtures.merge import fill, wait_until
from tests.integration.test_delete import Share, _slow_share

pytest_plugins = ['tests.fixtures.host']


@pytest.fixture
def share(host: Host) -> Share:
    return Share(host)


def _domains(share: Share) -> set[str]:
    connection = share.host.guest.domain.connect()
    return {domain.name() for domain in connection.listAllDomains()}


@pytest.mark.parametrize('order', list(itertools.permutations((1, 2, 3))))
def test_three_snapshots_are_deleted_in_any_order(
    share: Share, order: tuple[int, ...]
) -> None:
    snapshots = [share.snapshot() for _ in order]
    share.host.guest.domain.destroy()
    domains = _domains(share)
    for number in order:
        share.delete(snapshots[number - 1])
        assert _domains(share) == domains
    assert len(share.files()) == 1
    share.host.guest.start()
    assert share.files() == set(share.host.chain())
    share.assert_nothing_lost()


def _with_io_thread(root: ElementTree.Element) -> None:
    root.insert(3, ElementTree.fromstring('<iothreads>1</iothreads>'))
    for driver in root.iterfind('devices/disk/driver'):
        driver.set('iothread', '1')


def _with_usb(root: ElementTree.Element) -> None:
    usb = root.find("devices/controller[@type='usb']")
    target = root.find("devices/disk/target[@dev='vdb']")
    assert usb is not None and target is not None
    usb.set('model', 'qemu-xhci')
    target.set('bus', 'usb')


@pytest.mark.parametrize('customise', [_with_io_thread, _with_usb])
def test_a_disk_of_a_machine_that_the_stand_in_has_not(
    libvirtd: PrivateLibvirtd,
    customise: Callable[[ElementTree.Element], None],
) -> None:
    with short_directory() as directory:
        host = Host(directory, libvirtd, {'customise': customise})
        with host.running():
            share = Share(host)
            snapshot = share.snapshot()
            share.host.guest.domain.destroy()
            share.delete(snapshot)
            share.host.guest.start()
            share.assert_nothing_lost()


def test_the_guest_cannot_start_during_a_merge_and_does_after(
    libvirtd: PrivateLibvirtd,
) -> None:
    with _slow_share(libvirtd) as share:
        share.snapshot()
        share.host.guest.domain.destroy()
        merge = SlowStored(share)
        with pytest.raises(libvirt.libvirtError, match='lock'):
            share.host.guest.domain.create()
        # It goes on without the agent, and the next one takes it up.
        share.host.kill_agent()
        share.host.start_agent()
        merge.let_go()
        merge.end()
        share.host.guest.start()
        share.assert_nothing_lost()


def test_a_stand_in_that_is_killed_leaves_nothing_lost(
    libvirtd: PrivateLibvirtd,
) -> None:
    with _slow_share(libvirtd) as share:
        share.snapshot()
        share.host.guest.domain.destroy()
        merge = SlowStored(share)
        share.kill_qemu(merge.worker.UUIDString())
        with pytest.raises(SnapshotFailed, match='error_deleting'):
            merge.end()
        share.assert_the_same()
        share.host.double.set_snapshot(merge.snapshot_id, 'available')
        share.delete(merge.snapshot_id)
        share.host.guest.start()
        share.assert_nothing_lost()


def test_what_a_stand_in_merged_and_may_not_have_written_is_not_believed(
    share: Share,
) -> None:
    """Also where the guest was started before anybody looked."""
    fill(share.host)
    share.snapshot()
    host = share.host
    host.stop_agent()
    guest = host.guest.domain
    guest.destroy()
    virt_host, files = host_module.Host(host.uri), image.Files(5.0)
    hypervisor = Hypervisor(virt_host, files, 'never', 10.0, 0)
    admission = Admission(virt_host, files, 570, 7000, True, 'never')
    request = merge.translate(
        host.volume_id, {'file_to_merge': None, 'merge_target_file': None}
    )
    job = admission.delete(host.volume_id, 'snapshot', request, time.time())
    hypervisor.start(job)
    worker = qemu_pid(job.worker_id)

    def is_merged() -> bool:
        header = image.read_qcow2(job.before[0], data=False)
        return header.backing_file is None

    wait_until(is_merged, host)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: virt_host.guest(job.worker_id) is None, host)
    assert hypervisor.look(job) is Chain.UNSAFE
    guest.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    assert hypervisor.look(job) is Chain.UNSAFE
    host.start_agent()


class SlowStored:
    """A deletion whose stand-in is slow until it is let go."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self.snapshot_id = next(iter(share._frozen))
        self._error: list[Exception] = []
        self._thread = threading.Thread(target=self._delete)
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._slow_down():
            assert time.monotonic() < deadline, share.host.log()
            time.sleep(0.005)

    def let_go(self) -> None:
        self.worker.blockJobSetSpeed(self.share.host.guest.target, 0)

    def end(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive(), self.share.host.log()
        for error in self._error:
            raise error

    def _delete(self) -> None:
        try:
            self.share.delete(self.snapshot_id)
        except Exception as error:
            self._error.append(error)

    def _slow_down(self) -> bool:
        connection = self.share.host.guest.domain.connect()
        target = self.share.host.guest.target
        for domain in connection.listAllDomains():
            if domain.name().startswith('nova-ext-'):
                self.worker = domain
                with contextlib.suppress(libvirt.libvirtError):
                    domain.blockJobSetSpeed(target, 1)
                    return bool(domain.blockJobInfo(target))
        return False
