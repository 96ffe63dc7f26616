# SPDX-License-Identifier: Apache-2.0
"""The backend for many hosts: their agents, over a message bus.

Cinder is asked which host has a volume, and that host's agent is called.
Nothing is known here of jobs.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from oslo_config import cfg

from nova_ext import bus, cinder, exception
from nova_ext.agent import wire
from nova_ext.compute import agents

LOG = logging.getLogger(__name__)

# No agent has this name: a message to it comes back, if there is a broker.
_NOBODY = 'nobody.invalid'
_REMEMBERED = 10_000
# What the bus itself says, which can be much, is in the log.
_NO_BUS = (
    'the message bus cannot be used. Look at the log of the API, at the '
    'option transport_url, and at the broker'
)


class ComputeAPI(agents.ComputeAPI):
    """Calls the agent of the host that has the volume."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        super().__init__(conf)
        self._bus = _Bus(conf)
        self._cinder = cinder.Cinder(conf)
        self._hosts = _Hosts(self._cinder, conf.nova_ext_rpc.remember_host)

    def check(self) -> str:
        """See :class:`nova_ext.compute.api.ComputeAPI`."""
        self._bus.check()
        try:
            known, _ = self._cinder.is_administrator()
        except cinder.NoAnswer as error:
            raise exception.ServiceUnavailable(
                reason=f'Cinder cannot be asked where volumes are: {error}'
            ) from None
        if not known:
            raise exception.ServiceUnavailable(
                reason='Cinder hides where volumes of other projects are. '
                'Give the user of [nova_ext_cinder] the role admin'
            )
        return 'the message bus can be reached, and Cinder'

    def ask(
        self, method: str, arguments: dict[str, Any], timeout: float
    ) -> Any:
        """See :class:`nova_ext.compute.agents.ComputeAPI`."""
        volume_id = arguments['volume_id']
        host, remembered = self._hosts.find(volume_id)
        try:
            return self._bus.call(host, method, arguments, timeout)
        except (
            exception.VolumeNotAttached,
            exception.HostUnavailable,
        ) as error:
            if isinstance(error, agents.AnswerLost):
                # NOTE: who asks again is to reach whom he has asked.
                self._hosts.remember(volume_id, host, timeout)
            if not remembered:
                raise
            try:
                now = self._hosts.ask(volume_id)
            except exception.NovaExtException as unknown:
                # NOTE: what may have been begun there is not refused for
                # what Cinder says now.
                if isinstance(error, exception.Unavailable):
                    raise error from None
                raise unknown
            if now == host:
                raise
            lost = error if isinstance(error, agents.AnswerLost) else None
        try:
            return self._bus.call(now, method, arguments, timeout)
        except exception.NovaExtException:
            if lost is None:
                raise
            # NOTE: nor for what another host says.
            self._hosts.remember(volume_id, host, timeout)
            raise lost from None

    def status(self, host: str) -> dict[str, Any]:
        """What the agent of a host says of itself.

        :raises: :class:`nova_ext.exception.Unavailable`
        """
        return self._bus.call(host, 'status', {}, timeout=10.0)


class _Hosts:
    """Which host has a volume, as Cinder says; remembered for a while.

    :param seconds: for which it is
    """

    def __init__(self, volumes: cinder.Cinder, seconds: float) -> None:
        self._volumes = volumes
        self._seconds = seconds
        self._known: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def find(self, volume_id: str) -> tuple[str, bool]:
        """The host, and whether that was remembered.

        :raises: :class:`nova_ext.exception.Invalid`,
            :class:`nova_ext.exception.Unavailable`
        """
        now = time.monotonic()
        with self._lock:
            host, end = self._known.get(volume_id, ('', 0.0))
        if now < end:
            return host, True
        return self.ask(volume_id), False

    def ask(self, volume_id: str) -> str:
        """The host as Cinder says now.

        :raises: as of :meth:`find`
        """
        host = self._ask(volume_id)
        self.remember(volume_id, host, 0.0)
        return host

    def remember(self, volume_id: str, host: str, seconds: float) -> None:
        """Know it for the usual time, or for longer."""
        with self._lock:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            end = time.monotonic() + max(self._seconds, seconds)
            self._known[volume_id] = host, end

    def _ask(self, volume_id: str) -> str:
        try:
            found = self._volumes.attachments(volume_id)
        except cinder.NoAnswer as error:
            raise exception.ServiceUnavailable(
                reason='Cinder cannot be asked which host has volume '
                f'{volume_id}: {error}'
            ) from None
        if not found:
            # NOTE: the first sentence is Nova's.
            raise exception.InvalidInput(
                reason=f'No volume Block Device Mapping with id {volume_id}. '
                'Cinder shows no attachment of it.'
            )
        if len({one.server_id for one in found}) > 1:
            raise exception.VolumeIsMultiAttach(volume_id=volume_id)
        hosts = {one.host for one in found}
        if len(hosts) > 1:
            raise exception.InstanceInvalidState(
                instance_id=found[0].server_id,
                state='is being moved to another host',
                method='snapshot a volume',
            )
        (host,) = hosts
        if not host:
            raise exception.ServiceUnavailable(
                reason='Cinder does not say which host has volume '
                f'{volume_id}. Give the user of [nova_ext_cinder] the role '
                'to which it shows host_name in attachments: admin'
            )
        return host


class _Bus:
    """Calls agents."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._conf = conf
        self._lock = threading.Lock()
        self._client: Any = None
        self._reached = False
        # Host → the version that its agent said it understands.
        self._peers: dict[str, str] = {}

    def call(
        self,
        host: str,
        method: str,
        arguments: dict[str, Any],
        timeout: float,
    ) -> Any:
        """What the agent of a host answers.

        :param timeout: seconds, within which it may be silent for
            ``[nova_ext_rpc] silence``
        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        if not self._reached:
            # NOTE: the queue of the replies is made with the first call, and
            # for that the library waits for a broker without end.
            self.check()
        silence = self._conf.nova_ext_rpc.silence
        peer = self._peers.get(host, wire.FIRST)
        message = wire.request(method, arguments, peer)
        prepared = self._connected().prepare(
            server=host,
            version=message['version'],
            version_cap=peer,
            timeout=max(timeout, silence),
            call_monitor_timeout=silence,
        )
        try:
            reply = prepared.call({}, method, **message['args'])
        except bus.messaging.MessageUndeliverable:
            raise exception.HostUnavailable(
                host=host,
                reason='it has never listened on this message bus. Start '
                'nova-ext-agent there, with [nova_ext_agent] rpc = true and '
                'a [nova_ext_agent] host that is this name',
            ) from None
        except bus.messaging.MessagingTimeout:
            raise agents.AnswerLost(
                host=host,
                reason=f'it was silent for {silence} s; what it had not '
                'begun by then it does not begin. Start nova-ext-agent '
                'there if it does not run, and look at its log if it does',
            ) from None
        except bus.messaging.RemoteError as error:
            raise exception.HostUnavailable(
                host=host,
                reason=f'it cannot answer ({error.exc_type}). Are its version '
                'and that of the API the same?',
            ) from None
        except Exception as error:
            # NOTE: a message may be under way when the connection breaks,
            # and what the driver's library raises then is passed on.
            LOG.error('The message bus failed: %s', error)
            raise agents.AnswerLost(host=host, reason=_NO_BUS) from None
        self._peers[host] = wire.version_of(reply)
        try:
            return wire.parse_reply(reply)
        except wire.Malformed as error:
            raise exception.HostUnavailable(
                host=host,
                reason=f'its answer cannot be read: {error}. Are its version '
                'and that of the API the same?',
            ) from None

    def check(self) -> None:
        """:raises: :class:`nova_ext.exception.ServiceUnavailable`"""
        try:
            self._connected().prepare(server=_NOBODY).cast({}, 'status')
        except bus.messaging.MessageUndeliverable:
            pass
        except Exception as error:
            # NOTE: as above.
            LOG.error('The message bus failed: %s', error)
            raise exception.ServiceUnavailable(reason=_NO_BUS) from None
        self._reached = True

    def _connected(self) -> Any:
        # NOTE: not before there is a request: servers fork what they loaded,
        # and no connection survives that.
        with self._lock:
            if self._client is None:
                self._client = bus.messaging.get_rpc_client(
                    bus.transport(self._conf),
                    bus.target(wire.FIRST),
                    retry=1,
                    transport_options=bus.messaging.TransportOptions(
                        at_least_once=True
                    ),
                )
            return self._client
