# SPDX-License-Identifier: Apache-2.0
"""Everybody is somebody else: QEMU, the agent, the API and a stranger.

The agent reads the share because it is in a group, and can write nothing
there. Where the tests do not run as root all of them are one user.
"""

from __future__ import annotations

import grp
import json
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from nova_ext import context
from nova_ext.agent import wire
from nova_ext.virt.private import PrivateLibvirtd
from tests.fixtures.agent_user import AgentUser, User
from tests.fixtures.host import Host, short_directory
from tests.fixtures.libvirt import qemu_pid
from tests.fixtures.merge import wait_until
from tests.integration.test_doctor import doctor

AS_ROOT = os.geteuid() == 0
DONE = ('deleting', '90%')


# Of those that every Debian has. What a share, and who may use the socket, is
# given to.
SHARE_GROUP, SOCKET_GROUP = 34, ('operator', 37)
QEMU = User(65534, 65534)
AGENT = AgentUser(33, 33, (SHARE_GROUP, SOCKET_GROUP[1]))
API = User(39, 39, (SOCKET_GROUP[1],))
STRANGER = User(5, 5)


class OthersHost(Host):
    """A host on which QEMU is somebody else than the tests, too."""

    def __init__(
        self, share: pathlib.Path, state: pathlib.Path, *args: Any, **opts: Any
    ) -> None:
        super().__init__(share, *args, **opts)
        self.state = state
        if AS_ROOT:
            self.user = AGENT
            state.chmod(0o711)
            os.chown(share, QEMU.user, -1)
            self.hand_over(self.volume)

    def hand_over(self, path: pathlib.Path) -> None:
        """As a file server does: to QEMU's user, and for a group to read."""
        if AS_ROOT:
            os.chown(path, QEMU.user, -1)

    def overlay(self, active: pathlib.Path | None = None) -> pathlib.Path:
        path = super().overlay(active)
        self.hand_over(path)
        return path

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
        OthersHost(share, state, libvirtd, **group).running() as running,
    ):
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


def test_the_doctor_names_the_groups_that_the_agent_lacks(
    host: OthersHost,
) -> None:
    groups: dict[str, Any] = host.configuration()
    groups['nova_ext'] = {'auth_strategy': 'noauth'}
    status, found = doctor(host.directory, groups)
    assert status == 0, found
    if not AS_ROOT:
        return
    lacking = {'libvirt, for the agent': 37, 'share, for the agent': 34}
    # QEMU's is not known of a libvirt that a plain user runs.
    assert found['user of the agent'][0]['state'] == 'unknown'
    for subject in lacking:
        assert found[subject][0]['state'] == 'ok'
    host.stop_agent()
    # Its socket is left, and of its groups the machine knows nothing.
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(host.state / 'agent.sock'))
    os.chown(host.state / 'agent.sock', AGENT.user, SOCKET_GROUP[1])
    status, found = doctor(host.directory, groups)
    assert status == 1
    for subject, group in lacking.items():
        (one,) = found[subject]
        mend = f'usermod -aG {grp.getgrgid(group).gr_name} www-data'
        assert (one['state'], mend in one['mend']) == ('wrong', True), one
    (host.state / 'agent.sock').unlink()
    host.start_agent()


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
