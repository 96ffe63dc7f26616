# SPDX-License-Identifier: Apache-2.0
"""Each client of the page does what the page says, as it stands there, and so
does the command in os-assisted-volume-snapshots.inc.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
import textwrap

import pytest
from openstack.compute.v2 import _proxy as compute_proxy

from tests.fixtures.app import RecordingAPI
from tests.fixtures.listening import listening
from tests.fixtures.pages import blocks
from tests.functional import fixtures

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'api-ref' / 'source' / 'clients.rst').read_text('utf-8')
PIECES = {
    name: (language, textwrap.dedent(code))
    for name, language, code in re.findall(
        r'^(\w+)\n={4,}\n(?:(?!^=).*\n)*?'
        r'\.\. code-block:: (\w+)\n\n((?: {3}.*\n|\n)+)',
        PAGE,
        re.MULTILINE,
    )
}
RUN = {'bash': ['bash', '-euc'], 'python': [sys.executable, '-c']}
NAMES = {
    'VOLUME': '521752a6-acf6-4b2d-bc7a-119f9148cd8c',
    'SNAPSHOT': '421752a6-acf6-4b2d-bc7a-119f9148cd8c',
    'NEW_FILE': 'volume-521752a6.421752a6',
}


def test_each_client_is_there() -> None:
    assert set(PIECES) == {'curl', 'novaclient', 'openstacksdk', 'Tempest'}


def test_the_sdk_has_no_method_for_it() -> None:
    methods = dir(compute_proxy.Proxy)
    assert 'create_server' in methods
    assert not [name for name in methods if 'assisted' in name]


def _run(
    name: str, url: str, **names: str
) -> subprocess.CompletedProcess[str]:
    language, code = PIECES[name]
    return subprocess.run(
        [*RUN[language], code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        env={
            **os.environ,
            **NAMES,
            'ENDPOINT': f'{url}/v2.1',
            'USERNAME': 'cinder',
            'PASSWORD': 'secret',
            'NO_PROXY': '*',
            **names,
        },
    )


@pytest.mark.parametrize('name', PIECES)
def test_it_says_why_it_was_refused(name: str) -> None:
    with fixtures.HttpBasic().running() as app, listening(app) as url:
        run = _run(name, url, NEW_FILE='../elsewhere')
        assert run.returncode != 0
        assert 'new_file' in run.stdout
        assert RecordingAPI.calls == []


@pytest.mark.parametrize('name', PIECES)
def test_it_makes_a_snapshot_and_deletes_it(name: str) -> None:
    with fixtures.HttpBasic().running() as app, listening(app) as url:
        run = _run(name, url)
        assert run.returncode == 0, run.stdout
        created, deleted = RecordingAPI.calls
    volume_id, create_info = created.arguments
    assert (created.method, volume_id) == ('create', NAMES['VOLUME'])
    assert create_info == {
        'snapshot_id': NAMES['SNAPSHOT'],
        'type': 'qcow2',
        'new_file': NAMES['NEW_FILE'],
    }
    volume_id, snapshot_id, delete_info = deleted.arguments
    assert (deleted.method, volume_id) == ('delete', NAMES['VOLUME'])
    assert snapshot_id == NAMES['SNAPSHOT']
    merge = {'type': 'qcow2', 'file_to_merge': None, 'merge_target_file': None}
    # What the page says of Tempest.
    rest = {} if name == 'Tempest' else merge
    assert delete_info == {'volume_id': NAMES['VOLUME'], **rest}


def test_the_command_of_the_reference_deletes_it() -> None:
    page = 'os-assisted-volume-snapshots.inc'
    (block,) = (b for b in blocks() if b.page == page and '$ curl' in b.text)
    samples = ROOT / 'api-ref' / 'source' / 'samples' / page[:-4]
    with fixtures.Keystone().running() as app, listening(app) as url:
        run = subprocess.run(
            [*RUN['bash'], block.text.replace('$ curl', 'curl --fail')],
            cwd=samples,
            capture_output=True,
            text=True,
            timeout=60,
            env={
                **os.environ,
                'COMPUTE': url,
                'TOKEN': fixtures.ENVIRONMENT['NOVA_EXT_TOKEN'],
                'PROJECT': fixtures.PROJECT_ID,
                'SNAPSHOT': NAMES['SNAPSHOT'],
                'NO_PROXY': '*',
            },
        )
        assert run.returncode == 0, run.stderr
        (deleted,) = RecordingAPI.calls
    sent = (samples / 'delete-info-commit.json').read_text()
    assert deleted.method == 'delete'
    assert deleted.arguments[2] == json.loads(sent)
