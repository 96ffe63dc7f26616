# SPDX-License-Identifier: Apache-2.0
"""What Keystone says of credentials in our configuration; asked by doctor.

Tokens of callers are keystonemiddleware's business, reports are in cinder.
"""

from __future__ import annotations

import contextlib
import email.utils
from typing import Any

from keystoneauth1 import exceptions, loading
from oslo_config import cfg

_TIMEOUT_SECONDS = 10


class NoAnswer(Exception):
    """Keystone could not be asked, or refuses; says why."""


class Unsaid(NoAnswer):
    """There are no credentials."""


class Credentials:
    """Those of one group of options.

    :param group: its name, such as ``keystone_authtoken``
    :raises: :class:`NoAnswer` for options that can't be used
    """

    def __init__(self, conf: cfg.ConfigOpts, group: str) -> None:
        # NOTE: where a client of ours has made its own known, they are there.
        with contextlib.suppress(cfg.DuplicateOptError):
            loading.register_auth_conf_options(conf, group)
            loading.register_session_conf_options(conf, group)
        try:
            self._auth = loading.load_auth_from_conf_options(conf, group)
            self._session = loading.load_session_from_conf_options(
                conf, group, auth=self._auth, timeout=_TIMEOUT_SECONDS
            )
        except (exceptions.ClientException, cfg.Error) as error:
            raise NoAnswer(str(error)) from error
        if self._auth is None:
            raise Unsaid('no auth_type is set')

    @property
    def url(self) -> str:
        """Where Keystone is; empty where the plugin asks none."""
        return getattr(self._auth, 'auth_url', None) or ''

    def roles(self) -> frozenset[str]:
        """The names of the roles that a token of ours has.

        :raises: :class:`NoAnswer`
        """
        return frozenset(self._ask(self._auth.get_access).role_names)

    def time(self) -> float | None:
        """Keystone's clock, in seconds since the epoch; None if unsaid.

        :raises: :class:`NoAnswer`
        """
        response = self._ask(
            self._session.get, url=self.url, authenticated=False
        )
        return date(response)

    def _ask(self, function: Any, **arguments: Any) -> Any:
        if not arguments:
            arguments = {'session': self._session}
        try:
            return function(**arguments)
        except exceptions.ClientException as error:
            raise NoAnswer(str(error)) from error


def date(response: Any) -> float | None:
    """When a server answered, by its own clock, as its header says.

    :param response: of requests
    """
    try:
        said = email.utils.parsedate_to_datetime(response.headers['Date'])
    except (KeyError, ValueError):
        return None
    return said.timestamp()
