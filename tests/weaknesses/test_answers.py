# SPDX-License-Identifier: Apache-2.0
"""W12 to W20 and W31: what is answered over HTTP, and what it says."""

from __future__ import annotations

import json
import pathlib
import re
import shlex
import uuid
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from oslo_config import cfg
from oslo_middleware import cors

from nova_ext import exception
from tests.integration.test_delete import Share
from tests.weaknesses.sites import PATH, Front, Refused, Site, second_guest

pytest_plugins = ['tests.fixtures.host', 'tests.fixtures.rabbitmq']

# WebOb leaves the files of large bodies to the garbage collector.
pytestmark = pytest.mark.filterwarnings('ignore:unclosed file')

API_REF = pathlib.Path(__file__).parents[2] / 'api-ref' / 'source'


@pytest.fixture
def front(site: Site) -> Iterator[Front]:
    """The API where a request that gets as far as the backend fails."""
    with site.front() as front:
        yield front


def _body(**info: Any) -> dict[str, Any]:
    create_info = {'snapshot_id': 'any', 'type': 'qcow2', 'new_file': 'file'}
    create_info.update(info)
    return {'snapshot': {'volume_id': 'any', 'create_info': create_info}}


def _refusal_of_delete(front: Front, delete_info: object) -> str:
    """The words of a 400."""
    with pytest.raises(Refused) as refusal:
        front.delete('any', json.dumps(delete_info))
    assert (refusal.value.status, refusal.value.name) == (400, 'badRequest')
    return str(refusal.value)


def test_w12_new_file_leads_to_no_other_directory(share: Share) -> None:
    """Nova joins any path to the directory, so that QEMU opens what the
    caller likes; here only the name of a file beside the volume is let in.
    """
    host = share.host
    elsewhere = host.directory / 'elsewhere'
    elsewhere.mkdir()
    good = host.overlay().rename(elsewhere / 'good')
    for name in (
        str(good),
        f'elsewhere/{good.name}',
        f'../{host.directory.name}/elsewhere/{good.name}',
        '..',
        '.',
        'a\0b',
    ):
        with pytest.raises(Refused) as refusal:
            host.create(host.snapshot(), name)
        assert refusal.value.status == 400
        assert 'new_file' in str(refusal.value)
    host.assert_untouched()
    assert host.states() == []


@pytest.mark.parametrize('info', [[], 5, None, 'text', True, 1.5])
def test_w13_delete_info_is_an_object_or_refused(
    front: Front, info: object
) -> None:
    """Nova answers 500 to JSON that is no object; here it is a 400 that
    says so.
    """
    assert "is not of type 'object'" in _refusal_of_delete(front, info)


def test_w14_a_delete_of_two_guests_volume_is_refused(share: Share) -> None:
    """Nova answers 500 to the DELETE and 400 to the POST; here both are 400
    and leave both guests alone.
    """
    host, snapshot_id = share.host, share.snapshot()
    chain = host.chain()
    with second_guest(host):
        with pytest.raises(Refused, match='multi-attach') as refusal:
            share.cinder.delete(snapshot_id, share.compute_delete)
        assert refusal.value.status == 400
        overlay = host.overlay(host.directory / chain[0])
        with pytest.raises(Refused, match='multi-attach') as refusal:
            host.create(host.snapshot(), overlay.name)
        assert refusal.value.status == 400
    assert host.chain() == chain


class Gone(exception.NotFound):
    """As a backend may raise."""

    msg_fmt = '%(name)s is gone'


def test_w15_a_404_has_the_envelope(front: Front) -> None:
    """Nova's 404 to a DELETE, and its router's, are plain text; here they
    are faults like all others.
    """
    error = Gone(name='what it names')
    method = 'volume_snapshot_delete'
    with mock.patch.object(
        front._backend, method, autospec=True, side_effect=error
    ):
        with pytest.raises(Refused, match='what it names is gone') as refusal:
            front.delete('any', '{"volume_id": "any"}')
    refusals = [refusal.value]
    for path in (f'{PATH}/any/', '/v2.1/other'):
        with pytest.raises(Refused) as refusal:
            front.ask('DELETE', path)
        refusals.append(refusal.value)
    for value in refusals:
        assert (value.status, value.name) == (404, 'itemNotFound')


@pytest.mark.parametrize('value', [5, None, [], {}, True, ''])
def test_w16_volume_id_is_text_or_refused(front: Front, value: object) -> None:
    """Nova hands a volume_id of any JSON type to its database layer; here
    it is text, and something, or a 400.
    """
    words = _refusal_of_delete(front, {'volume_id': value})
    assert 'field/attribute volume_id' in words


def test_w17_no_answer_is_refused_after_the_switch(site: Site) -> None:
    """Nova can check its answer against formats that it does not ask of the
    request, and say 400 of what it has begun; here what is let in is said
    yes to, and there is no such check.
    """
    with site.share(volume_id='no-uuid') as share:
        host, overlay = share.host, share.host.overlay()
        answer = host.api.post(
            {
                'snapshot': {
                    'volume_id': 'no-uuid',
                    'create_info': {
                        'snapshot_id': host.snapshot(),
                        'type': 'qcow2',
                        'new_file': overlay.name,
                        'id': 'nor this',
                    },
                }
            }
        )
        assert answer == {
            'snapshot': {'id': 'nor this', 'volumeId': 'no-uuid'}
        }
        assert host.chain() == [overlay.name, 'volume-no-uuid']


@pytest.mark.parametrize(
    'body',
    [
        b'\xff\xfe',
        json.dumps(_body()).encode('utf-16'),
        b'[' * 50000 + b']' * 50000,
        b'{"snapshot":' * 8000 + b'1' + b'}' * 8000,
    ],
    ids=['no-utf-8', 'utf-16', 'arrays', 'objects'],
)
def test_w18_a_body_that_cannot_be_read_is_a_400(
    front: Front, body: bytes
) -> None:
    """Nova answers 500 to a body that is not UTF-8 or is nested deeply;
    here it is a 400.
    """
    with pytest.raises(Refused) as refusal:
        front.post(body)
    assert refusal.value.status == 400
    assert 'Malformed request body' in str(refusal.value) or (
        'is not of type' in str(refusal.value)
    )


def test_w19_the_id_of_an_answer_can_be_deleted(share: Share) -> None:
    """Nova answers an id of null where none was sent, and clients delete
    "None"; here it is the id of the snapshot.
    """
    host, snapshot_id = share.host, str(uuid.uuid4())
    answers = []

    def create(volume_id: str, info: dict[str, Any]) -> None:
        snapshot = {'volume_id': volume_id, 'create_info': info}
        answers.append(host.api.post({'snapshot': snapshot}))

    share.cinder.create(share.volume_id, snapshot_id, create)
    assert [answer['snapshot']['id'] for answer in answers] == [snapshot_id]
    share.cinder.delete(answers[0]['snapshot']['id'], share.compute_delete)
    assert len(host.chain()) == 1


def test_w20_messages_say_what_is_wrong_to_who_asked(share: Share) -> None:
    """Nova shows texts of KeyErrors and the names of its functions, and the
    example in its reference fails; here a message names what is missing, and
    the example, put together as curl does it, works.
    """
    front, snapshot_id = share.host.api, share.snapshot()
    for info in ({}, {'type': 'qcow2'}):
        words = _refusal_of_delete(front, info)
        assert words == "'volume_id' is a required property"
    with pytest.raises(Refused, match='required query parameter'):
        front.ask('DELETE', f'{PATH}/any')
    share.host.guest.domain.managedSave(0)
    with pytest.raises(Refused) as refusal:
        share.cinder.delete(snapshot_id, share.compute_delete)
    assert 'do_volume_snapshot' not in str(refusal.value)
    share.host.guest.domain.create()
    share.host.double.set_snapshot(snapshot_id, 'available')

    def delete(snapshot_id: str, info: dict[str, Any]) -> None:
        method, path, text = _example(info, snapshot_id)
        assert method == 'DELETE'
        assert path == f'{PATH}/{snapshot_id}'
        front.delete(snapshot_id, text)

    share.cinder.delete(snapshot_id, delete)
    share.assert_nothing_lost()


def _example(info: dict[str, Any], snapshot_id: str) -> tuple[str, str, str]:
    """Method, path and delete_info of the reference's command, where the
    names in its file are those of `info`.
    """
    name = 'os-assisted-volume-snapshots'
    page = (API_REF / f'{name}.inc').read_text()
    (command,) = re.findall(r'\$ (curl (?:.*\\\n)*.*)', page)
    words = shlex.split(command)
    assert words[:3] == ['curl', '--get', '--request']
    encoded = words[words.index('--data-urlencode') + 1]
    member, _, file_name = encoded.partition('@')
    assert member == 'delete_info'
    sample = json.loads((API_REF / 'samples' / name / file_name).read_text())
    assert set(sample) == set(info)
    assert isinstance(sample['volume_id'], str)
    text = json.dumps({key: info[key] for key in sample}, indent=4)
    path = words[-1].replace('$COMPUTE', '').replace('$PROJECT/', '')
    return words[3], path.replace('$SNAPSHOT', snapshot_id), text


def test_w31_the_filters_before_us_spoil_no_answer(site: Site) -> None:
    """Nova's 413 shows a bare "%s", and the CORS filter takes one of its two
    Vary lines; here the limit is named, and Vary is one line.
    """
    cfg.CONF.register_opts(cors.CORS_OPTS, group='cors')
    origin = 'http://example.org'
    with site.front({'cors.allowed_origin': [origin]}) as front:
        with pytest.raises(Refused, match='max_request_body') as refusal:
            front.post(b'x' * 114689)
        assert refusal.value.status == 413
        assert '%s' not in str(refusal.value)
        method = 'volume_snapshot_delete'
        with mock.patch.object(front._backend, method, autospec=True):
            answer = front.delete('any', '{"volume_id": "any"}', Origin=origin)
    assert answer.headers['Access-Control-Allow-Origin'] == origin
    (vary,) = answer.headers.getall('Vary')
    assert [name.strip() for name in vary.split(',')] == [
        'OpenStack-API-Version',
        'X-OpenStack-Nova-API-Version',
        'Origin',
    ]
