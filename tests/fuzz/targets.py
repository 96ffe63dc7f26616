# SPDX-License-Identifier: Apache-2.0
"""What is fuzzed: functions of bytes, and the only ends that each may have.

How inputs are made is not said here, and neither is what they mean.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

from nova_ext import cinder, exception, plain
from nova_ext.agent import merge, wire
from nova_ext.api import schemas
from nova_ext.cmd import http
from nova_ext.virt import chain, image, stand_in
from tests.fixtures.app import RecordingAPI, running_app
from tests.functional import promises
from tests.functional.arbitrary import Request

Target = Callable[[bytes], None]


@contextlib.contextmanager
def _http() -> Iterator[Target]:
    """A line with method and target, lines of headers, a line, a body."""
    with running_app({'nova_ext.auth_strategy': 'noauth'}) as app:
        logging.disable()

        def ask(data: bytes) -> None:
            RecordingAPI.calls.clear()
            request = _request(data)
            started: list[Any] = []
            chunks = app(
                request.environ(), lambda *start: started.append(start)
            )
            body = b''.join(chunks)
            status, headers = int(started[-1][0].split()[0]), started[-1][1]
            promises.check_answer(
                request.method, request.path, status, headers, body
            )
            assert status != 500, body
            for call in RecordingAPI.calls:
                json.dumps(call.arguments).encode()
                assert status in (200, 204)

        try:
            yield ask
        finally:
            logging.disable(logging.NOTSET)


@contextlib.contextmanager
def _server() -> Iterator[Target]:
    """What comes over a connection to nova-ext-serve."""
    asked: list[str] = []

    def application(environ: dict[str, Any], start: Any) -> list[bytes]:
        asked.append(environ['REQUEST_METHOD'])
        for name, value in environ.items():
            if name.startswith('HTTP_'):
                assert not {*'\0\r\n'} & {*value}, name
                assert re.fullmatch("[A-Z0-9_!#$%&'*+.^`|~]+", name), name
        length = environ.get('CONTENT_LENGTH') or '0'
        assert length.isascii() and length.isdigit()
        assert 'HTTP_TRANSFER_ENCODING' not in environ
        environ['wsgi.input'].read(min(int(length), 1 << 16))
        start('200 OK', [])
        return [b'done']

    logging.disable()
    limits = http.Limits(seconds=5, header_bytes=4096, connections=1)
    server = http.Server(('127.0.0.1', 0), application, limits)

    def check(data: bytes) -> None:
        asked.clear()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(data)
            theirs.shutdown(socket.SHUT_WR)
            http.Handler(ours, ('127.0.0.1', 1), server)
            theirs.setblocking(False)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                answer = theirs.recv(1 << 16)
                _check_wire(answer, asked)

    try:
        yield check
    finally:
        server.server_close()
        logging.disable(logging.NOTSET)


def _check_wire(answer: bytes, asked: list[str]) -> None:
    assert len(asked) <= 1
    if not answer:
        assert not asked
        return
    head, _, body = answer.partition(b'\r\n\r\n')
    status = int(re.match(rb'HTTP/1\.[01] (\d{3}) ', head)[1])  # type: ignore
    assert (status == 200) == bool(asked)
    assert status in (200, 400, 408, 414, 431, 501, 505), head
    if body and status != 200:
        (fault,) = json.loads(body).values()
        assert fault['code'] == status


def _request(data: bytes) -> Request:
    head, _, body = data.partition(b'\n\n')
    first, *lines = head.decode('latin-1').split('\n')
    method, _, target = first.partition(' ')
    path, _, query = target.partition('?')
    headers = {}
    for line in lines:
        name, _, value = line.partition(':')
        # NOTE: a server lets no line break and no NUL in a header pass.
        value = value.strip().translate(dict.fromkeys((0, 10, 13)))
        name = name.upper().replace('-', '_')
        if name and name.isascii() and not name.startswith('WSGI'):
            plain = name in ('CONTENT_TYPE', 'CONTENT_LENGTH')
            headers[name if plain else f'HTTP_{name}'] = value
    return Request(
        method or 'GET', f'/{path.lstrip("/")}', query, headers, body
    )


@contextlib.contextmanager
def _body() -> Iterator[Target]:
    def check(data: bytes) -> None:
        with contextlib.suppress(
            exception.InvalidInput, ValueError, RecursionError
        ):
            for legacy in (False, True):
                checked = schemas.create(json.loads(data.decode()), legacy)
                new_file = checked['create_info']['new_file']
                assert os.path.basename(new_file) == new_file
                assert new_file.isprintable() or schemas.is_plain_text(
                    new_file
                )

    yield check


@contextlib.contextmanager
def _delete_info() -> Iterator[Target]:
    def check(data: bytes) -> None:
        text = data.decode('utf-8', 'surrogateescape')
        with contextlib.suppress(
            exception.InvalidInput, exception.SnapshotNotInChain
        ):
            info = schemas.delete_info(text)
            asked = merge.translate(info['volume_id'], info)
            for name in (asked.base, asked.top):
                assert name is None or os.path.basename(name) == name

    yield check


@contextlib.contextmanager
def _file(look: Callable[[str], object]) -> Iterator[Target]:
    """A file of these bytes, which may be no image and nothing else."""
    fd = os.memfd_create('fuzz')
    path = f'/proc/self/fd/{fd}'

    def check(data: bytes) -> None:
        os.truncate(fd, 0)
        os.pwrite(fd, data, 0)
        with contextlib.suppress(image.NotAnImage):
            look(path)

    try:
        yield check
    finally:
        os.close(fd)


def _read_image(path: str) -> None:
    found = image.read_qcow2(path, link=True)
    assert 0 <= found.virtual_size < 1 << 64
    if found.backing_file is not None:
        led = chain.backing_path('/share/x', found.backing_file, '/share')
        assert os.path.normpath(led).startswith('/share')


def _read_notes(path: str) -> None:
    notes = merge.parse_notes(image.read_notes(path, 1 << 20, link=True))
    for text in (*notes, *notes.values()):
        assert text.isprintable()


@contextlib.contextmanager
def _xml() -> Iterator[Target]:
    def check(data: bytes) -> None:
        text = data.decode('utf-8', 'replace')
        with contextlib.suppress(ValueError):
            domain = chain.parse(text)
            for disk in domain.disks:
                stand_in.without_backing(text, disk.target)
                made = stand_in.definition(text, disk.target, 'n', 'u')
                assert len(chain.parse(made).disks) == 1

    yield check


@contextlib.contextmanager
def _wire() -> Iterator[Target]:
    def check(data: bytes) -> None:
        for parse in (wire.parse_request, wire.parse_reply):
            try:
                parse(wire.decode(data))
            except (wire.Malformed, exception.NovaExtException) as error:
                assert plain.is_plain(str(error))

    yield check


class _Answer:
    """What keystoneauth hands over, of a status and a body."""

    def __init__(self, data: bytes) -> None:
        self.status_code = 200 + 100 * (data[:1] or b'\0')[0] % 400
        self._text = data[1:]

    def json(self) -> Any:
        return json.loads(self._text)


@contextlib.contextmanager
def _cinder() -> Iterator[Target]:
    """A status, and what a hostile Cinder says with it."""
    client = object.__new__(cinder.Cinder)

    def check(data: bytes) -> None:
        client._adapter = _Adapter(data)
        for ask in (
            lambda: client.show('s'),
            lambda: client.attachments('v'),
            lambda: client.attached_files('v'),
        ):
            with contextlib.suppress(cinder.NoAnswer):
                ask()
        assert str(client.update_status('s', 'error', None)).isprintable()

    yield check


class _Adapter:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def request(self, path: str, method: str, **options: Any) -> _Answer:
        return _Answer(self._data)


TARGETS: dict[str, Callable[[], contextlib.AbstractContextManager[Target]]] = {
    'http': _http,
    'server': _server,
    'body': _body,
    'delete_info': _delete_info,
    'qcow2': lambda: _file(_read_image),
    'notes': lambda: _file(_read_notes),
    'xml': _xml,
    'wire': _wire,
    'cinder': _cinder,
}


def fuzz(name: str, arguments: list[str]) -> None:
    """Feed a target; ends the process."""
    import atheris

    with TARGETS[name]() as target:

        def told(data: bytes) -> None:
            try:
                target(data)
            except BaseException:
                print(f'input: {data!r}', flush=True)
                raise

        atheris.Setup([sys.argv[0], *arguments], told)
        atheris.Fuzz()
