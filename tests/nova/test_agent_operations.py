# SPDX-License-Identifier: Apache-2.0
"""Operations of a real Nova that begin during a job of our agent.

Each has the end that the documents give it, under "What an answer promises".
Those that need an image service or a second host (rescue, resize, migration)
are in test_agent_moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.nova.agents import (
    HARD,
    Agent,
    claim,
    job,
    keep_untold,
    merge,
    state,
    told,
    wait_for_state,
)
from tests.nova.client import Client

if TYPE_CHECKING:
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.nova_cloud import Server

pytest_plugins = ['tests.fixtures.nova', 'tests.fixtures.rabbitmq']

# Name → the action, and the vm_state that it leads to.
_OPERATIONS = {
    'stop': ({'os_stop': None}, 'stopped'),
    'reboot': ({'reboot': HARD}, 'active'),
    'pause': ({'pause': None}, 'paused'),
    'suspend': ({'suspend': None}, 'suspended'),
    'shelve': ({'shelve': None}, 'shelved_offloaded'),
    'delete': ({'forceDelete': None}, 'deleted'),
    'reset': ({'os_resetState': {'state': 'active'}}, 'active'),
}


@pytest.mark.parametrize('name', ['stop', 'reboot', 'shelve', 'delete'])
def test_what_ends_the_process_ends_the_merge(
    full: Server, api: Client, agent: Agent, name: str
) -> None:
    snapshot_id, active = merge(full, api, agent)
    action, vm_state = _OPERATIONS[name]
    full.act(api, vm_state, **action)
    wait_for_state(agent, snapshot_id, 'FAILED')
    assert told(full, snapshot_id) == ('error_deleting', None)
    for file in (active, full.volume.name):
        assert (full.cloud.share / file).exists()
    if name == 'stop':
        full.act(api, 'active', os_start=None)
    if vm_state != 'deleted':
        assert full.stored()['name'] == active
    if name in ('stop', 'reboot'):
        assert full.chain() == [active, full.volume.name]


@pytest.mark.parametrize('name', ['pause', 'suspend', 'reset'])
def test_a_merge_goes_on(
    full: Server, api: Client, agent: Agent, name: str
) -> None:
    snapshot_id, active = merge(full, api, agent)
    action, vm_state = _OPERATIONS[name]
    # libvirt refuses to save a guest then, and Nova counts that as an error.
    full.act(api, 'error' if name == 'suspend' else vm_state, **action)
    assert state(agent, snapshot_id) == 'RUNNING'
    number = str(job(agent, snapshot_id)['id'])
    limited = agent.manage('job', 'limit', number, '0')
    assert limited.returncode == 0, limited.stderr
    agent.wait(lambda: told(full, snapshot_id) == ('deleting', '90%'))
    assert full.chain() == [active]


@pytest.mark.parametrize('name', ['suspend', 'shelve', 'delete'])
def test_an_operation_before_cinder_was_told_of_a_snapshot(
    server: Server, api: Client, agent: Agent, name: str
) -> None:
    snapshot_id, active = keep_untold(server, api, agent)
    action, vm_state = _OPERATIONS[name]
    server.act(api, vm_state, **action)
    server.cloud.cinder.clear_faults()
    claim(server, agent, snapshot_id)
    if vm_state != 'deleted':
        assert server.stored()['name'] == active
    if name == 'suspend':
        server.act(api, 'active', resume=None)
        assert server.chain() == [active, server.volume.name]


def test_what_nova_is_about_to_forget_counts_as_forgotten(
    server: Server, api: Client, agent: Agent
) -> None:
    """Of what it deletes the rows are the last to go."""
    snapshot_id, _ = keep_untold(server, api, agent)
    server.cloud.nova.change_instance(server.id, vm_state='deleted')
    domain = server.cloud.domain(server.id)
    domain.destroy()
    domain.undefine()
    server.cloud.cinder.clear_faults()
    claim(server, agent, snapshot_id)
