# SPDX-License-Identifier: Apache-2.0
"""Our agent beside a real nova-compute: what Nova starts an instance from.

The requests go through our filter in a real nova-api, over a real RabbitMQ.
"""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.fixtures.cinder_rows import Request
from tests.fixtures.host import short_directory
from tests.fixtures.libvirt import PrivateLibvirtd
from tests.fixtures.serve import write_config
from tests.fixtures.servers import server_environment
from tests.nova.client import Client

if TYPE_CHECKING:
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.nova import Nova
    from tests.fixtures.nova_cloud import Cloud, Server
    from tests.fixtures.rabbitmq import RabbitMQ

pytest_plugins = ['tests.fixtures.nova', 'tests.fixtures.rabbitmq']

ADMIN = 'token-of-an-admin'
HARD = {'type': 'HARD'}


# The same for API and agent.
REPLY_WAIT = 10


class Agent:
    """nova-ext-agent as an operator of Nova runs it."""

    def __init__(self, cloud: Cloud, bin: Path, directory: Path) -> None:
        self._bin = bin
        self._log = directory / 'log'
        self.socket = directory / 'agent.sock'
        self._cloud = cloud
        self._process: subprocess.Popen[bytes] | None = None
        self.groups: dict[str, dict[str, Any]] = {
            'DEFAULT': {
                'log_file': self._log,
                'transport_url': cloud.rabbitmq.url,
            },
            'nova_ext_agent': {
                'state_dir': directory,
                'host': cloud.host,
                'libvirt_uri': cloud.libvirtd.uri,
                'nova_config_file': cloud.configuration,
                'reports': 'cinder',
                'rpc': True,
                'reply_wait': REPLY_WAIT,
            },
            'nova_ext_cinder': cinder_options(cloud),
        }
        self.configuration = directory / 'agent.conf'

    def run(self) -> subprocess.Popen[bytes]:
        """Start it."""
        write_config(self.configuration, self.groups)
        return subprocess.Popen(
            [
                self._bin / 'nova-ext-agent',
                f'--config-file={self.configuration}',
            ],
            env=server_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def start(self) -> None:
        """Start it, and wait until it takes up its jobs."""
        self._process = self.run()
        self.wait(lambda: self.manage('job', 'list').returncode == 0)

    def kill(self) -> None:
        """SIGKILL, as a crash is."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM, as an operator does."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)

    def manage(self, *command: str) -> subprocess.CompletedProcess[str]:
        """What an operator is told."""
        return subprocess.run(
            [
                self._bin / 'nova-ext-manage',
                f'--config-file={self.configuration}',
                *command,
            ],
            env=server_environment(),
            capture_output=True,
            text=True,
        )

    def wait(self, true: Callable[[], Any], seconds: float = 60.0) -> None:
        """Wait until something is true of it."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text() if self._log.exists() else ''


def cinder_options(cloud: Cloud) -> dict[str, Any]:
    """The group nova_ext_cinder."""
    return {
        'auth_type': 'none',
        'endpoint': cloud.cinder.endpoint,
        'timeout': 5,
    }


@pytest.fixture(scope='module')
def cloud(nova: Nova, rabbitmq: RabbitMQ) -> Iterator[Cloud]:
    """A Nova with a hypervisor."""
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.nova_cloud import Cloud

    with (
        short_directory() as directory,
        short_directory() as sockets,
        PrivateLibvirtd(sockets) as libvirtd,
        Cloud(directory, nova, libvirtd, rabbitmq).running() as running,
    ):
        yield running


@pytest.fixture(scope='module')
def api(cloud: Cloud, paste: Path, plugin: Path) -> Iterator[Client]:
    """An administrator at nova-api, where our filter asks agents."""
    options = {
        'nova_ext.compute_api': 'rpc',
        'nova_ext_agent.reply_wait': REPLY_WAIT,
        **{
            f'nova_ext_cinder.{k}': v for k, v in cinder_options(cloud).items()
        },
    }
    tokens = cloud.nova.tokens()
    with cloud.nova.serving(paste, options, tokens, plugin) as served:
        yield Client(served.url, ADMIN)


@pytest.fixture(scope='module')
def agent(cloud: Cloud, plugin: Path) -> Iterator[Agent]:
    """The agent of the hypervisor."""
    with short_directory() as directory:
        agent = Agent(cloud, plugin, directory)
        agent.start()
        try:
            yield agent
        finally:
            agent.stop()


@pytest.fixture
def server(cloud: Cloud, agent: Agent, api: Client) -> Server:
    """An instance that Nova started, from its volume."""
    server = cloud.create_server()
    server.act(api, 'active', os_start=None)
    assert server.chain() == [server.volume.name]
    return server


def take_snapshot(
    server: Server, api: Client, agent: Agent, answer: int = 200
) -> tuple[str, str]:
    """Do what Cinder does: its id, and the name of the new active layer."""
    cinder, snapshot_id = server.cloud.cinder, str(uuid.uuid4())
    cinder.add_snapshot(snapshot_id, server.volume_id)
    overlay = server.overlay()
    made = api.create(
        server.volume_id, snapshot_id=snapshot_id, new_file=overlay.name
    )
    assert made.status_code == answer, (made.text, agent.log())
    return snapshot_id, overlay.name


def claim(server: Server, agent: Agent, snapshot_id: str) -> None:
    """Do what Cinder does of the report, and wait until that is seen."""
    cinder = server.cloud.cinder
    cinder.wait_for(
        lambda: cinder.snapshots[snapshot_id].progress == '90%', 60.0
    )
    cinder.set_snapshot(snapshot_id, 'available', '100%')
    wait_for_state(agent, snapshot_id, 'DONE')


def job(agent: Agent, snapshot_id: str) -> dict[str, Any]:
    """The last job of a snapshot, as an operator sees it."""
    listed = agent.manage('job', 'list', '--all', '--json')
    assert listed.returncode == 0, listed.stderr
    return [
        job
        for job in json.loads(listed.stdout)
        if job['snapshot_id'] == snapshot_id
    ][-1]


def state(agent: Agent, snapshot_id: str) -> str:
    """The state of the last job of a snapshot."""
    return job(agent, snapshot_id)['state']


def wait_for_state(agent: Agent, snapshot_id: str, wanted: str) -> None:
    """Wait until the job of a snapshot is in a state."""
    agent.wait(lambda: state(agent, snapshot_id) == wanted)


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


def restart(server: Server, api: Client, operation: str) -> None:
    """Have Nova end the guest's process, and begin another."""
    if operation == 'reboot':
        server.act(api, 'active', reboot=HARD)
    else:
        server.act(api, 'stopped', os_stop=None)
        server.act(api, 'active', os_start=None)


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
