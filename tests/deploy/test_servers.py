# SPDX-License-Identifier: Apache-2.0
"""Each WSGI server of the page on deployment serves us as it is configured
there: every answer of the gabbi files, and the application itself.
"""

from __future__ import annotations

import json
import pathlib
import urllib.error
import urllib.request
from collections.abc import Callable

import bcrypt
import pytest

from tests.deploy.servers import MODULE, Started, starting
from tests.fixtures.gabbi_run import FILES, failures, gabbi_run
from tests.fixtures.serve import write_config
from tests.functional import fixtures

SERVERS: dict[str, Callable[..., str]] = {
    'gunicorn': Started.gunicorn,
    'uwsgi': Started.uwsgi,
    'mod_wsgi': Started.mod_wsgi,
}
GABBI_APPLICATION = 'tests.deploy.application:application'
BODY = {
    'snapshot': {
        'volume_id': 'v',
        'create_info': {
            'snapshot_id': 's',
            'type': 'qcow2',
            'new_file': 'v.s',
        },
    }
}


@pytest.mark.parametrize('name', SERVERS)
def test_each_answer_is_as_it_must_be(
    name: str, tmp_path: pathlib.Path
) -> None:
    with starting(tmp_path) as started:
        url = SERVERS[name](started, GABBI_APPLICATION)
        run = gabbi_run(url, FILES, fixtures.ENVIRONMENT)
    assert failures(run) == []
    assert run.returncode == 0, run.stdout
    assert run.stdout.count('✓') > 200


def _ask(
    url: str, password: str | None, body: object = None
) -> tuple[int, str]:
    request = urllib.request.Request(url)
    if password:
        request.add_header('Authorization', f'Basic {password}')
    if body:
        request.data = json.dumps(body).encode()
        request.add_header('Content-Type', 'application/json')
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def _config(directory: pathlib.Path) -> str:
    users = directory / 'htpasswd'
    digest = bcrypt.hashpw(b'secret', bcrypt.gensalt(4)).decode()
    users.write_text(f'cinder:{digest}\n')
    return str(
        write_config(
            directory / 'nova_ext.conf',
            {
                'DEFAULT': {
                    'log_file': directory / 'nova_ext.log',
                    'watch_log_file': True,
                },
                'nova_ext': {'auth_strategy': 'http_basic'},
                'nova_ext_agent': {'state_dir': directory},
                'oslo_middleware': {'http_basic_auth_user_file': users},
            },
        )
    )


@pytest.mark.parametrize('name', SERVERS)
def test_the_application_reads_its_configuration(
    name: str, tmp_path: pathlib.Path
) -> None:
    with starting(tmp_path) as started:
        url = SERVERS[name](
            started, MODULE, OS_NOVA_EXT_CONFIG_FILES=_config(tmp_path)
        )
        resource = f'{url}/v2.1/os-assisted-volume-snapshots'
        status, text = _ask(f'{url}/v2.1', None)
        assert status == 200
        href = json.loads(text)['version']['links'][0]['href']
        assert href == f'{url}/v2.1/'
        assert _ask(resource, None, BODY)[0] == 401
        # cinder:secret, and cinder:wrong.
        assert _ask(resource, 'Y2luZGVyOndyb25n', BODY)[0] == 401
        status, text = _ask(resource, 'Y2luZGVyOnNlY3JldA==', BODY)
        assert status == 503
        assert 'Start nova-ext-agent' in text
        assert _ask(f'{url}/healthcheck', None)[0] == 503


def test_a_log_that_was_moved_away_is_left(tmp_path: pathlib.Path) -> None:
    with starting(tmp_path) as started:
        url = started.gunicorn(
            MODULE, OS_NOVA_EXT_CONFIG_FILES=_config(tmp_path)
        )
        log = tmp_path / 'nova_ext.log'
        resource = f'{url}/v2.1/os-assisted-volume-snapshots'
        assert _ask(f'{resource}?first', None, BODY)[0] == 401
        moved = log.rename(tmp_path / 'nova_ext.log.1')
        assert _ask(f'{resource}?second', None, BODY)[0] == 401
        assert '?first' in moved.read_text()
        assert '?second' not in moved.read_text()
        assert '?second' in log.read_text()
