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

_DRIVER_LOG = 'oslo.messaging._drivers.impl_rabbit'

# Seconds for another agent of this name to answer, and how often it is asked:
# where two listen, the broker gives them messages in turn.
_OTHER_SECONDS = 3
_OTHER_TIMES = 3
# Until a broker that refused us is asked again.
_AGAIN_SECONDS = 5


class Endpoint:
    """The methods of the bus, each of which gives a reply."""

    target = bus.messaging.Target(version=wire.VERSION)

    def __init__(self, dispatcher: dispatch.Dispatcher) -> None:
        self._dispatcher = dispatcher

    @bus.messaging.expose
    def volume_snapshot_create(
        self, context: dict[str, Any], /, **arguments: Any
    ) -> dict[str, Any]:
        """See :class:`nova_ext.agent.manager.Manager`."""
        return self._dispatcher.reply('volume_snapshot_create', arguments)

    @bus.messaging.expose
    def volume_snapshot_delete(
        self, context: dict[str, Any], /, **arguments: Any
    ) -> dict[str, Any]:
        """See :class:`nova_ext.agent.manager.Manager`."""
        return self._dispatcher.reply('volume_snapshot_delete', arguments)

    @bus.messaging.expose
    def status(
        self, context: dict[str, Any], /, **arguments: Any
    ) -> dict[str, Any]:
        """See :class:`nova_ext.agent.manager.Manager`."""
        return self._dispatcher.reply('status', arguments)


class _Guard:
    """Lets requests pass to the library, and answers all else itself.

    The library would log a traceback for each, and send heartbeats to its
    sender for ever.
    """

    def __init__(self, dispatcher: dispatch.Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._library = bus.messaging.RPCDispatcher(
            [Endpoint(dispatcher)],
            None,
            bus.messaging.ExplicitRPCAccessPolicy,
        )

    def dispatch(self, incoming: Any) -> Any:
        """What oslo.messaging calls with each message."""
        try:
            _check(incoming)
        except wire.Malformed as error:
            return self._dispatcher.refuse(error)
        return self._library.dispatch(incoming)


def _check(incoming: Any) -> None:
    """:raises: :class:`nova_ext.agent.wire.Malformed`"""
    message = incoming.message
    if message.get('namespace') is not None:
        raise wire.Malformed('it has a namespace')
    if not isinstance(incoming.client_timeout, int | None):
        raise wire.Malformed('its timeout is no number of seconds')
    _, arguments = wire.parse_request(message, wire.METHODS)
    if len(wire.encode(arguments)) > wire.LIMIT:
        raise wire.Malformed(f'it is longer than {wire.LIMIT} bytes')


def _in_one_line(record: logging.LogRecord) -> bool:
    """Have the driver log what it cannot decode without a traceback."""
    if record.exc_info and str(record.msg).startswith('Failed to process'):
        record.msg = f'{record.msg} {record.exc_info[1]}'.replace('%', '%%')
        record.exc_info = None
    return True


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
        self._dispatcher = dispatcher
        self._doubled = doubled
        self._host = conf.nova_ext_agent.host
        self._transport = bus.transport(conf)
        logging.getLogger(_DRIVER_LOG).addFilter(_in_one_line)
        self._listening: Any = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Listen as soon as the broker can be reached.

        A broker that is down keeps nobody from starting: the socket, and the
        jobs of a former process, do not wait for it.
        """
        threading.Thread(target=self._start, daemon=True).start()

    def stop(self) -> None:
        """Take no request any more, and wait until all have an answer."""
        self._stopping.set()
        if self._listening is not None:
            self._listening.stop()
            self._listening.wait()
        self._transport.cleanup()

    def _start(self) -> None:
        while not self._stopping.is_set():
            server = bus.messaging.rpc.server.RPCServer(
                self._transport,
                bus.target(wire.VERSION, self._host),
                _Guard(self._dispatcher),
                'threading',
            )
            try:
                server.start()
            except Exception as error:
                # NOTE: not only its own errors: a broker that can be reached
                # may refuse, and what the driver's library raises then is
                # passed on.
                LOG.error(
                    'The message bus cannot be listened on as %s: %s',
                    self._host,
                    error,
                )
                self._stopping.wait(_AGAIN_SECONDS)
            else:
                self._listening = server
                LOG.info('Listening on the message bus as %s', self._host)
                self._look_for_another()
                return

    def _look_for_another(self) -> None:
        client = bus.messaging.get_rpc_client(
            self._transport,
            bus.target(wire.VERSION, self._host),
            timeout=_OTHER_SECONDS,
        )
        for _ in range(_OTHER_TIMES):
            try:
                reply = client.call({}, 'status')
            except Exception as error:
                LOG.info('Whether others are %s: %s', self._host, error)
                continue
            if reply.get('agent') != self._dispatcher.identity:
                self._doubled(
                    f'another agent answers on the message bus as host '
                    f'{self._host}. Each needs a [nova_ext_agent] host of its '
                    'own, which is how Cinder names the host in attachments.'
                )
                return
