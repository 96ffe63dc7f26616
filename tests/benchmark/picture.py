# SPDX-License-Identifier: Apache-2.0
"""The ratios to the floor as a picture; the tables are in report.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from tests.benchmark.report import Matrix, Section

_ROW_INCHES = 0.22
# In the names of what is ours.
_OURS = ('ours', 'agent,', 'service,', 'look-up')


def draw(sections: Sequence[Section | Matrix], path: Path) -> None:
    """Draw a bar for each figure, on a logarithmic scale.

    :param path: of the file; its suffix says of which kind
    """
    matplotlib.use('Agg')
    # Text stays text: smaller, and found by who searches a page.
    matplotlib.rcParams.update({'svg.fonttype': 'none', 'svg.hashsalt': 'n'})
    from matplotlib import pyplot

    shown = [section for section in sections if section.bars]
    heights = [len(section.bars) + 2 for section in shown]
    figure, axes = pyplot.subplots(
        len(shown),
        figsize=(8, sum(heights) * _ROW_INCHES),
        height_ratios=heights,
        squeeze=False,
    )
    for section, (axis,) in zip(shown, axes, strict=True):
        bars = section.bars
        drawn = axis.barh(
            list(bars),
            list(bars.values()),
            color=[
                'tab:blue' if any(one in name for one in _OURS) else '0.7'
                for name in bars
            ],
        )
        axis.bar_label(drawn, fmt='%.2f', fontsize=7, padding=2)
        axis.axvline(1, color='black', linewidth=0.8)
        axis.set_title(section.title.partition(':')[0], loc='left', fontsize=9)
        axis.set_xscale('log')
        axis.xaxis.set_major_formatter('{x:g}')
        axis.xaxis.set_minor_formatter('')
        axis.tick_params(labelsize=7)
        axis.set_ylim(len(bars) - 0.4, -0.6)
        axis.margins(x=0.15)
    figure.supxlabel('times the floor', fontsize=8)
    figure.tight_layout()
    rights = 'SPDX-License-Identifier: Apache-2.0'
    is_svg = path.suffix == '.svg'
    metadata = {'Date': None, 'Rights': rights} if is_svg else None
    figure.savefig(path, metadata=metadata)
