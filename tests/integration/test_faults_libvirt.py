# SPDX-License-Identifier: Apache-2.0
"""libvirt, or the monitor of a guest, is lost and comes back.

While nothing can be known nothing is reported and nothing is begun; what
became of the work meanwhile is found out when libvirt is back.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator

import libvirt
import pytest

from nova_ext import exception
from nova_ext.virt.host import Host
from nova_ext.virt.private import PrivateLibvirtd
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
    with contextlib.closing(Host(libvirtd.uri)) as host:
        descriptors = []
        for _ in range(4):
            assert host.attachments('nobody-has-it') == []
            descriptors.append(len(os.listdir('/proc/self/fd')))
            libvirtd.kill()
            libvirtd.start()
        # Others in this process have some for a while; what is never given
        # back grows each time.
        assert descriptors != sorted({*descriptors}), descriptors
