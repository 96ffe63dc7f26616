# SPDX-License-Identifier: Apache-2.0
"""The backend for the guests of this host: its agent, by UNIX socket.

The engine itself is never in an API process: WSGI workers are many, forked
and recycled, and a job must outlive them.
"""

from __future__ import annotations

import socket
import time
from typing import Any

from nova_ext import context as nova_ext_context
from nova_ext import exception
from nova_ext.agent import wire
from nova_ext.compute import api

_REPEAT_SECONDS = 0.5


class _AnswerLost(exception.HostUnavailable):
    """The agent may have the request, and ended before it answered."""


class ComputeAPI(api.ComputeAPI):
    """Hands each call to the agent and its answer or error back."""

    def volume_snapshot_create(
        self,
        context: nova_ext_context.RequestContext,
        volume_id: str,
        create_info: dict[str, Any],
    ) -> None:
        """See :class:`nova_ext.compute.api.ComputeAPI`."""
        self._call(
            'volume_snapshot_create',
            context,
            repeat=True,
            volume_id=volume_id,
            create_info=create_info,
        )

    def volume_snapshot_delete(
        self,
        context: nova_ext_context.RequestContext,
        volume_id: str,
        snapshot_id: str,
        delete_info: dict[str, Any],
    ) -> None:
        """See :class:`nova_ext.compute.api.ComputeAPI`."""
        self._call(
            'volume_snapshot_delete',
            context,
            volume_id=volume_id,
            snapshot_id=snapshot_id,
            delete_info=delete_info,
        )

    def check(self) -> str:
        """See :class:`nova_ext.compute.api.ComputeAPI`."""
        return self.ask('status', {}, timeout=5.0)['summary']

    def _call(
        self,
        method: str,
        context: nova_ext_context.RequestContext,
        repeat: bool = False,
        **arguments: Any,
    ) -> None:
        """Ask, and where `repeat` is safe ask again if the answer is lost."""
        wait = self.conf.nova_ext_agent.reply_wait
        # NOTE: the agent starts nothing after `not_after`, so whoever got no
        # answer from us can be sure that nothing starts later (W4).
        not_after = time.time() + wait
        arguments['not_after'] = not_after
        arguments['request_id'] = (
            context.global_request_id or context.request_id
        )
        asked = False
        while True:
            try:
                # Both the admission and the job may take up to `wait`.
                self.ask(method, arguments, timeout=2 * wait + 5.0)
                return
            except exception.HostUnavailable as error:
                asked = asked or isinstance(error, _AnswerLost)
                # NOTE: an agent that was restarted knows what became of it,
                # and "no" must not be said of a switch that was made.
                if not (repeat and asked) or time.time() > not_after:
                    raise
            time.sleep(_REPEAT_SECONDS)

    def ask(
        self, method: str, arguments: dict[str, Any], timeout: float
    ) -> Any:
        """What the agent answers.

        :param timeout: seconds
        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        path = self.conf.nova_ext_agent.socket
        sent = False
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(timeout)
                connection.connect(path)
                sent = True
                connection.sendall(wire.request(method, arguments))
                with connection.makefile('rb') as replies:
                    line = replies.readline(wire.LIMIT)
            if not line.endswith(b'\n'):
                raise ConnectionResetError('it ended without an answer')
            return wire.parse_reply(line)
        except (OSError, wire.Malformed) as error:
            lost = sent and isinstance(error, ConnectionError)
            raise (_AnswerLost if lost else exception.HostUnavailable)(
                host=self.conf.nova_ext_agent.host,
                reason=f'{error} (socket {path}). Start nova-ext-agent, or '
                'set [nova_ext_agent] socket to where it listens.',
            ) from None
