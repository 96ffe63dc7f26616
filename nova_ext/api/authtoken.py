# SPDX-License-Identifier: Apache-2.0
"""keystonemiddleware's filter, where it has something to ask Keystone with.

Without it that filter loads, and fails at each token. What a token is worth
is its business alone.
"""

from __future__ import annotations

from collections.abc import Callable

from keystonemiddleware import auth_token
from oslo_config import cfg

from nova_ext.api import router

# Each says, also in the section of the filter, where the credentials are.
_SAID = {'auth_type', 'auth_section', 'oslo_config_project'}


def filter_factory(
    global_conf: dict[str, str], **local_conf: str
) -> Callable[[router.Application], router.Application]:
    """Paste factory.

    :raises: oslo_config.cfg.Error if there are no credentials
    """
    known = cfg.CONF.keystone_authtoken
    if not (
        _SAID & {*global_conf, *local_conf}
        or known.auth_type
        or known.auth_section
    ):
        raise cfg.ConfigFileValueError(
            '[keystone_authtoken] auth_type is not set, so that no token '
            'could be checked. Set it to "password", and beside it what that '
            'wants; or [nova_ext] auth_strategy to http_basic.'
        )
    return auth_token.filter_factory(global_conf, **local_conf)
