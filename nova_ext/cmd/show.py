# SPDX-License-Identifier: Apache-2.0
"""What the commands print for people: colours and bars where they can be.

Into a pipe or a file plain lines go, and NO_COLOR is honoured.
"""

from __future__ import annotations

import json as json_module
import os
import re
import sys
import textwrap
import types
from collections.abc import Iterable

_BOLD, _GREEN, _RED, _BLUE, _DIM = '1', '32', '31', '36', '2'
_BAR = 30
_UUID = re.compile(r'([0-9a-f]{8})(-[0-9a-f]{4}){3}-[0-9a-f]{12}')


def _terminal() -> bool:
    return sys.stdout.isatty()


def _paint(text: str, code: str) -> str:
    if not _terminal() or 'NO_COLOR' in os.environ:
        return text
    return f'\033[{code}m{text}\033[0m'


def title(text: str) -> None:
    """The heading of a step."""
    print(f'\n{_paint(text, _BOLD)}', flush=True)


def line(text: str, indent: str = '   ') -> None:
    """One line of a step."""
    print(f'{indent}{text}', flush=True)


def command(text: str) -> None:
    """A command that can be pasted."""
    print(f'   {_paint(text, _BLUE)}', flush=True)


def json(value: object) -> None:
    """A document as it is on the wire, but easy to read."""
    text = json_module.dumps(value, indent=2)
    print(_paint(textwrap.indent(text, '   '), _DIM), flush=True)


def chain(text: str, layers: Iterable[tuple[str, str]]) -> None:
    """A backing chain, active layer first, one layer a line.

    :param layers: path and format of each; ids in the names are cut short
    """
    line(f'{text}:')
    arrow, note = '=>', '   <- the guest writes here'
    for depth, (path, layer_format) in enumerate(layers):
        name = _UUID.sub(r'\1..', os.path.basename(path))
        name = f'{name} ({layer_format})'
        line(
            f'{"   " * depth}{arrow} '
            f'{_paint(name, _DIM if depth else _GREEN)}{note}'
        )
        arrow, note = '└─', '   read only'


def result(text: str, good: bool) -> None:
    """The last line of a command."""
    print(f'\n{_paint(text, _GREEN if good else _RED)}', flush=True)


class Progress:
    """A bar that fills, on a terminal; elsewhere one line at the end.

    :param total: the value at which it is full
    """

    def __init__(self, text: str, total: int) -> None:
        self._text = text
        self._total = total
        self._done = 0

    def __enter__(self) -> Progress:
        return self

    def update(self, done: int) -> None:
        """Show that `done` of the total are reached."""
        self._done = min(done, self._total)
        if _terminal():
            filled = _BAR * self._done // self._total
            bar = '#' * filled + '.' * (_BAR - filled)
            print(f'\r   {self._state()} {bar}', end='', flush=True)

    def _state(self) -> str:
        return f'{self._text}: {self._done}/{self._total} records'

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        print('' if _terminal() else f'   {self._state()}', flush=True)
