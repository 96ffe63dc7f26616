# SPDX-License-Identifier: Apache-2.0
"""What became of a guest between the look at it and the switch.

Cinder is asked in between, and takes its time.
"""

from __future__ import annotations

import os
import pathlib
import uuid
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import libvirt
import pytest

from nova_ext import context, exception
from nova_ext.virt import chain
from nova_ext.virt import guest as virt_guest
from nova_ext.virt.private import PrivateLibvirtd
from nova_ext.virt.sample import create_volume
from nova_ext.virt.sample_chain import make_overlay
from tests.fixtures.host import SIZE, Host, short_directory
from tests.fixtures.merge import WatchedHost, wait_until

pytest_plugins = ['tests.fixtures.host']


def _while_cinder_is_asked(host: Host, function: Callable[[], None]) -> None:
    done: list[None] = []

    def when(request: Any) -> bool:
        if not done and request.update:
            done.append(function())
        return False

    host.double.answer_with(500, times=None, when=when)


def _disks(domain: libvirt.virDomain) -> dict[str | None, list[str]]:
    """The names of the layers of each volume that a guest has."""
    return {
        disk.serial: [os.path.basename(layer.path) for layer in disk.layers]
        for disk in chain.parse(domain.XMLDesc()).disks
    }


def _wait_for_error(host: Host, snapshot_id: str) -> None:
    told = host.double.history
    wait_until(lambda: told(snapshot_id)[-1] == ('error', None), host)


def _assert_suspended_is_refused(host: Host) -> None:
    snapshot_id = host.snapshot()
    with pytest.raises(exception.InstanceInvalidState, match='meanwhile'):
        host.create(snapshot_id, host.overlay().name)
    _wait_for_error(host, snapshot_id)
    domain = host.guest.domain
    domain.create()
    assert _disks(domain)[host.volume_id] == [host.volume.name]


def test_a_guest_that_is_suspended_is_not_switched(host: Host) -> None:
    """It would go on in the file that Cinder counts as frozen (W3)."""
    domain = host.guest.domain
    _while_cinder_is_asked(host, lambda: domain.managedSave(0))
    _assert_suspended_is_refused(host)
    host.guest.wait_reported(host.guest.reported() + 3)


def test_a_guest_that_was_off_and_is_suspended_is_not_switched(
    host: Host,
) -> None:
    domain = host.guest.domain
    domain.destroy()
    reported = host.guest.reported()

    def use() -> None:
        host.guest.start()
        host.guest.wait_reported(reported + 3)
        domain.managedSave(0)

    _while_cinder_is_asked(host, use)
    _assert_suspended_is_refused(host)


def test_another_active_layer_is_left_alone(host: Host) -> None:
    """The next start would leave out the layer that is in between."""
    other = host.overlay()
    guest = virt_guest.Guest(host.guest.domain, host.uri)

    def switch() -> None:
        guest.snapshot(host.guest.target, str(other), ['vda'])

    _while_cinder_is_asked(host, switch)
    snapshot_id = host.snapshot()
    with pytest.raises(exception.LayerChanged):
        host.create(snapshot_id, host.overlay().name)
    _wait_for_error(host, snapshot_id)
    assert host.chain() == [other.name, host.volume.name]


def _disk(volume: pathlib.Path, volume_id: str) -> str:
    return (
        '<disk type="file" device="disk"><driver name="qemu" type="raw"/>'
        f'<source file="{volume}"/><target dev="sda" bus="scsi"/>'
        f'<serial>{volume_id}</serial></disk>'
    )


def test_another_volume_in_its_place_is_left_alone(
    libvirtd: PrivateLibvirtd,
) -> None:
    """Nova gives what is attached next the name that has become free."""
    with short_directory() as directory:
        volumes = {
            str(uuid.uuid4()): directory / f'volume-{number}'
            for number in range(2)
        }
        for path in volumes.values():
            create_volume(path, 'raw', SIZE)
        (mine, path), (other, _) = volumes.items()

        def customise(root: ElementTree.Element) -> None:
            for text in (
                '<controller type="scsi" model="virtio-scsi"/>',
                _disk(path, mine),
            ):
                root.find('devices').append(ElementTree.fromstring(text))

        guest = {'customise': customise}
        with Host(directory, libvirtd, guest).running() as host:
            host.guest.wait_reported(1)
            domain = host.guest.domain

            def swap() -> None:
                live = libvirt.VIR_DOMAIN_AFFECT_LIVE
                domain.detachDeviceFlags(_disk(path, mine), live)
                wait_until(lambda: mine not in _disks(domain), host)
                domain.attachDeviceFlags(_disk(volumes[other], other), live)

            _while_cinder_is_asked(host, swap)
            snapshot_id = str(uuid.uuid4())
            host.double.add_snapshot(snapshot_id, mine, 'creating')
            new = f'{path.name}.{snapshot_id}'
            make_overlay(path, new, 'raw', SIZE)
            with pytest.raises(exception.VolumeNotAttached):
                host.api.volume_snapshot_create(
                    context.RequestContext(user_id='cinder'),
                    mine,
                    {
                        'snapshot_id': snapshot_id,
                        'type': 'qcow2',
                        'new_file': new,
                    },
                )
            _wait_for_error(host, snapshot_id)
            assert _disks(domain)[other] == [volumes[other].name]


def test_an_agent_that_hung_does_not_begin_what_was_given_up(
    libvirtd: PrivateLibvirtd,
) -> None:
    """Its disk stood still, until the API had said that nothing was done."""
    with short_directory() as directory:
        host = WatchedHost(directory, libvirtd, reply_wait=0.5)
        with host.running():
            host.guest.wait_reported(1)
            snapshot_id, overlay = host.snapshot(), host.overlay()
            with host.stalled_journal():
                with pytest.raises(exception.HostUnavailable):
                    host.create(snapshot_id, overlay.name)
            _wait_for_error(host, snapshot_id)
            host.assert_untouched()
