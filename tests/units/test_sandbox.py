# SPDX-License-Identifier: Apache-2.0
"""The units of etc/; and the agent under its own, with all that this takes
away, makes and merges snapshots of a guest outside.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pathlib
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from nova_ext.virt.private import PrivateLibvirtd
from tests.fixtures.agent_user import AgentUser
from tests.fixtures.host import Host, short_directory
from tests.fixtures.merge import wait_until
from tests.fixtures.serve import write_config
from tests.fixtures.servers import free_port
from tests.integration.test_delete import Share
from tests.units.boot import SAMPLES, UNIT

# Whoever has these numbers is nobody here.
SHARE_GROUP, LIBVIRT_GROUP = 64901, 64902
STATE = '/var/lib/nova_ext'
# PrivateTmp takes /tmp away.
PLACE = '/srv'


def _libvirt_group() -> int:
    with contextlib.suppress(KeyError):
        return grp.getgrnam('libvirt').gr_gid
    return LIBVIRT_GROUP


def _unit(name: str = 'nova-ext-agent', program: str = '') -> str:
    """A sample with the place of a program."""
    program = program or name
    text = (SAMPLES / f'{name}.service').read_text()
    there = f'{sys.prefix}/bin/{program}'
    text, found = re.subn(rf'(?<==)/\S+/{program}(?= )', there, text)
    assert found == 1, text
    # Where it may be that Python is.
    return text.replace('ProtectHome=yes', 'ProtectHome=read-only')


class UnitHost(Host):
    """A host whose agent is started by systemd."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.user = AgentUser(0, 0, (SHARE_GROUP, _libvirt_group()))
        self.state = self.directory / 'boot' / 'state'
        self.state.mkdir(parents=True)
        self.port = free_port()

    def configuration(self) -> dict[str, dict[str, Any]]:
        groups = super().configuration()
        groups['DEFAULT']['log_file'] = f'{STATE}/agent.log'
        groups['nova_ext_agent']['state_dir'] = STATE
        groups['nova_ext_agent']['socket_group'] = 'nova_ext_socket'
        return groups

    def start_agent(self, wait: bool = True) -> None:
        boot = self.state.parent
        boot.chmod(0o755)
        api = _unit('nova-ext-api', 'gunicorn')
        assert '127.0.0.1:8774' in api
        api = api.replace('127.0.0.1:8774', f'127.0.0.1:{self.port}')
        (boot / 'nova-ext-api.service').write_text(api)
        (boot / UNIT).write_text(_unit())
        write_config(boot / 'agent.conf', self.configuration())
        write_config(
            boot / 'api.conf', {'nova_ext': {'auth_strategy': 'noauth'}}
        )
        here = _control_group()
        here.mkdir(exist_ok=True)
        assert self.user is not None
        self._agent = subprocess.Popen(
            [
                *('sh', '-c', 'echo $$ >"$0" && exec "$@"'),
                *(str(here / 'cgroup.procs'), 'unshare', '--mount', '--pid'),
                *('--fork', '--kill-child=KILL', '--uts', '--ipc'),
                *('--cgroup', '--mount-proc', '--propagation', 'private'),
                *(sys.executable, '-m', 'tests.units.boot', str(boot)),
                *(str(_libvirt_group()), str(SHARE_GROUP)),
            ],
        )
        try:
            wait_until(self._is_up, self)
        except AssertionError:
            self.stop_agent()
            raise

    def _is_up(self) -> bool:
        return self.property('SubState') == 'running'

    def stop_agent(self) -> None:
        assert self._agent is not None
        self._agent.kill()
        self._agent.wait()
        wait_until(_remove_control_group, self)

    def log(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return super().log()
        return self.inside('systemctl', 'status', UNIT)

    def inside(self, *command: str) -> str:
        """What a command says in the namespaces of systemd."""
        assert self._agent is not None
        pid = self._agent.pid
        children = pathlib.Path(f'/proc/{pid}/task/{pid}/children')
        first, *_ = [*children.read_text().split(), '']
        if not first:
            return ''
        return subprocess.run(
            ['nsenter', '-t', first, '-m', '-p', *command],
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout

    def property(self, name: str, unit: str = UNIT) -> str:
        """A property of a unit."""
        said = self.inside('systemctl', 'show', '-p', name, unit)
        return said.strip().partition('=')[2]


def _control_group() -> pathlib.Path:
    """Of this process alone."""
    top = subprocess.run(
        ['findmnt', '-n', '-t', 'cgroup2', '-o', 'TARGET'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()[0]
    return pathlib.Path(top, f'nx-{os.getpid()}')


def _remove_control_group() -> bool:
    below = sorted(_control_group().glob('**/'), reverse=True)
    with contextlib.suppress(OSError):
        for path in below:
            path.rmdir()
        return True
    return False


@pytest.fixture
def host() -> Iterator[UnitHost]:
    with (
        short_directory(PLACE) as there,
        short_directory(PLACE) as share,
        PrivateLibvirtd(there) as libvirtd,
        UnitHost(share, libvirtd).running() as running,
    ):
        running.guest.wait_reported(1)
        yield running


@pytest.mark.parametrize(
    ('name', 'program'),
    [('nova-ext-agent', 'nova-ext-agent'), ('nova-ext-api', 'gunicorn')],
)
def test_systemd_finds_nothing_wrong_and_little_exposed(
    tmp_path: pathlib.Path, name: str, program: str
) -> None:
    path = tmp_path / f'{name}.service'
    path.write_text(_unit(name, program))
    for command in (
        ['verify', '--man=no'],
        # Of ten, in tenths: what "systemd-analyze security" calls OK.
        ['security', '--offline=true', '--threshold=20', '--no-pager'],
    ):
        done = subprocess.run(
            ['systemd-analyze', *command, str(path)],
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, '')


def test_the_agent_does_its_work_in_its_sandbox(host: UnitHost) -> None:
    pid = host.property('MainPID')
    said = host.inside('cat', f'/proc/{pid}/status')
    status = dict(re.findall(r'^(\w+):\s+(.*)$', said, re.M))
    assert '0' not in status['Uid'].split()
    assert int(status['CapBnd'], 16) == int(status['CapEff'], 16) == 0
    assert (status['NoNewPrivs'], status['Seccomp']) == ('1', '2')
    share = Share(host)
    older, newer = share.snapshot(), share.snapshot()
    share.delete(newer)
    share.delete(older)
    share.assert_nothing_lost()
    # In its view not even root could write where the guest's files are.
    path = host.directory / 'x'
    host.inside('nsenter', '-t', pid, '-m', 'touch', str(path))
    assert not path.exists()
    host.inside('touch', str(path))
    assert path.exists()


def test_the_api_reaches_the_agent(host: UnitHost) -> None:
    api = 'nova-ext-api.service'
    wait_until(lambda: host.property('SubState', api) == 'running', host)
    url = f'http://127.0.0.1:{host.port}/healthcheck'
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert b'0 jobs under way' in answer.read()


def test_the_api_can_do_nothing_else_on_the_host(host: UnitHost) -> None:
    api = 'nova-ext-api.service'
    wait_until(lambda: host.property('SubState', api) == 'running', host)
    said = {}
    for unit in (UNIT, api):
        pid = host.property('MainPID', unit)
        status = host.inside('cat', f'/proc/{pid}/status')
        said[unit] = dict(re.findall(r'^(\w+):\s+(.*)$', status, re.M))
    # As real, effective, saved and of the file system.
    assert not {*said[UNIT]['Uid'].split()} & {*said[api]['Uid'].split()}
    groups = {unit: {*said[unit]['Groups'].split()} for unit in said}
    assert str(_libvirt_group()) in groups[UNIT]
    assert str(_libvirt_group()) not in groups[api]

    def read(user: str, path: str) -> str:
        who = ('--reuid', user, '--regid', user, '--init-groups')
        return host.inside('setpriv', *who, 'cat', path)

    agent_s, api_s = (f'/etc/nova_ext/{n}.conf' for n in ('nova_ext', 'api'))
    assert read('nova_ext', agent_s) and read('nova_ext_api', api_s)
    assert not read('nova_ext_api', agent_s) + read('nova_ext', api_s)
    assert not read('nova_ext_api', f'{STATE}/agent.log')
    assert read('nova_ext', f'{STATE}/journal.sqlite')
    assert not read('nova_ext_api', f'{STATE}/journal.sqlite')


def test_systemd_reloads_and_stops_it(host: UnitHost) -> None:
    host.inside('systemctl', 'reload', UNIT)
    assert host.property('SubState') == 'running'
    assert host.property('ReloadResult') == 'success'
    host.inside('systemctl', 'stop', UNIT)
    assert host.property('ActiveState') == 'inactive'
    assert host.property('Result') == 'success'
    assert not (host.state / 'agent.sock').exists()
