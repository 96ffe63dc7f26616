# SPDX-License-Identifier: Apache-2.0
"""Our agent beside a real nova-compute: what Nova starts an instance from."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.cinder_rows import Request
from tests.fixtures.host import short_directory
from tests.nova.agents import (
    ADMIN,
    REPLY_WAIT,
    Agent,
    claim,
    delete_active,
    job,
    restart,
    state,
    take_snapshot,
    wait_for_state,
)
from tests.nova.client import Client

if TYPE_CHECKING:
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.nova_cloud import Cloud, Server

pytest_plugins = ['tests.fixtures.nova', 'tests.fixtures.rabbitmq']


@pytest.mark.parametrize('operation', ['reboot', 'stop'])
def test_nova_starts_an_instance_from_the_new_file(
    server: Server, api: Client, agent: Agent, operation: str
) -> None:
    snapshot_id, name = take_snapshot(server, api, agent)
    assert server.stored()['name'] == name
    assert server.stored()['format'] == 'qcow2'
    written = server.written_at()
    claim(server, agent, snapshot_id)
    # What was right already was not written again.
    assert server.written_at() == written
    restart(server, api, operation)
    assert server.chain() == [name, server.volume.name]
    # Nor was what Nova defined defined anew by us.
    second, other = take_snapshot(server, api, agent)
    claim(server, agent, second)
    restart(server, api, operation)
    assert server.chain() == [other, name, server.volume.name]


def test_without_us_nova_starts_it_from_the_old_file(
    server: Server, api: Client
) -> None:
    """Else the test above would prove nothing."""
    overlay = server.overlay()
    server.switch(overlay)
    assert server.chain() == [overlay.name, server.volume.name]
    restart(server, api, 'reboot')
    assert server.chain() == [server.volume.name]


def test_policy_is_novas(server: Server, api: Client, cloud: Cloud) -> None:
    answer = Client(api.url, 'token-of-a-member').create(server.volume_id)
    assert answer.status_code == 403
    assert server.chain() == [server.volume.name]


def test_the_agent_of_this_machine_is_asked_by_its_socket(
    server: Server, agent: Agent, paste: Path, plugin: Path
) -> None:
    nova = server.cloud.nova
    options = {
        'nova_ext.compute_api': 'libvirt',
        'nova_ext_agent.reply_wait': REPLY_WAIT,
        'nova_ext_agent.socket': agent.socket,
    }
    with nova.serving(paste, options, nova.tokens(), plugin) as served:
        client = Client(served.url, ADMIN)
        snapshot_id, name = take_snapshot(server, client, agent)
    claim(server, agent, snapshot_id)
    assert server.stored()['name'] == name


def test_nothing_is_begun_while_nova_is_at_it(
    server: Server, api: Client, agent: Agent
) -> None:
    server.cloud.nova.change_instance(server.id, task_state='powering-off')
    _, _ = take_snapshot(server, api, agent, answer=400)
    assert server.chain() == [server.volume.name]


def test_what_nova_has_otherwise_is_not_begun(
    server: Server, api: Client, agent: Agent
) -> None:
    nova, overlay = server.cloud.nova, server.overlay()

    def refused(words: str) -> None:
        snapshot_id = str(uuid.uuid4())
        server.cloud.cinder.add_snapshot(snapshot_id, server.volume_id)
        answer = api.create(
            server.volume_id, snapshot_id=snapshot_id, new_file=overlay.name
        )
        assert answer.status_code == 400, answer.text
        assert words in answer.json()['badRequest']['message']
        assert server.chain() == [server.volume.name]

    nova.change_instance(server.id, host='elsewhere')
    refused('Nova has the instance on host elsewhere')
    nova.change_instance(server.id, host=server.cloud.host)
    nova.detach(server.id, server.volume_id)
    refused('Nova has no record of it')
    nova.attach(server.id, server.volume_id)
    refused('names no file')


def test_a_conductor_that_is_down_is_waited_for(
    server: Server, api: Client, agent: Agent
) -> None:
    cloud = server.cloud
    gone = cloud.create_server()
    gone.act(api, 'active', os_start=None)

    def end(request: Request) -> bool:
        # Between the fence and the switch.
        cloud.stop_conductor()
        return False

    cloud.cinder.answer_with(500, when=end)
    snapshot_id, name = take_snapshot(server, api, agent)
    cloud.cinder.clear_faults()
    assert state(agent, snapshot_id) == 'REFRESHING'
    assert cloud.cinder.history(snapshot_id) == [('creating', '0%')]
    assert server.chain() == [name, server.volume.name]
    assert server.stored()['name'] == server.volume.name
    # Another is not begun, the same is known, and health is red.
    take_snapshot(gone, api, agent, answer=503)
    take_snapshot(server, api, agent, answer=400)
    agent.kill()
    agent.start()
    assert state(agent, snapshot_id) == 'REFRESHING'
    agent.wait(lambda: 'nova-conductor' in job(agent, snapshot_id)['reason'])
    cloud.start_conductor()
    agent.wait(lambda: server.stored()['name'] == name)
    claim(server, agent, snapshot_id)
    restart(server, api, 'reboot')
    assert server.chain() == [name, server.volume.name]


def test_without_its_configuration_nothing_is_begun(
    server: Server, cloud: Cloud, plugin: Path
) -> None:
    with short_directory() as directory:
        agent = Agent(cloud, plugin, directory)
        del agent.groups['nova_ext_agent']['nova_config_file']
        process = agent.run()
        assert process.wait(60) == 1
        last = agent.log().splitlines()[-1]
        assert 'set [nova_ext_agent] nova_config_file' in last


def test_a_snapshot_for_a_backup_comes_and_goes(
    server: Server, api: Client, agent: Agent
) -> None:
    """It is in creation while it is copied, and deleted without a pause."""
    snapshot_id, name = take_snapshot(server, api, agent)
    assert state(agent, snapshot_id) == 'CONFIRMING'
    delete_active(server, api, snapshot_id)
    wait_for_state(agent, snapshot_id, 'CONFIRMING')
    server.cloud.cinder.remove_snapshot(snapshot_id)
    agent.wait(
        lambda: json.loads(agent.manage('job', 'list', '--json').stdout) == []
    )
    assert server.chain() == [name]


@pytest.mark.parametrize('operation', ['reboot', 'stop'])
def test_an_operation_of_nova_before_cinder_was_told(
    server: Server, api: Client, agent: Agent, operation: str
) -> None:
    cinder = server.cloud.cinder
    cinder.answer_with(
        500,
        times=None,
        when=lambda request: (request.update or {}).get('progress') == '90%',
    )
    snapshot_id, name = take_snapshot(server, api, agent)
    assert state(agent, snapshot_id) == 'REPORTING'
    restart(server, api, operation)
    cinder.clear_faults()
    claim(server, agent, snapshot_id)
    assert server.chain() == [name, server.volume.name]


def test_nova_is_told_of_a_rollback(
    server: Server, api: Client, agent: Agent
) -> None:
    cinder = server.cloud.cinder

    def give_up(request: Request) -> bool:
        if (request.update or {}).get('progress') == '90%':
            cinder.set_snapshot(str(request.snapshot_id), 'error')
        return False

    cinder.answer_with(500, when=give_up)
    snapshot_id, name = take_snapshot(server, api, agent)
    wait_for_state(agent, snapshot_id, 'ORPHANED')
    cinder.clear_faults()
    # Counted or not, it is what the instance has written to since.
    restart(server, api, 'reboot')
    assert server.chain() == [name, server.volume.name]
    number = str(job(agent, snapshot_id)['id'])
    done = agent.manage('job', 'rollback', number, '--yes')
    assert done.returncode == 0, done.stdout + done.stderr
    wait_for_state(agent, snapshot_id, 'DONE')
    assert server.stored()['name'] == server.volume.name
    assert server.stored()['format'] == 'raw'
    restart(server, api, 'reboot')
    assert server.chain() == [server.volume.name]
