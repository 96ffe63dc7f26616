# SPDX-License-Identifier: Apache-2.0
"""Each filter of oslo.middleware against ours, which goes past it if it can.

What reaches the application and what comes back are the same, request by
request.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import oslo_context.context
import pytest
import webob
from oslo_config import cfg
from oslo_middleware import cors, http_proxy_to_wsgi, request_id, sizelimit

from nova_ext.api import stock, wsgi
from tests.fixtures.app import configured

BODY = b'0123456789'  # one more byte than is let through, where it is little
ORIGIN = 'http://page.example.org'
# What the bookkeeping of webob leaves, which no application of ours reads.
INTERNAL = ('webob.', 'wsgi.input', 'wsgi.errors')


class Application:
    """Notes what reaches it, and answers so."""

    def __init__(self, status: str, headers: list[tuple[str, str]]) -> None:
        self._status = status
        self._headers = headers
        self.seen: dict[str, Any] = {}

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        self.seen = {
            name: value
            for name, value in environ.items()
            # An empty length is none.
            if not name.startswith(INTERNAL) and value != ''
        }
        try:
            body = webob.Request(environ).body
        except OSError:
            body = b'less than was promised'
        start_response(
            self._status, [*self._headers, ('Content-Length', str(len(body)))]
        )
        # As all of ours do.
        return [] if environ['REQUEST_METHOD'] == 'HEAD' else [body]


def _environs() -> Iterator[dict[str, Any]]:
    """Requests of which a filter might, or must not, take notice."""
    lengths: tuple[dict[str, Any], ...] = (
        {},
        {'CONTENT_LENGTH': ''},
        {'wsgi.input_terminated': True},
        *({'CONTENT_LENGTH': text} for text in ('0', '9', '10', '010', '11')),
        {'CONTENT_LENGTH': '9' * 30},
    )
    headers: tuple[dict[str, str], ...] = (
        {},
        {'HTTP_ORIGIN': ORIGIN},
        {'HTTP_ORIGIN': 'http://other.example.org'},
        {
            'HTTP_ORIGIN': ORIGIN,
            'HTTP_ACCESS_CONTROL_REQUEST_METHOD': 'POST',
            'HTTP_ACCESS_CONTROL_REQUEST_HEADERS': 'x-auth-token',
        },
        {'HTTP_FORWARDED': 'for=192.0.2.9;proto=https;host=h'},
        {'HTTP_X_FORWARDED_FOR': '192.0.2.9'},
        {'HTTP_X_FORWARDED_PROTO': 'https', 'HTTP_X_FORWARDED_HOST': 'h'},
        {'HTTP_X_FORWARDED_PREFIX': '/compute'},
        {'HTTP_X_OPENSTACK_REQUEST_ID': 'req-' + 'a' * 8 + '-b' * 3},
        {
            'HTTP_X_OPENSTACK_REQUEST_ID': (
                'req-01234567-89ab-cdef-0123-456789abcdef'
            )
        },
    )
    for method in ('GET', 'HEAD', 'POST', 'DELETE', 'OPTIONS'):
        for one in (*lengths, *headers):
            yield {'REQUEST_METHOD': method, **one}


ANSWERS = (
    ('200 OK', [('Content-Type', 'application/json')]),
    ('204 No Content', [('Vary', 'Accept')]),
    ('404 Not Found', [('X-Openstack-Request-Id', 'theirs')]),
    ('401 Unauthorized', [('Access-Control-Allow-Origin', 'theirs')]),
)


def _answer(
    filtered: Callable[[Application], Any],
    environ: dict[str, Any],
    answer: tuple[str, list[tuple[str, str]]],
) -> tuple[Any, ...]:
    application = Application(*answer)
    request = webob.Request.blank('/v2.1/x', base_url='http://h/s')
    request.environ.update(environ)
    request.environ['wsgi.input'] = io.BytesIO(BODY)
    status, headers, body = request.call_application(filtered(application))
    return status, headers, b''.join(body), application.seen


FILTERS = {
    'cors': (
        lambda app: cors.CORS(app, cfg.CONF),
        stock.cors_factory({}),
    ),
    'proxy': (
        http_proxy_to_wsgi.HTTPProxyToWSGI.factory({}),
        stock.HTTPProxyToWSGI.factory({}),
    ),
    'size': (
        sizelimit.RequestBodySizeLimiter.factory({}),
        stock.RequestBodySizeLimiter.factory({}),
    ),
    'request id': (
        type(
            'Theirs',
            (request_id.RequestId,),
            {'compat_headers': stock.RequestId.compat_headers},
        ).factory({}),
        stock.RequestId.factory({}),
    ),
}


@pytest.fixture(params=['as shipped', 'switched on'])
def options(request: pytest.FixtureRequest) -> Iterator[None]:
    cfg.CONF.register_opts(cors.CORS_OPTS, group='cors')
    cfg.CONF.register_opts(http_proxy_to_wsgi.OPTS, group='oslo_middleware')
    # Their name until oslo.middleware 6.4.
    size_opts = getattr(sizelimit, 'OPTS', None) or sizelimit._opts
    cfg.CONF.register_opts(size_opts, group='oslo_middleware')
    stock.set_defaults()
    switched = {
        'cors.allowed_origin': [ORIGIN],
        'oslo_middleware.enable_proxy_headers_parsing': True,
        'oslo_middleware.max_request_body_size': 9,
    }
    on = request.param == 'switched on'
    fixed = mock.patch.object(
        oslo_context.context,
        'generate_request_id',
        autospec=True,
        return_value='req-mine',
    )
    with configured(switched if on else {}), fixed:
        yield


@pytest.mark.usefixtures('options')
@pytest.mark.parametrize('name', FILTERS)
def test_ours_does_what_theirs_does(name: str) -> None:
    theirs, ours = FILTERS[name]
    for environ, answer in itertools.product(_environs(), ANSWERS):
        expected = _outcome(theirs, environ, answer)
        assert _outcome(ours, environ, answer) == expected, (environ, answer)


def _outcome(filtered: Any, environ: Any, answer: Any) -> object:
    """What is answered; or raised, as by some before oslo.middleware 6.4."""
    try:
        return _answer(filtered, environ, answer)
    except Exception as error:
        return type(error), str(error)


@pytest.mark.usefixtures('options')
@pytest.mark.parametrize('name', FILTERS)
@pytest.mark.parametrize('length', ['-1', 'x', '1.5', ' 7', '²'])
def test_a_length_that_is_none_is_left_to_theirs(
    name: str, length: str
) -> None:
    theirs, ours = FILTERS[name]
    environ = {'REQUEST_METHOD': 'POST', 'CONTENT_LENGTH': length}
    assert _outcome(ours, dict(environ), ANSWERS[0]) == _outcome(
        theirs, dict(environ), ANSWERS[0]
    )


def test_the_headers_of_microversions_may_be_sent_by_pages() -> None:
    stock.set_defaults()
    with configured({}):
        stock.cors_factory({})(wsgi.Fault(404, 'x'))
        allowed = cfg.CONF.cors.allow_headers
        exposed = cfg.CONF.cors.expose_headers
    for name in wsgi.VERSION_HEADERS:
        assert name in allowed
        assert name in exposed
