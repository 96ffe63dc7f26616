# SPDX-License-Identifier: Apache-2.0
"""The agent's socket, where nothing comes of a connection."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from unittest import mock

import pytest

from nova_ext import exception
from nova_ext.agent import dispatch, listener, manager, peers, wire

OTHERS = 3


@pytest.fixture
def server() -> Iterator[listener.Server]:
    asked = mock.create_autospec(manager.Manager, instance=True)
    asked.status.return_value = {}
    # pytest's own directory is too long for the name of a socket.
    with tempfile.TemporaryDirectory(prefix='nx-') as directory:
        path = str(pathlib.Path(directory, 'agent.sock'))
        dispatcher = dispatch.Dispatcher(asked)
        with (
            mock.patch.object(listener, '_MAX_OTHERS', OTHERS),
            listener.Server(path, dispatcher, peers.Peers(None)) as running,
        ):
            thread = threading.Thread(target=running.serve_forever)
            thread.start()
            yield running
            running.shutdown()
            thread.join()


def _answer(server: listener.Server, line: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(server.server_address)
        if line:
            connection.sendall(line)
        with connection.makefile('rb') as replies:
            return replies.readline()


def test_who_says_nothing_is_left_without_a_traceback(
    server: listener.Server,
) -> None:
    with (
        mock.patch.object(listener._Handler, 'timeout', 0.1),
        mock.patch.object(server, 'handle_error') as failed,
    ):
        assert _answer(server, b'') == b''
        assert _answer(server, b'{') == b''
    assert not failed.called


def test_the_api_cannot_keep_its_own_user_and_root_out(
    server: listener.Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.peers._owners.clear()
    line = wire.encode(wire.request('status', {}))
    with contextlib.ExitStack() as waiting:
        for _ in range(OTHERS):
            connection = waiting.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(server.server_address)
        for _ in range(2):
            with pytest.raises(exception.AgentBusy, match='too many connect'):
                wire.parse_reply(wire.decode(_answer(server, b'')))
        assert 'too many connections' in caplog.text
        server.peers._owners.add(os.geteuid())
        assert 'result' in wire.decode(_answer(server, line))
        server.peers._owners.clear()
    # Those who waited are gone, and others come in.
    deadline, reply = time.monotonic() + 20, b''
    while b'may not ask' not in reply:
        assert time.monotonic() < deadline, reply
        with contextlib.suppress(OSError):
            reply = _answer(server, line)


def test_who_may_not_ask_gets_a_reply_like_any_other(
    server: listener.Server,
) -> None:
    line = wire.encode(wire.request('status', {}))
    with mock.patch.object(peers.Peers, 'refusal', return_value='it is not'):
        reply = wire.decode(_answer(server, line))
    assert reply['agent'] == server.dispatcher.identity
    with pytest.raises(exception.AgentBusy, match='it is not'):
        wire.parse_reply(reply)
