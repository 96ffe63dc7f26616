# SPDX-License-Identifier: Apache-2.0
"""Where the links of built pages lead; links to other sites are not followed.

What is done about a broken one is the business of ``build.py``.
"""

from __future__ import annotations

import html.parser
import pathlib
import urllib.parse

# Attributes whose value is a URL of another thing.
_LEADS = {('a', 'href'), ('img', 'src'), ('link', 'href'), ('script', 'src')}


class _Page(html.parser.HTMLParser):
    """The anchors of a page, and the links on it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors = {''}
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(
        self, tag: str, attrs: list[tuple[str, str | None]]
    ) -> None:
        for name, value in attrs:
            if name == 'id' or (tag, name) == ('a', 'name'):
                self.anchors.add(value or '')
            if (tag, name) in _LEADS and value is not None:
                self.links.add(value)


def broken(top: pathlib.Path) -> list[str]:
    """The links below `top` that lead nowhere, each after its page's name."""
    pages = {
        path.resolve(): _Page(path.read_text('utf-8'))
        for path in sorted(top.rglob('*.html'))
    }
    found = []
    for path, page in pages.items():
        for link in sorted(page.links):
            url = urllib.parse.urlsplit(link)
            if url.scheme or url.netloc:
                continue
            name = urllib.parse.unquote(url.path)
            target = (path.parent / name).resolve() if name else path
            anchor = urllib.parse.unquote(url.fragment)
            if target in pages:
                good = anchor in pages[target].anchors
            else:
                good = target.exists() and not anchor
            if not good:
                found.append(f'{path.name}: {link}')
    return found
