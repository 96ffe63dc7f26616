# SPDX-License-Identifier: Apache-2.0
"""Measure, print a table for each section, and all figures on the last line.

The exit status says whether measuring worked, never how fast anything was.
"""

from __future__ import annotations

import argparse
import sys

from tests.benchmark import create, merge, post

# Each is called with `short` and gives a report.Section, in the order in
# which their figures stand on the last line.
_SECTIONS = (post.measure, create.measure, merge.measure)


def main() -> int:
    """Run all sections; what can't be measured raises, hence status 1."""
    parser = argparse.ArgumentParser(
        prog='python -m tests.benchmark', description=__doc__
    )
    parser.add_argument(
        '--short', action='store_true', help='fewer rounds; some minutes'
    )
    short = parser.parse_args().short
    figures = []
    for measure in _SECTIONS:
        section = measure(short)
        print(*section.lines(), sep='\n', end='\n\n', flush=True)
        figures.append(section.figure)
    print(f'bench: {", ".join(figures)}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
