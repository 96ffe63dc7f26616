# SPDX-License-Identifier: Apache-2.0
"""Instances that a real Nova moves, or rescues, during a job of our agent.

There are two hypervisors, a scheduler, a real placement and a real Glance.
Each operation has the end that the documents give it, under "What an answer
promises"; those that want none of this are in test_agent_operations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.nova.agents import (
    Agent,
    claim,
    job,
    keep_untold,
    merge,
    state,
    take_snapshot,
    told,
    wait_for_state,
)
from tests.nova.client import Client

if TYPE_CHECKING:
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.nova_cloud import Server
    from tests.fixtures.nova_moves import MovingCloud

pytest_plugins = ['tests.fixtures.nova', 'tests.fixtures.rabbitmq']


# The instances of the conftest are those of this cloud here.


@pytest.fixture
def cloud(moving_cloud: MovingCloud) -> MovingCloud:
    """A Nova with two hypervisors."""
    return moving_cloud


@pytest.fixture
def api(moving_api: Client) -> Client:
    """An administrator at nova-api, where our filter asks agents."""
    return moving_api


@pytest.fixture
def agent(moving_agent: Agent) -> Agent:
    """The agent of the first hypervisor."""
    return moving_agent


def rescue(server: Server, api: Client) -> None:
    """Have Nova boot it from the rescue image, beside its own disks."""
    image = {'rescue_image_ref': server.cloud.rescue_image}  # type: ignore
    server.act(api, 'rescued', '2.87', rescue=image)


def migrate_live(server: Server, api: Client, moves: bool = True) -> None:
    """Have Nova move it while it runs.

    :param moves: else it fails, which since 32 Nova counts as the instance's
        error
    """
    where: dict[str, Any] = {'host': None, 'block_migration': 'auto'}
    errs = not moves and server.cloud.nova.release >= 32
    vm_state = 'error' if errs else 'active'
    server.act(api, vm_state, '2.30', os_migrateLive=where)
    assert (server.host() != server.cloud.host) is moves
    if errs:
        server.act(api, 'active', os_resetState={'state': 'active'})


def test_a_rescued_instance_is_left_alone(
    server: Server, api: Client, agent: Agent
) -> None:
    snapshot_id, active = take_snapshot(server, api, agent)
    claim(server, agent, snapshot_id)
    rescue(server, api)
    assert server.chain() == [active, server.volume.name]
    take_snapshot(server, api, agent, answer=400)
    asked = api.merge(server.volume_id)
    assert (asked.status_code, 'is rescued' in asked.text) == (400, True)
    # Nova has written down what it goes back to.
    overlay = server.overlay()
    server.switch(overlay, 'vdb')
    assert server.chain()[0] == overlay.name
    server.act(api, 'active', unrescue=None)
    assert server.chain() == [active, server.volume.name]


def test_a_rescue_before_cinder_was_told(
    server: Server, api: Client, agent: Agent
) -> None:
    snapshot_id, active = keep_untold(server, api, agent)
    rescue(server, api)
    assert server.chain() == [active, server.volume.name]
    server.cloud.cinder.clear_faults()
    claim(server, agent, snapshot_id)
    server.act(api, 'active', unrescue=None)
    assert server.chain() == [active, server.volume.name]
    assert server.stored()['name'] == active


@pytest.mark.parametrize('name', ['rescue', 'revert', 'confirm'])
def test_what_ends_the_process_ends_the_merge(
    full: Server, api: Client, agent: Agent, name: str
) -> None:
    snapshot_id, active = merge(full, api, agent)
    chain = [active, full.volume.name]
    if name == 'rescue':
        rescue(full, api)
    elif name == 'revert':
        full.act(api, 'resized', resize={'flavorRef': 'more'})
    else:
        full.act(api, 'resized', migrate=None)
    wait_for_state(agent, snapshot_id, 'FAILED')
    assert told(full, snapshot_id) == ('error_deleting', None)
    assert full.chain() == chain
    back = {
        'rescue': {'unrescue': None},
        'revert': {'revertResize': None},
        'confirm': {'confirmResize': None},
    }
    full.act(api, 'active', **back[name])
    assert full.chain() == chain
    assert full.stored()['name'] == active


def test_a_merge_goes_on_and_the_instance_stays(
    full: Server, api: Client, agent: Agent
) -> None:
    snapshot_id, active = merge(full, api, agent)
    migrate_live(full, api, moves=False)
    assert state(agent, snapshot_id) == 'RUNNING'
    number = str(job(agent, snapshot_id)['id'])
    limited = agent.manage('job', 'limit', number, '0')
    assert limited.returncode == 0, limited.stderr
    agent.wait(lambda: told(full, snapshot_id) == ('deleting', '90%'))
    assert full.chain() == [active]
    migrate_live(full, api)
    assert full.chain() == [active]
    assert full.stored()['name'] == active


def test_a_cold_migration_before_cinder_was_told(
    server: Server, api: Client, agent: Agent
) -> None:
    snapshot_id, active = keep_untold(server, api, agent)
    server.act(api, 'resized', migrate=None)
    # It is what Cinder told the other host.
    assert server.chain() == [server.volume.name]
    server.cloud.cinder.clear_faults()
    wait_for_state(agent, snapshot_id, 'ORPHANED')
    assert server.cloud.cinder.snapshots[snapshot_id].progress == '0%'
    assert active in job(agent, snapshot_id)['reason']
    assert server.stored()['name'] == server.volume.name
    server.act(api, 'active', revertResize=None)
    assert server.chain() == [server.volume.name]


def test_a_live_migration_before_cinder_was_told(
    server: Server, api: Client, agent: Agent
) -> None:
    first, middle = take_snapshot(server, api, agent)
    claim(server, agent, first)
    snapshot_id, active = keep_untold(server, api, agent)
    chain = [active, middle, server.volume.name]
    # QEMU on the other host cannot have the lock on what Cinder told it.
    migrate_live(server, api, moves=False)
    assert server.chain() == chain
    server.cloud.cinder.clear_faults()
    claim(server, agent, snapshot_id)
    assert server.stored()['name'] == active
    migrate_live(server, api)
    assert server.chain() == chain


def begin_anew(server: Server, api: Client, how: str, stays: bool) -> None:
    """Have Nova build its guest as if there had been none, and ask Cinder
    for the volume.
    """
    cloud: MovingCloud = server.cloud  # type: ignore[assignment]
    host = cloud.host if stays else cloud.other_host
    if how == 'unshelve':
        server.act(api, 'active', '2.91', unshelve={'host': host})
    else:
        image = cloud.rescue_image
        cloud.cinder.volumes[server.volume_id].image_id = image
        server.act(api, 'active', rebuild={'imageRef': image})
    assert server.host() == host


def leave_untold(
    server: Server, api: Client, agent: Agent, how: str
) -> tuple[str, str]:
    """A snapshot that Cinder was not told of, of what can begin anew."""
    made = keep_untold(server, api, agent)
    if how == 'unshelve':
        server.act(api, 'shelved_offloaded', shelve=None)
    return made


anew = pytest.mark.parametrize(
    ('how', 'stays'),
    [
        ('unshelve', True),
        ('unshelve', False),
        ('rebuild', True),
    ],
)


@anew
def test_who_begins_anew_uses_what_cinder_was_told(
    server: Server, api: Client, agent: Agent, how: str, stays: bool
) -> None:
    snapshot_id, active = leave_untold(server, api, agent, how)
    server.cloud.cinder.clear_faults()
    claim(server, agent, snapshot_id)
    begin_anew(server, api, how, stays)
    assert server.chain() == [active, server.volume.name]
    assert server.stored()['name'] == active


@anew
def test_who_begins_anew_before_cinder_was_told(
    server: Server, api: Client, agent: Agent, how: str, stays: bool
) -> None:
    snapshot_id, active = leave_untold(server, api, agent, how)
    begin_anew(server, api, how, stays)
    # Nova had stored the other, and asks all the same.
    assert server.chain() == [server.volume.name]
    server.cloud.cinder.clear_faults()
    wait_for_state(agent, snapshot_id, 'FAILED' if stays else 'ORPHANED')
    status = 'error' if stays else 'creating'
    assert server.cloud.cinder.snapshots[snapshot_id].status == status
    assert server.cloud.cinder.snapshots[snapshot_id].progress == '0%'
    assert active in job(agent, snapshot_id)['reason']
    assert server.stored()['name'] == server.volume.name
