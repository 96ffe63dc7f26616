# SPDX-License-Identifier: Apache-2.0
"""Measure, print a table for each section, and all figures on the last line.

The exit status says whether measuring worked; with --check also that no
figure has become so bad that only a change of ours explains it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.benchmark import (
    create,
    footprint,
    hosts,
    layers,
    load,
    lookup,
    merge,
    picture,
    post,
    recovery,
    running,
    served,
)

# In the order in which their figures stand on the last line.
_SECTIONS = {
    'post': post.measure,
    'layers': layers.measure,
    'served': served.measure,
    'footprint': footprint.measure,
    'create': create.measure,
    'merge': merge.measure,
    'running': running.measure,
    'lookup': lookup.measure,
    'recovery': recovery.measure,
    'load': load.measure,
    'hosts': hosts.measure,
}
# Of many processes, which the short form can do without.
_LARGE = ('load', 'hosts')


def main() -> int:
    """Run the sections; what can't be measured raises, hence status 1."""
    parser = argparse.ArgumentParser(
        prog='python -m tests.benchmark', description=__doc__
    )
    parser.add_argument(
        '--short',
        action='store_true',
        help='fewer rounds, without load and hosts; some minutes',
    )
    parser.add_argument(
        '--check', action='store_true', help='fail where a figure regressed'
    )
    parser.add_argument(
        '--only', choices=_SECTIONS, nargs='+', help='not all sections'
    )
    parser.add_argument(
        '--no-peers', action='store_true', help='without Nova and placement'
    )
    parser.add_argument(
        '--picture', type=Path, help='draw the ratios into this file, too'
    )
    options = parser.parse_args()
    sections = []
    chosen = [
        name
        for name in options.only or _SECTIONS
        if options.only or not (options.short and name in _LARGE)
    ]
    for name in chosen:
        section = _SECTIONS[name](options.short, not options.no_peers)
        print(*section.lines(), sep='\n', end='\n\n', flush=True)
        sections.append(section)
    if options.picture:
        picture.draw(sections, options.picture)
    goals = [goal for section in sections for goal in section.goals]
    print(f'{sum(goal.met for goal in goals)} of {len(goals)} goals are met')
    regressed = [goal for goal in goals if goal.regressed]
    for goal in regressed:
        print(f'REGRESSION: {goal}')
    figures = [section.figure for section in sections if section.figure]
    print(f'bench: {", ".join(figures)}')
    return 1 if options.check and regressed else 0


if __name__ == '__main__':
    sys.exit(main())
