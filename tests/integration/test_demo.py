# SPDX-License-Identifier: Apache-2.0
"""The demo as the README has it run: what it shows and that it cleans up."""

from __future__ import annotations

import pathlib
import re
import signal
import subprocess
import sys


def _leftovers() -> set[str]:
    return {
        path.name
        for path in pathlib.Path('/tmp').iterdir()
        if path.name.startswith('nova-ext-')
    }


def test_the_demo_shows_the_switch_and_loses_nothing() -> None:
    before = _leftovers()
    result = subprocess.run(
        [sys.executable, '-m', 'nova_ext.cmd.demo'],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    *shown, last = result.stdout.splitlines()
    match = re.fullmatch(
        r'guest records: (\d+) before, (\d+) after, 0 lost', last
    )
    assert match
    assert 0 < int(match[1]) < int(match[2])
    overlay = [line for line in shown if '=>' in line][-1]
    assert '(qcow2)   <- the guest writes here' in overlay
    assert '(raw)   read only' in shown[shown.index(overlay) + 1]
    # Into a pipe no colours and no bars go.
    assert '\033' not in result.stdout
    assert '\r' not in result.stdout
    assert _leftovers() <= before


def test_what_it_prints_to_go_on_with_can_be_pasted() -> None:
    before = _leftovers()
    with subprocess.Popen(
        [
            *('timeout', '--foreground', '120'),
            *(sys.executable, '-m', 'nova_ext.cmd.demo', '--stay'),
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout
        shown = []
        for line in demo.stdout:
            shown.append(line.strip())
            if line.startswith('   tail '):
                break
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
            if command.startswith(('cd ', 'curl ', 'tail '))
        ]
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 0
    statuses = [re.findall(r'^HTTP/\S+ (\d+)', one) for one in pasted]
    assert statuses == [[], ['200'], ['204'], []]
    assert 'Accepted' in pasted[-1]
    assert _leftovers() <= before
