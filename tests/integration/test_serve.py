# SPDX-License-Identifier: Apache-2.0
"""nova-ext-serve with its own libvirtd: start, refusals to start, and end."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from tests.fixtures.serve import serving, start, write_config

NOAUTH = {
    'nova_ext': {'auth_strategy': 'noauth'},
    'nova_ext_agent': {'reports': 'none'},
}


def _children(pid: int) -> set[int]:
    found: set[int] = set()
    for task in pathlib.Path(f'/proc/{pid}/task').glob('*/children'):
        for child in map(int, task.read_text().split()):
            found |= {child} | _children(child)
    return found


def test_health_names_the_agent_and_nothing_is_left_behind(
    tmp_path: pathlib.Path,
) -> None:
    with serving(tmp_path, NOAUTH, '--private-libvirtd') as served:
        base = served.url.removesuffix('/v2.1')
        with urllib.request.urlopen(f'{base}/healthcheck') as answer:
            assert b'0 jobs under way' in answer.read()
        with urllib.request.urlopen(served.url) as answer:
            version = json.load(answer)['version']
        assert version['links'][0]['href'] == f'{served.url}/'
        started = _children(served.process.pid)
        # The agent, the keeper of libvirtd, and libvirtd.
        assert len(started) >= 3
    assert served.process.returncode == 0
    assert not [pid for pid in started if os.path.exists(f'/proc/{pid}/exe')]


def test_it_does_not_stay_without_its_agent(tmp_path: pathlib.Path) -> None:
    with serving(tmp_path, NOAUTH, '--private-libvirtd') as served:
        (agent,) = (
            pid
            for pid in _children(served.process.pid)
            if b'nova_ext.cmd.agent'
            in pathlib.Path(f'/proc/{pid}/cmdline').read_bytes()
        )
        os.kill(agent, signal.SIGKILL)
        assert served.process.wait(30) == 1
    assert 'The agent ended with status -9' in served.log.read_text()


def test_a_killed_service_takes_its_children_along(
    tmp_path: pathlib.Path,
) -> None:
    with serving(tmp_path, NOAUTH, '--private-libvirtd') as served:
        started = _children(served.process.pid)
        served.process.kill()
        served.process.wait(10)
        deadline = time.monotonic() + 30
        while any(os.path.exists(f'/proc/{pid}/exe') for pid in started):
            assert time.monotonic() < deadline, started
            time.sleep(0.1)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (
            {'nova_ext': {'auth_strategy': 'noauth', 'host': '0.0.0.0'}},
            'only a loopback address may be listened on',
        ),
        (
            {'nova_ext': {'auth_strategy': 'noauth', 'port': 0}},
            'the agent ended with status 1',
        ),
    ],
)
def test_it_says_why_it_does_not_start(
    tmp_path: pathlib.Path, options: dict[str, dict[str, object]], words: str
) -> None:
    options['nova_ext_agent'] = {'state_dir': tmp_path}
    config = write_config(tmp_path / 'nova_ext.conf', options)
    result = start(config)
    assert result.returncode == 1
    assert (result.stdout + result.stderr).count(words) == 1


def _agent(config: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """An agent that cannot start."""
    return subprocess.run(
        [sys.executable, '-m', 'nova_ext.cmd.agent', '--config-file', config],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({}, 'Set [nova_ext_agent] reports to "cinder"'),
        (
            {'reports': 'none', 'libvirt_uri': 'qemu+ssh://other/system'},
            'other is not this machine',
        ),
        (
            {
                'reports': 'none',
                'libvirt_uri': 'qemu+unix:///session?socket=/',
            },
            'cannot be reached',
        ),
        (
            {'reports': 'none', 'libvirt_uri': 'test:///default'}
            | {'socket': '/proc/agent.sock'},
            '[nova_ext_agent] socket /proc/agent.sock cannot be used',
        ),
    ],
)
def test_the_agent_says_why_it_does_not_start(
    tmp_path: pathlib.Path, options: dict[str, object], words: str
) -> None:
    config = write_config(
        tmp_path / 'nova_ext.conf',
        {'nova_ext_agent': {'state_dir': tmp_path, **options}},
    )
    result = _agent(config)
    assert result.returncode == 1
    assert (result.stdout + result.stderr).count(words) == 1


def test_who_starts_an_agent_that_logs_to_a_file_is_told(
    tmp_path: pathlib.Path,
) -> None:
    log = tmp_path / 'log'
    config = write_config(
        tmp_path / 'nova_ext.conf',
        {
            'DEFAULT': {'log_file': log},
            'nova_ext_agent': {'state_dir': tmp_path},
        },
    )
    result = _agent(config)
    assert result.returncode == 1
    for text in (log.read_text(), result.stderr):
        assert text.count('Set [nova_ext_agent] reports to "cinder"') == 1


def test_one_state_directory_has_one_agent(tmp_path: pathlib.Path) -> None:
    with serving(tmp_path, NOAUTH, '--private-libvirtd'):
        result = _agent(tmp_path / 'nova_ext.conf')
    assert result.returncode == 1
    assert 'another agent uses' in (tmp_path / 'nova_ext.log').read_text()
