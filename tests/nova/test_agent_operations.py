# SPDX-License-Identifier: Apache-2.0
"""Operations of a real Nova that begin during a job of our agent.

Each has the end that the documents give it, under "What an answer promises".
Those that need an image service or a second host (rescue, resize, migration)
are not here; to the agent they are a stop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fixtures.cinder_rows import Request
from tests.nova.agents import (
    HARD,
    Agent,
    claim,
    job,
    state,
    take_snapshot,
    wait_for_state,
)
from tests.nova.client import PATH, Client

if TYPE_CHECKING:
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.nova_cloud import Cloud, Server

pytest_plugins = ['tests.fixtures.nova', 'tests.fixtures.rabbitmq']

# Half a minute's work at the agent's bandwidth.
_DATA = 32 << 20
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


@pytest.fixture
def full(cloud: Cloud, api: Client) -> Server:
    """An instance whose volume takes a while to be merged."""
    server = cloud.create_server(_DATA)
    server.act(api, 'active', os_start=None)
    return server


def merge(server: Server, api: Client, agent: Agent) -> tuple[str, str]:
    """Begin a pull: the snapshot's id, and the name of the active layer."""
    snapshot_id, name = take_snapshot(server, api, agent)
    claim(server, agent, snapshot_id)
    server.cloud.cinder.set_snapshot(snapshot_id, 'deleting')
    info = {
        'volume_id': server.volume_id,
        'type': 'qcow2',
        'file_to_merge': None,
        'merge_target_file': None,
    }
    asked = api.delete(info, f'/v2.1{PATH}/{snapshot_id}')
    assert asked.status_code == 204, asked.text
    wait_for_state(agent, snapshot_id, 'RUNNING')
    return snapshot_id, name


def told(server: Server, snapshot_id: str) -> tuple[str, str | None]:
    """The last that Cinder was told of a snapshot."""
    return server.cloud.cinder.history(snapshot_id)[-1]


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
    cinder = server.cloud.cinder

    def is_end(request: Request) -> bool:
        return (request.update or {}).get('progress') == '90%'

    cinder.answer_with(500, times=None, when=is_end)
    snapshot_id, active = take_snapshot(server, api, agent)
    assert state(agent, snapshot_id) == 'REPORTING'
    action, vm_state = _OPERATIONS[name]
    server.act(api, vm_state, **action)
    cinder.clear_faults()
    claim(server, agent, snapshot_id)
    if vm_state != 'deleted':
        assert server.stored()['name'] == active
    if name == 'suspend':
        server.act(api, 'active', resume=None)
        assert server.chain() == [active, server.volume.name]
