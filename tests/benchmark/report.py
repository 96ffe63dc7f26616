# SPDX-License-Identifier: Apache-2.0
"""What was measured, as values and as tables.

Here: medians, ratios, goals and columns. Not here: how anything is measured,
and the picture, which is in picture.py.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence

_MILLISECONDS = 1000
_COLUMNS = ('', 'median', 'min', 'p90', 'ratio')


def middle(values: Sequence[float]) -> float:
    """The mean of the middle half: of what is known to a millisecond, where
    a median is no better, and some take long for the sake of others.
    """
    ordered = sorted(values)
    cut = len(ordered) // 4
    return statistics.mean(ordered[cut : len(ordered) - cut])


@dataclasses.dataclass(frozen=True)
class Goal:
    """A figure and what it shall be; most are ratios.

    :ivar limit: it shall be this at most, or at least
    :ivar slack: a regression is what misses the limit by more than this
        factor; None where a busy machine alone may do that
    """

    name: str
    value: float
    limit: float
    slack: float | None = 1.25
    least: bool = False

    @property
    def met(self) -> bool:
        """Whether it is as it shall be."""
        return self._within(1.0)

    @property
    def regressed(self) -> bool:
        """Whether it is so bad that no noise explains it."""
        return self.slack is not None and not self._within(self.slack)

    def _within(self, slack: float) -> bool:
        if self.least:
            return self.value * slack >= self.limit
        return self.value <= self.limit * slack

    def __str__(self) -> str:
        verdict = 'met' if self.met else 'NOT met'
        end = 'least' if self.least else 'most'
        return (
            f'{self.name} = {self.value:.2f}: at {end} {self.limit:g} is '
            + (verdict)
        )


@dataclasses.dataclass(frozen=True)
class Row:
    """One way of doing something, and what it took each time.

    :ivar seconds: at least one
    :ivar is_floor: whether it is what the others are compared with
    """

    name: str
    seconds: Sequence[float]
    is_floor: bool = False

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    def cells(self, floor: float | None) -> tuple[str, ...]:
        """The columns of the table; `floor` in seconds, None if unknown."""
        ordered = sorted(self.seconds)
        figures = (self.median, ordered[0], ordered[len(ordered) * 9 // 10])
        return (
            self.name,
            *(f'{seconds * _MILLISECONDS:.2f}' for seconds in figures),
            '' if floor is None else f'{self.median / floor:.2f}',
        )


@dataclasses.dataclass(frozen=True)
class Section:
    """A table of rows that were measured side by side.

    :ivar figure: this section's part of the last line of the command; empty
        for none
    :ivar notes: lines below the table
    """

    title: str
    rows: Sequence[Row]
    figure: str = ''
    notes: Sequence[str] = ()
    goals: Sequence[Goal] = ()

    @property
    def bars(self) -> Mapping[str, float]:
        """Name → ratio to the floor, for the picture."""
        floor = self._floor
        if floor is None:
            return {}
        return {row.name.strip(): row.median / floor for row in self.rows}

    @property
    def _floor(self) -> float | None:
        return next((row.median for row in self.rows if row.is_floor), None)

    def lines(self) -> Iterator[str]:
        """The section as text; times in milliseconds."""
        floor = self._floor
        rows = [row.cells(floor) for row in self.rows]
        yield from _lines(self.title, [_COLUMNS, *rows] if rows else [])
        yield from (f'  {note}' for note in (*self.notes, *self.goals))


@dataclasses.dataclass(frozen=True)
class Matrix:
    """What each was asked, and what it took.

    :ivar cells: (what, who) → microseconds and ratio to the floor
    :ivar absent: who could not be asked → why
    :ivar drawn: of what there are bars in the picture
    """

    title: str
    cells: Mapping[tuple[str, str], tuple[float, float]]
    absent: Mapping[str, str]
    goals: Sequence[Goal] = ()
    figure: str = ''
    drawn: Sequence[str] = ()

    @property
    def bars(self) -> Mapping[str, float]:
        """Name → ratio to the floor, for the picture."""
        return {
            f'{what}, {who}': ratio
            for (what, who), (_, ratio) in self.cells.items()
            if who != 'floor' and what in self.drawn
        }

    def lines(self) -> Iterator[str]:
        """The section as text."""
        whats = dict.fromkeys(what for what, _ in self.cells)
        whos = dict.fromkeys(who for _, who in self.cells)
        table: list[Sequence[str]] = [('', *whos)]
        for what in whats:
            found = [self.cells.get((what, who)) for who in whos]
            table.append(
                (
                    what,
                    *(
                        f'{cell[0]:.0f} {cell[1]:6.2f}' if cell else '-'
                        for cell in found
                    ),
                )
            )
        yield from _lines(self.title, table)
        yield from (
            f'  {who}: absent, {why}' for who, why in self.absent.items()
        )
        yield from (f'  {goal}' for goal in self.goals)


def _lines(title: str, table: Sequence[Sequence[str]]) -> Iterator[str]:
    yield title
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        name, *figures = (
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        yield '  '.join([f'  {name}', *figures]).rstrip()
