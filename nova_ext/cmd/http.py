# SPDX-License-Identifier: Apache-2.0
"""The HTTP server of nova-ext-serve: wsgiref's, with limits and no doubts.

Its connections end after one request, so nothing can hide behind another
one's body. What is not clearly one request is refused here, in the envelope
of the API; what a request means is not known.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import io
import logging
import re
import socket
import socketserver
import threading
import time
from typing import Any
from wsgiref import simple_server

from nova_ext.api import router, wsgi

LOG = logging.getLogger(__name__)

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(r'[!-~\x80-\xff]+')
# To a request of this version the library answers a body alone.
_WITHOUT_HEADERS = 'HTTP/0.9'
# What is still on its way when a request was refused: not to take it would
# take the answer away from the client.
_DRAIN_BYTES, _DRAIN_SECONDS = 1 << 22, 2.0


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one client may take.

    :ivar seconds: for all of a request, and for the answer to it
    :ivar header_bytes: of the request line and the headers
    :ivar connections: at a time, of all clients
    """

    seconds: float
    header_bytes: int
    connections: int


class _Raw(io.RawIOBase):
    """What a client sends, up to a time at which it must all be there."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError('the request took too long')
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(self._seconds)


class _Reader(io.BufferedReader):
    """The same by lines, of which only so much is read."""

    def __init__(self, raw: _Raw, limit: int) -> None:
        super().__init__(raw)
        self._left = limit

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise http.client.LineTooLong('the headers')
        return line


class _Headers(http.client.HTTPMessage):
    """The headers alone, whatever type a body is of."""

    def get_content_type(self) -> str:
        # The parser is one of mails, and would look for their parts.
        return self.get_default_type()


class Handler(simple_server.WSGIRequestHandler):
    """One connection, which is one request."""

    server: Server
    # So that what has none is answered with headers.
    default_request_version = 'HTTP/1.0'
    MessageClass = _Headers

    def setup(self) -> None:
        super().setup()
        limits = self.server.limits
        self.connection.settimeout(limits.seconds)
        self.rfile.close()
        self.rfile = _Reader(
            _Raw(self.connection, limits.seconds), limits.header_bytes
        )

    def handle(self) -> None:
        self.requestline = self.request_version = self.command = ''
        try:
            super().handle()
        except http.client.LineTooLong:
            self.send_error(431)
        except TimeoutError:
            # NOTE: of whoever sent a part of it; others are just gone.
            if self.requestline:
                self.send_error(408)
        except OSError as error:
            LOG.info('%s went away: %s', self.client_address[0], error)

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()
            self._drain()

    def _drain(self) -> None:
        self.connection.shutdown(socket.SHUT_WR)
        end = time.monotonic() + _DRAIN_SECONDS
        self.connection.setblocking(False)
        for _ in range(_DRAIN_BYTES >> 16):
            if not self.connection.recv(1 << 16):
                return
            self.connection.settimeout(max(0.0, end - time.monotonic()))

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        status, reason = self._objection()
        if reason:
            self._refuse(status, reason)
            return False
        for name in {name for name in self.headers if '_' in name}:
            # NOTE: for an application it would be the one with hyphens,
            # which a proxy may have taken out.
            del self.headers[name]
        return True

    def _objection(self) -> tuple[int, str]:
        """Why this is not clearly one request; '' if it is."""
        headers = self.headers
        if self.request_version == _WITHOUT_HEADERS:
            return 505, 'HTTP/0.9 has no place for a status'
        if not _TOKEN.fullmatch(self.command):
            return 400, 'The method is not a token'
        if not _TARGET.fullmatch(self.path):
            return 400, 'The path is not one of a URL; quote it'
        if headers.defects or headers.get_payload():
            return 400, 'A header has no name'
        for name, value in headers.items():
            if not _TOKEN.fullmatch(name) or re.search('[\0\r\n]', value):
                return 400, 'A header is not of one line with name and colon'
        for name in ('Content-Length', 'Host', 'Content-Type'):
            if len(headers.get_all(name, ())) > 1:
                return 400, f'There is more than one {name}'
        length = headers.get('Content-Length')
        if 'Transfer-Encoding' in headers:
            if length is not None:
                return 400, 'The body has a length and a Transfer-Encoding'
            return 501, (
                'Transfer-Encoding is not supported: send a Content-Length. '
                'Behind another WSGI server than nova-ext-serve it may be'
            )
        if length is not None and not re.fullmatch('[0-9]{1,19}', length):
            return 400, 'Content-Length is not a number'
        return 0, ''

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> None:
        """Refuse what never reaches the application."""
        # NOTE: the words of the library repeat those of the client.
        self._refuse(code, http.client.responses.get(code, 'It is refused'))

    def _refuse(self, code: int, reason: str) -> None:
        LOG.info(
            'Refused what %s sent: %d %s', self.client_address[0], code, reason
        )
        fault = wsgi.Fault(code, f'{reason}. Nothing was done.')
        if self.request_version == _WITHOUT_HEADERS:
            self.request_version = self.default_request_version
        with contextlib.suppress(OSError):
            self.send_response(code)
            for name, value in fault.headerlist:
                self.send_header(name, value)
            self.end_headers()
            if self.command != 'HEAD':
                self.wfile.write(fault.body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the fault filter has the line about each request."""


class Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    """Serves an application.

    :raises: OSError if the address can't be listened on
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        application: router.Application,
        limits: Limits,
    ) -> None:
        self.limits = limits
        self._free = threading.BoundedSemaphore(limits.connections)
        if ':' in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, Handler)
        self.set_app(application)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a thread, if there is one for it."""
        if self._free.acquire(blocking=False):
            try:
                super().process_request(request, client_address)
            except RuntimeError:
                # No thread could be started, so that none gives it back.
                self._free.release()
                raise
            return
        LOG.warning(
            'Refused a connection: there are [nova_ext] max_connections, %d',
            self.limits.connections,
        )
        fault = wsgi.Fault(503, 'There are too many connections; try again.')
        head = ''.join(
            f'{name}: {value}\r\n' for name, value in fault.headerlist
        )
        with contextlib.suppress(OSError):
            request.setblocking(False)
            request.send(
                f'HTTP/1.0 503 Service Unavailable\r\n{head}\r\n'.encode()
                + fault.body
            )
        self.shutdown_request(request)

    def process_request_thread(
        self, request: Any, client_address: Any
    ) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # socketserver calls this while it handles an exception.
        LOG.exception('A connection of %s failed', client_address[0])  # noqa: LOG004
