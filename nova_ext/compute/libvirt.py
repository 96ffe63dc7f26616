# SPDX-License-Identifier: Apache-2.0
"""The backend for the guests of this host: its agent, by UNIX socket.

The engine itself is never in an API process: WSGI workers are many, forked
and recycled, and a job must outlive them.
"""

from __future__ import annotations

import socket
from typing import Any

from oslo_config import cfg

from nova_ext import exception
from nova_ext.agent import wire
from nova_ext.compute import agents


class ComputeAPI(agents.ComputeAPI):
    """Asks the agent of this host."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        super().__init__(conf)
        self._peer = wire.FIRST

    def check(self) -> str:
        """See :class:`nova_ext.compute.api.ComputeAPI`."""
        return self.ask('status', {}, timeout=5.0)['summary']

    def ask(
        self, method: str, arguments: dict[str, Any], timeout: float
    ) -> Any:
        """See :class:`nova_ext.compute.agents.ComputeAPI`."""
        path = self.conf.nova_ext_agent.socket
        sent = False
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(timeout)
                connection.connect(path)
                sent = True
                message = wire.request(method, arguments, self._peer)
                connection.sendall(wire.encode(message))
                with connection.makefile('rb') as replies:
                    # NOTE: no limit: it is root's or the agent's own word,
                    # and a list of jobs is as long as the list.
                    line = replies.readline()
            if not line.endswith(b'\n'):
                raise ConnectionResetError('it ended without an answer')
            reply = wire.decode(line)
            self._peer = wire.version_of(reply)
            return wire.parse_reply(reply)
        except (OSError, wire.Malformed) as error:
            lost = sent and isinstance(error, ConnectionError)
            mend = (
                'Ask as root or as the user of the agent; for an API set '
                '[nova_ext_agent] socket_group to a group of its user.'
                if isinstance(error, PermissionError)
                else 'Start nova-ext-agent, or set [nova_ext_agent] socket to '
                'where it listens.'
            )
            raise (agents.AnswerLost if lost else exception.HostUnavailable)(
                host=self.conf.nova_ext_agent.host,
                reason=f'{error} (socket {path}). {mend}',
            ) from None
