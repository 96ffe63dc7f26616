# SPDX-License-Identifier: Apache-2.0
"""Nova's own answers, with nothing of ours in its pipeline.

What we preserve and what we mend is measured against these: those that are
named after a weakness (W3, ...) are the ones that we answer otherwise.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.nova.client import PATH, SNAPSHOT, Client, merge_info

if TYPE_CHECKING:
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.nova import Nova, NovaAPI

pytest_plugins = ['tests.fixtures.nova']

INCAPABLE = (
    'The server has either erred or is incapable of performing the requested '
    'operation.'
)


@pytest.fixture
def client(plain_nova: NovaAPI) -> Client:
    """One with the role service."""
    return Client(plain_nova.url)


@pytest.fixture
def volume_id(nova: Nova) -> str:
    """A volume that an active server uses."""
    return nova.attach(nova.create_instance())


def _assert_fault(
    answer: requests.Response, status: int, name: str, message: str
) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers['Content-Type'] == 'application/json; charset=UTF-8'
    assert answer.json() == {name: {'code': status, 'message': message}}


def _assert_refused(answer: requests.Response, message: str) -> None:
    _assert_fault(answer, 400, 'badRequest', message)


def _assert_broken(answer: requests.Response, name: str, nova: Nova) -> None:
    support = 'Please contact the administrator'
    if nova.release < 34:
        support = (
            'Please report this at http://bugs.launchpad.net/nova/ and '
            'attach the Nova API log if possible.'
        )
    message = f"Unexpected API Error. {support}\n<class '{name}'>"
    _assert_fault(answer, 500, 'computeFault', message)


def test_create_is_answered_and_cast(
    client: Client, plain_nova: NovaAPI, nova: Nova
) -> None:
    instance_id = nova.create_instance()
    volume_id = nova.attach(instance_id)

    answer = client.create(volume_id)

    assert answer.status_code == 200
    assert answer.headers['Content-Type'] == 'application/json'
    assert (
        answer.text
        == f'{{"snapshot": {{"id": null, "volumeId": "{volume_id}"}}}}'
    )
    (message,) = plain_nova.messages(volume_id)
    assert message.server == 'compute-1'
    assert message.method == 'volume_snapshot_create'
    instance = message.arguments.pop('instance')
    assert instance['nova_object.data']['uuid'] == instance_id
    assert message.arguments == {
        'volume_id': volume_id,
        'create_info': {
            'snapshot_id': SNAPSHOT,
            'type': 'qcow2',
            'new_file': f'volume-{volume_id}.{SNAPSHOT}',
        },
    }


def test_the_id_of_create_info_is_handed_back(
    client: Client, volume_id: str
) -> None:
    answer = client.create(volume_id, id=SNAPSHOT)
    assert answer.json()['snapshot']['id'] == SNAPSHOT


@pytest.mark.parametrize('target', [None, 'base'])
def test_delete_is_answered_and_cast(
    target: str | None, client: Client, plain_nova: NovaAPI, volume_id: str
) -> None:
    answer = client.merge(volume_id, target)

    assert (answer.status_code, answer.content) == (204, b'')
    assert answer.headers['Content-Type'] == 'application/json'
    assert answer.headers['Content-Length'] == '0'
    (message,) = plain_nova.messages(volume_id)
    assert (message.server, message.method) == (
        'compute-1',
        'volume_snapshot_delete',
    )
    del message.arguments['instance']
    assert message.arguments == {
        'volume_id': volume_id,
        'snapshot_id': SNAPSHOT,
        'delete_info': merge_info(volume_id, target),
    }


@pytest.mark.parametrize('role', ['a-service', 'an-admin'])
def test_two_roles_may(role: str, plain_nova: NovaAPI, volume_id: str) -> None:
    token = f'token-of-{role}'
    assert Client(plain_nova.url, token).create(volume_id).status_code == 200


@pytest.mark.parametrize('token', ['token-of-a-member', 'token-without-role'])
def test_others_may_not(
    token: str, plain_nova: NovaAPI, volume_id: str
) -> None:
    client = Client(plain_nova.url, token)
    rule = 'os_compute_api:os-assisted-volume-snapshots'
    for action, answer in (
        ('create', client.create(volume_id)),
        ('delete', client.merge(volume_id)),
    ):
        message = f"Policy doesn't allow {rule}:{action} to be performed."
        _assert_fault(answer, 403, 'forbidden', message)
    assert plain_nova.messages(volume_id) == []


def test_without_a_token(plain_nova: NovaAPI, volume_id: str) -> None:
    answer = Client(plain_nova.url, 'unknown').create(volume_id)
    assert answer.status_code == 401
    assert answer.json()['error']['title'] == 'Unauthorized'
    assert answer.headers['WWW-Authenticate'].startswith('Keystone uri=')


def test_a_volume_that_no_server_uses(client: Client) -> None:
    message = f'No volume Block Device Mapping with id {SNAPSHOT}.'
    _assert_refused(client.create(SNAPSHOT), message)
    _assert_refused(client.merge(SNAPSHOT), message)


def test_a_server_in_another_cell(
    client: Client, plain_nova: NovaAPI, nova: Nova
) -> None:
    """Those that failed to be scheduled are in cell0."""
    instance_id = nova.create_instance(cell='cell0', host=None)
    volume_id = nova.attach(instance_id)
    message = f'Instance {instance_id} is not ready'
    _assert_refused(client.create(volume_id), message)
    _assert_refused(client.merge(volume_id), message)
    assert plain_nova.messages(volume_id) == []


def test_a_server_that_is_being_worked_on(
    client: Client, plain_nova: NovaAPI, nova: Nova
) -> None:
    instance_id = nova.create_instance(task_state='resize_prep')
    volume_id = nova.attach(instance_id)
    message = (
        f'Instance {instance_id} in task_state resize_prep. Cannot '
        'do_volume_snapshot_{} while the instance is in this state.'
    )
    _assert_refused(client.create(volume_id), message.format('create'))
    _assert_refused(client.merge(volume_id), message.format('delete'))
    assert plain_nova.messages(volume_id) == []

    nova.change_instance(instance_id, task_state=None)
    assert client.create(volume_id).status_code == 200


def test_a_server_that_was_never_launched(client: Client, nova: Nova) -> None:
    instance_id = nova.create_instance(launched=False)
    volume_id = nova.attach(instance_id)
    message = (
        f'Instance {instance_id} in launched_at None. Cannot '
        'do_volume_snapshot_create while the instance is in this state.'
    )
    _assert_refused(client.create(volume_id), message)


@pytest.mark.parametrize(
    'vm_state', ['paused', 'suspended', 'stopped', 'rescued', 'error']
)
def test_w03_any_state_but_for_a_commit(
    vm_state: str, client: Client, plain_nova: NovaAPI, nova: Nova
) -> None:
    instance_id = nova.create_instance(vm_state=vm_state)
    volume_id = nova.attach(instance_id)

    assert client.create(volume_id).status_code == 200
    assert client.merge(volume_id).status_code == 204
    assert len(plain_nova.messages(volume_id)) == 2

    _assert_refused(
        client.merge(volume_id, 'base'),
        f'Instance {instance_id} in vm_state {vm_state}. Cannot '
        'volume_snapshot_delete while the instance is in this state.',
    )
    assert len(plain_nova.messages(volume_id)) == 2


def test_w04_a_host_that_is_down(
    client: Client, plain_nova: NovaAPI, nova: Nova
) -> None:
    host = nova.create_host('compute-down', up=False)
    admin = Client(plain_nova.url, 'token-of-an-admin')
    services = admin.send('GET', '/v2.1/os-services').json()
    states = {one['host']: one['state'] for one in services['services']}
    assert (states['compute-1'], states[host]) == ('up', 'down')
    volume_id = nova.attach(nova.create_instance(host=host))
    assert client.create(volume_id).status_code == 200
    assert client.merge(volume_id).status_code == 204
    assert [one.server for one in plain_nova.messages(volume_id)] == [host] * 2


def test_w10_a_repeat_is_cast_again(
    client: Client, plain_nova: NovaAPI, volume_id: str
) -> None:
    assert client.create(volume_id).text == client.create(volume_id).text
    first, second = plain_nova.messages(volume_id)
    assert first == second


@pytest.mark.parametrize('new_file', ['/etc/passwd', '../../root', 'a/b', '.'])
def test_w12_any_path_as_new_file(
    new_file: str, client: Client, plain_nova: NovaAPI, volume_id: str
) -> None:
    assert client.create(volume_id, new_file=new_file).status_code == 200
    (message,) = plain_nova.messages(volume_id)
    assert message.arguments['create_info']['new_file'] == new_file


@pytest.mark.parametrize('delete_info', [[], 5, None, 'text', True])
def test_w13_a_delete_info_that_is_no_object(
    delete_info: Any, client: Client, nova: Nova
) -> None:
    _assert_broken(client.delete(json.dumps(delete_info)), 'TypeError', nova)


@pytest.mark.parametrize('kind', ['multi-attach', 'stale'])
def test_w14_w21_a_second_mapping(
    kind: str, client: Client, plain_nova: NovaAPI, nova: Nova
) -> None:
    """Of another server, or left over from the same one."""
    instance_id = nova.create_instance()
    volume_id = nova.attach(instance_id)
    if kind == 'multi-attach':
        instance_id = nova.create_instance()
    nova.attach(instance_id, volume_id)

    _assert_refused(
        client.create(volume_id),
        f'Block Device Mapping {volume_id} is a multi-attach volume and is '
        'not valid for this operation.',
    )
    _assert_broken(
        client.merge(volume_id), 'nova.exception.VolumeBDMIsMultiAttach', nova
    )
    assert plain_nova.messages(volume_id) == []


def test_w15_what_else_is_not_found(client: Client, nova: Nova) -> None:
    """Not our envelope at DELETE, and no 404 at POST."""
    host = 'fails-with-CellMappingNotFound'
    volume_id = nova.attach(nova.create_instance(host=host))

    _assert_broken(
        client.create(volume_id), 'nova.exception.CellMappingNotFound', nova
    )
    answer = client.merge(volume_id)
    assert answer.status_code == 404
    assert answer.headers['Content-Type'] == 'text/plain; charset=UTF-8'
    assert answer.headers['OpenStack-API-Version'] == 'compute 2.1'
    assert answer.text.startswith('404 Not Found\n\n')

    answer = client.delete(merge_info(volume_id), Accept='application/json')
    assert answer.status_code == 404
    assert answer.json()['code'] == '404 Not Found'


def test_w16_a_volume_id_of_any_type(client: Client, nova: Nova) -> None:
    message = 'No volume Block Device Mapping with id {}.'
    _assert_refused(client.delete({'volume_id': 5}), message.format(5))
    _assert_broken(
        client.delete({'volume_id': []}), 'oslo_db.exception.DBError', nova
    )


def test_w16_a_volume_id_of_null_is_any_disk_that_is_no_volume(
    client: Client, plain_nova: NovaAPI, nova: Nova
) -> None:
    """Root disks have no volume: one of them is found, and asked for."""
    delete_info = {'volume_id': None}
    with nova.local_disk(nova.create_instance()):
        assert client.delete(delete_info).status_code == 204
        (message,) = plain_nova.messages(None)
        assert message.method == 'volume_snapshot_delete'

        with nova.local_disk(nova.create_instance()):
            _assert_broken(
                client.delete(delete_info),
                'nova.exception.VolumeBDMIsMultiAttach',
                nova,
            )


def test_w17_refused_after_it_was_cast(nova: Nova) -> None:
    options = {'api.response_validation': 'error'}
    with nova.serving(options=options, tokens=nova.tokens()) as api:
        volume_id = nova.attach(nova.create_instance(), f'{uuid.uuid4()}-x')
        answer = Client(api.url).create(volume_id)
        assert answer.status_code == 400, answer.text
        assert len(api.messages(volume_id)) == 1


@pytest.mark.parametrize(
    'body',
    [b'\xff\xfe', b'[' * 50000 + b']' * 50000],
    ids=['not-utf-8', 'nested'],
)
def test_w18_bodies_that_break_the_parser(body: bytes, client: Client) -> None:
    _assert_fault(client.post(body), 500, 'computeFault', INCAPABLE)


def test_w20_messages_that_say_little(client: Client) -> None:
    _assert_refused(client.delete({}), "'volume_id'")
    answer = client.send('DELETE', f'/v2.1{PATH}/any')
    _assert_refused(answer, "'delete_info'")
    assert 'required' not in answer.text
    answer = client.delete('')
    _assert_refused(answer, 'Expecting value: line 1 column 1 (char 0)')


def test_request_ids_and_versions(client: Client, volume_id: str) -> None:
    answer = client.create(volume_id)
    request_id = answer.headers['x-compute-request-id']
    assert re.fullmatch(r'req-[0-9a-f-]{36}', request_id)
    assert answer.headers['x-openstack-request-id'] == request_id
    assert answer.headers['OpenStack-API-Version'] == 'compute 2.1'
    assert answer.headers['Vary'] == (
        'OpenStack-API-Version, X-OpenStack-Nova-API-Version'
    )
