# SPDX-License-Identifier: Apache-2.0
"""Our own filters alone, each before a small application."""

from __future__ import annotations

import json
import logging
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import webob
import webob.dec
import webob.exc
from oslo_config import cfg
from oslo_middleware import basic_auth

from nova_ext import context
from nova_ext.api import filters, wsgi
from nova_ext.api.router import Application
from tests.fixtures.app import configured

KEYSTONE = {'error': {'code': 401, 'title': 'Unauthorized', 'message': 'x'}}


def _answer(
    application: Application, path: str = '/x', **options: Any
) -> webob.Response:
    request = webob.Request.blank('/', **options)
    request.environ['PATH_INFO'] = path
    return request.get_response(application)


def _raising(error: Exception) -> Application:
    @webob.dec.wsgify
    def application(request: webob.Request) -> webob.Response:
        raise error

    return application


def _dying(environ: dict[str, Any], start_response: Callable) -> Any:
    raise ValueError('a secret')


@pytest.mark.parametrize('accept', ['text/html', 'application/json', '*/*'])
def test_an_error_of_webob_becomes_a_fault_with_its_headers(
    accept: str,
) -> None:
    error = webob.exc.HTTPServiceUnavailable(headers={'Retry-After': '5'})
    response = _answer(
        filters.FaultFilter(_raising(error)), headers={'Accept': accept}
    )
    assert response.status_int == 503
    assert response.headers['Retry-After'] == '5'
    assert response.json_body == {
        'serviceUnavailable': {'code': 503, 'message': filters.MESSAGES[503]}
    }
    assert int(response.headers['Content-Length']) == len(response.body)
    assert len(response.headers.getall('Content-Type')) == 1


def test_an_error_without_words_of_ours_is_named() -> None:
    error = webob.exc.HTTPTooManyRequests()
    response = _answer(filters.FaultFilter(_raising(error)))
    assert response.json_body == {
        'overLimit': {'code': 429, 'message': '429 Too Many Requests'}
    }


def test_repeated_headers_of_an_error_are_kept() -> None:
    error = webob.exc.HTTPUnauthorized()
    for challenge in ('Basic realm="a"', 'Bearer'):
        error.headers.add('WWW-Authenticate', challenge)
    response = _answer(filters.FaultFilter(_raising(error)))
    assert len(response.headers.getall('WWW-Authenticate')) == 2


@pytest.mark.parametrize(
    'answer',
    [
        webob.Response(status=200, text='<p>fine</p>'),
        webob.Response(status=204),
        webob.Response(status=302, location='/y'),
        webob.Response(status=401, json_body=KEYSTONE),
        webob.Response(status=400, json_body=[1]),
        webob.Response(status=400, json_body={}),
        wsgi.Fault(404, 'x'),
    ],
)
def test_any_other_answer_is_left_as_it_is(answer: webob.Response) -> None:
    response = _answer(filters.FaultFilter(answer))
    assert response.status == answer.status
    assert response.body == answer.body
    assert response.content_type == answer.content_type


def test_an_error_is_logged_and_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    response = _answer(filters.FaultFilter(_dying))
    assert response.status_int == 500
    assert response.json_body['computeFault']['code'] == 500
    assert 'secret' not in response.text
    assert 'ValueError: a secret' in caplog.text


def test_each_request_is_one_line_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, filters.__name__)
    answer = wsgi.Fault(404, 'x')
    answer.headers['X-OpenStack-Nova-API-Version'] = '2.75'
    _answer(
        filters.FaultFilter(answer),
        path='/a\nb\xff',
        method='DELETE',
        environ={
            'SCRIPT_NAME': '/v2.1',
            'QUERY_STRING': 'q=%0A',
            'REMOTE_ADDR': '192.0.2.1',
        },
        headers={'X-Auth-Token': 'secret', 'Authorization': 'secret'},
    )
    (record,) = caplog.records
    line = record.getMessage()
    assert line.startswith(
        '192.0.2.1 "DELETE /v2.1/a%0Ab%FF?q=%0A" status: 404 len: '
        f'{len(answer.body)} microversion: 2.75 time: 0.'
    )
    assert 'secret' not in line
    assert '\n' not in line


def test_the_legacy_mount_is_marked() -> None:
    seen: list[Any] = []

    def application(
        environ: dict[str, Any], start_response: Callable
    ) -> Iterable[bytes]:
        seen.append(environ[wsgi.LEGACY_V2])
        return webob.Response()(environ, start_response)

    _answer(filters.legacy_v2_factory({})(application))
    assert seen == [True]


def _identity(strategy: str, **environ: str) -> Any:
    """The context that a request gets, or the answer to it."""
    seen: list[Any] = []

    def application(
        environ: dict[str, Any], start_response: Callable
    ) -> Iterable[bytes]:
        seen.append(environ[wsgi.CONTEXT])
        return webob.Response()(environ, start_response)

    with configured({}):
        answer = _answer(
            filters.context_factory({}, strategy=strategy)(application),
            environ=environ,
        )
    return seen[0] if seen else answer


def test_the_identity_is_what_keystone_said() -> None:
    context = _identity(
        'keystone',
        HTTP_X_USER_ID='user',
        HTTP_X_PROJECT_ID='project',
        HTTP_X_ROLES='admin, service',
        HTTP_X_AUTH_TOKEN='secret',
        HTTP_X_SERVICE_TOKEN='secret',
        HTTP_OPENSTACK_SYSTEM_SCOPE='all',
        **{
            'openstack.request_id': 'req-1',
            'openstack.global_request_id': 'req-2',
        },
    )
    assert (context.user_id, context.project_id) == ('user', 'project')
    assert context.roles == ['admin', 'service']
    assert context.system_scope == 'all'
    assert not context.any_project
    assert (context.request_id, context.global_request_id) == (
        'req-1',
        'req-2',
    )
    assert 'secret' not in json.dumps(context.to_dict())


def test_without_a_user_nobody_is_asking() -> None:
    answer = _identity('keystone', HTTP_X_ROLES='admin')
    assert answer.status_int == 401
    assert set(answer.json_body) == {'unauthorized'}


def test_a_user_with_a_password_has_what_a_service_has() -> None:
    context = _identity(
        'http_basic',
        HTTP_X_USER='cinder',
        HTTP_X_USER_ID='root',
        HTTP_X_ROLES='admin',
        HTTP_X_PROJECT_ID='project',
        HTTP_OPENSTACK_SYSTEM_SCOPE='all',
    )
    assert (context.user_id, context.roles) == ('cinder', ['service'])
    assert (context.project_id, context.system_scope) == (None, None)
    assert context.any_project


@pytest.mark.parametrize('content', [None, b'cinder:secret\n', b'\xff:'])
def test_a_file_of_users_that_cannot_be_used_is_named(
    content: bytes | None, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / 'htpasswd'
    if content is not None:
        path.write_bytes(content)
    cfg.CONF.register_opts(basic_auth.OPTS, group='oslo_middleware')
    options = {'oslo_middleware.http_basic_auth_user_file': str(path)}
    with configured(options), pytest.raises(cfg.Error) as raised:
        filters.BasicAuth.factory({})(None)
    assert str(path) in str(raised.value)
    assert 'htpasswd -nB' in str(raised.value)
    assert 'secret' not in str(raised.value)


@pytest.mark.parametrize('address', ['127.0.0.1', '127.9.9.9', '::1'])
def test_without_authentication_this_machine_is_let_in(address: str) -> None:
    context = _identity('noauth', REMOTE_ADDR=address)
    assert context.roles == ['admin', 'service']
    assert context.any_project


@pytest.mark.parametrize(
    'address',
    [
        *('192.0.2.1', '0.0.0.0', '2001:db8::1'),
        # Those of UNIX sockets, by some WSGI servers.
        *('', 'unix:', '@', 'localhost', '/run/api.sock', '127.0.0.1:80'),
    ],
)
def test_without_authentication_no_other_is(address: str) -> None:
    assert _identity('noauth', REMOTE_ADDR=address).status_int == 403


def test_without_authentication_who_has_no_address_is_not() -> None:
    assert _identity('noauth').status_int == 403


@pytest.mark.parametrize(
    'header', ['FORWARDED', 'X_FORWARDED_FOR', 'X_FORWARDED_HOST']
)
def test_without_authentication_no_proxy_is(header: str) -> None:
    environ = {'REMOTE_ADDR': '127.0.0.1', f'HTTP_{header}': '127.0.0.1'}
    assert _identity('noauth', **environ).status_int == 403


def test_a_line_of_the_log_names_nobody_who_asked_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, filters.__name__)
    context.RequestContext(user_id='before', request_id='req-before')
    environ = {'openstack.request_id': 'req-now'}
    _answer(filters.FaultFilter(wsgi.Fault(401, 'x')), environ=environ)
    who = context.RequestContext(user_id='now', overwrite=False)
    _answer(
        filters.FaultFilter(wsgi.Fault(404, 'x')),
        environ={wsgi.CONTEXT: who},
    )
    nobody, somebody = (record.context for record in caplog.records)
    assert (nobody.user_id, nobody.request_id) == (None, 'req-now')
    assert somebody is who
