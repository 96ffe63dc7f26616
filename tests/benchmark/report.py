# SPDX-License-Identifier: Apache-2.0
"""What was measured, as values and as a table.

Here: medians, ratios and columns.  Not here: how anything is measured.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence

_MILLISECONDS = 1000
_COLUMNS = ('', 'median', 'min', 'p90', 'ratio')


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

    :ivar figure: this section's part of the last line of the command
    :ivar notes: lines below the table
    """

    title: str
    rows: Sequence[Row]
    figure: str
    notes: Sequence[str] = ()

    def lines(self) -> Iterator[str]:
        """The section as text; times in milliseconds."""
        floor = next((row.median for row in self.rows if row.is_floor), None)
        table = [_COLUMNS, *(row.cells(floor) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        yield self.title
        for cells in table:
            name, *figures = (
                cell.rjust(width) if at else cell.ljust(width)
                for at, (cell, width) in enumerate(
                    zip(cells, widths, strict=True)
                )
            )
            yield '  '.join([f'  {name}', *figures]).rstrip()
        for note in self.notes:
            yield f'  {note}'
