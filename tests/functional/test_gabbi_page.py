# SPDX-License-Identifier: Apache-2.0
"""The page about the gabbi files says what they are, and its commands run."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest
import yaml

from tests.fixtures.gabbi_run import FILES, GABBITS, gabbi_run
from tests.fixtures.listening import listening
from tests.functional import fixtures
from tests.nova.parity import listed

PAGE = (
    pathlib.Path(__file__).resolve().parents[2]
    / 'api-ref'
    / 'source'
    / 'gabbi.rst'
).read_text('utf-8')
PREFIX = 'NOVA_EXT_'
# Of Nova, of which the page gives the numbers of differences.
_RELEASE = 34
# What the commands of the page set.
MADE = {'NESTED', 'LARGEST', 'TOO_LARGE'}


def _rows() -> dict[str, list[str]]:
    """File → what its row says: checks, requests, variables, differences."""
    rows = re.findall(
        r'^ {3}\* - ``(\S+\.yaml)``\n((?: {5}.*\n)+)', PAGE, re.MULTILINE
    )
    return {
        name: [
            ' '.join(cell.split())
            for cell in re.split(r'^ {5}-(?: |$)', rest, flags=re.MULTILINE)
        ][1:]
        for name, rest in rows
    }


def _variables(text: str) -> set[str]:
    return set(re.findall(PREFIX + r'([A-Z_]+)', text))


def _expected(path: pathlib.Path) -> list[str]:
    text = path.read_text('utf-8')
    requests = yaml.safe_load(text)
    head = ' '.join(re.findall(r'^# ?(.*)$', text, re.MULTILINE))
    checks = re.match(r'.+?(?=[.:]\s)', head)
    assert checks
    asked = _variables(yaml.dump(requests))
    alone, filtered = (
        len(listed(_RELEASE, *lists).get(path.stem, ()))
        for lists in (('pipeline', 'resource'), ('pipeline',))
    )
    return [
        checks[0],
        str(len(requests['tests'])),
        ', '.join(f'``{name}``' for name in sorted(asked)),
        f'{alone}, {filtered}',
    ]


@pytest.mark.parametrize('path', FILES, ids=lambda path: path)
def test_the_page_says_what_a_file_checks_and_needs(path: str) -> None:
    file = pathlib.Path(path)
    assert _rows()[file.name] == _expected(file)


def test_the_page_lists_no_other() -> None:
    assert set(_rows()) == {pathlib.Path(path).name for path in FILES}


def test_the_page_explains_the_variables_that_there_are() -> None:
    explained = _variables(PAGE.partition('.. code-block::')[0])
    used = {
        name
        for path in FILES
        for name in _variables(pathlib.Path(path).read_text('utf-8'))
    }
    assert explained == used


def test_the_commands_of_the_page_run() -> None:
    """As they stand there, behind a front end that has a path."""
    (block,) = re.findall(r'code-block:: bash\n\n((?: {3}.*\n|\n)+)', PAGE)
    given = {
        name: value
        for name, value in fixtures.ENVIRONMENT.items()
        if name.removeprefix(PREFIX) not in MADE
    }
    with fixtures.Keystone().running() as app, listening(app) as url:
        run = subprocess.run(
            ['bash', '-euc', block],
            env={
                'PATH': f'{pathlib.Path(sys.executable).parent}:/usr/bin:/bin',
                'NO_PROXY': '*',
                'PYTHONUTF8': '1',
                'PYTHONPATH': os.pathsep.join(sys.path),
                'ENDPOINT': url,
                'GABBITS': str(GABBITS),
                **given,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding='utf-8',
            timeout=120,
        )
    assert run.returncode == 0, run.stdout
    harmless = sum(
        int(row[1])
        for name, row in _rows().items()
        if name not in ('create.yaml', 'delete.yaml')
    )
    assert run.stdout.count('✓') == harmless


def test_a_service_without_keystone_answers_401() -> None:
    with fixtures.HttpBasic().running() as app, listening(app) as url:
        run = gabbi_run(
            url, [str(GABBITS / 'policy.yaml')], fixtures.ENVIRONMENT
        )
    assert run.returncode == 1
    assert '✓' not in run.stdout
    assert run.stdout.count("'401'") >= int(_rows()['policy.yaml'][1])


@pytest.mark.parametrize('path', FILES, ids=lambda path: path)
def test_what_changes_nothing_is_never_let_in(path: str) -> None:
    """No request of a file that is called harmless is to be accepted."""
    file = pathlib.Path(path)
    document = yaml.safe_load(file.read_text('utf-8'))
    accepted = {
        test['name']
        for test in document['tests']
        for found in [{**document.get('defaults', {}), **test}]
        if 'POST' in found or 'DELETE' in found
        if str(found.get('status', 200)) in ('200', '204')
    }
    assert bool(accepted) is (file.name in ('create.yaml', 'delete.yaml'))
