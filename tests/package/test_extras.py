# SPDX-License-Identifier: Apache-2.0
"""Each extra alone, in an environment that has nothing else."""

from __future__ import annotations

import pathlib
import re
import signal
import subprocess
import sys

import pytest

# Extra → what it brings, of all that is not for the plugin.
BRINGS = {
    '': set(),
    'libvirt': {'libvirt-python'},
    'metrics': {'prometheus-client'},
    # oslo.messaging wants the latter two itself.
    'rpc': {
        *('oslo-messaging', 'oslo-service', 'eventlet', 'prometheus-client'),
    },
}
OTHERS = set[str]().union(*BRINGS.values()) | {
    *('nova', 'eventlet', 'sqlalchemy', 'gabbi', 'pytest'),
}

CONFIG = """
[DEFAULT]
transport_url = rabbit://127.0.0.1:1/

[nova_ext]
auth_strategy = noauth
compute_api = {backend}

[nova_ext_cinder]
auth_type = none
endpoint = http://127.0.0.1:1/v3

[nova_ext_agent]
libvirt_uri = test:///default
state_dir = {directory}/state
socket = {directory}/agent.sock
reports = none
"""

ANSWER = """
from nova_ext.cmd.wsgi import application
import webob
print(webob.Request.blank('/').get_response(application).status)
"""


def _uv(*words: object) -> str:
    return subprocess.run(
        [sys.executable, '-m', 'uv', '--quiet', *map(str, words)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    ).stdout


@pytest.fixture(scope='module')
def environments(
    built: tuple[pathlib.Path, pathlib.Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, pathlib.Path]:
    """Extra → the programs of a virtualenv that has no other."""
    found = {}
    for extra in BRINGS:
        directory = tmp_path_factory.mktemp(f'x{extra}')
        _uv('venv', '--clear', '--python', sys.executable, directory)
        found[extra] = directory / 'bin'
        what = f'{built[1]}[{extra}]' if extra else built[1]
        _uv('pip', 'install', '--python', found[extra] / 'python', what)
    return found


def _run(*command: object, **environment: str) -> tuple[int, str]:
    run = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        env={'PATH': '/usr/bin:/bin', **environment},
    )
    return run.returncode, run.stdout


def _config(directory: pathlib.Path, backend: str) -> pathlib.Path:
    path = directory / f'{backend}.conf'
    path.write_text(CONFIG.format(backend=backend, directory=directory))
    return path


@pytest.mark.parametrize('extra', BRINGS)
def test_it_brings_what_it_needs_and_no_more(
    extra: str, environments: dict[str, pathlib.Path]
) -> None:
    python = environments[extra] / 'python'
    said = _uv('pip', 'freeze', '--python', python)
    names = {
        line.partition('==')[0].lower().replace('_', '-')
        for line in said.splitlines()
    }
    assert names & OTHERS == BRINGS[extra]
    _uv('pip', 'check', '--python', python)


def test_the_plugin_alone_answers(
    environments: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    config = str(_config(tmp_path, 'libvirt'))
    python = environments[''] / 'python'
    assert _run(python, '-c', ANSWER, OS_NOVA_EXT_CONFIG_FILES=config) == (
        0,
        '200 OK\n',
    )


@pytest.mark.parametrize('command', ['agent', 'demo', 'manage', 'serve'])
def test_each_command_says_how_it_is_used(
    command: str, environments: dict[str, pathlib.Path]
) -> None:
    status, said = _run(
        environments['libvirt'] / f'nova-ext-{command}', '--help'
    )
    assert status == 0
    assert said.startswith(f'usage: nova-ext-{command}')


def test_what_is_missing_is_named(
    environments: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    config = _config(tmp_path, 'rpc')
    programs = environments['']
    status, said = _run(programs / 'nova-ext-agent', f'--config-file={config}')
    assert status == 1
    assert said == (
        "nova-ext-agent cannot start: No module named 'libvirt'. Install "
        'nova_ext[libvirt].\n'
    )
    _, said = _run(
        *(programs / 'python', '-c', ANSWER),
        OS_NOVA_EXT_CONFIG_FILES=str(config),
    )
    assert 'compute_api is rpc' in said
    assert 'Install nova_ext[rpc]' in said


def test_an_agent_needs_the_extra_libvirt(
    environments: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    config = f'--config-file={_config(tmp_path, "libvirt")}'
    programs = environments['libvirt']
    with subprocess.Popen(
        ['timeout', '60', programs / 'nova-ext-agent', config],
        stdout=subprocess.PIPE,
        text=True,
    ) as agent:
        assert agent.stdout
        try:
            for line in agent.stdout:
                if re.search('Listening on .*agent.sock', line):
                    break
            assert _run(programs / 'nova-ext-manage', config, 'doctor')[0] == 0
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(30) == 0
        finally:
            agent.kill()


def test_an_api_for_many_hosts_needs_the_extra_rpc(
    environments: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    status, said = _run(
        *(environments['rpc'] / 'python', '-c', ANSWER),
        OS_NOVA_EXT_CONFIG_FILES=str(_config(tmp_path, 'rpc')),
    )
    assert status == 0, said
    assert said.endswith('\n200 OK\n')


def test_the_numbers_need_the_extra_metrics(
    environments: dict[str, pathlib.Path],
) -> None:
    command = 'import nova_ext.agent.metrics'
    python = environments['metrics'] / 'python'
    assert _run(python, '-c', command) == (0, '')
