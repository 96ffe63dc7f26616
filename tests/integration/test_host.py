# SPDX-License-Identifier: Apache-2.0
"""What is kept of a guest between two looks at it, and what is not."""

from __future__ import annotations

import contextlib
import pathlib
import uuid
from collections.abc import Iterator

import libvirt
import pytest

from nova_ext import exception
from nova_ext.virt.host import Host
from nova_ext.virt.private import PrivateLibvirtd

pytest_plugins = ['tests.fixtures.host']

UUID = str(uuid.uuid4())
GUEST = """
<domain type='test'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>16</memory>
  <os><type>hvm</type></os>
</domain>
"""


@pytest.fixture
def host() -> Iterator[Host]:
    with contextlib.closing(Host('test:///default')) as found:
        yield found


def test_a_guest_is_known_until_it_is_gone(host: Host) -> None:
    connection = host.connect()
    assert host.described(UUID) is None
    for name in ('first', 'second'):
        domain = connection.defineXML(GUEST.format(name=name, uuid=UUID))
        try:
            for _ in range(2):
                found = host.described(UUID)
                assert found is not None
                assert (found[0].uuid, found[1].name) == (UUID, name)
        finally:
            domain.undefine()
        assert host.described(UUID) is None


def test_each_start_is_another_process_whoever_asks(host: Host) -> None:
    domain = host.connect().defineXML(GUEST.format(name='one', uuid=UUID))
    try:
        seen = set()
        for _ in range(3):
            domain.create()
            found = host.described(UUID)
            assert found is not None
            seen.add(found[1].process)
            domain.destroy()
        assert len(seen) == 3
    finally:
        domain.undefine()


def test_no_guest_outlives_its_connection(
    libvirtd: PrivateLibvirtd, tmp_path: pathlib.Path
) -> None:
    with contextlib.closing(Host(libvirtd.uri)) as host:
        xml = GUEST.format(name='kept', uuid=UUID).replace(
            "type='test'", "type='qemu'"
        )
        domain = host.connect().defineXML(xml)
        try:
            assert host.described(UUID) is not None
            libvirtd.kill()
            with pytest.raises(exception.HypervisorUnavailable):
                host.described(UUID)
            libvirtd.start()
            found = host.described(UUID)
            assert found is not None
            assert found[1].name == 'kept'
        finally:
            with contextlib.closing(libvirt.open(libvirtd.uri)) as again:
                again.lookupByUUIDString(UUID).undefine()
        del domain
