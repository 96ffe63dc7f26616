# SPDX-License-Identifier: Apache-2.0
"""A link of the built documents that leads nowhere is found."""

from __future__ import annotations

import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location(
    'links', ROOT / 'api-ref' / 'links.py'
)
assert _spec and _spec.loader
links = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(links)

ONE = """<h1 id="top">One</h1><a name="old"></a>
<link href="style.css"><a href="#top">a</a><a href="#">b</a>
<a href="below/two.html#s%C3%A9">c</a><a href="https://example.org/#x">d</a>
"""


def _built(top: pathlib.Path, one: str) -> list[str]:
    (top / 'below').mkdir()
    (top / 'one.html').write_text(one, 'utf-8')
    (top / 'style.css').touch()
    (top / 'below' / 'two.html').write_text(
        '<p id="sé"><a href="../one.html#old">e</a>', 'utf-8'
    )
    return links.broken(top)


def test_nothing_is_said_of_links_that_lead_somewhere(
    tmp_path: pathlib.Path,
) -> None:
    assert _built(tmp_path, ONE) == []


@pytest.mark.parametrize(
    'link',
    [
        '#bottom',
        'three.html',
        'below/two.html#se',
        'other.css',
        'style.css#top',
    ],
)
@pytest.mark.parametrize('form', ['<a href="{}">', '<link href="{}">'])
def test_a_link_that_leads_nowhere_is_named(
    link: str, form: str, tmp_path: pathlib.Path
) -> None:
    found = _built(tmp_path, ONE + form.format(link))
    assert found == [f'one.html: {link}']
