# SPDX-License-Identifier: Apache-2.0
"""Our stand-alone application in the process of nova-api, at a prefix of its
own. The filter in Nova's pipelines is in test_mount.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.nova.agents import ADMIN, REPLY_WAIT, Agent, claim, take_snapshot
from tests.nova.client import PATH, Client

if TYPE_CHECKING:
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.nova_cloud import Server

pytest_plugins = ['tests.fixtures.nova', 'tests.fixtures.rabbitmq']

# Whose urlmap → line of the shipped file → what stands there instead. APP is
# ours.
_URLMAPS = {
    'nova': (
        '/: oscomputeversions',
        '/: oscomputeversions\n/storage: APP',
    ),
    'paste': (
        '[composite:osapi_compute]',
        '[composite:osapi_compute]\nuse = egg:Paste#urlmap\n/: nova\n'
        '/storage: APP\n\n[composite:nova]',
    ),
}


@pytest.mark.parametrize('urlmap', _URLMAPS)
def test_it_answers_at_its_prefix_and_nova_at_its_own(
    urlmap: str, server: Server, agent: Agent, plugin: Path, tmp_path: Path
) -> None:
    nova = server.cloud.nova
    shipped = nova.shipped_paste.read_text().splitlines()
    line, mounted = _URLMAPS[urlmap]
    own = plugin.parent / 'etc' / 'nova_ext' / 'api-paste.ini'
    shipped[shipped.index(line)] = mounted.replace(
        'APP', f'config:{own}#nova_ext'
    )
    path = tmp_path / 'api-paste.ini'
    path.write_text('\n'.join(shipped))
    options = {
        'nova_ext_agent.reply_wait': REPLY_WAIT,
        'nova_ext_agent.socket': agent.socket,
    }
    with nova.serving(path, options, nova.tokens(), plugin) as served:
        ours = Client(f'{served.url}/storage', ADMIN)
        novas = Client(served.url, ADMIN)
        snapshot_id, name = take_snapshot(server, ours, agent)
        claim(server, agent, snapshot_id)
        assert server.chain() == [name, server.volume.name]

        for client in (ours, novas):
            document = client.send('GET', '/v2.1/').json()['version']
            assert document['links'][0]['href'] == f'{client.url}/v2.1/'
            answer = client.send('DELETE', f'/v2.1{PATH}/s')
            assert answer.status_code == 400
            # README.rst tells the two apart by it.
            said = answer.json()['badRequest']['message']
            assert ('is a required query parameter' in said) is (
                client is ours
            )
        assert server.id in novas.send('GET', '/v2.1/servers').text
        assert ours.send('GET', '/v2.1/servers').status_code == 404
        member = Client(ours.url, 'token-of-a-member')
        assert member.create(server.volume_id).status_code == 403
        assert Client(ours.url, 'none').create('v').status_code == 401
