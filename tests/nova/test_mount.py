# SPDX-License-Identifier: Apache-2.0
"""Our distribution beside Nova's, and our filter in Nova's pipelines: who
answers what. What we answer to our own requests is tested elsewhere.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

from tests.fixtures.nova_plugin import paste_with, plugin_virtualenv
from tests.fixtures.servers import ServerFailed, server_environment
from tests.nova.client import PATH, Client, merge_info

if TYPE_CHECKING:
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.nova import Nova, NovaAPI

pytest_plugins = ['tests.fixtures.nova']

FILTERS = {
    'nova_ext_context': 'use = egg:nova_ext#context\nstrategy = keystone',
    'nova_ext': 'use = egg:nova_ext#assisted_volume_snapshots',
}
PROJECT = '/6f70656e737461636b20636f6d707574'
LIST = (
    'import importlib.metadata as m, json, sys\n'
    'print(json.dumps([d.name for d in m.distributions()\n'
    '    if str(d.locate_file("")).startswith(sys.prefix)]))'
)


@pytest.fixture(scope='module')
def bin(nova: Nova, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the virtualenv with both."""
    return plugin_virtualenv(nova.bin, tmp_path_factory.mktemp('plugin'))


@pytest.fixture(scope='module')
def paste(nova: Nova, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nova's, and our filter in it."""
    path = tmp_path_factory.mktemp('paste') / 'api-paste.ini'
    return paste_with(nova.shipped_paste, path, FILTERS)


@pytest.fixture(scope='module')
def mounted(bin: Path, paste: Path, nova: Nova) -> Iterator[NovaAPI]:
    """Nova's API with our filter, behind which there is no agent."""
    tokens = [nova.token('token-of-a-service', 'service')]
    options = {'nova_ext_agent.state_dir': str(paste.parent)}
    with nova.serving(paste, options, tokens, bin) as api:
        yield api


def test_nova_has_all_that_we_need(bin: Path) -> None:
    """And nothing of Nova's is replaced by another version."""
    listed = subprocess.run(
        [bin / 'python', '-I', '-c', LIST],
        stdout=subprocess.PIPE,
        env=server_environment(),
        check=True,
    ).stdout
    assert json.loads(listed) == ['nova_ext']


def test_nova_alone_has_no_filter_of_ours(nova: Nova, paste: Path) -> None:
    with pytest.raises(ServerFailed, match='nova_ext'):
        with nova.serving(paste, tokens=[]):
            pytest.fail('it started where nova_ext is not')


def test_our_requests_are_answered_by_us(mounted: NovaAPI, nova: Nova) -> None:
    volume_id = nova.attach(nova.create_instance())
    client = Client(mounted.url)
    for answer in (client.create(volume_id), client.merge(volume_id)):
        assert answer.status_code == 503
        assert 'Start nova-ext-agent' in answer.text
    assert mounted.messages(volume_id) == []


@pytest.mark.parametrize(
    ('method', 'path'),
    [
        ('GET', '/'),
        ('GET', '/v2.1/'),
        ('GET', '/v2.1/flavors'),
        ('GET', '/v2/flavors'),
        ('POST', '/v2.1/flavors'),
        ('GET', '/v2.1/servers/nothing'),
        ('GET', '/v2.1/nothing'),
        ('OPTIONS', '/v2.1/flavors'),
        ('GET', f'/v2.1{PATH}'),
        ('PUT', f'/v2.1{PATH}/s'),
    ],
)
def test_other_requests_are_answered_by_nova(
    method: str, path: str, mounted: NovaAPI, plain_nova: NovaAPI
) -> None:
    ours, novas = (
        Client(api.url).send(method, path) for api in (mounted, plain_nova)
    )
    changing = {'date', 'x-openstack-request-id', 'x-compute-request-id'}

    def headers(answer: requests.Response) -> dict[str, str]:
        return {
            name: value.replace(mounted.url, plain_nova.url)
            for name, value in answer.headers.items()
            if name.lower() not in changing
        }

    assert ours.status_code == novas.status_code
    assert ours.text.replace(mounted.url, plain_nova.url) == novas.text
    assert headers(ours) == headers(novas)


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
    """To each of these Nova snapshots or merges without any of our guards."""
    # TODO: fails where the path ends in a line break, or is not UTF-8: our
    # router matches neither and hands it on to Nova's, which matches both.
    volume_id = nova.attach(nova.create_instance())
    for api in (plain_nova, mounted):
        client = Client(api.url)
        if method == 'POST':
            client.create(volume_id, mount + path)
        else:
            client.delete(merge_info(volume_id), mount + path)
    assert len(plain_nova.messages(volume_id)) == 1
    assert mounted.messages(volume_id) == []
