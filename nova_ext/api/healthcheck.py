# SPDX-License-Identifier: Apache-2.0
"""The part of /healthcheck that knows our backend.

The endpoint itself is oslo.middleware's.
"""

from __future__ import annotations

from typing import Any

from oslo_config import cfg
from oslo_middleware.healthcheck import pluginbase

from nova_ext import conf as nova_ext_conf
from nova_ext import exception
from nova_ext.compute import api as compute


class ComputeCheck(pluginbase.HealthcheckBaseExtension):
    """Whether the compute API can do its work now."""

    def __init__(self, oslo_conf: cfg.ConfigOpts, conf: dict[str, Any]):
        super().__init__(oslo_conf, conf)
        nova_ext_conf.register_opts(oslo_conf)
        self._compute_api = compute.load(oslo_conf)

    def healthcheck(self, server_port: int) -> pluginbase.HealthcheckResult:
        """Ask the backend; its words are shown to whoever may ask us."""
        try:
            reason = self._compute_api.check()
        except exception.NovaExtException as error:
            return pluginbase.HealthcheckResult(False, str(error))
        return pluginbase.HealthcheckResult(True, reason)
