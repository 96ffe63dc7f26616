# SPDX-License-Identifier: Apache-2.0
"""The shipped pipeline in front of a backend that only records, and a real
Keystone behind it: whom it lets in, and what the others are told.

The first tests look at the Keystone fixture alone. What the API answers to
those who were let in is tested elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
import webob
from keystoneauth1 import loading
from oslo_config import cfg

from nova_ext.api.router import Application
from tests.fixtures import written
from tests.fixtures.app import RecordingAPI, running_app
from tests.fixtures.servers import ServerFailed, ServerProcess, free_port

if TYPE_CHECKING:
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.keystone import Accounts, Keystone

pytest_plugins = ['tests.fixtures.keystone']

VOLUME = '521752a6-acf6-4b2d-bc7a-119f9148cd8c'
SNAPSHOT = '421752a6-acf6-4b2d-bc7a-119f9148cd8c'
CREATE = {
    'snapshot': {
        'volume_id': VOLUME,
        'create_info': {
            'snapshot_id': SNAPSHOT,
            'type': 'qcow2',
            'new_file': f'volume-{VOLUME}.{SNAPSHOT}',
        },
    }
}
DELETE_INFO = {'volume_id': VOLUME, 'file_to_merge': None, 'type': 'qcow2'}
# What keystonemiddleware tells the application behind it: a client that
# sends it is lying.
SPOOFED = {
    'X-Identity-Status': 'Confirmed',
    'X-Service-Identity-Status': 'Confirmed',
    'X-Roles': 'admin,service',
    'X-Role': 'admin',
    'X-Service-Roles': 'admin,service',
    'X-User-Id': 'c0ffee',
    'X-User-Name': 'admin',
    'X-User': 'admin',
    'X-User-Domain-Id': 'default',
    'X-Service-User-Id': 'c0ffee',
    'X-Project-Id': 'c0ffee',
    'X-Project-Name': 'admin',
    'X-Project-Domain-Id': 'default',
    'X-Tenant-Id': 'c0ffee',
    'X-Tenant-Name': 'admin',
    'X-Tenant': 'admin',
    'X-Is-Admin-Project': 'True',
    'X-Service-Catalog': '[]',
    'OpenStack-System-Scope': 'all',
}


class Service:
    """The application under test, and Keystone and its users by name."""

    def __init__(
        self, keystone: Keystone, accounts: Accounts, app: Application
    ) -> None:
        self.keystone = keystone
        self.accounts = accounts
        self.app = app

    def token(self, who: str) -> str:
        return self.keystone.token(*getattr(self.accounts, who))

    def expired_token(self, who: str) -> str:
        return self.keystone.expired_token(*getattr(self.accounts, who))

    def project_id(self, who: str) -> str:
        project = getattr(self.accounts, who).project
        return self.keystone.project_id(project)

    def post(
        self,
        token: str | None = None,
        service_token: str | None = None,
        headers: dict[str, str] | None = None,
        project_of: str | None = 'service',
    ) -> webob.Response:
        request = webob.Request.blank(
            self._path(project_of), method='POST', headers=headers or {}
        )
        request.json_body = CREATE
        request.content_type = 'application/json'
        if service_token is not None:
            request.headers['X-Service-Token'] = service_token
        return self._answer(request, token)

    def delete(
        self, token: str | None = None, project_of: str | None = 'service'
    ) -> webob.Response:
        delete_info = json.dumps(DELETE_INFO)
        query = urllib.parse.urlencode({'delete_info': delete_info})
        request = webob.Request.blank(
            f'{self._path(project_of)}/{SNAPSHOT}?{query}', method='DELETE'
        )
        return self._answer(request, token)

    def _path(self, project_of: str | None) -> str:
        project = f'/{self.project_id(project_of)}' if project_of else ''
        return f'/v2.1{project}/os-assisted-volume-snapshots'

    def _answer(
        self, request: webob.Request, token: str | None
    ) -> webob.Response:
        if token is not None:
            request.headers['X-Auth-Token'] = token
        return request.get_response(self.app)

    def assert_unauthorized(self, answer: webob.Response) -> None:
        message = 'The request you have made requires authentication.'
        assert answer.status_int == 401
        assert answer.json == {
            'error': {'code': 401, 'title': 'Unauthorized', 'message': message}
        }
        assert answer.headers.getall('WWW-Authenticate') == [
            f'Keystone uri="{self.keystone.url}"'
        ]
        assert RecordingAPI.calls == []

    def assert_forbidden(self, answer: webob.Response, action: str) -> None:
        rule = f'os_compute_api:os-assisted-volume-snapshots:{action}'
        message = f"Policy doesn't allow {rule} to be performed."
        assert answer.status_int == 403
        assert answer.json == {'forbidden': {'code': 403, 'message': message}}
        assert RecordingAPI.calls == []


@contextlib.contextmanager
def _running(
    keystone: Keystone, accounts: Accounts, **authtoken: str
) -> Iterator[Service]:
    options = keystone.authtoken(accounts.checker)
    for option, value in authtoken.items():
        options[f'keystone_authtoken.{option}'] = value
    with pytest.MonkeyPatch.context() as environment:
        # The middleware makes its options known only when it is put into a
        # pipeline, so their values come from outside, as a file's would.
        for name, value in options.items():
            group, option = name.upper().split('.')
            environment.setenv(f'OS_{group}__{option}', value)
        with running_app() as app:
            yield Service(keystone, accounts, app)


@pytest.fixture(scope='module', autouse=True)
def _forget_options() -> Iterator[None]:
    """Some of them are required, and would be of all tests that follow."""
    yield
    cfg.CONF.unregister_opts(
        loading.get_auth_plugin_conf_options('password'),
        group='keystone_authtoken',
    )


@pytest.fixture
def service(
    keystone: Keystone,
    accounts: Accounts,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Service]:
    """The application under test as it is shipped."""
    for name in ('nova_ext', 'keystonemiddleware'):
        caplog.set_level(logging.DEBUG, name)
    with _running(keystone, accounts) as service:
        yield service
    for when in ('setup', 'call'):
        for record in caplog.get_records(when):
            written.search_in(record.getMessage().encode(), record.name)


def test_keystone_itself_tells_tokens_apart(
    keystone: Keystone, accounts: Accounts
) -> None:
    valid = keystone.token(*accounts.service)
    revoked = keystone.token(*accounts.service)
    keystone.revoke(revoked)
    expired = keystone.expired_token(*accounts.service)
    checker = keystone.token(*accounts.checker)

    def status(token: str, **params: str) -> int:
        return requests.get(
            f'{keystone.url}/auth/tokens',
            headers={'X-Auth-Token': checker, 'X-Subject-Token': token},
            params=params,
            timeout=30,
        ).status_code

    assert status(valid) == 200
    assert status(revoked) == 404
    assert status(revoked, allow_expired='1') == 404
    assert status(expired) == 404
    assert status(expired, allow_expired='1') == 200


def test_server_that_ends_at_its_start_says_why(tmp_path: Path) -> None:
    server = ServerProcess(
        [sys.executable, '-c', 'import sys; sys.exit("no such plugin")'],
        port=free_port(),
        log=tmp_path / 'log',
    )
    with pytest.raises(ServerFailed, match='no such plugin'):
        server.__enter__()


def test_server_leaves_no_process(tmp_path: Path) -> None:
    """Neither itself, deaf to SIGTERM, nor the child that it has."""
    port = free_port()
    program = (
        'import http.server, os, signal, sys, time\n'
        'signal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
        'if not os.fork():\n'
        '    time.sleep(600)\n'
        'http.server.test(http.server.SimpleHTTPRequestHandler,\n'
        '                 port=int(sys.argv[1]), bind="127.0.0.1")\n'
    )
    with ServerProcess(
        [sys.executable, '-c', program, str(port)],
        port=port,
        log=tmp_path / 'log',
        cwd=tmp_path,
        stop_timeout=0.2,
    ) as server:
        group = server.pid
        assert _living(group) == 2
    # What was killed ends a moment later.
    deadline = time.monotonic() + 10
    while _living(group):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _living(group: int) -> int:
    """How many processes of a group are there and no zombies."""
    living = 0
    for stat in Path('/proc').glob('[0-9]*/stat'):
        try:
            fields = stat.read_text().rpartition(') ')[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        living += int(fields[2]) == group and fields[0] != 'Z'
    return living


@pytest.mark.parametrize('who', ['service', 'nova'])
def test_roles_service_and_admin_enter(who: str, service: Service) -> None:
    token = service.token(who)

    created = service.post(token)
    assert created.status_int == 200
    answer = {'id': SNAPSHOT, 'volumeId': VOLUME}
    assert created.json == {'snapshot': answer}
    assert len(RecordingAPI.calls) == 1

    assert service.delete(token).status_int == 204
    assert len(RecordingAPI.calls) == 2


def test_project_in_the_url_may_be_left_out(service: Service) -> None:
    token = service.token('service')
    assert service.post(token, project_of=None).status_int == 200
    assert service.delete(token, project_of=None).status_int == 204
    assert len(RecordingAPI.calls) == 2


def test_no_token(service: Service) -> None:
    service.assert_unauthorized(service.post())
    service.assert_unauthorized(service.delete())


@pytest.mark.parametrize('token', ['', 'garbage', 'gAAAAA' + 'x' * 180])
def test_garbage_token(token: str, service: Service) -> None:
    service.assert_unauthorized(service.post(token))
    service.assert_unauthorized(service.delete(token))


def test_expired_token(service: Service) -> None:
    expired = service.expired_token('service')
    service.assert_unauthorized(service.post(expired))
    service.assert_unauthorized(service.delete(expired))


def test_revoked_token(service: Service) -> None:
    token = service.token('service')
    service.keystone.revoke(token)
    service.assert_unauthorized(service.post(token))
    service.assert_unauthorized(service.delete(token))


def test_token_revoked_after_its_first_use(
    keystone: Keystone, accounts: Accounts
) -> None:
    """Seen at once where nothing is cached; else within token_cache_time."""
    with _running(keystone, accounts, token_cache_time='-1') as service:
        token = service.token('service')
        assert service.post(token).status_int == 200

        keystone.revoke(token)
        RecordingAPI.calls.clear()
        service.assert_unauthorized(service.post(token))


def test_url_of_another_project(service: Service) -> None:
    theirs = service.project_id('service')
    mine = service.project_id('elsewhere')

    answer = service.post(service.token('elsewhere'), project_of='service')

    message = (
        f"Malformed request URL: URL's project_id '{theirs}' doesn't match "
        f"Context's project_id '{mine}'"
    )
    assert answer.status_int == 400
    assert answer.json == {'badRequest': {'code': 400, 'message': message}}
    assert RecordingAPI.calls == []


def test_role_member_is_refused(service: Service) -> None:
    token = service.token('member')
    created = service.post(token, project_of='member')
    service.assert_forbidden(created, 'create')
    deleted = service.delete(token, project_of='member')
    service.assert_forbidden(deleted, 'delete')


def test_system_scope_is_refused(service: Service) -> None:
    """Even that of an administrator."""
    name, password, _ = service.keystone.admin
    token = service.keystone.token(name, password, system=True)
    created = service.post(token, project_of=None)
    service.assert_forbidden(created, 'create')
    deleted = service.delete(token, project_of=None)
    service.assert_forbidden(deleted, 'delete')


def test_spoofed_identity_without_a_token(service: Service) -> None:
    service.assert_unauthorized(service.post(headers=SPOOFED))
    statuses = {
        name: service.post(headers={name: value}).status_int
        for name, value in SPOOFED.items()
    }
    assert statuses == dict.fromkeys(SPOOFED, 401)
    assert RecordingAPI.calls == []


def test_spoofed_identity_with_a_token_of_a_member(service: Service) -> None:
    token = service.token('member')
    answer = service.post(token, headers=SPOOFED, project_of='member')
    service.assert_forbidden(answer, 'create')
    statuses = {
        name: service.post(
            token, headers={name: value}, project_of='member'
        ).status_int
        for name, value in SPOOFED.items()
    }
    assert statuses == dict.fromkeys(SPOOFED, 403)
    assert RecordingAPI.calls == []


def test_spoofed_identity_takes_nothing_away(service: Service) -> None:
    """A system scope or project that stayed would be refused."""
    answer = service.post(service.token('service'), headers=SPOOFED)
    assert answer.status_int == 200


def test_service_token_revives_an_expired_token(service: Service) -> None:
    """Work may wait in Cinder until the token that it came with is over."""
    expired = service.expired_token('nova')

    answer = service.post(expired, service_token=service.token('service'))
    assert answer.status_int == 200
    assert len(RecordingAPI.calls) == 1

    # What was cached for this request must not let in the next.
    RecordingAPI.calls.clear()
    service.assert_unauthorized(service.post(expired))


@pytest.mark.parametrize('age', ['expired', 'valid'])
def test_service_token_without_the_role_service(
    age: str, service: Service
) -> None:
    make = service.token if age == 'valid' else service.expired_token
    answer = service.post(make('nova'), service_token=service.token('member'))
    service.assert_unauthorized(answer)


def test_service_token_lends_its_role_to_nobody(service: Service) -> None:
    answer = service.post(
        service.token('member'),
        service_token=service.token('service'),
        project_of='member',
    )
    service.assert_forbidden(answer, 'create')


def test_keystone_unreachable_and_back(
    keystone: Keystone, accounts: Accounts
) -> None:
    port = free_port()
    gone = {
        'auth_url': f'http://127.0.0.1:{port}/v3',
        'http_request_max_retries': '0',
    }
    with _running(keystone, accounts, **gone) as service:
        token = service.token('service')

        answer = service.post(token)
        assert answer.status_int == 503
        message = 'The Keystone service is temporarily unavailable.'
        assert message in answer.text
        assert RecordingAPI.calls == []

        with keystone.replica({}, port):
            assert service.post(token).status_int == 200
        assert len(RecordingAPI.calls) == 1
