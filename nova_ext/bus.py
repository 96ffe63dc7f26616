# SPDX-License-Identifier: Apache-2.0
"""The message bus between API processes and agents, over oslo.messaging.

Here: which bus, what an agent is called there, and the library itself, which
others take from here. Not here: what is said on the bus, which is in
:mod:`nova_ext.agent.wire`.
"""

from __future__ import annotations

import contextlib
import sys

from oslo_config import cfg

if 'oslo_messaging' not in sys.modules:
    # NOTE: it needs one class of oslo.service, which imports eventlet unless
    # somebody has said before that it shall not.
    with contextlib.suppress(ImportError):
        from oslo_service import backend

        backend.init_backend(backend.BackendType.THREADING)

import oslo_messaging as messaging  # noqa: E402

# Nova's and Cinder's have names of their own.
_EXCHANGE, _TOPIC = 'nova_ext', 'nova_ext_agent'

# What `transport` raises for options that can't be used.
UNUSABLE = (
    messaging.DriverLoadFailure,
    messaging.InvalidTransportURL,
)


def transport(conf: cfg.ConfigOpts) -> messaging.RPCTransport:
    """The bus that ``transport_url`` names; it is connected when it is used.

    :raises: UNUSABLE
    """
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
    if 'oslo_messaging_rabbit' in conf:
        # Where there are several brokers, a queue is on all of them.
        conf.set_default(
            'rabbit_quorum_queue', True, group='oslo_messaging_rabbit'
        )
    return made


def target(version: str, host: str | None = None) -> messaging.Target:
    """The agents, or that of a host.

    :param version: of the messages
    """
    return messaging.Target(
        exchange=_EXCHANGE, topic=_TOPIC, version=version, server=host
    )
