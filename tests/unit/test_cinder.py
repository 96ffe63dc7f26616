# SPDX-License-Identifier: Apache-2.0
"""The client of Cinder, over real HTTP against a double of Cinder."""

from __future__ import annotations

import contextlib
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
from oslo_config import cfg

from nova_ext import cinder
from tests.fixtures.cinder import CinderDouble

VOLUME, SNAPSHOT, OTHER = (str(uuid.uuid4()) for _ in range(3))


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    """A group of options for each test; they are kept in the group."""
    fresh = cfg.OptGroup(cinder.GROUP.name)
    with mock.patch.object(cinder, 'GROUP', fresh):
        yield


def _client(double: CinderDouble, **options: Any) -> cinder.Cinder:
    options = {'auth_type': 'none', 'endpoint': double.endpoint, **options}
    lines = [f'{name} = {value}' for name, value in options.items() if value]
    with tempfile.NamedTemporaryFile('w', suffix='.conf') as file:
        file.write('\n'.join(['[nova_ext_cinder]', *lines]))
        file.flush()
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[file.name])
    return cinder.Cinder(conf)


@contextlib.contextmanager
def _double(auth: str = 'none') -> Iterator[CinderDouble]:
    with CinderDouble(auth) as double:
        double.add_volume(VOLUME)
        double.add_snapshot(SNAPSHOT, VOLUME, progress='7%')
        yield double


@pytest.fixture
def double() -> Iterator[CinderDouble]:
    with _double() as running:
        yield running


@pytest.fixture
def client(double: CinderDouble) -> cinder.Cinder:
    return _client(double)


def _row(double: CinderDouble) -> tuple[str, str]:
    snapshot = double.snapshots[SNAPSHOT]
    return snapshot.status, snapshot.progress


def test_a_report_is_made(client: cinder.Cinder, double: CinderDouble) -> None:
    answer = client.update_status(SNAPSHOT, 'creating', '90%')
    assert answer == cinder.Answer(202)
    assert str(answer) == '202'
    assert _row(double) == ('creating', '90%')
    (request,) = [r for r in double.requests if r.method == 'POST']
    assert request.path == f'/v3/snapshots/{SNAPSHOT}/action'
    assert request.update == {'status': 'creating', 'progress': '90%'}


def test_progress_is_left_out_where_there_is_none(
    client: cinder.Cinder, double: CinderDouble
) -> None:
    assert client.update_status(SNAPSHOT, 'error', None).code == 202
    assert _row(double) == ('error', '7%')
    assert double.history(SNAPSHOT) == [('error', None)]
    assert 'progress' not in (double.requests[-1].update or {})


def test_a_status_is_read(client: cinder.Cinder, double: CinderDouble) -> None:
    assert client.show(SNAPSHOT) == cinder.Row('creating', '7%')
    double.set_snapshot(SNAPSHOT, 'available')
    assert client.show(SNAPSHOT) == cinder.Row('available', '7%')
    assert client.show(OTHER) is None


def test_a_refusal_says_why(
    client: cinder.Cinder, double: CinderDouble
) -> None:
    double.set_snapshot(SNAPSHOT, 'available')
    answer = client.update_status(SNAPSHOT, 'creating', '90%')
    assert answer.code == 400
    assert 'Snapshot status available not allowed' in answer.message
    assert str(answer) == f'400 ({answer.message})'
    answer = client.update_status(OTHER, 'creating', '90%')
    assert (answer.code, OTHER in answer.message) == (404, True)


@pytest.mark.parametrize(
    'code', [200, 204, 300, 401, 403, 404, 409, 413, 429, 500, 502, 503, 504]
)
def test_each_code_is_handed_on_and_nothing_is_repeated(
    client: cinder.Cinder, double: CinderDouble, code: int
) -> None:
    double.answer_with(code, times=None)
    assert client.update_status(SNAPSHOT, 'creating', '0%').code == code
    reports = [r for r in double.requests if r.method == 'POST']
    # keystoneauth1 asks once more with new credentials.
    assert len(reports) <= (2 if code == 401 else 1)
    assert _row(double) == ('creating', '7%')


@pytest.mark.parametrize('code', [200, 204, 400, 401, 403, 500, 503])
def test_an_answer_without_a_status_is_no_answer(
    client: cinder.Cinder, double: CinderDouble, code: int
) -> None:
    double.answer_with(code, times=None, method='GET')
    with pytest.raises(cinder.NoAnswer, match=f'it answered {code}'):
        client.show(SNAPSHOT)


def test_an_answer_without_attachments_is_no_answer(
    client: cinder.Cinder,
) -> None:
    for volume in (7, [7], {'attachments': 7}, {'attachments': [{}]}):
        with mock.patch.object(client, '_show', autospec=True) as show:
            show.return_value = volume
            with pytest.raises(cinder.NoAnswer, match='of the volume is none'):
                client.attachments(VOLUME)


def test_an_answer_without_volumes_is_no_answer(client: cinder.Cinder) -> None:
    for volumes in (7, [7], [{'attachments': 7}], [{'attachments': [7]}]):
        with mock.patch.object(client, '_show', autospec=True) as show:
            show.return_value = volumes
            with pytest.raises(cinder.NoAnswer, match='of volumes is none'):
                client.hosts(1)


@pytest.mark.parametrize(
    'ask',
    [
        lambda client: client.attachments(VOLUME),
        lambda client: client.show(SNAPSHOT),
        lambda client: client.update_status(SNAPSHOT, 'creating', '0%'),
    ],
)
def test_a_cinder_that_is_not_there_gives_no_answer(
    client: cinder.Cinder,
    double: CinderDouble,
    ask: Callable[[cinder.Cinder], Any],
) -> None:
    double.drop(times=None, method=None)
    with pytest.raises(cinder.NoAnswer):
        ask(client)
    double.clear_faults()
    double.stop_listening()
    with pytest.raises(cinder.NoAnswer, match='refused'):
        ask(client)
    double.listen_again()
    ask(client)


def test_a_cinder_that_hangs_is_given_up(double: CinderDouble) -> None:
    double.delay(30)
    client = _client(double, timeout=1)
    begun = time.monotonic()
    with pytest.raises(cinder.NoAnswer, match='timed out'):
        client.update_status(SNAPSHOT, 'creating', '0%')
    assert time.monotonic() - begun < 10


def test_it_has_a_time_out_of_its_own() -> None:
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[])
    cinder.register_opts(conf)
    cinder.register_opts(conf)
    assert conf.nova_ext_cinder.timeout == 10
    assert conf.nova_ext_cinder.service_type == 'block-storage'


@pytest.mark.parametrize(
    ('more', 'code'), [({}, 202), ({'password': 'wrong'}, 401)]
)
def test_http_basic(more: dict[str, str], code: int) -> None:
    with _double('http_basic') as double:
        client = _client(double, **{**double.credentials, **more})
        assert client.update_status(SNAPSHOT, 'creating', '90%').code == code
        assert _row(double) == ('creating', '90%' if code == 202 else '7%')


def test_a_token_without_the_role_is_told_404_or_403() -> None:
    with _double('token') as double:
        double.add_token('service', roles=('service',))
        owners = double.volumes[VOLUME].project_id
        double.add_token('reader', roles=('reader',), project_id=owners)
        for token, code in (('service', 404), ('reader', 403)):
            client = _client(double, auth_type='admin_token', token=token)
            answer = client.update_status(SNAPSHOT, 'creating', '90%')
            assert answer.code == code
        assert _row(double) == ('creating', '7%')


def test_a_clock_that_was_set_back_holds_nothing_up(
    double: CinderDouble, client: cinder.Cinder
) -> None:
    before = time.time() - 3600
    with (
        mock.patch.object(time, 'time', autospec=True, return_value=before),
        mock.patch.object(time, 'sleep', autospec=True) as sleep,
    ):
        assert client.show(SNAPSHOT) is not None
    assert not sleep.called


def test_options_that_cannot_be_used_are_said_to_be(
    double: CinderDouble,
) -> None:
    with pytest.raises(cfg.Error, match=r'\[nova_ext_cinder\].* abacus'):
        _client(double, auth_type='abacus')
    with pytest.raises(cfg.Error, match='auth_type is not set'):
        _client(double, auth_type=None)


def test_without_an_endpoint_there_is_no_answer(double: CinderDouble) -> None:
    client = _client(double, endpoint=None)
    with pytest.raises(cinder.NoAnswer):
        client.show(SNAPSHOT)


ELSEWHERE = [
    '',
    '.',
    '..',
    '...',
    '../volumes',
    f'../volumes/{VOLUME}',
    f'../../v3/snapshots/{SNAPSHOT}',
    f'{SNAPSHOT}/../{SNAPSHOT}',
    f'./{SNAPSHOT}',
    f'{SNAPSHOT}/',
    f'{SNAPSHOT}/action?x=',
    f'{SNAPSHOT}?x=',
    f'{SNAPSHOT}#',
    'a/b',
    '%2e%2e',
    '%2E%2E/volumes',
    f'%2e%2e%2fsnapshots%2f{SNAPSHOT}',
    '\\..\\',
    '//evil.example/v3',
    'http://evil.example/',
    '\u2024\u2024',
    'a b',
    'a\r\nX-Injected: 1',
]


@pytest.mark.parametrize('snapshot_id', ELSEWHERE)
def test_no_id_leads_to_another_resource(
    client: cinder.Cinder, double: CinderDouble, snapshot_id: str
) -> None:
    # An id is whatever a caller sent, and the credentials are ours.
    assert client.update_status(snapshot_id, 'creating', '90%').code == 404
    assert client.show(snapshot_id) is None
    assert _row(double) == ('creating', '7%')
    assert not [request for request in double.requests if request.applied]
    for request in double.requests:
        collection, name = request.path.split('/')[2:4]
        assert collection == 'snapshots'
        assert name not in ('', '.', '..')
        assert request.headers.get('X-Injected') is None


def test_messages_are_cut_to_a_line() -> None:
    class Response:
        status_code = 400

        def __init__(self, body: Any) -> None:
            self.body = body

        def json(self) -> Any:
            if isinstance(self.body, Exception):
                raise self.body
            return self.body

    def message(body: Any) -> str:
        return cinder._message(Response(body))

    assert message({'badRequest': {'message': 'x' * 999}}) == 'x' * 200
    for other in (
        ValueError(),
        {},
        {'a': {}, 'b': {}},
        {'badRequest': 'text'},
        {'badRequest': {}},
        [],
        None,
        'text',
    ):
        assert message(other) == ''


@pytest.mark.parametrize('option', ['endpoint', 'endpoint_override'])
def test_a_password_in_a_url_is_refused(
    double: CinderDouble, option: str
) -> None:
    url = double.endpoint.replace('//', '//nova:S3CRET@')
    with pytest.raises(cfg.Error, match='Use the options username') as error:
        _client(double, **{option: url})
    assert 'S3CRET' not in str(error.value)
