# SPDX-License-Identifier: Apache-2.0
"""The version documents, with which clients discover what is served here.

They are answered without authentication. The range of microversions itself
is :class:`nova_ext.api.wsgi.Microversions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import webob
from oslo_config import cfg

from nova_ext import conf as nova_ext_conf
from nova_ext.api import router, wsgi

# NOTE: the dates are those of Nova's documents, of which these are a part.
_V2_UPDATED = '2011-01-21T11:33:21Z'
_V21_UPDATED = '2013-07-23T11:33:21Z'


def _version(
    identifier: str, base: str, maximum: str, detailed: bool
) -> dict[str, Any]:
    v21 = identifier == 'v2.1'
    path = 'v2.1' if v21 else 'v2'
    document: dict[str, Any] = {
        'id': identifier,
        'status': 'CURRENT' if v21 else 'SUPPORTED',
        'version': maximum if v21 else '',
        'min_version': '2.1' if v21 else '',
        'updated': _V21_UPDATED if v21 else _V2_UPDATED,
        'links': [{'rel': 'self', 'href': f'{base}/{path}/'}],
    }
    if detailed:
        document['media-types'] = [
            {
                'base': wsgi.JSON,
                'type': f'{wsgi.VENDOR_JSON};version={identifier[1:]}',
            }
        ]
    return document


class Versions:
    """Answers GET with one version document, or with the list of them.

    :param identifier: ``v2.0`` or ``v2.1``; None for the list
    """

    def __init__(self, maximum: str, identifier: str | None = None) -> None:
        self._maximum = maximum
        self._identifier = identifier

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        req = webob.Request(environ)
        # NOTE: from the environ, since req.path_info decodes and may fail.
        path = environ.get('PATH_INFO', '')
        if req.method not in ('GET', 'HEAD') or path not in ('', '/'):
            return router.not_found(environ, start_response)
        if self._identifier:
            # Mounted below its own name, which is not part of the base.
            base = req.application_url.rpartition('/')[0]
            body = {
                'version': _version(
                    self._identifier, base, self._maximum, detailed=True
                )
            }
        else:
            base = req.application_url.rstrip('/')
            body = {
                'versions': [
                    _version(name, base, self._maximum, detailed=False)
                    for name in ('v2.0', 'v2.1')
                ]
            }
        response = webob.Response(
            json_body=body, content_type=wsgi.JSON, charset=None
        )
        return response(environ, start_response)


def app_factory(
    global_conf: dict[str, str], **local_conf: str
) -> router.Application:
    """Paste factory of the list of versions, for the root."""
    nova_ext_conf.register_opts(cfg.CONF)
    return Versions(cfg.CONF.nova_ext.max_microversion)


def version_factory(
    global_conf: dict[str, str], identifier: str
) -> router.Application:
    """Paste factory of one version document, for the root of its mount."""
    nova_ext_conf.register_opts(cfg.CONF)
    return Versions(cfg.CONF.nova_ext.max_microversion, identifier)
