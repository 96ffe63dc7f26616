# SPDX-License-Identifier: Apache-2.0
"""W21, W22 and W28 to W30: where a volume is, and what disk it is there."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from xml.etree import ElementTree

import libvirt
import pytest

from nova_ext.virt.sample import SampleGuest, create_volume
from nova_ext.virt.sample_chain import make_overlay
from tests.fixtures.host import SIZE, Host
from tests.fixtures.libvirt import qemu_pid
from tests.fixtures.merge import stopped, wait_until
from tests.integration.test_delete import Share
from tests.integration.test_overlay_refused import _encrypted
from tests.weaknesses.sites import Refused, second_guest

pytest_plugins = ['tests.fixtures.host', 'tests.fixtures.rabbitmq']


def _refused(host: Host, new_file: str, words: str) -> None:
    """A 400 at once, before Cinder or libvirt are asked for anything."""
    snapshot_id = host.snapshot()
    with pytest.raises(Refused, match=words) as refusal:
        host.create(snapshot_id, new_file)
    assert refusal.value.status == 400
    assert host.states() == []
    assert host.double.history(snapshot_id) == []


def test_w21_only_guests_that_are_there_are_counted(share: Share) -> None:
    """Nova counts rows, and one that is left over makes a volume that of
    two guests for ever; here libvirt is asked who has it now, so as soon as
    the other guest is gone it is as if it had never been.
    """
    host, overlay = share.host, share.host.overlay()
    with second_guest(host):
        _refused(host, overlay.name, 'multi-attach')
    host.create(host.snapshot(), overlay.name)
    assert host.chain() == [overlay.name, host.volume.name]


def test_w22_nobody_else_is_asked_where_a_volume_is(share: Share) -> None:
    """Nova asks cell after cell, by a list that it never reads again, and
    fails where one is down; here there are none: guests of later are found,
    and one that hangs stops only its own requests.
    """
    host, overlay = share.host, share.host.overlay()
    later = str(uuid.uuid4())
    path = host.directory / f'volume-{later}'
    create_volume(path, size_bytes=SIZE)
    with SampleGuest(
        host.uri,
        host.directory,
        name=f'later-{later}',
        volume_path=path,
        volume_id=later,
    ) as guest:
        guest.wait_reported(1)
        with stopped(qemu_pid(guest.uuid)):
            host.create(host.snapshot(), overlay.name)
            assert host.chain() == [overlay.name, host.volume.name]
            # Unknown so far, so that all guests are looked through.
            known, host.volume_id = host.volume_id, 'any'
            asked = time.monotonic()
            with pytest.raises(Refused, match='No instance') as refusal:
                host.create(host.snapshot(), overlay.name)
            assert refusal.value.status == 400
            assert time.monotonic() - asked < 5
            host.volume_id = known
        other = make_overlay(path, f'{path.name}.{uuid.uuid4()}', 'raw', SIZE)
        host.volume_id = later
        snapshot_id = host.snapshot()
        host.create(snapshot_id, other.name)
        report = host.double.history(snapshot_id)[-1]
        assert report == ('creating', '90%')


def test_w28_what_is_encrypted_is_refused(share: Share) -> None:
    """Nova hands encrypted overlays over without their secret, and QEMU
    fails on them; here they, and encrypted disks, are refused as such.
    """
    host = share.host
    name = f'{host.volume.name}.{uuid.uuid4()}'
    _encrypted(host, name)
    _refused(host, name, 'it is encrypted')
    host.assert_untouched()
    overlay = host.overlay()
    with _with_other_disk(host, _make_encrypted):
        _refused(host, overlay.name, 'it is encrypted')


def test_w29_a_disk_that_was_swapped_is_the_one_in_use(share: Share) -> None:
    """Nova knows a disk by its serial alone, which is that of the first
    volume after a swap; here the file that QEMU has open decides what may
    become its active layer, and the other volume id is refused at once.
    """
    host = share.host
    second = str(uuid.uuid4())
    stale = host.overlay()
    host.volume = host.directory / f'volume-{second}'
    create_volume(host.volume, size_bytes=SIZE)
    _swap(host)
    assert host.chain() == [host.volume.name]
    _refused(host, stale.name, f'the active layer .*{host.volume.name}')
    known, host.volume_id = host.volume_id, second
    overlay = host.overlay()
    _refused(host, overlay.name, 'whose serial is that volume id')
    host.volume_id = known
    host.assert_untouched()
    # As Cinder asks after a migration: the id of before, the file of now.
    host.create(host.snapshot(), overlay.name)
    assert host.chain() == [overlay.name, host.volume.name]
    host.guest.wait_reported(host.guest.reported() + 3)


def _swap(host: Host) -> None:
    """What Nova does to move a guest to another volume."""
    flags = (
        libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT
        | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
    )
    domain, target = host.guest.domain, host.guest.target
    xml = (
        f'<disk type="file"><driver type="raw"/>'
        f'<source file="{host.volume}"/></disk>'
    )
    domain.blockCopy(target, xml, flags=flags)

    def is_ready() -> bool:
        info = domain.blockJobInfo(target)
        return info['cur'] == info['end'] > 0 and 'ready="yes"' in (
            domain.XMLDesc().replace("'", '"')
        )

    wait_until(is_ready, host)
    domain.blockJobAbort(target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)


@pytest.mark.parametrize(
    ('kind', 'source'),
    [
        ('block', {'dev': '/dev/null'}),
        ('network', {'protocol': 'rbd', 'name': 'pool/volume'}),
    ],
)
def test_w30_a_disk_that_is_no_file_is_refused(
    share: Share, kind: str, source: dict[str, str]
) -> None:
    """Nova tries it with iSCSI, LVM and RBD volumes, and fails late in
    libvirt; here the type of the disk is looked at first.
    """
    host, overlay = share.host, share.host.overlay()

    def change(disk: ElementTree.Element) -> None:
        disk.set('type', kind)
        disk.find('source').attrib = source  # type: ignore[union-attr]

    with _with_other_disk(host, change):
        _refused(host, overlay.name, f'type {kind}')


def _make_encrypted(disk: ElementTree.Element) -> None:
    source = disk.find('source')
    assert source is not None
    encryption = ElementTree.SubElement(source, 'encryption', format='luks')
    ElementTree.SubElement(
        encryption, 'secret', type='passphrase', uuid=str(uuid.uuid4())
    )


@contextlib.contextmanager
def _with_other_disk(
    host: Host, change: Callable[[ElementTree.Element], None]
) -> Iterator[None]:
    """Meanwhile the volume is another, of a guest that is off."""
    root = ElementTree.fromstring(host.guest.domain.XMLDesc(0))
    root.remove(root.find('uuid'))  # type: ignore[arg-type]
    known, host.volume_id = host.volume_id, str(uuid.uuid4())
    root.find('name').text = f'with-{known}'  # type: ignore[union-attr]
    disk = root.findall('devices/disk')[1]
    disk.find('serial').text = host.volume_id  # type: ignore[union-attr]
    change(disk)
    connection = host.guest.domain.connect()
    other = connection.defineXML(
        ElementTree.tostring(root, encoding='unicode')
    )
    try:
        yield
    finally:
        other.undefine()
        host.volume_id = known
