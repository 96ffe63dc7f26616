# SPDX-License-Identifier: Apache-2.0
"""What README.rst has a reader put into files, and make, does what it says."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import pytest
import webob
from keystonemiddleware import auth_token
from oslo_config import cfg
from paste import deploy

from nova_ext.compute import api as compute
from tests.fixtures import pages
from tests.fixtures.app import RecordingAPI, configured
from tests.functional import fixtures
from tests.functional.arbitrary import CREATE

# What a reader has already: his application, and filters of oslo.middleware.
_PASTE = f"""
[filter:cors]
use = egg:nova_ext#cors
[filter:request_id]
use = egg:nova_ext#request_id
[app:my_app]
paste.app_factory = {__name__}:my_app
"""


def my_app(global_conf: dict[str, str], **local_conf: str) -> Callable:
    def call(
        environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        start_response('200 OK', [])
        return [f'my_app {environ["PATH_INFO"]}'.encode()]

    return call


@pytest.fixture
def ask(tmp_path: pathlib.Path) -> Iterator[Callable[..., webob.Response]]:
    """Asks the pipeline of the README, less the filters that are named."""
    block = next(
        block.text
        for block in pages.blocks()
        if block.text.startswith('[pipeline:my_api]')
    )
    path = tmp_path / 'paste.ini'

    def call(method: str, url: str, *, less: str = '') -> webob.Response:
        path.write_text(block.replace(f' {less}\n', '\n') + _PASTE)
        app = deploy.loadapp(f'config:{path}', 'my_api')
        request = webob.Request.blank(url, method=method, json=CREATE)
        request.headers['X-Auth-Token'] = 'token-of-a-service'
        return request.get_response(app)

    RecordingAPI.calls = []
    with (
        fixtures.Tokens(),
        configured(fixtures.Keystone.options),
        mock.patch.object(compute, 'load', autospec=True) as load,
    ):
        load.side_effect = RecordingAPI
        yield call


def test_the_pipeline_of_the_readme_says_who_asks(
    ask: Callable[..., webob.Response],
) -> None:
    answer = ask('POST', '/os-assisted-volume-snapshots')
    assert answer.status_int == 200
    (call,) = RecordingAPI.calls
    assert call.context.roles == ['service']
    assert ask('GET', '/servers').text == 'my_app /servers'
    # Without the filter that must stand before ours.
    answer = ask(
        'POST', '/os-assisted-volume-snapshots', less='keystone_context'
    )
    assert answer.status_int == 500
    assert 'egg:nova_ext#context' in answer.json['computeFault']['message']
    assert len(RecordingAPI.calls) == 1


@pytest.mark.parametrize(
    ('program', 'generator', 'words'),
    [
        (
            'oslo-config-generator',
            'config-generator.conf',
            ['[nova_ext]', '[nova_ext_agent]', '[nova_ext_cinder]'],
        ),
        (
            'oslopolicy-sample-generator',
            'policy-generator.conf',
            ['os_compute_api:os-assisted-volume-snapshots:create'],
        ),
    ],
)
def test_the_samples_are_made_by_the_commands_of_the_readme(
    program: str, generator: str, words: list[str], tmp_path: pathlib.Path
) -> None:
    sample = tmp_path / 'sample'
    subprocess.run(
        [
            pathlib.Path(sys.executable).with_name(program),
            f'--config-file={pages.ROOT}/etc/nova_ext/{generator}',
            f'--output-file={sample}',
        ],
        check=True,
        timeout=60,
    )
    text = sample.read_text()
    for word in words:
        assert word in text
    # Nothing is set by it before an operator says so.
    assert re.findall(r'^(?!#|\[|$).*', text, re.MULTILINE) == []


def test_keystone_s_part_of_the_readme_lacks_nothing(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (text,) = (
        block.text
        for block in pages.blocks()
        if block.page == 'README.rst' and '[keystone_authtoken]' in block.text
    )
    path = tmp_path / 'nova_ext.conf'
    path.write_text(text)
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(path)])
    auth_token.AuthProtocol(my_app, {'oslo_config_config': conf})
    warnings = [
        r.getMessage() for r in caplog.records if r.levelname != 'INFO'
    ]
    # How tokens are cached is a matter of taste.
    assert [w for w in warnings if 'memcache' not in w] == []
