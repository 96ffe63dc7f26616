# SPDX-License-Identifier: Apache-2.0
"""The part of /healthcheck that knows our backend.

The endpoint itself is oslo.middleware's. Where agents are asked by a message
bus, whoever asks for our health gets an answer in time even if the broker does
not come back; and however often it is asked, we ask once at a time.
"""

from __future__ import annotations

import threading
from concurrent import futures
from typing import Any

from oslo_config import cfg
from oslo_middleware.healthcheck import pluginbase

from nova_ext import conf as nova_ext_conf
from nova_ext import exception, patience
from nova_ext.compute import api as compute

_TIMEOUT_SECONDS = 10.0


class ComputeCheck(pluginbase.HealthcheckBaseExtension):
    """Whether the compute API can do its work now."""

    def __init__(self, oslo_conf: cfg.ConfigOpts, conf: dict[str, Any]):
        super().__init__(oslo_conf, conf)
        nova_ext_conf.register_opts(oslo_conf)
        self._compute_api = compute.load(oslo_conf)
        self._lock = threading.Lock()
        self._look: futures.Future[str] | None = None

    def healthcheck(self, server_port: int) -> pluginbase.HealthcheckResult:
        """Ask the backend; its words are shown to whoever may ask us."""
        with self._lock:
            if self._look is None or self._look.done():
                self._look = patience.begin(self._compute_api.check)
            look = self._look
        try:
            reason = look.result(_TIMEOUT_SECONDS)
        except futures.TimeoutError:
            reason = f'no answer within {_TIMEOUT_SECONDS:.0f} s'
            return pluginbase.HealthcheckResult(False, reason)
        except exception.NovaExtException as error:
            return pluginbase.HealthcheckResult(False, str(error))
        return pluginbase.HealthcheckResult(True, reason)
