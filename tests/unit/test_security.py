# SPDX-License-Identifier: Apache-2.0
"""The security page of the API reference, and rules that hold for all code.

What a defence does is tested where its test is, by the name on that page.
"""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
PAGE = TOP / 'api-ref' / 'source' / 'security.rst'
# For demos and tests: a guest and a libvirtd of our own.
SAMPLE = re.compile('sample|private')


def _named() -> list[str]:
    return re.findall(r'``(test_\w+)``', PAGE.read_text())


def _defined() -> set[str]:
    return {
        name
        for path in (TOP / 'tests').rglob('test_*.py')
        for name in re.findall(r'^def (test_\w+)\(', path.read_text(), re.M)
    }


def _code() -> Iterator[tuple[pathlib.Path, ast.AST]]:
    for room in ('agent', 'api', 'compute', 'virt', '.'):
        for path in (TOP / 'nova_ext' / room).glob('*.py'):
            if not SAMPLE.search(path.name):
                for node in ast.walk(ast.parse(path.read_text())):
                    yield path, node


def test_each_test_that_the_page_names_is_one() -> None:
    assert len(_named()) > 30
    assert set(_named()) - _defined() == set()


def test_each_attacker_has_a_defence_that_is_tested() -> None:
    sections = re.split(r'\n(.+)\n-{5,}\n', PAGE.read_text())[1:]
    assert len(sections) == 18
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        assert 'test_' in text, title


def test_each_defence_names_its_test() -> None:
    defences = re.split(r'^- ', PAGE.read_text(), flags=re.MULTILINE)[1:]
    assert len(defences) > 20
    for defence in defences:
        assert '``test_' in defence, defence


def test_no_program_is_run_by_the_agent() -> None:
    for path, node in _code():
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names}
            names.add(getattr(node, 'module', None) or '')
            assert not names & {'subprocess', 'pty', 'shutil'}, path
        if isinstance(node, ast.Attribute):
            # Nor is anything that QEMU's monitor says read.
            assert 'MonitorCommand' not in node.attr, path
            forbidden = r'system|popen|exec[lv]\w*|spawn\w*|posix_spawn\w*'
            assert not (
                isinstance(node.value, ast.Name)
                and node.value.id == 'os'
                and re.fullmatch(forbidden, node.attr)
            ), path


@pytest.mark.parametrize('kind', ['XML', 'pickle'])
def test_no_document_is_made_or_run_by_hand(kind: str) -> None:
    for path, node in _code():
        if kind == 'XML' and isinstance(node, ast.Constant):
            text = node.value if isinstance(node.value, str) else ''
            assert not re.match(r'\s*</?[a-z]+/?>', text), path
        if kind == 'pickle' and isinstance(node, ast.Name):
            assert node.id not in ('pickle', 'marshal', 'eval', 'exec'), path
