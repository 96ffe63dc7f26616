# SPDX-License-Identifier: Apache-2.0
"""Each sentence of README.rst and the API reference that states a fact has
something that shows it, by sentences.yaml.

Commands, figures and options have tests of their own, in test_documents.py.
"""

from __future__ import annotations

import ast
import functools
import pathlib
import re
import zlib

import pytest
import yaml

from tests.fixtures import pages
from tests.functional import backing, test_documents

RECORD = pathlib.Path(__file__).with_name('sentences.yaml')
SHOWN: dict[str, dict[str, str | list[str]]] = yaml.safe_load(
    RECORD.read_text('utf-8')
)
_WORDS = ('advice', 'definition')
_ELSEWHERE = ('by hand, ', 'documents of ')


def _key(page: str, paragraph: str) -> str:
    """What a paragraph has in sentences.yaml: a checksum, the first words.

    A figure may change, since what prints it is in backing.py.
    """
    said = re.sub(r'^(\.\. list-table:: )?(:[-\w]+: (\d+ )*)+', '', paragraph)
    for figure in backing.FIGURES.get(page, {}):
        said = said.replace(figure, '0')
    if page in backing.OF_ONE_COMMAND:
        said = re.sub(r'\d+', '0', said)
    first = re.findall(r"[\w'-]*\w", said)[:7]
    return f'{zlib.crc32(said.encode()):08x} {" ".join(first)}'


def _names_its_tests(paragraph: str) -> bool:
    return '``test_' in paragraph


def _difference(page: str, known: dict[str, str | list[str]]) -> list[str]:
    """What to do in sentences.yaml, in lines for who has changed a page."""
    now = dict.fromkeys(
        _key(page, paragraph)
        for paragraph in pages.paragraphs(page)
        if not _names_its_tests(paragraph)
    )
    old = {key.partition(' ')[2]: key for key in known if key not in now}
    lines = []
    for key in now:
        if key in known:
            continue
        before = old.pop(key.partition(' ')[2], None)
        if before:
            shown = known[before]
            lines += [
                f'changed: "{before}" is "{key}" now; see that it is shown by',
                *([shown] if isinstance(shown, str) else shown),
            ]
        else:
            lines.append(f'new: add "{key}" and the tests that show it')
    return lines + [f'gone: remove "{key}"' for key in old.values()]


@pytest.mark.parametrize('page', [*pages.PAGES, *pages.TABLES])
def test_each_sentence_has_what_shows_it(page: str) -> None:
    lines = _difference(page, SHOWN.get(page, {}))
    if lines:
        text = '\n  '.join([f'In {RECORD.name}, {page}:', *lines])
        pytest.fail(text, pytrace=False)


@pytest.mark.parametrize('page', ['README.rst', 'status.yaml'])
def test_a_sentence_that_changes_is_noticed(
    page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, *others = pages.paragraphs(page)
    changed = [f'{one} And more.', *others, 'Something new is promised.']
    monkeypatch.setattr(pages, 'paragraphs', lambda _: changed)
    first, *tests, second = _difference(page, SHOWN[page])
    assert first.startswith(f'changed: "{_key(page, one)}" is "')
    assert tests == SHOWN[page][_key(page, one)]
    assert re.match(r'new: add "[0-9a-f]{8} Something new', second)
    monkeypatch.setattr(pages, 'paragraphs', lambda _: others)
    (only,) = _difference(page, SHOWN[page])
    assert only == f'gone: remove "{_key(page, one)}"'


@functools.cache
def _tests_of(path: pathlib.Path) -> set[str]:
    """What pytest would collect, without what its imports need."""
    return {
        node.name
        for node in ast.parse(path.read_text('utf-8')).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith('test_')
    }


def _is_there(what: str) -> bool:
    if what.startswith('tox -e '):
        return f'testenv:{what.split()[2]}' in test_documents.TOX
    name, _, test = what.partition('::')
    path = pages.ROOT / name
    if test:
        return path.is_file() and test in _tests_of(path)
    return what.startswith('tests/') and path.suffix != '.py' and path.exists()


@pytest.mark.parametrize('page', SHOWN)
def test_what_shows_a_sentence_is_there(page: str) -> None:
    for key, shown in SHOWN[page].items():
        if isinstance(shown, str):
            assert shown in _WORDS or shown.startswith(_ELSEWHERE), key
            continue
        assert shown, key
        missing = [
            what
            for what in shown
            if not what.startswith(_ELSEWHERE) and not _is_there(what)
        ]
        assert missing == [], key
