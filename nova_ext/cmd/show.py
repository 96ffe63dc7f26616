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
import time
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


def _mib(size: float) -> str:
    return f'{size / (1 << 20):.1f}'


class Progress:
    """A bar that fills, on a terminal; elsewhere one line at the end.

    :param total: the value at which it is full
    :param unit: what is counted; of bytes rate and time left are shown
    """

    def __init__(self, text: str, total: int, unit: str = 'records') -> None:
        self._text = text
        self._total = total
        self._unit = unit
        self._done = 0
        self._first: tuple[float, int] | None = None

    def __enter__(self) -> Progress:
        return self

    def update(self, done: int, total: int | None = None) -> None:
        """Show that `done` of the total, which may change, are reached."""
        self._total = self._total if total is None else total
        self._done = min(done, self._total)
        self._first = self._first or (time.monotonic(), self._done)
        if _terminal():
            filled = _BAR * self._done // max(self._total, 1)
            bar = '#' * filled + '.' * (_BAR - filled)
            print(f'\r   {bar} {self._state()}\033[K', end='', flush=True)

    def _state(self) -> str:
        if self._unit != 'bytes':
            return f'{self._text}: {self._done}/{self._total} {self._unit}'
        state = f'{self._text}: {_mib(self._done)} of {_mib(self._total)} MiB'
        since, before = self._first or (0.0, 0)
        seconds = time.monotonic() - since
        if self._done > before and seconds > 0:
            rate = (self._done - before) / seconds
            left = (self._total - self._done) / rate
            state += f', {_mib(rate)} MiB/s, {left:.0f} s left'
        return state

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        print('' if _terminal() else f'   {self._state()}', flush=True)
