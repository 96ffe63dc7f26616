# SPDX-License-Identifier: Apache-2.0
"""The message bus between API processes and agents, over oslo.messaging.

Here: which bus, what an agent is called there, and the library itself, which
others take from here. Not here: what is said on the bus, which is in
:mod:`nova_ext.agent.wire`.
"""

from __future__ import annotations

import contextlib
import pkgutil
import sys

from oslo_config import cfg

if 'oslo_messaging' not in sys.modules:
    # NOTE: it needs one class of oslo.service, which imports eventlet unless
    # somebody has said before that it shall not.
    with contextlib.suppress(ImportError):
        from oslo_service import backend

        # NOTE: before 4.2, which Nova 31 has, it has but eventlet's: that is
        # imported then and patches nothing.
        found = [
            module.name for module in pkgutil.iter_modules(backend.__path__)
        ]
        if any(name.endswith('threading') for name in found):
            backend.init_backend(backend.BackendType.THREADING)

import oslo_messaging as messaging  # noqa: E402

# Nova's and Cinder's have names of their own.
_EXCHANGE, _TOPIC = 'nova_ext', 'nova_ext_agent'


class Unusable(Exception):
    """There can be no such bus; says why, without what may be a password."""


# What `transport` raises.
UNUSABLE = (Unusable,)


def transport(conf: cfg.ConfigOpts) -> messaging.RPCTransport:
    """The bus that ``transport_url`` names; it is connected when it is used.

    :raises: UNUSABLE
    """
    try:
        return _transport(conf)
    except messaging.DriverLoadFailure as error:
        raise Unusable(f'there is no driver "{error.driver}"') from None
    except cfg.NoSuchOptError as error:
        raise Unusable(str(error)) from None
    except (messaging.InvalidTransportURL, ValueError):
        # NOTE: their texts quote it, or a part of it.
        raise Unusable(
            'it is not of the form rabbit://USER:PASSWORD@HOST:PORT/'
            'VIRTUAL_HOST, or has characters that must be quoted: %40 for @'
        ) from None


def _transport(conf: cfg.ConfigOpts) -> messaging.RPCTransport:
    # NOTE: it makes these known to the process's own configuration only.
    with contextlib.suppress(ImportError):
        from oslo_messaging._metrics import client as metrics

        conf.register_opts(
            metrics.oslo_messaging_metrics, group='oslo_messaging_metrics'
        )
    with contextlib.suppress(ImportError):
        from oslo_messaging._tracing import client as tracing

        conf.register_opts(
            tracing.oslo_messaging_tracing, group='oslo_messaging_tracing'
        )
    made = messaging.get_rpc_transport(conf)
    if _is_unsaid(conf, 'rabbit_quorum_queue', 'oslo_messaging_rabbit'):
        # NOTE: where there are several brokers, a queue is on all of them.
        # Said in the URL, since the options may be those of another service
        # whose process we are in.
        url = messaging.TransportURL.parse(conf)
        url.query.setdefault('rabbit_quorum_queue', 'true')
        made = messaging.get_rpc_transport(conf, url=url)
    return made


def _is_unsaid(conf: cfg.ConfigOpts, name: str, group: str) -> bool:
    """Whether a driver has an option, and nobody has set it."""
    try:
        found = conf.get_location(name, group).location
    except (cfg.NoSuchOptError, cfg.NoSuchGroupError):
        return False
    return found in (cfg.Locations.opt_default, cfg.Locations.set_default)


def brokers(conf: cfg.ConfigOpts) -> list[tuple[str, int | None]]:
    """Host and port of each broker that ``transport_url`` names.

    :raises: UNUSABLE
    """
    transport(conf).cleanup()
    hosts = messaging.TransportURL.parse(conf).hosts
    return [(host.hostname or '', host.port) for host in hosts]


def target(version: str, host: str | None = None) -> messaging.Target:
    """The agents, or that of a host.

    :param version: of the messages
    """
    return messaging.Target(
        exchange=_EXCHANGE, topic=_TOPIC, version=version, server=host
    )
