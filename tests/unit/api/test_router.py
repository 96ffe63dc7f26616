# SPDX-License-Identifier: Apache-2.0
"""Which requests the route table takes, and where the others go."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import webob

from nova_ext.api import router, wsgi

PATH = '/os-assisted-volume-snapshots'


class _Resource:
    """Keeps what it is called with."""

    def __init__(self) -> None:
        self.matches: list[dict[str, Any]] = []

    def __call__(self, req: Any, **match: Any) -> webob.Response:
        assert isinstance(req, wsgi.Request)
        self.matches.append(match)
        return webob.Response(status=200)


def _environ(method: str, path: str) -> dict[str, Any]:
    environ = webob.Request.blank('/', method=method).environ
    environ['PATH_INFO'] = path
    return environ


def _route(method: str, path: str) -> dict[str, Any] | None:
    """What the resource is called with; None if that is not found."""
    resource = _Resource()
    application = router.Router(resource)  # type: ignore[arg-type]
    response = webob.Request(_environ(method, path)).get_response(application)
    if not resource.matches:
        assert response.status_int == 404
        return None
    assert response.status_int == 200
    return resource.matches[0]


@pytest.mark.parametrize(
    ('method', 'path', 'match'),
    [
        ('POST', PATH, {'action': 'create', 'project_id': None}),
        ('POST', f'/0f-a{PATH}', {'action': 'create', 'project_id': '0f-a'}),
        (
            'DELETE',
            f'{PATH}/x',
            {'action': 'delete', 'project_id': None, 'id': 'x'},
        ),
        (
            'DELETE',
            f'/0f{PATH}/x.json',
            {'action': 'delete', 'project_id': '0f', 'id': 'x.json'},
        ),
        (
            'DELETE',
            f'{PATH}/..',
            {'action': 'delete', 'project_id': None, 'id': '..'},
        ),
        (
            'DELETE',
            PATH + '/' + '快'.encode().decode('latin-1'),
            {'action': 'delete', 'project_id': None, 'id': '快'},
        ),
    ],
)
def test_a_request_of_the_table_is_taken(
    method: str, path: str, match: dict[str, Any]
) -> None:
    assert _route(method, path) == match


@pytest.mark.parametrize(
    ('method', 'path'),
    [
        ('GET', PATH),
        ('post', PATH),
        ('', PATH),
        ('POST', ''),
        ('POST', '/'),
        ('POST', PATH[1:]),
        ('POST', PATH + '/'),
        ('POST', PATH + '\n'),
        ('POST', PATH.upper()),
        ('POST', f'/0F{PATH}'),
        ('POST', f'/0f\n{PATH}'),
        ('POST', f'//{PATH}'),
        ('POST', f'{PATH}\0'),
        ('DELETE', PATH),
        ('DELETE', f'{PATH}/x/'),
        ('DELETE', f'{PATH}/x\n'),
        ('DELETE', f'{PATH}/x/y'),
        ('DELETE', f'{PATH}/\xff'),
        ('DELETE', f'{PATH}/\u5feb'),
    ],
)
def test_any_other_request_is_not(method: str, path: str) -> None:
    assert _route(method, path) is None


def test_what_is_not_ours_reaches_the_next_application_untouched() -> None:
    seen: list[dict[str, Any]] = []

    def next_one(
        environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        seen.append(copy.copy(environ))
        start_response('299 Mine', [])
        return [b'mine']

    resource = _Resource()
    application = router.Router(
        resource,  # type: ignore[arg-type]
        fallback=next_one,
    )
    environ = _environ('GET', '/servers/\xff')
    before = copy.copy(environ)
    response = webob.Request(environ).get_response(application)
    assert (response.status, response.body) == ('299 Mine', b'mine')
    assert seen == [before]
    assert resource.matches == []


@pytest.mark.parametrize(
    ('method', 'path'),
    [
        ('POST', f'{PATH}\n'),
        ('POST', f'/0f{PATH}\n'),
        ('DELETE', f'{PATH}/x\n'),
        ('DELETE', f'{PATH}/\n'),
        ('DELETE', f'{PATH}/\xff'),
        ('DELETE', f'/0f{PATH}/\xff'),
    ],
)
def test_what_is_almost_ours_reaches_nobody(method: str, path: str) -> None:
    # Nova would take it for the same resource, and without our guards.
    application = router.Router(
        _Resource(),  # type: ignore[arg-type]
        fallback=lambda environ, start_response: pytest.fail('passed on'),
    )
    response = webob.Request(_environ(method, path)).get_response(application)
    assert response.status_int == 404


def test_each_action_is_a_method_of_the_controller() -> None:
    for route in router.ROUTES:
        assert callable(getattr(wsgi.Controller, route.action))
