# SPDX-License-Identifier: Apache-2.0
"""A guest that bears Nova's metadata, and an agent that cannot tell Nova.

With an agent that can, and a real Nova, see tests/nova/test_agent.py.
"""

from __future__ import annotations

import libvirt
import pytest

from nova_ext import exception
from nova_ext.virt.private import PrivateLibvirtd
from tests.fixtures.host import Host
from tests.integration.test_delete import Share

pytest_plugins = ['tests.fixtures.host']

_NAMESPACE = 'http://openstack.org/xmlns/libvirt/nova/1.1'


def _give_to_nova(host: Host) -> None:
    flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG
    if host.guest.domain.isActive():
        flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
    host.guest.domain.setMetadata(
        libvirt.VIR_DOMAIN_METADATA_ELEMENT,
        '<instance><name>server</name></instance>',
        'nova',
        _NAMESPACE,
        flags,
    )


def test_no_snapshot_is_made_that_nova_cannot_be_told_of(host: Host) -> None:
    overlay, snapshot_id = host.overlay(), host.snapshot()
    _give_to_nova(host)
    with pytest.raises(exception.NovaNotConfigured, match='nova_config_file'):
        host.create(snapshot_id, overlay.name)
    assert host.states() == []
    assert host.double.history(snapshot_id) == []
    host.assert_untouched()


def test_the_agent_does_not_start_where_nova_has_guests(host: Host) -> None:
    _give_to_nova(host)
    host.stop_agent()
    host.start_agent(wait=False)
    assert host._agent is not None
    assert host._agent.wait(60) == 1
    last = host.log().splitlines()[-1]
    assert host.guest.uuid in last
    assert 'set [nova_ext_agent] nova_config_file' in last
    host.start_agent(wait=False)  # the fixture ends one


@pytest.mark.parametrize('running', [True, False])
def test_a_merge_leaves_the_definition_to_nova(
    host: Host, running: bool
) -> None:
    share = Share(host)
    snapshots = [share.snapshot(), share.snapshot()]
    domain = host.guest.domain
    _give_to_nova(host)
    if not running:
        domain.destroy()
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE
    before = domain.XMLDesc(flags)
    share.cinder.delete(snapshots[0], share.compute_delete)
    host.wait_for_last_state('DONE')
    if not running:
        # libvirt would not start it, and Nova defines it anew before.
        assert domain.XMLDesc(flags) == before
        assert before.count('<backingStore') > 1
    assert 'nova:instance' in domain.XMLDesc(flags)


def test_guests_of_others_are_served_all_the_same(
    libvirtd: PrivateLibvirtd, host: Host
) -> None:
    snapshot_id = host.snapshot()
    host.create(snapshot_id, host.overlay().name)
    host.double.set_snapshot(snapshot_id, 'available', '100%')
    host.wait_for_last_state('DONE')
