# SPDX-License-Identifier: Apache-2.0
"""The page on data safety says what the matrix and the table say."""

from __future__ import annotations

import pathlib
import re

from tests.weaknesses import rows

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'api-ref' / 'source' / 'data-safety.rst').read_text('utf-8')

# The columns of the page, in their order, as backends of the table.
COLUMNS = ('libvirt', 'nova')


def _said(backend: str, row: int) -> str:
    if row in rows.OPEN.get(backend, {}):
        return 'open'
    if row in rows.IMPOSSIBLE.get(backend, {}):
        return 'cannot occur'
    return 'closed'


def test_each_weakness_is_listed_with_what_became_of_it() -> None:
    listed = {
        int(number): tuple(re.findall(r'^ {5}- (\S.*)$', rest, re.MULTILINE))
        for number, rest in re.findall(
            r'^ {3}\* - W(\d+)\n((?: {5}.*\n)+)', PAGE, re.MULTILINE
        )
    }
    assert {number: words[1:] for number, words in listed.items()} == {
        row: tuple(_said(backend, row) for backend in COLUMNS)
        for row in rows.ROWS
    }


def test_the_figures_are_those_of_the_readme() -> None:
    readme = ' '.join((ROOT / 'README.rst').read_text('utf-8').split())
    page = ' '.join(PAGE.split())
    for pattern in (
        r'\d+ points, 0 losses, 0 false reports',
        r'``libvirt`` \d+ of 32 closed, ``rpc`` \d+ of 32, ``nova`` \d+ of 32',
    ):
        assert re.findall(pattern, page) == re.findall(pattern, readme) != []


def test_the_figures_count_the_rows() -> None:
    for backend in (*COLUMNS, 'rpc'):
        closed = len(rows.ROWS) - len(rows.OPEN.get(backend, {}))
        assert re.search(rf'``{backend}`` {closed} of 32', PAGE)
