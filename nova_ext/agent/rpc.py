# SPDX-License-Identifier: Apache-2.0
"""The agent on the message bus: what API processes of other hosts may ask.

What a request means is not known here; operators' methods are not offered.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from oslo_config import cfg

from nova_ext import bus, exception
from nova_ext.agent import dispatch, wire

LOG = logging.getLogger(__name__)

_DRIVER_LOG = 'oslo.messaging._drivers.impl_rabbit'

# Seconds for another agent of this name to answer.
_OTHER_SECONDS = 2
# NOTE: where two listen, the broker gives them messages in turn; where both
# ask, it takes some luck to hear the other.
_OTHER_TIMES = 8
_OTHER_PAUSE = 0.1
# NOTE: one that could not be heard, since the network was cut, is heard later.
_WATCH_SECONDS = 60.0
_WATCH_TIMES = 2
# Seconds that a client may wait; more than a clock can count would end the
# library's thread with a traceback.
_MAX_TIMEOUT = 1 << 31
# Until a broker that refused us is asked again.
_AGAIN_SECONDS = 5


class _Name:
    """Whether the name of this host is ours alone.

    :ivar settled: whether that is certain
    """

    def __init__(self) -> None:
        self._known = threading.Event()
        self.settled = False

    def decide(self, ours: bool) -> None:
        """It is known now."""
        self.settled = ours
        self._known.set()

    def is_ours(self) -> bool:
        """Wait until it is known."""
        self._known.wait()
        return self.settled


class Endpoint:
    """The methods of the bus, each of which gives a reply."""

    target = bus.messaging.Target(version=wire.VERSION)

    def __init__(self, dispatcher: dispatch.Dispatcher, name: _Name) -> None:
        self._dispatcher = dispatcher
        self._name = name

    @bus.messaging.expose
    def volume_snapshot_create(
        self, context: dict[str, Any], /, **arguments: Any
    ) -> dict[str, Any]:
        """See :class:`nova_ext.agent.manager.Manager`."""
        return self._reply('volume_snapshot_create', arguments)

    @bus.messaging.expose
    def volume_snapshot_delete(
        self, context: dict[str, Any], /, **arguments: Any
    ) -> dict[str, Any]:
        """See :class:`nova_ext.agent.manager.Manager`."""
        return self._reply('volume_snapshot_delete', arguments)

    @bus.messaging.expose
    def status(
        self, context: dict[str, Any], /, **arguments: Any
    ) -> dict[str, Any]:
        """See :class:`nova_ext.agent.manager.Manager`."""
        reply = self._dispatcher.reply('status', arguments)
        return {**reply, 'settled': self._name.settled}

    def _reply(self, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if self._name.is_ours():
            return self._dispatcher.reply(method, arguments)
        reason = 'it is about to stop, since another agent has its name'
        return self._dispatcher.error(
            exception.AgentBusy(reason=reason), method
        )


class _Guard:
    """Lets requests pass to the library, and answers all else itself.

    The library would log a traceback for each, and send heartbeats to its
    sender for ever.
    """

    def __init__(self, dispatcher: dispatch.Dispatcher, name: _Name) -> None:
        self._dispatcher = dispatcher
        self._library = bus.messaging.RPCDispatcher(
            [Endpoint(dispatcher, name)],
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
    timeout = incoming.client_timeout
    if not isinstance(timeout, int | None) or not (
        0 <= (timeout or 0) <= _MAX_TIMEOUT
    ):
        raise wire.Malformed('its timeout is no number of seconds')
    _, arguments = wire.parse_request(message, wire.METHODS)
    if len(wire.encode(arguments)) > wire.LIMIT:
        raise wire.Malformed(f'it is longer than {wire.LIMIT} bytes')


def _in_one_line(record: logging.LogRecord) -> bool:
    """Have the driver log what it cannot decode without a traceback."""
    if record.exc_info and str(record.msg).startswith('Failed to process'):
        record.msg = f'{record.getMessage()} {record.exc_info[1]}'
        record.args, record.exc_info = (), None
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
        self._name = _Name()
        self._doubled = doubled
        self._host = conf.nova_ext_agent.host
        self._transport = bus.transport(conf)
        logging.getLogger(_DRIVER_LOG).addFilter(_in_one_line)
        self._listening: Any = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Listen as soon as the broker can be reached.

        A broker that is down keeps nobody from starting: the socket, and the
        jobs of a former process, do not wait for it.
        """
        threading.Thread(target=self._start, daemon=True).start()

    def stop(self) -> None:
        """Take no request any more, and wait until all have an answer."""
        with self._lock:
            self._stopping.set()
        self._name.decide(self._name.settled)
        if self._listening is not None:
            self._listening.stop()
            self._listening.wait()
        self._transport.cleanup()

    def _start(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
                return
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

    def _listen(self) -> None:
        client = bus.messaging.get_rpc_client(
            self._transport,
            bus.target(wire.VERSION, self._host),
            timeout=_OTHER_SECONDS,
            retry=1,
            transport_options=bus.messaging.TransportOptions(
                at_least_once=True
            ),
        )
        # NOTE: before it listens, so that no request of the other's comes
        # here; and then, since two may have begun at the same time.
        if self._is_taken(client) and self._is_doubled(client, 1):
            return
        server = bus.messaging.rpc.server.RPCServer(
            self._transport,
            bus.target(wire.VERSION, self._host),
            _Guard(self._dispatcher, self._name),
            'threading',
        )
        server.start()
        with self._lock:
            if self._stopping.is_set():
                # NOTE: it has waited for a broker, and nobody else ends it.
                server.stop()
                return
            self._listening = server
        if self._is_doubled(client, _OTHER_TIMES):
            return
        self._name.decide(True)
        LOG.info('Listening on the message bus as %s', self._host)
        while not self._stopping.wait(_WATCH_SECONDS):
            if self._is_doubled(client, _WATCH_TIMES):
                return

    def _is_taken(self, client: Any) -> bool:
        """Whether there is a queue of this name, perhaps left by us."""
        try:
            client.cast({}, 'status')
        except bus.messaging.MessageUndeliverable:
            return False
        return True

    def _is_doubled(self, client: Any, times: int) -> bool:
        """Whether another agent has this name and is to keep it."""
        identity = self._dispatcher.identity
        for _ in range(times):
            try:
                reply = client.call({}, 'status')
            except Exception as error:
                LOG.info('Whether others are %s: %r', self._host, error)
                continue
            if not isinstance(reply, dict):
                LOG.warning('What is no agent answers as %s', self._host)
                continue
            other = reply.get('agent')
            theirs, ours = bool(reply.get('settled')), self._name.settled
            # NOTE: of two that are alike one has to stay.
            stays = theirs if theirs != ours else str(other) < identity
            if other != identity and stays:
                self._name.decide(False)
                self._doubled(
                    f'another agent answers on the message bus as host '
                    f'{self._host}. Each needs a [nova_ext_agent] host of its '
                    'own, which is how Cinder names the host in attachments.'
                )
                return True
            time.sleep(random.uniform(0, _OTHER_PAUSE))  # noqa: S311 (jitter)
        return False
