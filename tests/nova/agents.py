# SPDX-License-Identifier: Apache-2.0
"""Our agent beside a real nova-compute, and what is asked of both.

The requests go through our filter in a real nova-api, over a real RabbitMQ.
What becomes of them is in tests.
"""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.fixtures.cinder_rows import Request
from tests.fixtures.serve import write_config
from tests.fixtures.servers import server_environment
from tests.nova.client import PATH, Client

if TYPE_CHECKING:
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.nova_cloud import Cloud, Server

ADMIN = 'token-of-an-admin'
HARD = {'type': 'HARD'}
# The same for API and agent.
REPLY_WAIT = 10
# A minute's work at the agent's bandwidth.
DATA = 64 << 20


class Agent:
    """nova-ext-agent as an operator of Nova runs it."""

    def __init__(
        self,
        cloud: Cloud,
        bin: Path,
        directory: Path,
        reply_wait: float = REPLY_WAIT,
    ) -> None:
        self._bin = bin
        self._log = directory / 'agent.log'
        self.socket = directory / 'agent.sock'
        self._cloud = cloud
        self._process: subprocess.Popen[bytes] | None = None
        self.groups: dict[str, dict[str, Any]] = {
            'DEFAULT': {
                'log_file': self._log,
                'transport_url': cloud.bus,
            },
            'nova_ext_agent': {
                'state_dir': directory,
                'host': cloud.host,
                'libvirt_uri': cloud.libvirtd.uri,
                'nova_config_file': cloud.configuration,
                'reports': 'cinder',
                'rpc': True,
                'reply_wait': reply_wait,
                'bandwidth': 1,
            },
            'nova_ext_cinder': cinder_options(cloud),
        }
        self.configuration = directory / 'agent.conf'

    def __enter__(self) -> Agent:
        self.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.stop()

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
    server.overlays[snapshot_id] = overlay
    return snapshot_id, overlay.name


def claim(server: Server, agent: Agent, snapshot_id: str) -> None:
    """Do what Cinder does of the report, and wait until that is seen."""
    cinder = server.cloud.cinder
    agent.wait(lambda: cinder.snapshots[snapshot_id].progress == '90%')
    connection = server.cloud.connection(server.overlays[snapshot_id], 'qcow2')
    cinder.volumes[server.volume_id].connection_info = connection
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


def restart(server: Server, api: Client, operation: str) -> None:
    """Have Nova end the guest's process, and begin another."""
    if operation == 'reboot':
        server.act(api, 'active', reboot=HARD)
    else:
        server.act(api, 'stopped', os_stop=None)
        server.act(api, 'active', os_start=None)


def keep_untold(server: Server, api: Client, agent: Agent) -> tuple[str, str]:
    """Take a snapshot that Cinder is not told of until its faults are over."""

    def is_end(request: Request) -> bool:
        return (request.update or {}).get('progress') == '90%'

    server.cloud.cinder.answer_with(500, times=None, when=is_end)
    snapshot_id, name = take_snapshot(server, api, agent)
    assert state(agent, snapshot_id) == 'REPORTING'
    return snapshot_id, name


def merge(server: Server, api: Client, agent: Agent) -> tuple[str, str]:
    """Begin a pull: the snapshot's id, and the name of the active layer."""
    snapshot_id, name = take_snapshot(server, api, agent)
    claim(server, agent, snapshot_id)
    delete_active(server, api, snapshot_id)
    wait_for_state(agent, snapshot_id, 'RUNNING')
    return snapshot_id, name


def delete_active(server: Server, api: Client, snapshot_id: str) -> None:
    """Ask for the pull of all that is below the active layer."""
    server.cloud.cinder.set_snapshot(snapshot_id, 'deleting')
    info = {
        'volume_id': server.volume_id,
        'type': 'qcow2',
        'file_to_merge': None,
        'merge_target_file': None,
    }
    asked = api.delete(info, f'/v2.1{PATH}/{snapshot_id}')
    assert asked.status_code == 204, asked.text


def told(server: Server, snapshot_id: str) -> tuple[str, str | None]:
    """The last that Cinder was told of a snapshot."""
    return server.cloud.cinder.history(snapshot_id)[-1]
