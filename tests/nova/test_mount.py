# SPDX-License-Identifier: Apache-2.0
"""Our distribution beside Nova's, and our filter in Nova's pipelines: who
answers what. What is refused there is in test_guards.py.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from keystoneauth1 import session, token_endpoint
from novaclient import client

from nova_ext.cmd import manage
from tests.fixtures import pages
from tests.fixtures.nova_plugin import paste_with
from tests.fixtures.servers import ServerFailed, server_environment
from tests.nova.client import PATH, Client, merge_info
from tests.nova.conftest import FILTER, NAME

if TYPE_CHECKING:
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.nova import Message, Nova, NovaAPI

pytest_plugins = ['tests.fixtures.nova']

_README = Path(__file__).parents[2] / 'README.rst'
PROJECT = '/6f70656e737461636b20636f6d707574'
LIST = (
    'import importlib.metadata as m, json, sys\n'
    'print(json.dumps([d.name for d in m.distributions()\n'
    '    if str(d.locate_file("")).startswith(sys.prefix)]))'
)


def test_nova_has_all_that_we_need(plugin: Path) -> None:
    """And nothing of Nova's is replaced by another version."""
    listed = subprocess.run(
        [plugin / 'python', '-I', '-c', LIST],
        stdout=subprocess.PIPE,
        env=server_environment(),
        check=True,
    ).stdout
    assert json.loads(listed) == ['nova_ext']


def test_the_request_of_the_readme_shows_whether_the_filter_answers(
    mounted: NovaAPI, plain_nova: NovaAPI
) -> None:
    (command,) = (
        block.text
        for block in pages.blocks()
        if block.page == 'README.rst' and 'curl -X DELETE' in block.text
    )
    found = []
    for api in (mounted, plain_nova):
        here = command.replace('http://HOST:8774', api.url)
        assert here != command
        answer = subprocess.run(
            ['sh', '-euc', here],
            env=server_environment(TOKEN='token-of-an-admin', NO_PROXY='*'),
            stdout=subprocess.PIPE,
            check=True,
            timeout=60,
        ).stdout
        fault = json.loads(answer)['badRequest']
        assert fault['code'] == 400
        found.append(fault['message'])
    ours, theirs = found
    assert ours.startswith("'delete_info' is a required query parameter")
    assert theirs == "'delete_info'"


def test_nova_alone_has_no_filter_of_ours(nova: Nova, paste: Path) -> None:
    with pytest.raises(ServerFailed, match='nova_ext'):
        with nova.serving(paste, tokens=[]):
            pytest.fail('it started where nova_ext is not')


def test_the_shipped_file_becomes_ours_by_the_lines_that_are_said(
    nova: Nova, paste: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert manage.main(['paste', 'check', str(nova.shipped_paste)]) == 1
    said = capsys.readouterr().out
    lines = [line.strip() for line in said.splitlines() if '    ' in line]
    shipped = nova.shipped_paste.read_text().splitlines()
    added = [
        line for line in paste.read_text().splitlines() if line not in shipped
    ]
    assert sorted({*lines} - {*shipped}) == sorted(added)
    assert manage.main(['paste', 'check', str(paste)]) == 0
    # Those of each release that is supported.
    readme = _README.read_text().splitlines()
    assert {*lines} <= {line.strip() for line in readme}


def test_our_requests_do_what_they_did(
    mounted: NovaAPI, plain_nova: NovaAPI, nova: Nova
) -> None:
    volume_id = nova.attach(nova.create_instance())
    for caller in (Client(mounted.url), Client(plain_nova.url)):
        assert caller.create(volume_id).status_code == 200
        for target in (None, 'base'):
            answer = caller.merge(volume_id, target)
            assert (answer.status_code, answer.content) == (204, b'')
    ours = mounted.messages(volume_id)
    assert len(ours) == 3
    novas = plain_nova.messages(volume_id)
    assert [_wire(message) for message in ours] == [
        _wire(message) for message in novas
    ]


def _wire(message: Message) -> tuple[object, ...]:
    message.arguments['instance'] = message.arguments['instance'][
        'nova_object.data'
    ]['uuid']
    return tuple(message)


@pytest.fixture(scope='module')
def gunicorn_alone(nova: Nova) -> Iterator[NovaAPI]:
    with nova.serving(tokens=nova.tokens(), gunicorn=True) as api:
        yield api


@pytest.fixture(scope='module')
def gunicorn(nova: Nova, paste: Path, plugin: Path) -> Iterator[NovaAPI]:
    with nova.serving(
        paste, tokens=nova.tokens(), bin=plugin, gunicorn=True
    ) as api:
        yield api


@pytest.mark.parametrize('server', ['mounted', 'gunicorn'])
def test_novaclient_finds_no_difference(
    server: str, nova: Nova, request: pytest.FixtureRequest
) -> None:
    mounted: NovaAPI = request.getfixturevalue(server)
    volume_id = nova.attach(nova.create_instance())
    service = client.Client(
        '2.1',
        session=session.Session(
            auth=token_endpoint.Token(
                f'{mounted.url}/v2.1', 'token-of-a-service'
            )
        ),
        endpoint_override=f'{mounted.url}/v2.1',
    )
    create_info = {'snapshot_id': 's', 'type': 'qcow2', 'new_file': 'file'}
    made = service.assisted_volume_snapshots.create(volume_id, create_info)
    assert (made.id, made.volumeId) == ('s', volume_id)
    service.assisted_volume_snapshots.delete('s', merge_info(volume_id))
    assert [message.method for message in mounted.messages(volume_id)] == [
        'volume_snapshot_create',
        'volume_snapshot_delete',
    ]


def test_policy_is_novas(mounted: NovaAPI, nova: Nova) -> None:
    volume_id = nova.attach(nova.create_instance())
    answer = Client(mounted.url, 'token-of-a-member').create(volume_id)
    assert answer.status_code == 403
    assert answer.json()['forbidden']['message'] == (
        "Policy doesn't allow os_compute_api:os-assisted-volume-snapshots:"
        'create to be performed.'
    )


def test_options_are_in_the_section_or_in_a_file_of_our_own(
    nova: Nova, plugin: Path, tmp_path: Path
) -> None:
    own = tmp_path / 'own.conf'
    own.write_text('[nova_ext_nova]\nrefuse_suspended = false\n')
    section = f'{FILTER}\nmax_microversion = 2.60\nconfig_file = {own}'
    path = tmp_path / 'api-paste.ini'
    paste_with(nova.shipped_paste, path, {NAME: section})
    volume_id = nova.attach(nova.create_instance(vm_state='suspended'))
    with nova.serving(path, tokens=nova.tokens(), bin=plugin) as api:
        caller = Client(api.url)
        assert caller.create(volume_id).status_code == 200
        answer = caller.send(
            'DELETE',
            f'/v2.1{PATH}/s',
            headers={'OpenStack-API-Version': 'compute 2.61'},
        )
        assert answer.status_code == 406
        assert 'maximum is 2.60' in answer.text


def test_a_guard_is_switched_off_in_the_section(
    nova: Nova, plugin: Path, tmp_path: Path
) -> None:
    path = tmp_path / 'api-paste.ini'
    section = f'{FILTER}\nrefuse_suspended = false'
    paste_with(nova.shipped_paste, path, {NAME: section})
    volume_id = nova.attach(nova.create_instance(vm_state='suspended'))
    with nova.serving(path, tokens=nova.tokens(), bin=plugin) as api:
        assert Client(api.url).create(volume_id).status_code == 200


def test_it_stands_behind_who_asks(
    nova: Nova, plugin: Path, tmp_path: Path
) -> None:
    text = nova.shipped_paste.read_text()
    path = tmp_path / 'api-paste.ini'
    path.write_text(
        text.replace(' keystonecontext', f' {NAME} keystonecontext')
        + f'\n[filter:{NAME}]\n{FILTER}\n'
    )
    with nova.serving(path, tokens=nova.tokens(), bin=plugin) as api:
        answer = Client(api.url).create('any')
        assert answer.status_code == 500
        assert 'it belongs behind it' in answer.text


@pytest.mark.parametrize(
    ('method', 'path', 'status'),
    [
        ('GET', '/', 200),
        ('GET', '/v2', 200),
        ('GET', '/v2/', 200),
        ('GET', '/v2.1', 200),
        ('GET', '/v2.1/', 200),
        ('GET', '/v2.1/flavors', 200),
        ('GET', '/v2/flavors', 200),
        ('GET', '/v2.1/servers', 200),
        ('GET', '/v2/servers', 200),
        ('POST', '/v2.1/flavors', 400),
        ('GET', '/v2.1/servers/nothing', 404),
        ('GET', '/v2.1/nothing', 404),
        ('OPTIONS', '/v2.1/flavors', 200),
        ('GET', f'/v2.1{PATH}', 404),
        ('PUT', f'/v2.1{PATH}/s', 404),
    ],
)
@pytest.mark.parametrize(
    'servers', [('plain_nova', 'mounted'), ('gunicorn_alone', 'gunicorn')]
)
def test_other_requests_are_answered_by_nova(
    method: str,
    path: str,
    status: int,
    servers: tuple[str, str],
    nova: Nova,
    request: pytest.FixtureRequest,
) -> None:
    instance_id = nova.create_instance()
    changing = {'date', 'x-openstack-request-id', 'x-compute-request-id'}

    def ask(server: str) -> tuple[int, bytes, dict[str, str]]:
        url = request.getfixturevalue(server).url
        # Else the links in the answers would differ.
        host = {'Host': 'nova.example.org'}
        answer = Client(url, 'token-of-an-admin').send(
            method, path, headers=host, allow_redirects=False
        )
        for name in changing & {*map(str.lower, answer.headers)}:
            del answer.headers[name]
        return answer.status_code, answer.content, {**answer.headers}

    novas, ours = map(ask, servers)
    assert ours == novas
    assert novas[0] == status
    if status == 200 and '/servers' in path:
        assert instance_id.encode() in novas[1]


@pytest.mark.parametrize('mount', ['/v2.1', '/v2'])
@pytest.mark.parametrize(
    ('method', 'path'),
    [
        ('POST', f'{PATH}%0A'),
        ('POST', f'{PROJECT}{PATH}%0A'),
        ('POST', f'/{PATH}'),
        ('POST', f'{PROJECT}/{PATH}'),
        ('DELETE', f'{PATH}/s%0A'),
        ('DELETE', f'{PATH}/%0A'),
        ('DELETE', f'{PATH}/s%0At'),
        ('DELETE', f'{PATH}/s%0D'),
        ('DELETE', f'{PATH}/%FF'),
        ('DELETE', f'{PATH}//s'),
        ('DELETE', f'{PROJECT}{PATH}/s%0A'),
    ],
)
def test_nothing_slips_past_us(
    method: str,
    path: str,
    mount: str,
    mounted: NovaAPI,
    plain_nova: NovaAPI,
    nova: Nova,
) -> None:
    """To each of these Nova snapshots or merges; our guards refuse it."""
    volume_id = nova.attach(nova.create_instance(vm_state='suspended'))
    for api in (plain_nova, mounted):
        client = Client(api.url)
        if method == 'POST':
            client.create(volume_id, mount + path)
        else:
            client.delete(merge_info(volume_id), mount + path)
    assert len(plain_nova.messages(volume_id)) == 1
    assert mounted.messages(volume_id) == []
