# SPDX-License-Identifier: Apache-2.0
"""The agent's UNIX socket: a line with a request, and a line with its answer.

What a request means is the dispatcher's business, which socket the service's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socketserver
import threading
from typing import TYPE_CHECKING, Any

from nova_ext import exception
from nova_ext.agent import wire

if TYPE_CHECKING:
    from nova_ext.agent import dispatch, peers

LOG = logging.getLogger(__name__)

# Connections at a time of users who are not the agent's own or root: they
# must not take the descriptors that jobs and operators need.
_MAX_OTHERS = 512


class _Handler(socketserver.StreamRequestHandler):
    """One connection: one request and its answer."""

    server: Server
    timeout = 10

    def handle(self) -> None:
        try:
            line = self.rfile.readline(wire.LIMIT)
        except OSError as error:
            LOG.info('Nobody said anything: %s', error)
            return
        if not line:
            return
        dispatcher = self.server.dispatcher
        try:
            request = wire.parse_request(wire.decode(line))
        except wire.Malformed as error:
            reply = dispatcher.refuse(error)
        else:
            reason = self.server.peers.refusal(self.connection, request[0])
            if reason:
                LOG.warning('Refused: %s', reason)
                error = exception.AgentBusy(reason=reason)
                reply = dispatcher.error(error, request[0])
            else:
                reply = dispatcher.reply(*request)
        try:
            self.wfile.write(wire.encode(reply))
        except OSError as error:
            LOG.info('Nobody waited for the answer: %s', error)


class Server(socketserver.ThreadingUnixStreamServer):
    """Answers requests, each in a thread of its own.

    :param path: of the socket
    :param allowed: who may ask
    :raises: OSError
    """

    # NOTE: not daemonic: at the end those who wait for a switch that was
    # begun are still answered, since an error would be a lie.
    daemon_threads = False
    request_queue_size = 128

    def __init__(
        self, path: str, dispatcher: dispatch.Dispatcher, allowed: peers.Peers
    ) -> None:
        self.dispatcher = dispatcher
        self.peers = allowed
        self._others = threading.BoundedSemaphore(_MAX_OTHERS)
        super().__init__(path, _Handler)
        if allowed.group_id is not None:
            os.chown(path, -1, allowed.group_id)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a thread, unless its user has too many."""
        owns = self.peers.owns(request)
        if owns or self._others.acquire(blocking=False):
            try:
                super().process_request(request, client_address)
            except RuntimeError:
                # No thread could be started, so that none gives it back.
                if not owns:
                    self._others.release()
                raise
            return
        LOG.warning('Refused a connection: there are too many connections')
        reason = 'it has too many connections; try again'
        busy = self.dispatcher.error(exception.AgentBusy(reason=reason), '')
        with contextlib.suppress(OSError):
            request.setblocking(False)
            request.send(wire.encode(busy))
        self.shutdown_request(request)

    def process_request_thread(
        self, request: Any, client_address: Any
    ) -> None:
        owns = self.peers.owns(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            if not owns:
                self._others.release()
