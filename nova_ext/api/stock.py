# SPDX-License-Identifier: Apache-2.0
"""The filters of oslo.middleware, gone past where they would do nothing.

Each costs more than all of ours together, since it makes a request and a
response of webob's. What they do when there is something to do is theirs: no
answer differs (tests/unit/api/test_stock.py). Filters of our own are in
:mod:`nova_ext.api.filters`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import oslo_context.context
import webob
from oslo_config import cfg
from oslo_middleware import cors, http_proxy_to_wsgi, request_id, sizelimit
from oslo_middleware.healthcheck import opts as healthcheck_opts

from nova_ext.api import router, wsgi

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Filter = Callable[[router.Application], router.Application]

_INBOUND = f'HTTP_{request_id.INBOUND_HEADER.upper().replace("-", "_")}'
# The headers, as an environ has them, by which a proxy says who asks it.
FORWARDED = frozenset(
    {
        'HTTP_FORWARDED',
        'HTTP_X_FORWARDED_PROTO',
        'HTTP_X_FORWARDED_HOST',
        'HTTP_X_FORWARDED_FOR',
        'HTTP_X_FORWARDED_PREFIX',
    }
)


class CORS(cors.CORS):
    """Cross-origin requests; others have no origin and ask for no options."""

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        if 'HTTP_ORIGIN' in environ or environ['REQUEST_METHOD'] == 'OPTIONS':
            return super().__call__(environ, start_response)
        return self.application(environ, start_response)


class HTTPProxyToWSGI(http_proxy_to_wsgi.HTTPProxyToWSGI):
    """What a proxy says of the caller; without it there is nothing to do."""

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        if FORWARDED.isdisjoint(environ):
            return self.application(environ, start_response)
        return super().__call__(environ, start_response)


class RequestBodySizeLimiter(sizelimit.RequestBodySizeLimiter):
    """Refuses large bodies; a small one says so by its length."""

    def __init__(
        self, application: router.Application, conf: dict[str, str]
    ) -> None:
        super().__init__(application, conf)
        # NOTE: no option that changes while a process runs.
        self._limit = self._conf_get('max_request_body_size')

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        length = environ.get('CONTENT_LENGTH') or ''
        # NOTE: without a length webob reads a body only where the server
        # vouches for its end.
        if (
            int(length) <= self._limit
            if length.isascii() and length.isdigit() and len(length) < 20
            else not length and not environ.get('wsgi.input_terminated')
        ):
            return self.application(environ, start_response)
        return super().__call__(environ, start_response)


class RequestId(request_id.RequestId):
    """Request ids under both names that clients of Nova look for."""

    compat_headers = ['x-compute-request-id']

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        if _INBOUND in environ:
            self.set_global_req_id(webob.Request(environ))
        identity = oslo_context.context.generate_request_id()
        environ[request_id.ENV_REQUEST_ID] = identity

        def start(
            status: str,
            headers: list[tuple[str, str]],
            exc_info: Any = None,
        ) -> Any:
            present = {name.lower() for name, _ in headers}
            more = [
                (name, identity)
                for name in (
                    request_id.HTTP_RESP_HEADER_REQUEST_ID,
                    *self.compat_headers,
                )
                if name not in present
            ]
            return start_response(status, headers + more, exc_info)

        return self.application(environ, start)


def set_defaults() -> None:
    """CORS for a browser client of the Compute API, and a file that takes this
    service out, without which each look at /healthcheck is a warning.
    """
    cfg.set_defaults(
        healthcheck_opts.DISABLE_BY_FILE_OPTS,
        disable_by_file_path='/etc/nova_ext/healthcheck_disable',
    )
    cors.set_defaults(
        allow_headers=[
            'X-Auth-Token',
            'X-Openstack-Request-Id',
            'X-Identity-Status',
            'X-Roles',
            'X-Service-Catalog',
            'X-User-Id',
            'X-Tenant-Id',
            *wsgi.VERSION_HEADERS,
        ],
        expose_headers=[
            'X-Auth-Token',
            'X-Openstack-Request-Id',
            'X-Subject-Token',
            'X-Service-Token',
            *wsgi.VERSION_HEADERS,
        ],
        allow_methods=['GET', 'PUT', 'POST', 'DELETE', 'PATCH'],
    )


def cors_factory(global_conf: dict[str, str], **local_conf: str) -> Filter:
    """Paste factory of the CORS filter.

    Its own factory reads the usual configuration files again, and not those
    that this process was started with.
    """
    set_defaults()
    return lambda app: CORS(app, cfg.CONF)
