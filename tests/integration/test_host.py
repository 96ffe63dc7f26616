# SPDX-License-Identifier: Apache-2.0
"""What is kept of a guest between two looks at it, and what is not."""

from __future__ import annotations

import contextlib
import pathlib
import time
import uuid
from collections.abc import Iterator
from unittest import mock

import libvirt
import pytest

from nova_ext import exception
from nova_ext.virt import connection as virt_connection
from nova_ext.virt import guest
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


def test_what_comes_to_a_guest_that_is_off_has_no_event_and_is_seen(
    libvirtd: PrivateLibvirtd, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / 'volume'
    path.write_bytes(bytes(1 << 20))
    first, second = (
        f"""
        <disk type='file' device='disk'>
          <source file='{path}'/>
          <target dev='{target}' bus='virtio'/>
          <serial>{target}-of-it</serial>
        </disk>
        """
        for target in ('vda', 'vdb')
    )
    text = GUEST.replace("type='test'", "type='qemu'").replace(
        '</domain>', f'<devices>{first}</devices></domain>'
    )
    with contextlib.closing(Host(libvirtd.uri)) as host:
        host.volumes()
        domain = host.connect().defineXML(text.format(name='off', uuid=UUID))
        try:
            deadline = time.monotonic() + 10
            while 'vda-of-it' not in host.volumes():
                assert time.monotonic() < deadline
            domain.attachDeviceFlags(second, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
            assert 'vdb-of-it' in host.volumes()
        finally:
            domain.undefine()


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


def test_one_error_does_not_end_the_events(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class End(BaseException):
        pass

    # Not in place of libvirt's own, which another thread is in.
    run = mock.create_autospec(
        libvirt.virEventRunDefaultImpl,
        side_effect=[libvirt.libvirtError('no descriptor'), 0, End],
    )
    with pytest.raises(End):
        virt_connection.run_events(run)
    assert 'no descriptor' in caplog.text


def test_nova_waits_for_the_guest_agent_as_it_did() -> None:
    domain = mock.create_autospec(libvirt.virDomain, instance=True)
    found = guest.Guest(domain, 'test:///default')
    forever = libvirt.VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK
    limit, unlimit = (
        mock.call.agentSetResponseTimeout(seconds, 0)
        for seconds in (7, forever)
    )

    def asked() -> list[object]:
        calls = [
            call
            for call in domain.method_calls
            if call[0] not in ('UUIDString', 'connect')
        ]
        domain.reset_mock()
        return calls

    found.freeze(7)
    assert asked() == [limit, mock.call.fsFreeze(), unlimit]
    found.thaw(7)
    assert asked() == [limit, mock.call.fsThaw(), unlimit]
    domain.fsThaw.side_effect = libvirt.libvirtError('no answer')
    with pytest.raises(exception.HypervisorError):
        found.thaw(7)
    assert asked() == [limit, mock.call.fsThaw(), unlimit]
    domain.fsFreeze.side_effect = libvirt.libvirtError('it is frozen')
    with pytest.raises(exception.HypervisorError):
        found.freeze(7)
    assert asked() == [limit, mock.call.fsFreeze(), unlimit]


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
