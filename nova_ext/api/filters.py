# SPDX-License-Identifier: Apache-2.0
"""The filters of the pipelines that are our own: faults, identity, /v2.

Each does one thing. What oslo.middleware has is in :mod:`nova_ext.api.stock`.
Business rules are not here.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import logging
import re
import time
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any

import webob
import webob.exc
from oslo_config import cfg
from oslo_context import context as oslo_context
from oslo_middleware import basic_auth, exceptions, request_id

from nova_ext import conf as nova_ext_conf
from nova_ext import context, policies
from nova_ext.api import router, stock, wsgi

LOG = logging.getLogger(__name__)

Filter = Callable[[router.Application], router.Application]
Headers = list[tuple[str, str]]

_VERSION = wsgi.VERSION_HEADERS[1].lower()
_OTHERS = re.compile('[^!#-~]')

MESSAGES = {
    401: 'The request you have made requires authentication.',
    413: 'The request is too large. The limit is [oslo_middleware] '
    'max_request_body_size.',
    500: 'The server has either erred or is incapable of performing the '
    'requested operation.',
    503: 'The Keystone service is temporarily unavailable.',
}


class BasicAuth(basic_auth.BasicAuthMiddleware):
    """HTTP basic authentication whose refusals are in our envelope.

    :raises: oslo_config.cfg.Error for a file of users that can't be used
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        try:
            super().__init__(*arguments, **options)
        except (
            exceptions.ConfigInvalid,
            webob.exc.HTTPException,
            UnicodeError,
        ) as error:
            path = cfg.CONF.oslo_middleware.http_basic_auth_user_file
            raise cfg.Error(
                f'[oslo_middleware] http_basic_auth_user_file {path} must be '
                'a file that this user may read, with lines as "htpasswd -nB '
                'USER" makes them (bcrypt).'
            ) from error

    def format_exception(self, error: Exception) -> webob.Response:
        LOG.info('HTTP basic authentication failed: %s', type(error).__name__)
        return _challenge()


def _challenge() -> wsgi.Fault:
    fault = wsgi.Fault(401, MESSAGES[401])
    fault.headers['WWW-Authenticate'] = 'Basic realm="nova_ext"'
    return fault


# NOTE: what a filter says of a bad token is the same each time.
@functools.lru_cache(maxsize=32)
def _is_webob_s(body: bytes) -> bool:
    """Whether this is webob's form of an error, for who accepts JSON."""
    try:
        return set(json.loads(body.decode())) == {'message', 'code', 'title'}
    except (ValueError, TypeError, RecursionError):
        return False


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _visible(text: str) -> str:
    """A part of a request in which nothing can look like another part."""
    return _OTHERS.sub(lambda found: f'%{ord(found[0]):02X}', text)


def _fault(
    status: str, headers: Headers, pieces: Iterable[bytes]
) -> tuple[str, Headers, list[bytes]]:
    """A refusal in the envelope, which that of a filter may have already."""
    body = b''.join(pieces)
    if hasattr(pieces, 'close'):
        pieces.close()
    kind = next((v for n, v in headers if n.lower() == 'content-type'), '')
    if kind.partition(';')[0].strip() == wsgi.JSON and not _is_webob_s(body):
        return status, headers, [body]
    code = int(status[:3])
    fault = wsgi.Fault(code, MESSAGES.get(code, status))
    fault.headerlist += [
        header
        for header in headers
        if header[0].lower() not in ('content-type', 'content-length')
    ]
    return fault.status, fault.headerlist, fault.app_iter


class FaultFilter:
    """Every refusal in the envelope, and one log line per request.

    What the filters below answer as text or HTML becomes a fault; what they
    answer as JSON (keystonemiddleware) is left as it is.
    """

    def __init__(self, app: router.Application) -> None:
        self._app = app

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        started = time.monotonic()
        try:
            status, headers, body = webob.Request(environ).call_application(
                self._app
            )
            if status >= '4':
                status, headers, body = _fault(status, headers, body)
        except Exception:
            LOG.exception('Unexpected error outside the resource')
            fault = wsgi.Fault(500, MESSAGES[500])
            status, headers, body = (
                fault.status,
                fault.headerlist,
                fault.app_iter,
            )
        self._log(environ, status, headers, time.monotonic() - started)
        start_response(status, headers)
        return [] if environ['REQUEST_METHOD'] == 'HEAD' else body

    def _log(
        self,
        environ: dict[str, Any],
        status: str,
        headers: Headers,
        took: float,
    ) -> None:
        if not LOG.isEnabledFor(logging.INFO):
            return
        # NOTE: quoted again, since a path can hold a line break.
        path = urllib.parse.quote(
            environ.get('SCRIPT_NAME', '') + environ.get('PATH_INFO', ''),
            encoding='latin-1',
        )
        query = environ.get('QUERY_STRING')
        answer = {name.lower(): value for name, value in headers}
        # NOTE: that of the thread would be of whoever asked before, where
        # nobody was let in now.
        who = environ.get(wsgi.CONTEXT) or oslo_context.RequestContext(
            request_id=environ.get(request_id.ENV_REQUEST_ID),
            global_request_id=environ.get(request_id.GLOBAL_REQ_ID),
            overwrite=False,
        )
        LOG.info(
            '%s "%s %s%s" status: %s len: %s microversion: %s time: %.6f',
            _visible(environ.get('REMOTE_ADDR', '-')),
            _visible(environ['REQUEST_METHOD']),
            path,
            f'?{_visible(query)}' if query else '',
            status[:3],
            answer.get('content-length', 0),
            answer.get(_VERSION, '-'),
            took,
            extra={'context': who},
        )


class LegacyV2:
    """The /v2 mount: the same resource without microversions."""

    def __init__(self, app: router.Application) -> None:
        self._app = app

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        environ[wsgi.LEGACY_V2] = True
        return self._app(environ, start_response)


class ContextFilter:
    """Who asks, from what the filter before this one has made certain.

    :param strategy: a value of ``[nova_ext] auth_strategy``
    """

    def __init__(
        self, app: router.Application, conf: cfg.ConfigOpts, strategy: str
    ) -> None:
        self._app = app
        self._enforcer = policies.load(conf)
        self._identify = {
            'keystone': self._keystone,
            'http_basic': self._http_basic,
            'noauth': self._noauth,
        }[strategy]

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        identity = self._identify(environ)
        if isinstance(identity, wsgi.Fault):
            return identity(environ, start_response)
        environ[wsgi.CONTEXT] = identity
        return self._app(environ, start_response)

    def _context(self, **identity: Any) -> context.RequestContext:
        return context.RequestContext(enforcer=self._enforcer, **identity)

    def _ids(self, environ: dict[str, Any]) -> dict[str, Any]:
        return {
            'request_id': environ.get(request_id.ENV_REQUEST_ID),
            'global_request_id': environ.get(request_id.GLOBAL_REQ_ID),
        }

    def _keystone(
        self, environ: dict[str, Any]
    ) -> context.RequestContext | wsgi.Fault:
        if 'HTTP_X_USER_ID' not in environ:
            return wsgi.Fault(401, MESSAGES[401])
        # NOTE: the tokens stay behind: nothing here acts as the caller.
        return context.RequestContext.from_environ(
            environ,
            enforcer=self._enforcer,
            auth_token=None,
            service_token=None,
            **self._ids(environ),
        )

    def _http_basic(
        self, environ: dict[str, Any]
    ) -> context.RequestContext | wsgi.Fault:
        # NOTE: only what the basic filter has set is read: any X-Roles or
        # X-Project-Id in this environ comes from the caller.
        if environ['HTTP_X_USER'].startswith('#'):
            # NOTE: it takes a comment in the file of users for one of them.
            return _challenge()
        return self._context(
            user_id=environ['HTTP_X_USER'],
            roles=['service'],
            any_project=True,
            **self._ids(environ),
        )

    def _noauth(
        self, environ: dict[str, Any]
    ) -> context.RequestContext | wsgi.Fault:
        # NOTE: of a UNIX socket there is no address: what sends by one is
        # mostly a proxy, for everybody.
        if stock.FORWARDED & environ.keys() or not _is_loopback(
            environ.get('REMOTE_ADDR', '')
        ):
            return wsgi.Fault(
                403,
                'Without authentication only this machine itself is '
                'answered, and nothing that a proxy passes on. Set [nova_ext] '
                'auth_strategy to keystone or http_basic.',
            )
        return self._context(
            user_id='noauth',
            roles=['admin', 'service'],
            any_project=True,
            **self._ids(environ),
        )


def fault_factory(global_conf: dict[str, str], **local_conf: str) -> Filter:
    """Paste factory of :class:`FaultFilter`."""
    return FaultFilter


def legacy_v2_factory(
    global_conf: dict[str, str], **local_conf: str
) -> Filter:
    """Paste factory of :class:`LegacyV2`."""
    return LegacyV2


def context_factory(
    global_conf: dict[str, str], strategy: str = 'keystone'
) -> Filter:
    """Paste factory of :class:`ContextFilter`."""
    nova_ext_conf.register_opts(cfg.CONF)
    return lambda app: ContextFilter(app, cfg.CONF, strategy)
