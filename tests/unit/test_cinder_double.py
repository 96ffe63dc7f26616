# SPDX-License-Identifier: Apache-2.0
"""The double of Cinder's API answers as Cinder 29 does, and fails on demand.

Here: what the tests of nova_ext rely on, seen through keystoneauth1.  Not
here: anything of nova_ext; the double of cinder-volume, which has a module of
its own.
"""

from __future__ import annotations

import http.client
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from keystoneauth1 import adapter, http_basic, noauth, session, token_endpoint
from keystoneauth1 import exceptions as ks_exceptions

from tests.fixtures import cinder as cinder_fixture
from tests.fixtures.cinder import Attachment, CinderDouble

VOLUME = str(uuid.uuid4())
SNAPSHOT = str(uuid.uuid4())
SERVER = str(uuid.uuid4())
ACTION = f'/snapshots/{SNAPSHOT}/action'
OWNERS = cinder_fixture.PROJECT_ID
SERVICE = cinder_fixture.SERVICE_PROJECT_ID


def fill(cinder: CinderDouble) -> None:
    cinder.add_volume(VOLUME, Attachment(SERVER, 'host1'))
    cinder.add_snapshot(SNAPSHOT, VOLUME, progress='7%')


@pytest.fixture
def cinder() -> Iterator[CinderDouble]:
    with CinderDouble() as double:
        fill(double)
        yield double


@pytest.fixture
def keystone_cinder() -> Iterator[CinderDouble]:
    with CinderDouble('token') as double:
        fill(double)
        yield double


def client(auth: Any) -> adapter.Adapter:
    return adapter.Adapter(
        session.Session(auth=auth), service_type='block-storage'
    )


def noauth_client(cinder: CinderDouble) -> adapter.Adapter:
    return client(noauth.NoAuth(endpoint=cinder.endpoint))


def token_client(cinder: CinderDouble, token: str) -> adapter.Adapter:
    return client(token_endpoint.Token(cinder.endpoint, token))


def post(api: adapter.Adapter, body: Any, path: str = ACTION) -> Any:
    return api.post(path, json=body, raise_exc=False)


def report(api: adapter.Adapter, status: str, **more: Any) -> Any:
    return post(api, {'os-update_snapshot_status': {'status': status, **more}})


def row(cinder: CinderDouble) -> tuple[str, str]:
    snapshot = cinder.snapshots[SNAPSHOT]
    return snapshot.status, snapshot.progress


def fault(response: Any) -> tuple[int, str, str]:
    ((name, body),) = response.json().items()
    assert body['code'] == response.status_code
    return response.status_code, name, body['message']


# Reports of a status

STATUSES = ('creating', 'available', 'error', 'deleting', 'error_deleting')
ALLOWED = {
    ('creating', 'creating'),
    ('creating', 'available'),
    ('creating', 'error'),
    ('deleting', 'deleting'),
    ('deleting', 'error_deleting'),
}


@pytest.mark.parametrize('new', STATUSES)
@pytest.mark.parametrize('current', STATUSES)
def test_transitions(cinder: CinderDouble, current: str, new: str) -> None:
    cinder.set_snapshot(SNAPSHOT, current)

    response = report(noauth_client(cinder), new, progress='90%')

    if (current, new) in ALLOWED:
        assert (response.status_code, response.content) == (202, b'')
        assert row(cinder) == (new, '90%')
    elif current in ('creating', 'deleting'):
        assert fault(response) == (
            400,
            'badRequest',
            f'Provided snapshot status {new} not allowed for snapshot with '
            f'status {current}.',
        )
        assert row(cinder) == (current, '7%')
    else:
        assert fault(response) == (
            400,
            'badRequest',
            f'Snapshot status {current} not allowed for '
            'update_snapshot_status',
        )
        assert row(cinder) == (current, '7%')


@pytest.mark.parametrize(
    'given, stored',
    [
        ('0%', '0%'),
        ('90%', '90%'),
        ('100%', '100%'),
        (' 90%', ' 90%'),
        ('9_0%', '9_0%'),
        ('', '7%'),
        (None, '7%'),
        (0, '7%'),
    ],
)
def test_progress_accepted(
    cinder: CinderDouble, given: Any, stored: str
) -> None:
    response = report(noauth_client(cinder), 'creating', progress=given)

    assert response.status_code == 202
    assert row(cinder) == ('creating', stored)


@pytest.mark.parametrize(
    'given',
    ['101%', '-1%', '45.5%', '90', 'ninety', '%', 90, True, ['9', '%']],
)
def test_progress_refused(cinder: CinderDouble, given: Any) -> None:
    response = report(noauth_client(cinder), 'error', progress=given)

    assert fault(response)[:2] == (400, 'badRequest')
    assert row(cinder) == ('creating', '7%')


def test_progress_stays_when_absent(cinder: CinderDouble) -> None:
    cinder.set_snapshot(SNAPSHOT, 'deleting', '90%')

    assert report(noauth_client(cinder), 'error_deleting').status_code == 202

    assert row(cinder) == ('error_deleting', '90%')


FIELD = 'Invalid input for field/attribute'


@pytest.mark.parametrize(
    'body, code, message',
    [
        (
            {'os-update_snapshot_status': {'progress': '1%'}},
            400,
            f'{FIELD} os-update_snapshot_status. Value: '
            "{'progress': '1%'}. 'status' is a required property",
        ),
        (
            {'os-update_snapshot_status': {'status': 'error', 'x': 1}},
            400,
            f'{FIELD} os-update_snapshot_status. Value: '
            "{'status': 'error', 'x': 1}. Additional properties are not "
            "allowed ('x' was unexpected)",
        ),
        (
            {'os-update_snapshot_status': {'status': 5}},
            400,
            f"{FIELD} status. Value: 5. 5 is not of type 'string'",
        ),
        (
            {'os-update_snapshot_status': None},
            400,
            f'{FIELD} os-update_snapshot_status. Value: None. '
            "None is not of type 'object'",
        ),
        (
            {'os-update_snapshot_status': {'status': 'error'}, 'x': 1},
            400,
            'Malformed request body',
        ),
        (
            {'os-reset': {}},
            400,
            'There is no such action: os-reset. Verify the request body and '
            'Content-Type header and try again.',
        ),
        ([1], 404, 'The resource could not be found.'),
    ],
)
def test_bodies_refused(
    cinder: CinderDouble, body: Any, code: int, message: str
) -> None:
    response = post(noauth_client(cinder), body)

    assert fault(response)[::2] == (code, message)
    assert row(cinder) == ('creating', '7%')
    assert cinder.history(SNAPSHOT, applied=True) == []


def test_unknown_snapshot(cinder: CinderDouble) -> None:
    api = noauth_client(cinder)
    good = {'os-update_snapshot_status': {'status': 'error'}}
    unknown = (404, 'itemNotFound', 'Snapshot nope could not be found.')

    assert fault(post(api, good, '/snapshots/nope/action')) == unknown
    assert fault(api.get('/snapshots/nope', raise_exc=False)) == unknown
    bad: dict[str, Any] = {'os-update_snapshot_status': {}}
    assert post(api, bad, '/snapshots/nope/action').status_code == 400


# Looking


def test_show_snapshot(cinder: CinderDouble) -> None:
    response = noauth_client(cinder).get(f'/snapshots/{SNAPSHOT}')

    shown = response.json()['snapshot']
    assert shown['id'] == SNAPSHOT
    assert shown['volume_id'] == VOLUME
    assert shown['status'] == 'creating'
    assert shown['os-extended-snapshot-attributes:progress'] == '7%'
    assert response.headers['OpenStack-API-Version'] == 'volume 3.0'


@pytest.mark.parametrize(
    'roles, project, host',
    [
        (['admin'], SERVICE, 'host1'),
        (['service', 'reader'], OWNERS, 'host1'),
        (['member', 'reader'], OWNERS, None),
    ],
)
def test_show_volume(
    keystone_cinder: CinderDouble,
    roles: list[str],
    project: str,
    host: str | None,
) -> None:
    keystone_cinder.add_token('t', roles, project)

    response = token_client(keystone_cinder, 't').get(f'/volumes/{VOLUME}')

    shown = response.json()['volume']
    assert (shown['id'], shown['status']) == (VOLUME, 'in-use')
    (attachment,) = shown['attachments']
    assert attachment['server_id'] == SERVER
    assert attachment['host_name'] == host


# Who may


@pytest.mark.parametrize(
    'roles, project, update, show',
    [
        (['admin'], SERVICE, 202, 200),
        (['member', 'reader'], OWNERS, 202, 200),
        (['member'], OWNERS, 202, 403),
        (['reader'], OWNERS, 403, 200),
        (['service'], OWNERS, 403, 403),
        (['service'], SERVICE, 404, 404),
        (['member', 'reader'], SERVICE, 404, 404),
    ],
)
def test_roles(
    keystone_cinder: CinderDouble,
    roles: list[str],
    project: str,
    update: int,
    show: int,
) -> None:
    keystone_cinder.add_token('t', roles, project)
    api = token_client(keystone_cinder, 't')

    assert report(api, 'creating', progress='90%').status_code == update
    shown = api.get(f'/snapshots/{SNAPSHOT}', raise_exc=False)
    assert shown.status_code == show
    changed = update == 202
    assert row(keystone_cinder) == ('creating', '90%' if changed else '7%')


def test_policy_message(keystone_cinder: CinderDouble) -> None:
    keystone_cinder.add_token('t', ['reader'], OWNERS)

    assert fault(report(token_client(keystone_cinder, 't'), 'error')) == (
        403,
        'forbidden',
        "Policy doesn't allow snapshot_extension:snapshot_actions:"
        'update_snapshot_status to be performed.',
    )


def test_token_revoked(keystone_cinder: CinderDouble) -> None:
    keystone_cinder.add_token('t')
    api = token_client(keystone_cinder, 't')
    assert report(api, 'creating').status_code == 202

    del keystone_cinder.tokens['t']

    response = report(api, 'creating')
    assert response.status_code == 401
    assert response.headers['WWW-Authenticate'].startswith('Keystone uri=')


@pytest.mark.parametrize('password, code', [('right', 202), ('wrong', 401)])
def test_http_basic(password: str, code: int) -> None:
    with CinderDouble('http_basic', username='u', password='right') as cinder:
        fill(cinder)
        auth = http_basic.HTTPBasicAuth(cinder.endpoint, 'u', password)

        assert report(client(auth), 'error').status_code == code
        assert row(cinder)[0] == ('error' if code == 202 else 'creating')


def test_noauth_without_token_does_nothing(cinder: CinderDouble) -> None:
    api = session.Session()

    response = api.post(
        cinder.endpoint + ACTION,
        json={'os-update_snapshot_status': {'status': 'error'}},
        authenticated=False,
    )

    assert response.status_code == 204
    assert row(cinder) == ('creating', '7%')


@pytest.mark.parametrize(
    'project, code, message',
    [
        (SERVICE, 202, None),
        (OWNERS, 400, 'Malformed request url'),
        ('no-hex', 404, None),
    ],
)
def test_project_in_url(
    keystone_cinder: CinderDouble, project: str, code: int, message: str | None
) -> None:
    keystone_cinder.add_token('t', ['admin'], SERVICE)
    api = token_client(keystone_cinder, 't')

    response = post(
        api,
        {'os-update_snapshot_status': {'status': 'error'}},
        f'/{project}{ACTION}',
    )

    assert response.status_code == code
    if message:
        assert fault(response) == (code, 'badRequest', message)


# Discovery


def test_discovery(keystone_cinder: CinderDouble) -> None:
    keystone_cinder.add_token('t')
    root = keystone_cinder.url

    for endpoint in (root, f'{root}/v3', f'{root}/v3/{SERVICE}'):
        data = client(token_endpoint.Token(endpoint, 't')).get_endpoint_data()

        assert data is not None
        assert data.api_version == (3, 0)
        assert data.max_microversion == (3, 71)


def test_noauth_hides_the_version_document(cinder: CinderDouble) -> None:
    data = client(noauth.NoAuth(endpoint=cinder.url)).get_endpoint_data()
    assert data is not None and data.url == f'{cinder.endpoint}/'

    # Discovery sends no token, and is answered 204.
    with pytest.raises(ks_exceptions.DiscoveryFailure):
        noauth_client(cinder).get_endpoint_data()


@pytest.mark.parametrize(
    'asked, code, answered',
    [('3.44', 200, 'volume 3.44'), ('3.72', 406, None)],
)
def test_microversion(
    cinder: CinderDouble, asked: str, code: int, answered: str | None
) -> None:
    response = noauth_client(cinder).get(
        f'/volumes/{VOLUME}', microversion=asked, raise_exc=False
    )

    assert response.status_code == code
    assert response.headers.get('OpenStack-API-Version') == answered


# The record


def test_requests_and_history(cinder: CinderDouble) -> None:
    api = noauth_client(cinder)
    before = time.monotonic()
    api.get(f'/snapshots/{SNAPSHOT}')
    report(api, 'creating', progress='5%')
    report(api, 'deleting')
    report(api, 'creating', progress='90%')

    assert cinder.history(SNAPSHOT) == [
        ('creating', '5%'),
        ('deleting', None),
        ('creating', '90%'),
    ]
    assert cinder.history(SNAPSHOT, applied=True) == [
        ('creating', '5%'),
        ('creating', '90%'),
    ]
    assert [r.code for r in cinder.requests] == [200, 202, 400, 202]
    first, second = cinder.requests[:2]
    assert (first.method, first.path) == ('GET', f'/v3/snapshots/{SNAPSHOT}')
    assert second.headers['x-auth-token'] == 'notused'
    assert second.update == {'status': 'creating', 'progress': '5%'}
    assert before < first.time < second.time < time.monotonic()


def test_connections_are_kept(cinder: CinderDouble) -> None:
    connection = http.client.HTTPConnection(cinder.url.removeprefix('http://'))
    sockets = []
    for path in ('/', '/v3/nowhere', f'/v3/snapshots/{SNAPSHOT}'):
        connection.request('GET', path, headers={'X-Auth-Token': 'a:b'})
        connection.getresponse().read()
        sockets.append(connection.sock)
    connection.close()

    assert sockets[0] is not None
    assert sockets == sockets[:1] * 3


def test_wait_for(cinder: CinderDouble) -> None:
    # The row changes well after the request has come.
    cinder.delay(0.05)
    reporter = threading.Thread(
        target=report, args=(noauth_client(cinder), 'error')
    )
    start = time.monotonic()
    reporter.start()

    assert cinder.wait_for(lambda: row(cinder)[0] == 'error', timeout=10)

    assert time.monotonic() - start < 5
    reporter.join()
    with pytest.raises(TimeoutError):
        cinder.wait_for(lambda: row(cinder)[0] == 'available', timeout=0.05)


# Faults


def test_answer_with(cinder: CinderDouble) -> None:
    api = noauth_client(cinder)
    cinder.answer_with(503)
    cinder.answer_with(500, times=2, apply=True)

    codes = [report(api, 'creating', progress='1%').status_code]
    assert row(cinder) == ('creating', '7%')
    codes.append(report(api, 'creating', progress='2%').status_code)
    assert row(cinder) == ('creating', '2%')
    codes += [report(api, 'creating').status_code for _ in range(2)]

    assert codes == [503, 500, 500, 202]
    assert api.get(f'/snapshots/{SNAPSHOT}').status_code == 200


def test_answer_with_when_and_method(cinder: CinderDouble) -> None:
    api = noauth_client(cinder)
    cinder.answer_with(
        409, times=None, when=lambda r: '90%' in (r.update or {}).values()
    )
    cinder.answer_with(404, method='GET', times=None)

    assert report(api, 'creating', progress='1%').status_code == 202
    for _ in range(2):
        assert fault(report(api, 'creating', progress='90%'))[:2] == (
            409,
            'conflictingRequest',
        )
    shown = api.get(f'/snapshots/{SNAPSHOT}', raise_exc=False)
    assert shown.status_code == 404
    cinder.clear_faults()
    assert api.get(f'/snapshots/{SNAPSHOT}').status_code == 200


@pytest.mark.parametrize('apply', [False, True])
def test_drop(cinder: CinderDouble, apply: bool) -> None:
    api = noauth_client(cinder)
    cinder.drop(apply=apply)

    with pytest.raises(ks_exceptions.ConnectFailure):
        report(api, 'error')

    assert row(cinder)[0] == ('error' if apply else 'creating')
    (request,) = cinder.requests
    assert (request.code, request.applied) == (None, apply)
    assert report(api, 'error').status_code == (400 if apply else 202)


def test_delay(cinder: CinderDouble) -> None:
    api = noauth_client(cinder)
    cinder.delay(0.2, times=1)
    cinder.answer_with(503)

    start = time.monotonic()
    assert report(api, 'error').status_code == 503
    assert time.monotonic() - start >= 0.2
    cinder.delay(60, when=lambda r: False)
    assert report(api, 'error').status_code == 202


def test_stop_and_listen_again(cinder: CinderDouble) -> None:
    api = noauth_client(cinder)
    endpoint = cinder.endpoint
    assert report(api, 'creating', progress='5%').status_code == 202

    cinder.stop_listening()
    for _ in range(2):
        with pytest.raises(ks_exceptions.ConnectFailure):
            report(api, 'error')
    cinder.listen_again()

    assert cinder.endpoint == endpoint
    assert row(cinder) == ('creating', '5%')
    assert report(api, 'error').status_code == 202
    assert len(cinder.requests) == 2


def test_delayed_request_is_lost_when_cinder_stops(
    cinder: CinderDouble,
) -> None:
    api = noauth_client(cinder)
    cinder.delay(60)
    failures: list[Exception] = []

    def lose() -> None:
        try:
            report(api, 'error')
        except ks_exceptions.ConnectFailure as failure:
            failures.append(failure)

    reporter = threading.Thread(target=lose)
    reporter.start()
    cinder.wait_for(lambda: cinder.requests)
    cinder.stop_listening()
    reporter.join(10)

    assert len(failures) == 1
    assert row(cinder) == ('creating', '7%')


def test_mistake_of_a_test_is_told() -> None:
    with pytest.raises(ZeroDivisionError), CinderDouble() as cinder:
        fill(cinder)
        cinder.answer_with(503, when=lambda r: bool(1 // 0))
        with pytest.raises(ks_exceptions.ConnectFailure):
            report(noauth_client(cinder), 'error')
