# SPDX-License-Identifier: Apache-2.0
"""The demo as the README has it run: what it shows and that it cleans up."""

from __future__ import annotations

import pathlib
import re
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
