# SPDX-License-Identifier: Apache-2.0
"""The backend's side of the socket: what is sent, and what each end means."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest

from nova_ext import context, exception
from nova_ext.agent import wire
from nova_ext.compute import agents, libvirt
from tests.fixtures.app import configured

INFO = {'snapshot_id': 's', 'type': 'qcow2', 'new_file': 'volume-1.s'}
DELETE_INFO = {'volume_id': 'v', 'file_to_merge': None}

# What the agent does with a connection: the line it got → bytes to answer
# with, or None to say nothing and to close.
Behaviour = Callable[[bytes], bytes | None]
YES: Behaviour = lambda line: wire.encode(wire.result(None))  # noqa: E731
SILENCE: Behaviour = lambda line: None  # noqa: E731


class Agent:
    """The other end: one behaviour for each connection, the last for ever.

    :ivar messages: (method, arguments) of each request
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.behaviours: list[Behaviour] = [YES]
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(path)
        self._server.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections from now on."""
        if self._thread.is_alive():
            self._server.shutdown(socket.SHUT_RDWR)
            self._thread.join()
            self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, connection.makefile('rb') as requests:
                line = requests.readline()
                self.messages.append(wire.parse_request(wire.decode(line)))
                behaviour = self.behaviours[0]
                if len(self.behaviours) > 1:
                    del self.behaviours[0]
                answer = behaviour(line)
                if answer is not None:
                    with contextlib.suppress(OSError):
                        connection.sendall(answer)


@pytest.fixture
def path() -> Iterator[str]:
    # pytest's own directory is too long for the name of a socket.
    with tempfile.TemporaryDirectory(prefix='nx-') as directory:
        yield str(pathlib.Path(directory, 'agent.sock'))


@pytest.fixture
def agent(path: str) -> Iterator[Agent]:
    running = Agent(path)
    yield running
    running.stop()


@pytest.fixture
def backend(path: str) -> Iterator[libvirt.ComputeAPI]:
    options = {
        'nova_ext_agent.socket': path,
        'nova_ext_agent.host': 'compute-1',
        'nova_ext_agent.reply_wait': 0.5,
    }
    with configured(options) as conf:
        with mock.patch.object(agents, '_REPEAT_SECONDS', 0.02):
            yield libvirt.ComputeAPI(conf)


def _create(backend: libvirt.ComputeAPI, **about: Any) -> None:
    who = context.RequestContext(**about)
    backend.volume_snapshot_create(who, 'v', INFO)


def _delete(backend: libvirt.ComputeAPI) -> None:
    who = context.RequestContext()
    backend.volume_snapshot_delete(who, 'v', 's', DELETE_INFO)


def test_a_create_crosses_whole(
    agent: Agent, backend: libvirt.ComputeAPI
) -> None:
    before = time.time()
    _create(backend, request_id='req-local')
    ((method, arguments),) = agent.messages
    assert method == 'volume_snapshot_create'
    not_after = arguments.pop('not_after')
    assert before + 0.5 <= not_after <= time.time() + 0.5
    assert arguments == {
        'volume_id': 'v',
        'create_info': INFO,
        'request_id': 'req-local',
    }


def test_a_delete_crosses_whole(
    agent: Agent, backend: libvirt.ComputeAPI
) -> None:
    _delete(backend)
    ((method, arguments),) = agent.messages
    assert method == 'volume_snapshot_delete'
    assert arguments['not_after'] > time.time() - 1
    assert (
        arguments['volume_id'],
        arguments['snapshot_id'],
        arguments['delete_info'],
    ) == ('v', 's', DELETE_INFO)


def test_no_token_crosses(agent: Agent, backend: libvirt.ComputeAPI) -> None:
    _create(backend, auth_token='gAAAAABsecret', user_id='u')
    assert 'gAAAAABsecret' not in json.dumps(agent.messages)


def test_the_request_id_of_the_first_service_crosses(
    agent: Agent, backend: libvirt.ComputeAPI
) -> None:
    _create(backend, request_id='req-local', global_request_id='req-global')
    assert agent.messages[0][1]['request_id'] == 'req-global'


@pytest.mark.parametrize('call', [_create, _delete])
def test_an_error_of_the_agent_is_raised_here(
    agent: Agent,
    backend: libvirt.ComputeAPI,
    call: Callable[[libvirt.ComputeAPI], None],
) -> None:
    error = exception.VolumeIsMultiAttach(volume_id='v')
    agent.behaviours = [lambda line: wire.encode(wire.error(error))]
    with pytest.raises(exception.VolumeIsMultiAttach) as raised:
        call(backend)
    assert str(raised.value) == str(error)
    assert len(agent.messages) == 1


def test_a_check_is_the_summary(
    agent: Agent, backend: libvirt.ComputeAPI
) -> None:
    agent.behaviours = [
        lambda line: wire.encode(wire.result({'summary': '3 jobs'}))
    ]
    assert backend.check() == '3 jobs'
    assert agent.messages == [('status', {})]


def test_a_list_of_jobs_may_be_longer_than_a_request(
    agent: Agent, backend: libvirt.ComputeAPI
) -> None:
    jobs = [{'id': number, 'reason': 'r' * 1000} for number in range(5000)]
    agent.behaviours = [lambda line: wire.encode(wire.result(jobs))]
    assert backend.ask('job_list', {'everything': True}, 10.0) == jobs


def test_an_agent_that_is_not_there_is_said_to_be(
    backend: libvirt.ComputeAPI, path: str
) -> None:
    for call in (_create, _delete, libvirt.ComputeAPI.check):
        begun = time.monotonic()
        with pytest.raises(exception.HostUnavailable) as raised:
            call(backend)  # type: ignore[operator]
        # Nobody can have it, so nothing is repeated.
        assert time.monotonic() - begun < 0.4
        assert 'compute-1' in str(raised.value)
        assert 'Start nova-ext-agent' in str(raised.value)
        assert path in str(raised.value)


def test_an_agent_that_may_not_be_asked_is_said_to_be(
    backend: libvirt.ComputeAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may ask any socket.
    def connect(_: object, path: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket.socket, 'connect', connect)
    with pytest.raises(exception.HostUnavailable) as raised:
        backend.check()
    assert 'Start nova-ext-agent' not in str(raised.value)
    assert '[nova_ext_agent] socket_group' in str(raised.value)


def test_a_dead_agents_socket_is_no_agent(
    agent: Agent, backend: libvirt.ComputeAPI
) -> None:
    agent.stop()
    with pytest.raises(exception.HostUnavailable, match='refused'):
        _create(backend)


@pytest.mark.parametrize('call', [_create, _delete])
def test_an_answer_that_is_lost_is_asked_for_again(
    agent: Agent,
    backend: libvirt.ComputeAPI,
    call: Callable[[libvirt.ComputeAPI], None],
) -> None:
    agent.behaviours = [SILENCE, lambda line: b'{"result": "cu', YES]
    call(backend)
    first, *others = agent.messages
    # The very same, so that nothing starts later than was allowed.
    assert others == [first, first]


def test_an_agent_that_comes_back_is_waited_for(
    agent: Agent, backend: libvirt.ComputeAPI, path: str
) -> None:
    replacements = []
    timers: list[threading.Timer] = []

    def die(line: bytes) -> None:
        # Refuse at once; the next one listens a little later.
        pathlib.Path(path).unlink()

        def replace() -> None:
            replacements.append(Agent(path))

        timers.append(threading.Timer(0.1, replace))
        timers[0].start()

    agent.behaviours = [die]
    try:
        _create(backend)
        # It answers before it is in the list.
        timers[0].join()
        (replacement,) = replacements
        assert replacement.messages == agent.messages
    finally:
        for replacement in replacements:
            replacement.stop()


def test_no_is_not_said_before_it_is_certain(
    agent: Agent, backend: libvirt.ComputeAPI
) -> None:
    # The first may still be on its way when the second is refused.
    busy = wire.encode(wire.error(exception.AgentBusy(reason='it stops')))
    agent.behaviours = [SILENCE, lambda line: busy, YES]
    _create(backend)
    agent.behaviours = [SILENCE, lambda line: busy]
    begun = time.monotonic()
    with pytest.raises(exception.AgentBusy):
        _create(backend)
    assert time.monotonic() - begun > 0.5 + wire.CLOCK_ALLOWANCE


def test_an_answer_that_stays_away_is_not_asked_for_without_end(
    agent: Agent, backend: libvirt.ComputeAPI
) -> None:
    agent.behaviours = [SILENCE]
    begun = time.monotonic()
    with pytest.raises(exception.HostUnavailable, match='without an answer'):
        _create(backend)
    # reply_wait: later the agent would not start it any more.
    assert 0.4 < time.monotonic() - begun < 5
    assert len(agent.messages) > 2


@pytest.mark.parametrize(
    'answer',
    [
        b'\n',
        b'junk\n',
        b'[]\n',
        b'\xff\xfe\n',
        b'{"error": "KeyError", "kwargs": {}}\n',
        b'{"error": "VolumeNotAttached", "kwargs": {}}\n',
    ],
)
def test_an_answer_of_another_protocol_is_no_answer(
    agent: Agent, backend: libvirt.ComputeAPI, answer: bytes
) -> None:
    agent.behaviours = [lambda line: answer]
    with pytest.raises(exception.HostUnavailable):
        _create(backend)
    assert len(agent.messages) == 1


def test_an_agent_that_hangs_is_given_up(
    agent: Agent, backend: libvirt.ComputeAPI
) -> None:
    go_on = threading.Event()

    def hang(line: bytes) -> None:
        go_on.wait(10)

    agent.behaviours = [hang]
    ask = backend.ask
    with mock.patch.object(backend, 'ask', autospec=True) as quicker:
        quicker.side_effect = lambda method, arguments, timeout: ask(
            method, arguments, timeout / 30
        )
        with pytest.raises(exception.HostUnavailable, match='timed out'):
            _create(backend)
        # Longer than the agent needs for admission and job together.
        assert quicker.call_args.kwargs['timeout'] > 2 * 0.5
    go_on.set()
