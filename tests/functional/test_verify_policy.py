# SPDX-License-Identifier: Apache-2.0
"""Who may send each request of the route table, by default and when an
operator says otherwise.

A request is valid, since the body is looked at before the policy is asked.
What else a request is answered is tested by the gabbi files.
"""

from __future__ import annotations

import json
import os
import pathlib
import urllib.parse
from collections.abc import Iterator

import pytest
import webob
from oslo_config import cfg

from nova_ext import policies
from nova_ext.api import router
from nova_ext.api.router import Application
from tests.fixtures.app import RecordingAPI
from tests.functional import fixtures

ALLOWED = ('token-of-a-service', 'token-of-a-admin')
REFUSED = (
    'token-of-a-manager',
    'token-of-a-member',
    'token-of-a-reader',
    'token-without-role',
    'token-of-a-system-admin',
    'token-of-a-system-service',
)
MOUNTS = ('/v2.1', '/v2', f'/v2.1/{fixtures.PROJECT_ID}')

BODIES = {
    'create': {
        'snapshot': {
            'volume_id': 'volume-1',
            'create_info': {
                'snapshot_id': 'snapshot-1',
                'type': 'qcow2',
                'new_file': 'file-1',
            },
        }
    }
}
QUERIES = {'delete': {'delete_info': '{"volume_id": "volume-1"}'}}
SUCCESS = {'create': 200, 'delete': 204}


@pytest.fixture
def app() -> Iterator[Application]:
    with fixtures.Keystone().running() as running:
        yield running


@pytest.fixture
def policy_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
    """The operator's file, which is not there yet."""
    path = tmp_path / 'policy.yaml'
    fixture = fixtures.Keystone
    monkeypatch.setitem(fixture.options, 'oslo_policy.policy_file', str(path))
    return path


def _ask(
    app: Application, route: router.Route, token: str, mount: str = '/v2.1'
) -> int:
    """The status that a valid request gets; it must reach the backend or
    not according to it."""
    path = mount + route.path.format(id='snapshot-1')
    query = urllib.parse.urlencode(QUERIES.get(route.action, {}))
    request = webob.Request.blank(
        f'{path}?{query}',
        method=route.method,
        headers={'X-Auth-Token': token},
    )
    if route.action in BODIES:
        request.body = json.dumps(BODIES[route.action]).encode()
        request.content_type = 'application/json'
    before = len(RecordingAPI.calls)
    status = request.get_response(app).status_int
    calls = len(RecordingAPI.calls) - before
    assert calls == (1 if status == SUCCESS[route.action] else 0)
    return status


def _everybody(app: Application) -> set[str]:
    """The tokens with which each route may be used."""
    allowed = []
    for route in router.ROUTES:
        statuses = {
            token: _ask(app, route, token) for token in ALLOWED + REFUSED
        }
        assert set(statuses.values()) <= {SUCCESS[route.action], 403}
        allowed.append({t for t in statuses if statuses[t] != 403})
    assert all(tokens == allowed[0] for tokens in allowed)
    return allowed[0]


def _write(path: pathlib.Path, rules: dict[str, str]) -> None:
    path.write_text(json.dumps(rules))
    # The clock of a file system may be too coarse to show the change.
    later = path.stat().st_mtime + len(rules) + 10
    os.utime(path, (later, later))


def test_each_route_has_a_request_here_and_a_documented_rule() -> None:
    actions = {route.action for route in router.ROUTES}
    assert actions == set(BODIES) | set(QUERIES) == set(SUCCESS)
    documented = {
        operation['method']: rule.name
        for rule in policies.list_rules()
        for operation in getattr(rule, 'operations', [])
    }
    assert documented == {
        route.method: policies.BASE + route.action for route in router.ROUTES
    }


@pytest.mark.parametrize('mount', MOUNTS)
@pytest.mark.parametrize('route', router.ROUTES, ids=lambda r: r.action)
@pytest.mark.parametrize('token', ALLOWED)
def test_a_service_and_an_administrator_are_let_in(
    app: Application, route: router.Route, token: str, mount: str
) -> None:
    assert _ask(app, route, token, mount) == SUCCESS[route.action]


@pytest.mark.parametrize('mount', MOUNTS[:2])
@pytest.mark.parametrize('route', router.ROUTES, ids=lambda r: r.action)
@pytest.mark.parametrize('token', REFUSED)
def test_everybody_else_is_refused(
    app: Application, route: router.Route, token: str, mount: str
) -> None:
    assert _ask(app, route, token, mount) == 403


def test_a_token_without_a_project_is_not_of_the_project_in_the_path(
    app: Application,
) -> None:
    for route in router.ROUTES:
        mount = f'/v2.1/{fixtures.PROJECT_ID}'
        assert _ask(app, route, 'token-of-a-system-admin', mount) == 400


def test_a_change_of_the_policy_file_is_seen_while_running(
    policy_file: pathlib.Path,
) -> None:
    _write(policy_file, {})
    create, delete = policies.CREATE, policies.DELETE
    with fixtures.Keystone().running() as app:
        assert _everybody(app) == set(ALLOWED)
        _write(policy_file, {create: 'role:reader', delete: 'role:reader'})
        assert _everybody(app) == {'token-of-a-reader'}
        _write(policy_file, {create: '!', delete: '!', 'other': '@'})
        assert _everybody(app) == set()


def test_the_older_name_for_administrators_can_be_named(
    policy_file: pathlib.Path,
) -> None:
    rules = dict.fromkeys((policies.CREATE, policies.DELETE), 'rule:admin_api')
    _write(policy_file, rules)
    with fixtures.Keystone().running() as app:
        assert _everybody(app) == {'token-of-a-admin'}


@pytest.mark.parametrize('rule', ['is_admin:True', 'role:admin'])
def test_the_older_name_can_be_given_a_meaning(
    policy_file: pathlib.Path, rule: str
) -> None:
    _write(
        policy_file,
        {
            'admin_api': rule,
            policies.CREATE: 'rule:admin_api',
            policies.DELETE: 'rule:admin_api',
        },
    )
    with fixtures.Keystone().running() as app:
        assert _everybody(app) == {'token-of-a-admin'}


def test_an_operator_says_who_is_an_administrator(
    policy_file: pathlib.Path,
) -> None:
    _write(
        policy_file,
        {
            'context_is_admin': 'role:manager',
            policies.CREATE: 'is_admin:True',
            policies.DELETE: 'rule:context_is_admin',
        },
    )
    with fixtures.Keystone().running() as app:
        assert _everybody(app) == {'token-of-a-manager'}


def test_an_administrator_by_the_older_name_by_itself_is_nobody(
    policy_file: pathlib.Path,
) -> None:
    # A circle: it must end, and let in only those with the other role.
    _write(policy_file, {'context_is_admin': 'rule:admin_api'})
    with fixtures.Keystone().running() as app:
        assert _everybody(app) == {'token-of-a-service'}


def test_no_rule_gives_a_token_of_another_scope_a_way_in(
    policy_file: pathlib.Path,
) -> None:
    _write(policy_file, {policies.CREATE: '@', policies.DELETE: '@'})
    with fixtures.Keystone().running() as app:
        allowed = _everybody(app)
    assert set(ALLOWED + REFUSED) - allowed == {
        'token-of-a-system-admin',
        'token-of-a-system-service',
    }


def test_a_broken_file_leaves_all_as_it_was(
    policy_file: pathlib.Path,
) -> None:
    _write(policy_file, {policies.CREATE: '!', policies.DELETE: '!'})
    with fixtures.Keystone().running() as app:
        assert _everybody(app) == set()
        policy_file.write_text('{')
        os.utime(policy_file, (2**31, 2**31))
        assert _everybody(app) == set()
        policy_file.write_text('{}')
        os.utime(policy_file, (2**31 + 9, 2**31 + 9))
        assert _everybody(app) == set(ALLOWED)


def test_the_defaults_hold_without_the_new_defaults_enforced() -> None:
    option = 'oslo_policy.enforce_new_defaults'
    fixture = fixtures.Keystone()
    fixture.options = {**fixture.options, option: False}
    with fixture.running() as app:
        assert cfg.CONF.oslo_policy.enforce_new_defaults is False
        assert _everybody(app) == set(ALLOWED)
