# SPDX-License-Identifier: Apache-2.0
"""The private libvirtd and the sample guest, with real processes."""

from __future__ import annotations

import contextlib
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from xml.etree import ElementTree

import libvirt
import pytest

from nova_ext.virt import private, sample
from nova_ext.virt.private import LibvirtdUnavailable, PrivateLibvirtd
from nova_ext.virt.sample import SampleGuest, create_volume, read_records
from nova_ext.virt.sample_chain import make_overlay
from tests.fixtures.libvirt import qemu_pid

pytest_plugins = ('tests.fixtures.libvirt',)

ROOT = pathlib.Path(__file__).parents[2]
NOBODY = pwd.getpwuid(65534)
AS_ROOT = os.geteuid() == 0


@contextlib.contextmanager
def short_directory() -> Iterator[pathlib.Path]:
    directory = pathlib.Path(tempfile.mkdtemp(prefix='nx-', dir='/tmp'))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def directory() -> Iterator[pathlib.Path]:
    with short_directory() as path:
        yield path


def processes_of(directory: pathlib.Path) -> set[int]:
    """Return keeper, libvirtd and QEMU processes that belong to a tree."""
    found = set()
    for process in pathlib.Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(
            FileNotFoundError, ProcessLookupError, PermissionError
        ):
            for name in ('cmdline', 'environ'):
                if os.fsencode(directory) in (process / name).read_bytes():
                    found.add(int(process.name))
    return found


def wait_for_no_process_of(directory: pathlib.Path) -> None:
    deadline = time.monotonic() + 20
    while left := processes_of(directory):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def open_files(pid: int) -> set[str]:
    found = set()
    for fd in pathlib.Path(f'/proc/{pid}/fd').iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(fd))
    return found


def new_guest(libvirtd: PrivateLibvirtd, **options) -> SampleGuest:
    volume_path = libvirtd.directory / 'volume-1'
    create_volume(volume_path)
    return SampleGuest(
        libvirtd.uri,
        libvirtd.directory / 'guest',
        volume_path=volume_path,
        volume_id='1',
        **options,
    )


def live_through_a_crash(directory: pathlib.Path, uid: int | None) -> None:
    """A guest writes while its libvirtd is killed and started again."""
    libvirtd = PrivateLibvirtd(directory, unprivileged_uid=uid)
    with socket.create_server(('127.0.0.1', 0)) as listening, libvirtd:
        listening.set_inheritable(True)
        with new_guest(libvirtd) as guest:
            guest.wait_reported(3)
            qemu = qemu_pid(guest.uuid)
            assert os.stat(f'/proc/{qemu}').st_uid == (
                os.geteuid() if uid is None else uid
            )
            before = libvirtd.pid
            libvirtd.kill()
            assert libvirtd.pid is None
            with pytest.raises(libvirt.libvirtError):
                libvirt.open(libvirtd.uri)
            guest.wait_reported(guest.reported() + 3)

            libvirtd.start()
            assert libvirtd.pid not in (before, None)
            mine = {before, libvirtd.pid, qemu}
            assert mine - {before} < processes_of(directory)
            server = f'socket:[{os.stat(listening.fileno()).st_ino}]'
            for pid in (libvirtd.pid, qemu):
                assert server not in open_files(pid)
                status = pathlib.Path(f'/proc/{pid}/status').read_text()
                assert 'CapEff:\t0000000000000000' in status

            assert qemu_pid(guest.uuid) == qemu
            assert guest.domain.isActive()
            guest.suspend()
            reported = guest.reported()
            records = read_records(guest.volume_path, 'raw')
            assert records.last in (reported, reported + 1)
            assert (records.count, records.bad) == (records.last, 0)
            guest.resume()
            guest.wait_reported(records.last + 3)
            # stop() has to end the guest, too.
            libvirtd.stop()
            assert processes_of(directory) == set()
            libvirtd.start()
            assert not guest.domain.isActive()
    assert processes_of(directory) == set()


@pytest.mark.parametrize('uid', [None, NOBODY.pw_uid] if AS_ROOT else [None])
def test_guest_lives_through_a_crash_of_libvirtd(directory, uid):
    live_through_a_crash(directory, uid)


def test_without_user_namespaces_root_becomes_nobody(directory, monkeypatch):
    forbidden = directory / 'bin/unshare'
    forbidden.parent.mkdir()
    forbidden.write_text('#!/bin/sh\nexit 1\n')
    forbidden.chmod(0o755)
    monkeypatch.setenv('PATH', f'{forbidden.parent}:{os.environ["PATH"]}')
    uid = NOBODY.pw_uid if AS_ROOT else os.geteuid()
    with PrivateLibvirtd(directory) as libvirtd, new_guest(libvirtd) as guest:
        assert os.stat(f'/proc/{libvirtd.pid}').st_uid == uid
        assert os.stat(f'/proc/{qemu_pid(guest.uuid)}').st_uid == uid
        guest.wait_reported(1)


def plain_user() -> list[str]:
    """Return a command prefix that makes root a plain user.

    A real one where it can read this interpreter and these files, else one
    who is root's uid under another name and without root's privileges.
    """
    real = [
        'setpriv', f'--reuid={NOBODY.pw_uid}', f'--regid={NOBODY.pw_gid}',
        '--clear-groups',
    ]  # fmt: skip
    # From within: setpriv itself may execute more than the user may.
    script = (
        'import subprocess, sys\n'
        f'command = [sys.executable, "-c", "import {__name__}"]\n'
        'sys.exit(subprocess.call(command))\n'
    )
    probe = [*real, sys.executable, '-c', script]
    if not subprocess.run(probe, cwd=ROOT, capture_output=True).returncode:
        return real
    return ['unshare', '--user', f'--map-user={NOBODY.pw_uid}']


@pytest.mark.parametrize('prefix', [plain_user] if AS_ROOT else [list])
def test_guest_of_a_plain_user_lives_through_a_crash(prefix):
    script = (
        f'from {__name__} import live_through_a_crash, short_directory\n'
        'with short_directory() as directory:\n'
        '    live_through_a_crash(directory, None)\n'
    )
    done = subprocess.run(
        [*prefix(), sys.executable, '-c', script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_nothing_outlives_a_killed_starter(directory):
    script = (
        'import pathlib, sys, time\n'
        f'from {__name__} import PrivateLibvirtd, new_guest\n'
        'libvirtd = PrivateLibvirtd(pathlib.Path(sys.argv[1]))\n'
        'libvirtd.start()\n'
        'guest = new_guest(libvirtd)\n'
        'guest.start()\n'
        'print(guest.wait_reported(1), flush=True)\n'
        'time.sleep(60)\n'
    )
    with subprocess.Popen(
        [sys.executable, '-c', script, directory],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    ) as starter:
        try:
            assert int(starter.stdout.readline()) >= 1
            # The starter, the keeper, libvirtd and QEMU.
            assert len(processes_of(directory)) >= 4
        finally:
            starter.kill()
    wait_for_no_process_of(directory)


def test_libvirtd_ends_with_its_keeper(directory):
    libvirtd = PrivateLibvirtd(directory)
    libvirtd.start()
    (keeper,) = processes_of(directory) - {libvirtd.pid}
    os.kill(keeper, signal.SIGKILL)
    wait_for_no_process_of(directory)
    libvirtd.start()
    assert libvirt.open(libvirtd.uri).isAlive()
    libvirtd.stop()
    assert processes_of(directory) == set()


def test_stop_can_be_repeated_and_start_too(directory):
    libvirtd = PrivateLibvirtd(directory)
    libvirtd.stop()
    libvirtd.start()
    pid = libvirtd.pid
    libvirtd.start()
    assert libvirtd.pid == pid
    libvirtd.stop()
    libvirtd.stop()
    assert libvirtd.pid is None


def test_one_directory_has_one_libvirtd(directory):
    with PrivateLibvirtd(directory) as first:
        with pytest.raises(LibvirtdUnavailable, match=str(directory)):
            PrivateLibvirtd(directory).start()
        assert libvirt.open(first.uri).isAlive()


def test_path_too_long_is_refused(tmp_path):
    directory = tmp_path / ('x' * 100)
    with pytest.raises(LibvirtdUnavailable, match=f'{directory}.* too long'):
        PrivateLibvirtd(directory)


def test_longest_path_will_do_for_the_longest_socket():
    length = private._SUN_PATH_MAX - len('/' + private._LONGEST_SOCKET)
    directory = pathlib.Path('/tmp/nx-'.ljust(length, 'x'))
    longest = directory / private._LONGEST_SOCKET.replace('9999', '1')

    def add_agent(domain: ElementTree.Element) -> None:
        devices = domain.find('devices')
        channel = ElementTree.SubElement(devices, 'channel', type='unix')
        ElementTree.SubElement(
            channel, 'target', type='virtio', name='org.qemu.guest_agent.0'
        )

    try:
        with PrivateLibvirtd(directory) as libvirtd:
            name = '12345678901234567890-and-more'
            guest = new_guest(libvirtd, name=name, customise=add_agent)
            with guest:
                sockets = pathlib.Path('/proc/net/unix').read_text().split()
                ours = [s for s in sockets if s.startswith(f'{directory}/')]
                # Since libvirt 10 it is at a path that is shorter.
                assert max(ours, key=len).endswith(f'/{longest.name}')
                assert max(map(len, ours)) <= len(str(longest))
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize('uid', [0, *([] if AS_ROOT else [65534])])
def test_impossible_uid_is_refused(directory, uid):
    with pytest.raises(LibvirtdUnavailable, match=f'as uid {uid}'):
        PrivateLibvirtd(directory, unprivileged_uid=uid)


def test_uid_without_account_is_refused(directory, monkeypatch):
    def no_account(uid):
        raise KeyError(uid)

    uid = NOBODY.pw_uid if AS_ROOT else os.geteuid()
    monkeypatch.setattr(private.pwd, 'getpwuid', no_account)
    libvirtd = PrivateLibvirtd(directory, unprivileged_uid=uid)
    with pytest.raises(LibvirtdUnavailable, match=f'account for uid {uid}'):
        libvirtd.start()


def test_missing_program_is_refused_with_its_package(directory, monkeypatch):
    monkeypatch.setenv('PATH', str(directory))
    monkeypatch.setattr(private, '_SYSTEM_PATH', str(directory))
    with pytest.raises(LibvirtdUnavailable, match='install libvirt-daemon'):
        PrivateLibvirtd(directory).start()


def test_failed_start_shows_the_log_of_libvirtd(directory):
    (directory / 'libvirt').mkdir()
    (directory / 'libvirt/libvirtd.conf').write_text('nonsense\n')
    libvirtd = PrivateLibvirtd(directory)
    with pytest.raises(LibvirtdUnavailable, match=r'(?s)log ends in.*conf'):
        libvirtd.start()
    assert processes_of(directory) == set()


def test_boot_sector_is_assembled_from_its_source(tmp_path):
    source = pathlib.Path(sample.__file__).with_name('sample_boot.S')
    obj, boot = tmp_path / 'boot.o', tmp_path / 'boot.bin'
    subprocess.run(['as', '--32', '-o', obj, source], check=True)
    subprocess.run(
        ['ld', '-m', 'elf_i386', '-Ttext', '0x7c00', '-e', '0x7c00',
         '--oformat', 'binary', '-o', boot, obj],
        check=True,
    )  # fmt: skip
    assert boot.read_bytes() == sample.BOOT_SECTOR


@pytest.mark.parametrize('disk_format', ['raw', 'qcow2'])
@pytest.mark.parametrize('persistent', [True, False])
def test_records_are_read_through_a_chain(
    sample_guest, private_libvirtd, disk_format, persistent
):
    guest = sample_guest(disk_format=disk_format, persistent=persistent)
    volume = guest.volume_path
    overlay = make_overlay(volume, f'{volume.name}.s1', disk_format, 1 << 30)
    info = subprocess.check_output(['qemu-img', 'info', '-U', overlay])
    assert f'backing file: {volume.name} (actual'.encode() in info
    before = guest.wait_reported(3)
    guest.domain.snapshotCreateXML(
        '<domainsnapshot><disks>'
        "<disk name='vda' snapshot='no'/>"
        f"<disk name='{guest.target}' snapshot='external' type='file'>"
        f"<source file='{overlay}'/></disk>"
        '</disks></domainsnapshot>',
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
        | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT,
    )
    frozen = read_records(volume, disk_format)
    assert frozen.last >= before
    assert (frozen.count, frozen.bad) == (frozen.last, 0)
    guest.wait_reported(frozen.last + 3)
    guest.suspend()
    seen = read_records(overlay, 'qcow2')
    assert seen.last >= frozen.last + 3
    assert (seen.count, seen.bad) == (seen.last, 0)
    assert read_records(volume, disk_format) == frozen
    disks = ElementTree.fromstring(guest.domain.XMLDesc()).iter('disk')
    (mine,) = (
        disk for disk in disks if disk.findtext('serial') == guest.volume_id
    )
    assert mine.find('target').get('dev') == guest.target
    assert mine.find('source').get('file') == str(overlay)


def test_guest_goes_on_after_its_qemu_was_killed(sample_guest):
    guest = sample_guest(ring_blocks=8, burst=0)
    before = guest.wait_reported(20)
    os.kill(qemu_pid(guest.uuid), signal.SIGKILL)
    deadline = time.monotonic() + 20
    while guest.domain.isActive():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    guest.start()
    guest.wait_reported(before + 20)
    guest.suspend()
    records = read_records(guest.volume_path, 'raw', 8)
    assert (records.count, records.bad) == (8, 0)
    assert records.last >= before + 20
    log = (guest.directory / f'{guest.name}.serial').read_text()
    numbers = re.findall(r'^\+(\w{8})$', log, re.MULTILINE)
    assert numbers == sorted(set(numbers))


def test_paused_guest_writes_nothing_before_it_resumes(sample_guest):
    guest = sample_guest(paused=True)
    state, reason = guest.domain.state()
    assert state == libvirt.VIR_DOMAIN_PAUSED
    assert guest.reported() == 0
    guest.resume()
    guest.wait_reported(1)


def test_refused_writes_are_reported_as_such(sample_guest):
    guest = sample_guest(size_bytes=8 * 4096, ring_blocks=16, burst=0)
    guest.wait_reported(8)
    with pytest.raises(TimeoutError, match='8 of 9 records .*!00000009'):
        guest.wait_reported(9, timeout=0.5)


@pytest.mark.parametrize('persistent', [True, False])
def test_destroyed_guest_is_forgotten(
    sample_guest, private_libvirtd, persistent
):
    guest = sample_guest(persistent=persistent)
    guest.destroy()
    guest.destroy()
    with pytest.raises(RuntimeError, match=guest.uuid):
        guest.suspend()
    with pytest.raises(LookupError):
        qemu_pid(guest.uuid)


def test_guest_takes_an_open_connection(private_libvirtd, directory):
    directory.chmod(0o755)
    volume = directory / 'volume'
    create_volume(volume)
    connection = libvirt.open(private_libvirtd.uri)
    with SampleGuest(
        connection, directory, volume_path=volume, volume_id='1'
    ) as guest:
        guest.wait_reported(1)
        assert guest.uuid in connection.listAllDomains()[0].UUIDString()
    assert connection.isAlive()
