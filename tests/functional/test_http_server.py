# SPDX-License-Identifier: Apache-2.0
"""What a socket can do to nova-ext-serve that no client library would.

Requests are written byte by byte; each answer is checked for the promises.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

import pytest

from nova_ext.cmd import http
from tests.fixtures.app import RecordingAPI, running_app
from tests.functional import arbitrary, promises
from tests.functional.fixtures import Keystone, Tokens

PATH = '/v2.1/os-assisted-volume-snapshots'
BODY = json.dumps(arbitrary.CREATE).encode()
LENGTH = b'Content-Length: %d\r\n' % len(BODY)
GOOD = b'POST ' + PATH.encode() + b' HTTP/1.1\r\nHost: x\r\n%s\r\n' + BODY

FORGED = b'X_User_Id: x\r\nX_Roles: admin\r\nX_Identity_Status: Confirmed\r\n'

LIMITS = http.Limits(seconds=1.0, header_bytes=16384, connections=8)


class Answer(NamedTuple):
    """What came back; status 0 if nothing did."""

    status: int
    body: bytes


class Served:
    """A server of the pipeline without authentication."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=20)

    def ask(self, request: bytes, method: str = 'POST') -> Answer:
        with self.connect() as connection:
            connection.sendall(request)
            return self.answer(connection, method)

    def answer(self, connection: socket.socket, method: str = '') -> Answer:
        """Whatever is answered up to the end of the connection."""
        with connection.makefile('rb') as stream:
            text = stream.read()
        if not text:
            return Answer(0, b'')
        head, _, body = text.partition(b'\r\n\r\n')
        first, *lines = head.decode('latin-1').split('\r\n')
        headers = [
            (name, value.strip())
            for name, _, value in (line.partition(':') for line in lines)
        ]
        status = int(first.split()[1])
        # One answer, and nothing behind it.
        promises.check_answer(method, '/', status, headers, body)
        return Answer(status, body)


@contextlib.contextmanager
def _serving(
    limits: http.Limits = LIMITS, host: str = '127.0.0.1', **options: object
) -> Iterator[Served]:
    with running_app({'nova_ext.auth_strategy': 'noauth', **options}) as app:
        with http.Server((host, 0), app, limits) as server:
            thread = threading.Thread(
                target=server.serve_forever, kwargs={'poll_interval': 0.01}
            )
            thread.start()
            try:
                yield Served(server.server_address[:2])
            finally:
                server.shutdown()
                thread.join()


@pytest.fixture
def served() -> Iterator[Served]:
    with _serving() as running:
        yield running


def _line(path: str | bytes, method: bytes = b'DELETE') -> bytes:
    path = path.encode() if isinstance(path, str) else path
    return method + b' ' + path + b' HTTP/1.1\r\nHost: x\r\n\r\n'


def test_a_request_of_before_is_answered_as_it_was(served: Served) -> None:
    assert served.ask(GOOD % LENGTH).status == 200
    assert len(RecordingAPI.calls) == 1


@pytest.mark.parametrize(
    'kind', [b'multipart/form-data; boundary=x', b'message/rfc822']
)
def test_a_type_that_is_one_of_mails_is_like_any_other(
    kind: bytes, served: Served
) -> None:
    kind = b'Content-Type: ' + kind + b'\r\n'
    assert served.ask(GOOD % (LENGTH + kind)).status == 415
    for broken in (b': x\r\n', b'no colon\r\n', b'From x\r\n'):
        assert served.ask(GOOD % (LENGTH + kind + broken)).status == 400


def test_an_address_of_version_6_is_listened_on() -> None:
    # Not ::1, which a container may lack; by :: both versions come in.
    with _serving(host='::') as door:
        local = Served(('127.0.0.1', door.address[1]))
        assert local.ask(_line('/healthcheck', b'GET'), 'GET').status == 200


@pytest.mark.parametrize(
    'request_',
    [
        # Two lengths, or one that is none.
        GOOD % (LENGTH + b'Content-Length: 5\r\n'),
        GOOD % (LENGTH + LENGTH),
        GOOD % b'Content-Length: 5, 5\r\n',
        GOOD % b'Content-Length: -1\r\n',
        GOOD % b'Content-Length: +5\r\n',
        GOOD % b'Content-Length: 1_0\r\n',
        GOOD % b'Content-Length: \r\n',
        GOOD % b'Content-Length : 5\r\n',
        GOOD % (b'Content-Length: ' + b'9' * 5000 + b'\r\n'),
        # A length and chunks.
        GOOD % (LENGTH + b'Transfer-Encoding: chunked\r\n'),
        GOOD % (LENGTH + b'Transfer-Encoding: identity\r\n'),
        # Headers that are not one line each, with a name.
        GOOD % (LENGTH + b'X-Forwarded-For: a\r\n 127.0.0.1\r\n'),
        GOOD % (LENGTH + b'no colon\r\n'),
        GOOD % (LENGTH + b': no name\r\n'),
        GOOD % (LENGTH + b'X\x0bY: v\r\n'),
        GOOD % (LENGTH + b'X: a\0b\r\n'),
        GOOD % (LENGTH + b'Host: other\r\n'),
        # Requests that are none.
        b'GET\r\n\r\n',
        b'GET / HTTP/9.9.9\r\n\r\n',
        b'GET / HTTP/1.1 x\r\n\r\n',
        # To which an answer has no status.
        (GOOD % LENGTH).replace(b'HTTP/1.1', b'HTTP/0.9'),
        b'GET / HTTP/0.9\r\n: no name\r\n\r\n',
        b'GET\x1b[2J / HTTP/1.1\r\n\r\n',
        b'GET /\x1b[2J HTTP/1.1\r\n\r\n',
        b'GET /\x00 HTTP/1.1\r\n\r\n',
        b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n',
    ],
)
def test_what_is_not_clearly_one_request_is_refused(
    served: Served, request_: bytes
) -> None:
    assert served.ask(request_).status in (400, 505)
    assert RecordingAPI.calls == []


def test_chunks_are_refused_in_so_many_words(served: Served) -> None:
    chunks = b'%x\r\n%s\r\n0\r\n\r\n' % (len(BODY), BODY)
    head = GOOD[: GOOD.index(b'%s')] + b'Transfer-Encoding: chunked\r\n\r\n'
    answer = served.ask(head + chunks)
    assert answer.status == 501
    assert b'send a Content-Length' in answer.body
    assert RecordingAPI.calls == []


def test_nothing_hides_behind_another_request(served: Served) -> None:
    # With and without a body that is longer than its length says.
    for head in (GOOD % LENGTH, GOOD % b'Content-Length: 0\r\n'):
        with served.connect() as connection:
            connection.sendall(head + GOOD % LENGTH)
            assert served.answer(connection, 'POST').status in (200, 400)
    assert len(RecordingAPI.calls) == 1


@pytest.mark.parametrize(
    'path',
    [
        PATH + '/..',
        PATH + '/../../v2.1' + PATH + '/x',
        PATH + '/a%2fb',
        PATH + '/a/b',
        PATH + '/%2e%2e/x',
        '/%2e%2e' + PATH + '/x',
        '/v2.1/..' + PATH + '/x',
        '/v2.1;x/os-assisted-volume-snapshots/x',
        PATH + '/x%0a',
        PATH + '/%ff',
        PATH.upper() + '/x',
        'http://other' + PATH + '/x',
        '*',
        '',
    ],
)
def test_no_path_leads_around_the_routes(served: Served, path: str) -> None:
    info = '%7B%22volume_id%22:%22v%22%7D'
    answer = served.ask(_line(f'{path}?delete_info={info}'), 'DELETE')
    assert answer.status in (400, 404)
    assert RecordingAPI.calls == []


def test_slashes_more_than_one_count_as_one(served: Served) -> None:
    info = '%7B%22volume_id%22:%22v%22%7D'
    path = PATH.replace('/', '//') + f'//x?delete_info={info}'
    assert served.ask(_line(path), 'DELETE').status == 204
    assert RecordingAPI.calls[0].arguments[:2] == ('v', 'x')


@pytest.mark.parametrize(
    'character',
    ['%0a', '%0d', '%1b', '%7f', '%c2%85', '%e2%80%a8']
    + ['%e2%80%ae', '%e2%81%a6'],
)
def test_an_id_that_would_break_a_line_of_a_log_is_refused(
    served: Served, character: str
) -> None:
    info = '%7B%22volume_id%22:%22v%22%7D'
    path = f'{PATH}/x{character}y?delete_info={info}'
    answer = served.ask(_line(path), 'DELETE')
    assert answer.status == 400
    assert b'is not plain text' in answer.body
    assert RecordingAPI.calls == []


def test_a_log_has_one_line_for_each_request(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    hostile = (
        _line('/?a=\xff\x85\xa0"%20status:%20200'.encode('latin-1'), b'GET'),
        _line(b'/%0a2026%20INFO%20all%20is%20well', b'GET'),
        _line(b'/?\x1b[2J', b'GET'),
        _line(b'/', b'G"ET'),
        _line(PATH + '/x%0a2026%20INFO?delete_info=%0a'),
        GOOD % (LENGTH + b'OpenStack-API-Version: compute \x1b[2J\r\n'),
    )
    with caplog.at_level(logging.INFO):
        for request in hostile:
            assert served.ask(request, request.split()[0].decode()).status
    lines = [record.getMessage() for record in caplog.records]
    for line in lines:
        assert line.isprintable(), ascii(line)
        assert line.isascii()
        assert not line.startswith('2026')
        assert line.count('"') in (0, 2), line


def test_a_header_may_not_say_another_method(served: Served) -> None:
    for name in (b'X-HTTP-Method-Override', b'X-HTTP-Method', b'X-Method'):
        header = LENGTH + name + b': DELETE\r\n'
        assert served.ask(GOOD % header).status == 200
    assert {call.method for call in RecordingAPI.calls} == {'create'}


def test_headers_with_underscores_count_for_nothing() -> None:
    options = {**Keystone.options, 'nova_ext.auth_strategy': 'keystone'}
    with Tokens(), _serving(**options) as door:
        for header in (
            b'X_Auth_Token: token-of-a-service\r\n',
            FORGED,
            FORGED.replace(b'_', b'-'),
        ):
            assert door.ask(GOOD % (LENGTH + header)).status == 401
        token = b'X-Auth-Token: token-of-a-member\r\nX_Roles: service\r\n'
        assert door.ask(GOOD % (LENGTH + token)).status == 403
        token = b'X-Auth-Token: token-of-a-service\r\n'
        assert door.ask(GOOD % (LENGTH + token)).status == 200


def test_headers_have_a_limit(served: Served) -> None:
    room = LIMITS.header_bytes - 500
    assert (
        served.ask(GOOD % (LENGTH + b'X: %s\r\n' % (b'x' * room))).status
        == 200
    )
    for large in (
        b'X: %s\r\n' % (b'x' * LIMITS.header_bytes),
        b'X: %s\r\n' % (b'x' * 1_000_000),
        b''.join(b'X%d: x\r\n' % number for number in range(101)),
        b''.join(b'X%d: %s\r\n' % (n, b'x' * 1000) for n in range(50)),
    ):
        assert served.ask(GOOD % (LENGTH + large)).status == 431
    path = '/' + 'x' * LIMITS.header_bytes
    assert served.ask(_line(path)).status == 431


def test_a_body_that_is_too_large_is_answered_while_it_comes(
    served: Served,
) -> None:
    size = 3 << 20
    request = GOOD % (b'Content-Length: %d\r\n' % size) + b'x' * size
    assert served.ask(request).status == 413


@pytest.mark.parametrize(
    ('start', 'status'),
    [
        (b'', 0),
        (b'POST ', 0),
        (b'POST / HTTP/1.1\r\nX: ', 408),
        (GOOD % (b'Content-Length: %d\r\n' % (len(BODY) + 40)), 400),
    ],
)
def test_a_slow_request_has_an_end(
    served: Served, start: bytes, status: int
) -> None:
    began = time.monotonic()
    with served.connect() as connection:
        connection.sendall(start)

        def drip() -> None:
            with contextlib.suppress(OSError):
                for _ in range(40):
                    time.sleep(0.1)
                    connection.sendall(b'x')

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            answer = served.answer(connection, 'POST')
        except ConnectionError:
            answer = Answer(0, b'')
        took = time.monotonic() - began
        dripping.join()
    assert answer.status == status
    # It was a second from the first byte on, however many came after.
    assert 0.9 < took < 8
    assert RecordingAPI.calls == []


def test_connections_have_a_limit_and_come_back() -> None:
    limits = http.Limits(seconds=30.0, header_bytes=16384, connections=2)
    with _serving(limits) as door, contextlib.ExitStack() as stack:
        for _ in range(limits.connections):
            stack.enter_context(door.connect())
        answer = door.ask(_line('/', b'GET'), 'GET')
        assert answer.status == 503
        assert b'too many connections' in answer.body
        stack.close()
        deadline = time.monotonic() + 10
        while door.ask(_line('/', b'GET'), 'GET').status != 200:
            assert time.monotonic() < deadline


def test_a_machine_without_threads_has_its_connections_back_later() -> None:
    limits = http.Limits(seconds=30.0, header_bytes=16384, connections=2)
    with _serving(limits) as door:
        with mock.patch.object(
            socketserver.threading.Thread,
            'start',
            autospec=True,
            side_effect=RuntimeError("can't start new thread"),
        ):
            for _ in range(limits.connections + 1):
                assert door.ask(_line('/', b'GET'), 'GET').status == 0
        assert door.ask(_line('/', b'GET'), 'GET').status == 200


def test_who_goes_away_leaves_no_thread(served: Served) -> None:
    for start in (
        b'',
        b'POST / HTTP/1.1\r\n',
        GOOD % b'Content-Length: 9999\r\n',
    ):
        with served.connect() as connection:
            connection.sendall(start)
    deadline = time.monotonic() + 10
    while any('process_request' in t.name for t in threading.enumerate()):
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)
