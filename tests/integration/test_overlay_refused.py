# SPDX-License-Identifier: Apache-2.0
"""Overlays that no guest may be switched to, and disks that may not be.

Each is refused with words that say why; the guest is untouched, nothing is
journalled, and Cinder hears nothing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable
from xml.etree import ElementTree

import libvirt
import pytest

from nova_ext import exception
from nova_ext.virt.private import PrivateLibvirtd
from nova_ext.virt.sample import SampleGuest, create_volume
from nova_ext.virt.sample_chain import make_overlay
from tests.fixtures.host import SIZE, Host, short_directory

pytest_plugins = ['tests.fixtures.host']

KEY = 'secret,id=key,data=0123456789'


def _run(*command: object) -> None:
    subprocess.run(
        [str(word) for word in command],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _rebase(host: Host, name: str, backing: str, backing_format: str) -> None:
    _run(
        *('qemu-img', 'rebase', '-u', '-b', backing, '-F', backing_format),
        host.directory / name,
    )


def _good(host: Host, name: str) -> None:
    make_overlay(host.volume, name, 'raw', SIZE)


def _missing(host: Host, name: str) -> None:
    pass


def _raw(host: Host, name: str) -> None:
    (host.directory / name).write_bytes(bytes(1 << 20))


def _junk(host: Host, name: str) -> None:
    (host.directory / name).write_bytes(os.urandom(1 << 16))


def _cut_short(host: Host, name: str) -> None:
    _good(host, name)
    os.truncate(host.directory / name, 80)


def _wrong_backing_file(host: Host, name: str) -> None:
    create_volume(host.directory / 'other', size_bytes=SIZE)
    make_overlay(host.directory / 'other', name, 'raw', SIZE)


def _no_backing_file(host: Host, name: str) -> None:
    _run('qemu-img', 'create', '-f', 'qcow2', host.directory / name, SIZE)


def _absent_backing_file(host: Host, name: str) -> None:
    _good(host, name)
    _rebase(host, name, 'absent', 'raw')


def _protocol_as_backing_file(host: Host, name: str) -> None:
    _good(host, name)
    _rebase(host, name, 'nbd://localhost/x', 'raw')


def _json_as_backing_file(host: Host, name: str) -> None:
    _good(host, name)
    node = f'json:{{"driver":"file","filename":"{host.volume}"}}'
    _rebase(host, name, node, 'raw')


def _other_backing_format(host: Host, name: str) -> None:
    _good(host, name)
    _rebase(host, name, host.volume.name, 'qcow2')


def _too_small(host: Host, name: str) -> None:
    make_overlay(host.volume, name, 'raw', SIZE // 2)


def _symbolic_link(host: Host, name: str) -> None:
    _good(host, 'elsewhere')
    (host.directory / name).symlink_to(host.directory / 'elsewhere')


def _link_out(host: Host, name: str) -> None:
    (host.directory / name).symlink_to('/etc/passwd')


def _hard_link(host: Host, name: str) -> None:
    _good(host, 'elsewhere')
    os.link(host.directory / 'elsewhere', host.directory / name)


def _directory(host: Host, name: str) -> None:
    (host.directory / name).mkdir()


def _fifo(host: Host, name: str) -> None:
    os.mkfifo(host.directory / name)


def _holding_data(host: Host, name: str) -> None:
    _good(host, name)
    path = host.directory / name
    _run('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 1M 64k', path)


def _with_a_snapshot_inside(host: Host, name: str) -> None:
    _good(host, name)
    _run('qemu-img', 'snapshot', '-c', 'inside', host.directory / name)


def _socket(host: Host, name: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(host.directory / name))


def _patched(offset: int, value: bytes) -> Callable[[Host, str], None]:
    """A good overlay, but for some bytes of its header."""

    def make(host: Host, name: str) -> None:
        _good(host, name)
        with (host.directory / name).open('r+b') as file:
            file.seek(offset)
            file.write(value)

    return make


def _behind_a_link(host: Host, name: str) -> None:
    # Read as text the name leads to the volume; for the kernel it does not.
    _good(host, name)
    elsewhere = host.directory / 'elsewhere'
    (elsewhere / 'deep').mkdir(parents=True)
    create_volume(elsewhere / host.volume.name, size_bytes=SIZE)
    link = host.directory / 'link'
    link.symlink_to(elsewhere / 'deep')
    _rebase(host, name, f'link/../{host.volume.name}', 'raw')


def _external_data_file(host: Host, name: str) -> None:
    options = f'data_file={host.directory}/data,backing_file={host.volume}'
    _run(
        *('qemu-img', 'create', '-f', 'qcow2'),
        *('-o', f'{options},backing_fmt=raw', host.directory / name, SIZE),
    )


def _encrypted(host: Host, name: str) -> None:
    # Not luks: qemu-img measures the CPU for it, which fails on some.
    options = 'encrypt.format=aes,encrypt.key-secret=key'
    _run(
        *('qemu-img', 'create', '-f', 'qcow2', '--object', KEY, '-o', options),
        *('-b', host.volume, '-F', 'raw', host.directory / name, SIZE),
    )


OVERLAYS: list[tuple[Callable[[Host, str], None], str]] = [
    (_missing, 'there is no file'),
    (_raw, 'Image is not in qcow2 format'),
    (_junk, 'Image is not in qcow2 format'),
    (_cut_short, 'cut short'),
    (_wrong_backing_file, 'its backing file is other, and the active layer'),
    (_no_backing_file, 'it has no backing file'),
    (_absent_backing_file, 'its backing file absent does not exist'),
    (_protocol_as_backing_file, 'is not a plain file'),
    (_json_as_backing_file, 'is not a plain file'),
    (_other_backing_format, 'its backing format is qcow2'),
    (_too_small, f'smaller than the {SIZE} bytes of the disk'),
    (_symbolic_link, 'it is a symbolic link'),
    (_link_out, 'it is a symbolic link'),
    (_hard_link, 'it has another name'),
    (_directory, 'it is not a regular file'),
    (_fifo, 'it is not a regular file'),
    (_holding_data, 'it already holds data'),
    (_with_a_snapshot_inside, 'it already holds data'),
    (_external_data_file, 'external data file'),
    (_encrypted, 'it is encrypted'),
    (_patched(32, b'\0\0\0\2'), 'it is encrypted'),
    (_patched(72, b'\x80'), 'incompatible features'),
    (_patched(4, b'\0\0\0\4'), 'version is 4'),
    (_patched(20, b'\0\0\0\xff'), 'out of bounds'),
    (_patched(36, b'\0\0\0\1'), 'out of bounds'),
    (_patched(40, b'\xff' * 8), 'out of bounds'),
    (_socket, 'it is not a regular file'),
    (_behind_a_link, 'its backing file is link/../volume'),
]


def _refused(host: Host, name: str) -> exception.NovaExtException:
    snapshot_id = host.snapshot()
    definition = host.guest.domain.XMLDesc(0)
    with pytest.raises(exception.NovaExtException) as refusal:
        host.create(snapshot_id, name)
    assert host.guest.domain.XMLDesc(0) == definition
    host.assert_untouched()
    assert host.states() == []
    assert host.double.history(snapshot_id) == []
    return refusal.value


def test_what_is_no_overlay_for_this_disk_is_refused(host: Host) -> None:
    for number, (make, words) in enumerate(OVERLAYS):
        name = f'{make.__name__}-{number}'
        make(host, name)
        error = _refused(host, name)
        assert isinstance(error, exception.InvalidOverlay), make
        assert words in str(error), make
        (host.directory / 'other').unlink(missing_ok=True)
        elsewhere = host.directory / 'elsewhere'
        if elsewhere.is_dir():
            shutil.rmtree(elsewhere)
        elsewhere.unlink(missing_ok=True)


def test_an_overlay_that_another_process_has_open_is_refused(
    host: Host,
) -> None:
    overlay = host.overlay()
    with open(overlay, 'rb') as file:
        # What a QEMU holds that shares the file with no other writer.
        lock = struct.pack('hhqqi', fcntl.F_RDLCK, os.SEEK_SET, 201, 1, 0)
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)
        error = _refused(host, overlay.name)
    assert isinstance(error, exception.InvalidOverlay)
    assert 'another process has it open' in str(error)


def test_a_name_that_no_file_can_have_is_refused(host: Host) -> None:
    error = _refused(host, '\N{SNOWMAN}' * 100)
    assert isinstance(error, exception.InvalidOverlay)
    assert 'its name is too long' in str(error)


def test_the_active_layer_is_refused(host: Host) -> None:
    error = _refused(host, host.volume.name)
    assert isinstance(error, exception.InvalidOverlay)
    assert 'it already is the active layer' in str(error)


def test_a_volume_that_nobody_has_is_refused(host: Host) -> None:
    overlay, host.volume_id = host.overlay(), 'f' * 8
    with pytest.raises(exception.VolumeNotAttached):
        host.create('snapshot', overlay.name)


def test_a_volume_of_two_guests_is_refused(host: Host) -> None:
    with SampleGuest(
        host.uri,
        host.directory,
        name='second',
        volume_path=host.volume,
        volume_id=host.volume_id,
        customise=_shareable_elsewhere,
    ):
        error = _refused(host, host.overlay().name)
    assert isinstance(error, exception.VolumeIsMultiAttach)


def _shareable_elsewhere(domain: ElementTree.Element) -> None:
    """Another file under the same serial: QEMU locks the first."""
    source = domain.findall('devices/disk/source')[1]
    path = source.get('file', '') + '-elsewhere'
    with open(path, 'wb') as file:
        file.truncate(1 << 20)
    os.chmod(path, 0o666)
    source.set('file', path)


def test_a_disk_with_a_block_job_is_refused(host: Host) -> None:
    copy = host.directory / 'copy'
    _run('qemu-img', 'create', '-f', 'raw', copy, SIZE)
    copy.chmod(0o666)
    flags = (
        libvirt.VIR_DOMAIN_BLOCK_REBASE_COPY
        | libvirt.VIR_DOMAIN_BLOCK_REBASE_REUSE_EXT
        | libvirt.VIR_DOMAIN_BLOCK_REBASE_COPY_RAW
    )
    domain, target = host.guest.domain, host.guest.target
    # A copy can't be left behind by a persistent guest of this libvirt.
    xml = domain.XMLDesc(0)
    domain.undefine()
    try:
        domain.blockRebase(target, str(copy), 0, flags)
        error = _refused(host, host.overlay().name)
        domain.blockJobAbort(target, 0)
    finally:
        domain.connect().defineXML(xml)
    assert isinstance(error, exception.BlockJobExists)
    assert 'a block job is under way' in str(error)


def test_a_guest_that_libvirt_is_at_work_on_is_refused(host: Host) -> None:
    # A backup of another disk, as it lasts; a migration is such a job too.
    scratch = host.directory / 'scratch'
    _run('qemu-img', 'create', '-f', 'qcow2', scratch, 1 << 20)
    scratch.chmod(0o666)
    socket_path = host.libvirtd.directory / 'run' / 'nbd.sock'
    domain = host.guest.domain
    domain.backupBegin(
        '<domainbackup mode="pull">'
        f'<server transport="unix" socket="{socket_path}"/><disks>'
        '<disk name="vda" backup="yes" type="file"><driver type="qcow2"/>'
        f'<scratch file="{scratch}"/></disk>'
        f'<disk name="{host.guest.target}" backup="no"/>'
        '</disks></domainbackup>',
        None,
        libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL,
    )
    overlay = host.overlay()
    error = _refused(host, overlay.name)
    assert isinstance(error, exception.BlockJobExists)
    assert 'being migrated, saved or backed up' in str(error)
    domain.abortJob()
    host.create(host.snapshot(), overlay.name)


def test_a_guest_with_a_saved_memory_image_is_refused(host: Host) -> None:
    overlay = host.overlay()
    domain = host.guest.domain
    domain.managedSave(0)
    with pytest.raises(exception.InstanceInvalidState, match='saved memory'):
        host.create(host.snapshot(), overlay.name)
    assert host.states() == []
    domain.create()
    host.assert_untouched()


@pytest.mark.parametrize(
    ('place', 'inside', 'words'),
    [
        ('.', '<readonly/>', 'read-only'),
        ('.', '<shareable/>', 'shared'),
        ('.', '<transient/>', 'thrown away'),
        (
            'source',
            f'<slices><slice type="storage" offset="0" size="{SIZE}"/>'
            '</slices>',
            'a part of its file',
        ),
    ],
)
def test_a_disk_that_an_overlay_would_change_is_refused(
    libvirtd: PrivateLibvirtd, place: str, inside: str, words: str
) -> None:
    """The next start would have another disk than the guest had."""

    def customise(domain: ElementTree.Element) -> None:
        element = domain.findall('devices/disk')[1].find(place)
        element.append(ElementTree.fromstring(inside))  # type: ignore

    with short_directory() as directory:
        with Host(
            directory, libvirtd, {'customise': customise}
        ).running() as host:
            for end in (lambda: None, host.guest.domain.destroy):
                end()
                with pytest.raises(exception.UnsupportedDisk, match=words):
                    host.create(host.snapshot(), host.overlay().name)
            assert host.states() == []


@pytest.mark.parametrize(
    ('kind', 'source'),
    [
        ('block', {'dev': '/dev/null'}),
        ('network', {'protocol': 'rbd', 'name': 'pool/volume'}),
    ],
)
def test_a_disk_that_is_no_file_is_refused(
    host: Host, kind: str, source: dict[str, str]
) -> None:
    root = ElementTree.fromstring(host.guest.domain.XMLDesc(0))
    root.remove(root.find('uuid'))  # type: ignore[arg-type]
    root.find('name').text = f'with-{kind}'  # type: ignore[union-attr]
    disk = root.findall('devices/disk')[1]
    disk.set('type', kind)
    disk.find('source').attrib = source  # type: ignore[union-attr]
    disk.find('serial').text = kind  # type: ignore[union-attr]
    connection = host.guest.domain.connect()
    other = connection.defineXML(
        ElementTree.tostring(root, encoding='unicode')
    )
    try:
        overlay, host.volume_id = host.overlay(), kind
        with pytest.raises(exception.UnsupportedDisk, match=f'type {kind}'):
            host.create('snapshot', overlay.name)
    finally:
        other.undefine()
    assert host.states() == []


def test_an_agent_that_sees_another_file_refuses(host: Host) -> None:
    # As in a container with another mount: the path is there, and is not
    # what QEMU has open.
    overlay = host.overlay()
    kept = host.volume.rename(host.directory / 'kept')
    create_volume(host.volume, size_bytes=SIZE)
    with pytest.raises(exception.ShareUnavailable, match='no lock') as error:
        host.create(host.snapshot(), overlay.name)
    assert 'same mount namespace' in str(error.value)
    assert host.states() == []
    kept.rename(host.volume)
    host.assert_untouched()


@pytest.mark.parametrize('overlay_is_there', [True, False])
def test_an_agent_that_sees_no_file_refuses(
    host: Host, overlay_is_there: bool
) -> None:
    # As where the share is not mounted for the agent.
    overlay = host.overlay()
    if not overlay_is_there:
        overlay.unlink()
    kept = host.volume.rename(host.directory / 'kept')
    with pytest.raises(exception.ShareUnavailable, match='No such file'):
        host.create(host.snapshot(), overlay.name)
    assert host.states() == []
    kept.rename(host.volume)
    host.assert_untouched()


def test_a_way_to_another_directory_is_refused(host: Host) -> None:
    # The API refuses it before; the agent does not rely on that.
    elsewhere = host.directory / 'elsewhere'
    elsewhere.mkdir()
    good = host.overlay().rename(elsewhere / 'good')
    _rebase(host, f'elsewhere/{good.name}', str(host.volume), 'raw')
    for name in (f'elsewhere/{good.name}', str(good), '', '.', '..'):
        error = _refused(host, name)
        assert isinstance(error, exception.InvalidOverlay)
        assert 'not a plain file name' in str(error)
    # What no path can hold is no message to it.
    assert 'a new_file that is not plain text' in str(_refused(host, 'a\0b'))
