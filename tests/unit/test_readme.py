# SPDX-License-Identifier: Apache-2.0
"""What README.rst tells a newcomer to run is what CI runs."""

from __future__ import annotations

import pathlib

ROOT = pathlib.Path(__file__).parents[2]
COMMANDS = (
    'sh .ci/setup && .venv/bin/tox -e demo',
    'sh .ci/setup && .venv/bin/tox',
)


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    readme = (ROOT / 'README.rst').read_text()
    ci = (ROOT / '.ci' / 'run').read_text().splitlines()
    for command in COMMANDS:
        assert f'::\n\n    {command}\n' in readme
        assert command in ci


def test_the_filters_of_the_readme_are_entry_points() -> None:
    readme = (ROOT / 'README.rst').read_text()
    setup = (ROOT / 'setup.cfg').read_text()
    for name in ('context', 'assisted_volume_snapshots'):
        assert f'egg:nova_ext#{name}' in readme
        assert f'    {name} = nova_ext.api.' in setup
