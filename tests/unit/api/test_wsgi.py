# SPDX-License-Identifier: Apache-2.0
"""Parsing, faults and the status table alone, with a made-up controller."""

from __future__ import annotations

import gc
import inspect
import io
import json
import weakref
from typing import Any

import pytest
import webob
import webob.exc

from nova_ext import context, exception
from nova_ext.api import wsgi

BASES = {
    exception.Invalid: 400,
    exception.Forbidden: 403,
    exception.NotFound: 404,
    exception.Unavailable: 503,
    exception.Failed: 500,
}
ERRORS = [
    error
    for _, error in inspect.getmembers(exception, inspect.isclass)
    if issubclass(error, exception.NovaExtException)
]


class _Controller:
    """Raises what it is told to, and keeps what it was called with."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.called: list[tuple[Any, ...]] = []

    def create(self, req: Any, context: Any, body: Any) -> dict[str, Any]:
        self.called.append(('create', body))
        if self.error:
            raise self.error
        return {'snapshot': {}}

    def delete(self, req: Any, context: Any, version: Any, id: str) -> None:
        self.called.append(('delete', version, id))
        if self.error:
            raise self.error


def _call(
    controller: _Controller,
    action: str = 'create',
    project_id: str | None = None,
    legacy: bool = False,
    **path: str,
) -> webob.Response:
    req = wsgi.Request.blank('/', method='POST', body=b'{}')
    req.environ[wsgi.CONTEXT] = context.RequestContext(project_id='aa')
    req.environ[wsgi.LEGACY_V2] = legacy
    resource = wsgi.Resource(controller, wsgi.Microversions('2.104'))
    return resource(req, action, project_id, **path)


class _Broken(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise OSError('the connection broke')


class _TooLarge(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise webob.exc.HTTPRequestEntityTooLarge(explanation='too large')


@pytest.mark.parametrize('error', ERRORS, ids=lambda error: error.__name__)
def test_each_error_has_the_status_of_its_base(error: type) -> None:
    statuses = [BASES[base] for base in BASES if issubclass(error, base)]
    if error is exception.NovaExtException:
        statuses = [500]
    assert [wsgi.status_of(error.__new__(error))] == statuses


def test_409_is_no_status_of_ours() -> None:
    assert 409 not in [status for _, status in wsgi.STATUSES]


@pytest.mark.parametrize(
    ('status', 'name'),
    [
        (400, 'badRequest'),
        (401, 'unauthorized'),
        (403, 'forbidden'),
        (404, 'itemNotFound'),
        (405, 'badMethod'),
        (406, 'computeFault'),
        (409, 'conflictingRequest'),
        (413, 'overLimit'),
        (415, 'badMediaType'),
        (429, 'overLimit'),
        (500, 'computeFault'),
        (501, 'notImplemented'),
        (502, 'computeFault'),
        (503, 'serviceUnavailable'),
    ],
)
def test_a_fault_is_named_after_its_status(status: int, name: str) -> None:
    fault = wsgi.Fault(status, 'why é')
    assert fault.status_int == status
    assert fault.headers['Content-Type'] == 'application/json; charset=UTF-8'
    assert json.loads(fault.body) == {
        name: {'code': status, 'message': 'why é'}
    }
    assert int(fault.headers['Content-Length']) == len(fault.body)


@pytest.mark.parametrize(
    ('text', 'version'),
    [('2.1', (2, 1)), ('2.0', (2, 0)), ('10.104', (10, 104))],
)
def test_a_version_is_parsed(text: str, version: tuple[int, int]) -> None:
    assert wsgi.parse_version(text) == version


@pytest.mark.parametrize(
    'text',
    ['', '2', '2.', '.1', '2.01', '0.1', '2.1.1', ' 2.1', '2.1\n']
    + ['²·1', '٢.١', '2.' + '9' * 5000, '-2.1', '2.x', 'latest'],
)
def test_a_malformed_version_is_refused_in_few_words(text: str) -> None:
    with pytest.raises(wsgi.HTTPFault, match='is of invalid format') as caught:
        wsgi.parse_version(text)
    assert caught.value.status == 400
    assert len(str(caught.value)) < 150


def test_the_highest_version_is_an_option() -> None:
    versions = wsgi.Microversions('2.90')
    headers = {'OpenStack-API-Version': 'compute latest'}
    assert versions.requested(webob.Request.blank('/').environ) == (2, 1)
    assert versions.requested(
        webob.Request.blank('/', headers=headers).environ
    ) == (2, 90)
    versions.check((2, 1))
    versions.check((2, 90))
    for version in ((2, 0), (2, 91), (1, 50), (3, 0)):
        with pytest.raises(wsgi.HTTPFault, match='maximum is 2.90') as caught:
            versions.check(version)
        assert caught.value.status == 406


@pytest.mark.parametrize(
    ('stream', 'status'), [(_Broken(), 400), (_TooLarge(), 413)]
)
def test_a_body_that_cannot_be_read_is_a_refusal(
    stream: io.BytesIO, status: int
) -> None:
    req = wsgi.Request.blank('/', method='POST')
    req.environ['wsgi.input'] = stream
    req.environ['CONTENT_LENGTH'] = '9'
    with pytest.raises(wsgi.HTTPFault) as caught:
        req.json_or_none()
    assert caught.value.status == status


def test_a_body_without_a_length_is_read_if_the_server_says_it_ends() -> None:
    req = wsgi.Request.blank('/', method='POST')
    req.environ['wsgi.input'] = io.BytesIO(b'[1]')
    req.environ.pop('CONTENT_LENGTH', None)
    assert req.json_or_none() is None
    req.environ['wsgi.input_terminated'] = True
    assert req.json_or_none() == [1]


def test_a_body_shorter_than_its_length_is_malformed() -> None:
    req = wsgi.Request.blank('/', method='POST')
    req.environ['wsgi.input'] = io.BytesIO(b'{}')
    req.environ['CONTENT_LENGTH'] = '9'
    with pytest.raises(wsgi.HTTPFault, match='Malformed') as caught:
        req.json_or_none()
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ('accept', 'best'),
    [
        ('', wsgi.JSON),
        ('*/*', wsgi.JSON),
        ('application/*', wsgi.JSON),
        (wsgi.VENDOR_JSON, wsgi.VENDOR_JSON),
        (f'{wsgi.VENDOR_JSON}, {wsgi.JSON}', wsgi.JSON),
        (f'{wsgi.VENDOR_JSON};q=0, */*', wsgi.JSON),
        (f'{wsgi.VENDOR_JSON};q=x', wsgi.JSON),
        (wsgi.VENDOR_JSON.upper(), wsgi.VENDOR_JSON),
        (f'{wsgi.JSON};q=0.1, */*', wsgi.VENDOR_JSON),
        (f'{wsgi.JSON};q=0, application/*', wsgi.VENDOR_JSON),
        (f'*/*;q=0.5, {wsgi.JSON};q=0.4', wsgi.VENDOR_JSON),
        (wsgi.JSON, wsgi.JSON),
        ('text/html', wsgi.JSON),
    ],
)
def test_a_type_to_answer_with_is_always_found(accept: str, best: str) -> None:
    req = wsgi.Request.blank('/', headers={'Accept': accept})
    assert req.best_content_type() == best


@pytest.mark.parametrize('action', ['create', 'delete'])
@pytest.mark.parametrize('base', BASES, ids=lambda base: base.__name__)
def test_an_error_of_the_controller_becomes_a_fault(
    action: str, base: type[exception.NovaExtException]
) -> None:
    class Refused(base):  # type: ignore[misc, valid-type]
        msg_fmt = 'Because of %(what)s.'

    path = {'id': 'x'} if action == 'delete' else {}
    response = _call(_Controller(Refused(what='é')), action, **path)
    assert response.status_int == BASES[base]
    (fault,) = response.json_body.values()
    assert fault == {'code': BASES[base], 'message': 'Because of é.'}
    assert response.headers['OpenStack-API-Version'] == 'compute 2.1'


def test_a_refusal_is_no_work_for_the_collector_of_garbage() -> None:
    controller = _Controller(exception.InvalidInput(reason='no'))
    gc.disable()
    try:
        fault = weakref.ref(_call(controller))
        controller.error = None
        assert fault() is None
    finally:
        gc.enable()


def test_an_unexpected_error_is_logged_and_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    response = _call(_Controller(ValueError('a secret')))
    assert response.status_int == 500
    assert b'secret' not in response.body
    assert 'ValueError: a secret' in caplog.text


def test_a_delete_is_called_with_the_version_and_without_the_body() -> None:
    controller = _Controller()
    response = _call(controller, 'delete', id='x')
    assert (response.status_int, response.body) == (204, b'')
    assert controller.called == [('delete', (2, 1), 'x')]


def test_a_legacy_delete_is_called_with_the_lowest_version() -> None:
    controller = _Controller()
    response = _call(controller, 'delete', legacy=True, id='x')
    assert controller.called == [('delete', (2, 1), 'x')]
    assert 'Vary' not in response.headers


def test_another_project_never_reaches_the_controller() -> None:
    controller = _Controller()
    assert _call(controller, project_id='bb').status_int == 400
    assert controller.called == []
    assert _call(controller, project_id='aa').status_int == 200
