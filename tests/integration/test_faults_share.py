# SPDX-License-Identifier: Apache-2.0
"""The share of a volume is full, read-only, or does not answer.

A plain user can neither mount nor fill a file system of one's own. So QEMU
is refused what it writes by the kernel's limit on the size of a file, with
EFBIG in the place of ENOSPC, which to a block job is the same; and the file
server that is gone is a system call of the agent that does not return.
"""

from __future__ import annotations

import contextlib
import pathlib
import resource
import shutil
import time
from xml.etree import ElementTree

import libvirt
import pytest

from nova_ext import exception
from nova_ext.virt.private import PrivateLibvirtd
from tests.fixtures.cinder import Request
from tests.fixtures.libvirt import qemu_pid
from tests.fixtures.merge import (
    ASKED,
    FAILED,
    KINDS,
    SlowMerge,
    WatchedHost,
    slow_share,
    wait_for_state,
)

pytest_plugins = ['tests.fixtures.host']

# More than what the guest writes to, less than where a merge writes to.
_LIMIT = 64 << 20


@pytest.fixture(scope='module')
def emulator(libvirtd: PrivateLibvirtd) -> pathlib.Path:
    """QEMU that lives on when it is told that a file is too large."""
    path = libvirtd.directory / 'qemu'
    program = shutil.which('qemu-system-x86_64')
    path.write_text(f'#!/bin/sh\ntrap "" XFSZ\nexec {program} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize('kind', KINDS)
def test_a_share_that_is_full(
    libvirtd: PrivateLibvirtd, emulator: pathlib.Path, kind: str
) -> None:
    def use_emulator(root: ElementTree.Element) -> None:
        devices = root.find('devices')
        assert devices is not None
        ElementTree.SubElement(devices, 'emulator').text = str(emulator)

    with slow_share(libvirtd, {'customise': use_emulator}) as share:
        merge = SlowMerge(share, kind)
        pid = qemu_pid(share.host.guest.uuid)
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (_LIMIT, before[1]))
        with contextlib.suppress(libvirt.libvirtError):
            # Slow as it is, it may have been refused already.
            merge.let_go()
        merge.assert_failed()
        # Space is made, and the guest has lost nothing of its own.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        merge.assert_retry_succeeds()


def test_a_commit_into_what_is_read_only(
    libvirtd: PrivateLibvirtd,
) -> None:
    with slow_share(libvirtd) as share:
        older, newer = share.snapshot(), share.snapshot()
        share.host.volume.chmod(0o444)
        with pytest.raises(exception.MergeFailed, match='denied'):
            share.cinder.delete(older, share.compute_delete)
        wait_for_state(share.host, 'FAILED')
        assert share.host.double.history(older)[-2:] == [ASKED, FAILED]
        share.assert_the_same()
        # What does not write to it is not hindered.
        share.delete(newer)
        share.host.volume.chmod(0o666)
        share.host.double.set_snapshot(older, 'available')
        share.delete(older)
        share.assert_nothing_lost()


def test_a_share_that_hangs_at_the_end_of_a_merge(
    libvirtd: PrivateLibvirtd,
) -> None:
    with slow_share(libvirtd, make=WatchedHost, file_timeout=1) as share:
        merge = SlowMerge(share, 'commit')
        assert isinstance(share.host, WatchedHost)
        with share.host.hung_files():
            merge.let_go()
            time.sleep(4)
            assert len(share.cinder.chain(share.volume_id)) == 2
            merge.assert_under_way()
            assert share.host.states()[-1] == 'VERIFYING'
            # It answers whoever does not want that share.
            share.host.api.check()
        merge.assert_done()


def test_requests_while_a_share_hangs_begin_nothing(
    libvirtd: PrivateLibvirtd,
) -> None:
    with slow_share(libvirtd, make=WatchedHost, file_timeout=1) as share:
        host = share.host
        assert isinstance(host, WatchedHost)
        known = share.snapshot()
        chain, jobs = host.chain(), len(host.states())
        snapshot_id = host.snapshot()
        overlay = host.overlay(host.directory / chain[0])
        with host.hung_files():
            began = time.monotonic()
            for _ in range(40):
                with pytest.raises(
                    exception.ShareUnavailable, match='does not answer'
                ):
                    host.create(snapshot_id, overlay.name)
            with pytest.raises(
                exception.ShareUnavailable, match='does not answer'
            ):
                share.cinder.delete(known, share.compute_delete)
            # Who comes second does not wait for what hangs already.
            assert time.monotonic() - began < 5
        assert (host.chain(), len(host.states())) == (chain, jobs)
        assert host.double.history(snapshot_id) == []
        assert ASKED not in host.double.history(known)
        time.sleep(0.2)
        host.double.set_snapshot(known, 'available')
        share.delete(known)
        share.assert_nothing_lost()


@pytest.mark.parametrize('off', [False, True])
def test_what_was_committed_is_on_disk_before_cinder_is_told(
    libvirtd: PrivateLibvirtd, off: bool
) -> None:
    """QEMU leaves it to the kernel, which a power cut takes by surprise."""
    with slow_share(libvirtd, make=WatchedHost) as share:
        host = share.host
        assert isinstance(host, WatchedHost)
        older = share.snapshot()
        share.snapshot()
        active, _, base = host.chain()
        if off:
            host.guest.domain.destroy()
        synced: list[set[str]] = []

        def is_end(request: Request) -> bool:
            if request.update == {'status': 'deleting', 'progress': '90%'}:
                synced.append(host.synced())
            return False

        host.double.answer_with(500, times=None, when=is_end)
        share.cinder.delete(older, share.compute_delete)
        assert synced == [{active, base}]
