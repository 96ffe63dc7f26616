# SPDX-License-Identifier: Apache-2.0
"""What a socket can do to us behind each WSGI server of the page: nothing is
done that was not clearly asked, nothing hides behind a request, and a log has
one line for each. Limits of time and size are the server's.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.deploy.servers import starting
from tests.deploy.test_servers import BODY, GABBI_APPLICATION, SERVERS

TOKEN = b'X-Auth-Token: token-of-a-service\r\n'
PATH = b'/v2.1/os-assisted-volume-snapshots'
TEXT = json.dumps(BODY).encode()
LENGTH = b'Content-Length: %d\r\n' % len(TEXT)
INFO = b'%7B%22volume_id%22:%22v%22%7D'
# What would be hidden behind another request.
HIDDEN = (
    b'DELETE ' + PATH + b'/s?delete_info=' + INFO + b' HTTP/1.1\r\n'
    b'Host: x\r\n' + TOKEN + b'Connection: close\r\n\r\n'
)


class Server(NamedTuple):
    """One that runs, and its log."""

    name: str
    port: int
    log: pathlib.Path

    def ask(self, request: bytes) -> list[int]:
        """The statuses of all that is answered until the connection ends."""
        with self.connect() as connection:
            connection.sendall(request)
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            answer = b''
            with contextlib.suppress(ConnectionError):
                while data := connection.recv(65536):
                    answer += data
        return [int(one) for one in re.findall(rb'HTTP/1\.\d (\d+) ', answer)]

    def connect(self) -> socket.socket:
        return socket.create_connection(('127.0.0.1', self.port), timeout=30)


@pytest.fixture(scope='module', params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp(request.param)
    with starting(directory) as started:
        url = SERVERS[request.param](started, GABBI_APPLICATION)
        port = int(url.rpartition(':')[2])
        yield Server(request.param, port, directory / f'{request.param}.log')


def _post(headers: bytes, body: bytes = TEXT) -> bytes:
    return (
        b'POST ' + PATH + b' HTTP/1.1\r\nHost: x\r\n' + TOKEN
        + b'Content-Type: application/json\r\nConnection: close\r\n'
        + headers + b'\r\n' + body
    )  # fmt: skip


def _delete(path: bytes, query: bytes = b'?delete_info=' + INFO) -> bytes:
    return (
        b'DELETE ' + path + query + b' HTTP/1.1\r\nHost: x\r\n' + TOKEN
        + b'Connection: close\r\n\r\n'
    )  # fmt: skip


def test_what_is_clear_is_done(server: Server) -> None:
    assert server.ask(_post(LENGTH)) == [200]
    assert server.ask(_delete(PATH + b'/s')) == [204]


@pytest.mark.parametrize(
    'headers',
    [
        LENGTH + b'Transfer-Encoding: chunked\r\n',
        LENGTH + b'Transfer-Encoding: identity, chunked\r\n',
        LENGTH + b'Content-Length: 0\r\n',
        b'Content-Length: 0\r\n' + LENGTH,
        b'Content-Length: 0\r\n',
        b'Content-Length: -1\r\n',
        b'Content-Length : 5\r\n' + LENGTH,
    ],
)
def test_nothing_hides_behind_an_unclear_request(
    server: Server, headers: bytes
) -> None:
    answers = server.ask(_post(headers) + HIDDEN)
    assert len(answers) <= 1
    assert 500 not in answers and 204 not in answers
    assert server.ask(_post(LENGTH)) == [200]


@pytest.mark.parametrize(
    'path',
    [
        PATH + b'/..',
        PATH + b'/%2e%2e/x',
        PATH + b'/a%2fb',
        PATH + b'/a/b',
        b'/v2.1/..' + PATH + b'/x',
        b'/v2.1;x/os-assisted-volume-snapshots/x',
        PATH + b'/x%0a2026%20INFO%20all%20is%20well',
        PATH + b'/x%e2%80%a8y',
        PATH + b'/%ff',
        PATH.upper() + b'/x',
    ],
)
def test_no_path_leads_around_the_routes_of_a_server(
    server: Server, path: bytes
) -> None:
    (answer,) = server.ask(_delete(path))
    # Some take "x/.." out, which leads to the resource and to its policy.
    straight = path == b'/v2.1/..' + PATH + b'/x'
    assert answer in (400, 404, *[204] * straight)
    if answer == 204:
        request = _delete(path).replace(TOKEN, b'')
        assert server.ask(request) == [401]


def test_no_header_says_another_method_or_caller(server: Server) -> None:
    for name in (b'X-HTTP-Method-Override', b'X-HTTP-Method', b'X-Method'):
        assert server.ask(_post(LENGTH + name + b': DELETE\r\n')) == [200]
    forged = b'X_User_Id: x\r\nX_Roles: admin\r\nX_Identity_Status: Confirmed'
    for header in (forged, forged.replace(b'_', b'-')):
        request = _post(LENGTH + header + b'\r\n').replace(TOKEN, b'')
        (answer,) = server.ask(request)
        assert answer in (400, 401)


def test_headers_that_are_huge_are_refused(server: Server) -> None:
    answers = server.ask(_post(LENGTH + b'X: %s\r\n' % (b'x' * (1 << 20))))
    assert [one for one in answers if one < 400] == []
    assert 500 not in answers
    assert server.ask(_post(LENGTH)) == [200]


def test_a_body_that_is_huge_is_refused(server: Server) -> None:
    size = 1 << 20
    answers = server.ask(_post(b'Content-Length: %d\r\n' % size, b'x' * size))
    # NOTE: gunicorn may end the connection before all is sent.
    assert answers in ([413], [])
    assert server.ask(_post(LENGTH)) == [200]


def test_who_is_slow_keeps_nobody_out(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(server.connect())
            connection.sendall(_post(b'Content-Length: 1000\r\n')[:-20])
        assert server.ask(_post(LENGTH)) == [200]


def test_no_line_of_a_server_s_log_is_forged(server: Server) -> None:
    server.ask(_delete(PATH + b'/x%0a2026%20INFO%20all%20is%20well'))
    server.ask(_delete(PATH + b'/x', b'?\x1b[2J%0d%0a2026%20INFO'))
    lines = server.log.read_bytes().splitlines()
    assert not [line for line in lines if line.startswith(b'2026 INFO')]
    assert b'\x1b' not in server.log.read_bytes()
