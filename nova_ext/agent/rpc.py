# SPDX-License-Identifier: Apache-2.0
"""The agent on the message bus: what API processes of other hosts may ask.

What a request means is not known here; operators' methods are not offered.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from oslo_config import cfg

from nova_ext import bus
from nova_ext.agent import dispatch, wire

LOG = logging.getLogger(__name__)

# Seconds for another agent of this name to answer, and how often it is asked:
# where two listen, the broker gives them messages in turn.
_OTHER_SECONDS = 3
_OTHER_TIMES = 3


class Endpoint:
    """The methods of the bus, each of which gives a reply."""

    target = bus.messaging.Target(version=wire.VERSION)

    def __init__(self, dispatcher: dispatch.Dispatcher) -> None:
        self._dispatcher = dispatcher

    def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
        # NOTE: oslo.messaging has methods of its own, if one is there.
        if name.startswith(('_', 'oslo_')):
            raise AttributeError(name)

        def reply(context: dict[str, Any], **arguments: Any) -> Any:
            if name in wire.METHODS:
                return self._dispatcher.reply(name, arguments)
            return self._dispatcher.refuse(
                wire.Malformed(f'there is no method {name!r}')
            )

        return reply


class _NothingOfTheClass(bus.messaging.rpc.RPCAccessPolicyBase):
    def is_allowed(self, endpoint: Any, method: str) -> bool:
        return not hasattr(type(endpoint), method)


class Server:
    """Listens on the bus, from :meth:`start` to :meth:`stop`.

    :param doubled: called, with what is wrong, if another agent has the name
        of this host; neither can be told from the other then
    """

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        dispatcher: dispatch.Dispatcher,
        doubled: Callable[[str], None],
    ) -> None:
        self._identity = dispatcher.identity
        self._doubled = doubled
        self._host = conf.nova_ext_agent.host
        self._transport = bus.transport(conf)
        self._server = bus.messaging.get_rpc_server(
            self._transport,
            bus.target(wire.VERSION, self._host),
            [Endpoint(dispatcher)],
            executor='threading',
            access_policy=_NothingOfTheClass,
        )
        self._listening = threading.Event()

    def start(self) -> None:
        """Listen as soon as the broker can be reached.

        A broker that is down keeps nobody from starting: the socket, and the
        jobs of a former process, do not wait for it.
        """
        threading.Thread(target=self._start, daemon=True).start()

    def stop(self) -> None:
        """Take no request any more, and wait until all have an answer."""
        if self._listening.is_set():
            self._server.stop()
            self._server.wait()
        self._transport.cleanup()

    def _start(self) -> None:
        self._server.start()
        self._listening.set()
        LOG.info('Listening on the message bus as %s', self._host)
        client = bus.messaging.get_rpc_client(
            self._transport,
            bus.target(wire.VERSION, self._host),
            timeout=_OTHER_SECONDS,
        )
        for _ in range(_OTHER_TIMES):
            try:
                reply = client.call({}, 'status')
            except bus.messaging.MessagingException as error:
                LOG.info('Whether others are %s: %s', self._host, error)
                continue
            if reply.get('agent') != self._identity:
                self._doubled(
                    f'another agent answers on the message bus as host '
                    f'{self._host}. Each needs a [nova_ext_agent] host of its '
                    'own, which is how Cinder names the host in attachments.'
                )
                return
