# SPDX-License-Identifier: Apache-2.0
"""The demo as the README has it run: what it shows and that it cleans up."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import requests


def _leftovers() -> set[str]:
    return {
        path.name
        for path in pathlib.Path('/tmp').iterdir()
        if path.name.startswith('nova-ext-')
    }


@contextlib.contextmanager
def _staying(
    end: Callable[[subprocess.Popen[bytes]], None],
) -> Iterator[list[str]]:
    """What it prints with --stay, up to its last command; then it stays."""
    with subprocess.Popen(
        [
            *('timeout', '--foreground', '120'),
            *(sys.executable, '-m', 'nova_ext.cmd.demo', '--stay'),
        ],
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as demo:
        assert demo.stdout
        lines = []
        # Else the carriage returns of a bar would be ends of lines.
        for line in io.TextIOWrapper(demo.stdout, newline='\n'):
            lines.append(line.removesuffix('\n'))
            if line.startswith('   tail '):
                break
        yield lines
        end(demo)
        assert demo.wait(60) == 0


@pytest.fixture(scope='module')
def shown() -> Iterator[list[str]]:
    before = _leftovers()
    with _staying(lambda demo: demo.send_signal(signal.SIGINT)) as lines:
        yield lines
    assert _leftovers() <= before


def test_a_terminal_that_closes_leaves_nothing() -> None:
    with _staying(lambda demo: os.killpg(demo.pid, signal.SIGHUP)) as lines:
        paths = re.findall('/tmp/n(?:ova-ext|x)-[^/]+', '\n'.join(lines[-2:]))
    assert len(paths) == 2
    assert not any(pathlib.Path(path).exists() for path in paths)


def test_its_service_is_left_to_the_demo_by_a_terminal_that_closes() -> None:
    """Or libvirtd would end under the demo, which ends the guest first."""

    def close(timeout: subprocess.Popen[bytes]) -> None:
        found = subprocess.run(
            ['pgrep', '-P', str(timeout.pid)],
            check=True,
            capture_output=True,
        )
        demo = int(found.stdout)
        # It is slow to hear it.
        os.kill(demo, signal.SIGSTOP)
        os.killpg(timeout.pid, signal.SIGHUP)
        try:
            began = time.monotonic()
            while time.monotonic() < began + 2.0:
                requests.get(f'{url}/healthcheck', timeout=10).close()
        finally:
            os.kill(demo, signal.SIGCONT)

    with _staying(close) as lines:
        url = next(
            found[0]
            for line in lines
            if (found := re.search(r'http://127\.0\.0\.1:\d+', line))
        )


def test_the_demo_shows_the_switch_and_loses_nothing(shown: list[str]) -> None:
    (counts,) = (line for line in shown if line.startswith('guest records'))
    match = re.fullmatch(
        r'guest records: (\d+) before, (\d+) after, 0 lost', counts
    )
    assert match
    assert 0 < int(match[1]) < int(match[2])
    overlay = [line for line in shown if '=>' in line][-1]
    assert '(qcow2)   <- the guest writes here' in overlay
    assert '(raw)   read only' in shown[shown.index(overlay) + 1]
    # Into a pipe no colours and no bars go.
    assert '\033' not in ''.join(shown)
    assert '\r' not in ''.join(shown)


def test_what_it_prints_to_go_on_with_can_be_pasted(shown: list[str]) -> None:
    commands = shown[shown.index('Go on from here (Ctrl-C ends all)') :]
    pasted = [
        subprocess.run(
            ['sh', '-c', command],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            timeout=60,
        ).stdout
        for command in commands
        if re.match(' *(cd|curl|tail|virsh) ', command)
    ]
    statuses = [re.findall(r'^HTTP/\S+ (\d+)', one) for one in pasted]
    assert statuses == [[], ['200'], ['204'], [], []]
    assert 'vda' in pasted[-2]
    assert 'Accepted' in pasted[-1]
