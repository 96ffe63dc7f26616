# SPDX-License-Identifier: Apache-2.0
"""Everybody is somebody else: QEMU, the agent, the API and a stranger.

The agent reads the share because it is in a group, and can write nothing
there. Where the tests do not run as root all of them are one user.
"""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from nova_ext import context, exception
from nova_ext.agent import wire
from nova_ext.virt.private import PrivateLibvirtd
from tests.fixtures.host import Host, short_directory
from tests.fixtures.libvirt import qemu_pid
from tests.fixtures.merge import wait_until
from tests.fixtures.serve import write_config

AS_ROOT = os.geteuid() == 0
DONE = ('deleting', '90%')


class User(NamedTuple):
    """Of those that every Debian has."""

    user: int
    group: int
    groups: tuple[int, ...] = ()


# What a share, and who may use the socket, is given to.
SHARE_GROUP, SOCKET_GROUP = 34, ('operator', 37)
QEMU = User(65534, 65534)
AGENT = User(33, 33, (SHARE_GROUP, SOCKET_GROUP[1]))
API = User(39, 39, (SOCKET_GROUP[1],))
STRANGER = User(5, 5)


class OthersHost(Host):
    """A host whose agent is another user than QEMU, and can only read."""

    def __init__(
        self, share: pathlib.Path, state: pathlib.Path, *args: Any, **opts: Any
    ) -> None:
        self.state = state
        super().__init__(share, *args, state_dir=str(state), **opts)
        self.hand_over(self.volume)
        if AS_ROOT:
            os.chown(state, AGENT.user, AGENT.group)
            os.chown(share, QEMU.user, SHARE_GROUP)
            share.chmod(0o750)
            state.chmod(0o711)

    def hand_over(self, path: pathlib.Path) -> None:
        """As a file server does: to QEMU's user, and for a group to read."""
        path.chmod(0o640)
        if AS_ROOT:
            os.chown(path, QEMU.user, SHARE_GROUP)

    def overlay(self, active: pathlib.Path | None = None) -> pathlib.Path:
        path = super().overlay(active)
        self.hand_over(path)
        return path

    def configuration(self) -> dict[str, dict[str, Any]]:
        return {
            **super().configuration(),
            'DEFAULT': {'log_file': self.state / 'agent.log'},
        }

    def log(self) -> str:
        return (self.state / 'agent.log').read_text()

    def start_agent(self, wait: bool = True) -> None:
        config = write_config(self.state / 'conf', self.configuration())
        config.chmod(0o644)
        groups = ','.join(map(str, AGENT.groups))
        self._agent = subprocess.Popen(
            [
                *(sys.executable, '-m', 'tests.fixtures.as_user'),
                *(str(AGENT.user), str(AGENT.group), groups),
                *('--config-file', str(config)),
            ]
        )
        wait_until(self._answers, self)

    def _answers(self) -> bool:
        assert self._agent is not None
        assert self._agent.poll() is None, self.log()
        try:
            self.api.check()
        except exception.Unavailable:
            return False
        return True

    @property
    def agent_pid(self) -> int:
        assert self._agent is not None
        return self._agent.pid


@pytest.fixture
def host() -> Iterator[OthersHost]:
    uid = QEMU.user if AS_ROOT else None
    group = {'socket_group': SOCKET_GROUP[0]} if AS_ROOT else {}
    with (
        short_directory() as there,
        short_directory() as share,
        short_directory() as state,
        PrivateLibvirtd(there, unprivileged_uid=uid) as libvirtd,
    ):
        # As who is in the group "libvirt" may.
        (there / 'run').chmod(0o711)
        (there / 'run/libvirt').chmod(0o711)
        (there / 'run/libvirt/libvirt-sock').chmod(0o777)
        with OthersHost(share, state, libvirtd, **group).running() as running:
            running.guest.wait_reported(1)
            yield running


def _owner(pid: int) -> int:
    return os.stat(f'/proc/{pid}').st_uid


def test_an_agent_that_can_only_read_the_share_does_its_work(
    host: OthersHost,
) -> None:
    if AS_ROOT:
        assert _owner(qemu_pid(host.guest.uuid)) == QEMU.user
        assert _owner(host.agent_pid) == AGENT.user
    overlay, snapshot_id = host.overlay(), host.snapshot()
    host.create(snapshot_id, overlay.name)
    assert host.chain() == [overlay.name, host.volume.name]
    host.double.set_snapshot(snapshot_id, 'deleting')
    host.api.volume_snapshot_delete(
        context.RequestContext(user_id='cinder'),
        host.volume_id,
        snapshot_id,
        {
            'volume_id': host.volume_id,
            'type': 'qcow2',
            'file_to_merge': None,
            'merge_target_file': None,
        },
    )
    wait_until(lambda: host.double.history(snapshot_id)[-1] == DONE, host)
    assert host.chain() == [overlay.name]


def _ask(path: pathlib.Path, method: str, who: User | None) -> str:
    """What a process of a user is answered; the error's name, if it is one."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        with os.fdopen(read) as answer:
            text = answer.read()
        os.waitpid(child, 0)
        return text
    try:
        if who is not None:
            os.setgroups(who.groups)
            os.setgid(who.group)
            os.setuid(who.user)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(path))
            connection.sendall(wire.encode(wire.request(method, {})))
            line = connection.makefile('rb').readline()
        os.write(write, line)
    except OSError as error:
        os.write(write, type(error).__name__.encode())
    finally:
        os._exit(0)


def test_the_socket_is_for_those_whom_it_is_for(host: OthersHost) -> None:
    path = host.state / 'agent.sock'
    assert path.stat().st_mode & 0o7777 == 0o660
    assert 'result' in json.loads(_ask(path, 'status', None))
    if not AS_ROOT:
        return
    assert path.stat().st_gid == SOCKET_GROUP[1]
    assert _ask(path, 'status', STRANGER) == 'PermissionError'
    assert 'summary' in _ask(path, 'status', API)
    assert 'for operators' in _ask(path, 'job_list', API)
    # Whoever is let in by the file's mode, is not yet by the agent.
    path.chmod(0o666)
    for method in wire.METHODS + wire.JOB_METHODS:
        answer = json.loads(_ask(path, method, STRANGER))
        assert answer['error'] == 'AgentBusy'
        assert f'user id {STRANGER.user} may not ask it' in str(answer)
    wait_until(lambda: 'Refused: user id' in host.log(), host)
