# SPDX-License-Identifier: Apache-2.0
"""Run the matrix, and print a table and, on the last line, the figures.

The exit status is 0 only if nothing was lost, no report was false, and nothing
else was wrong.
"""

from __future__ import annotations

import argparse
import collections
import sys
import time
from collections.abc import Iterator

from tests.crash import matrix
from tests.crash.result import REPEATED, Result
from tests.crash.workers import Workers

# As in the agent itself, where there is time.
_SETTLE_LONG, _SETTLE_SHORT = 35.0, 2.0


def _line(result: Result) -> str:
    case = result.case
    word = result.word if result.fine else result.word.upper() or 'BROKEN'
    where = str(case.plan)
    if case.calls != REPEATED:
        where += f', call {case.calls}'
    return f'{case.operation.name:32} {case.state:8} {where:60} {word}'


def _wrong(result: Result) -> Iterator[str]:
    for name in ('losses', 'false', 'wrong'):
        for text in getattr(result, name):
            yield f'  {name}: {text}\n'


def _complain(result: Result) -> Iterator[str]:
    yield f'\n{_line(result)}'
    yield from _wrong(result)
    yield '  passed: ' + ', '.join(passed.point for passed in result.passed)
    yield result.log


def _summary(results: list[Result]) -> Iterator[str]:
    """What came of each operation with each state of the guest, and how."""
    rows: dict[str, list[Result]] = {}
    for result in results:
        row = f'{result.case.operation.name:32} {result.case.state:8}'
        rows.setdefault(row, []).append(result)
    for row, found in sorted(rows.items()):
        words = collections.Counter(map(_end, found))
        ends = '; '.join(f'{n} {word}' for word, n in words.most_common())
        yield f'{row} {_figures(found)} ({ends})'


def _end(result: Result) -> str:
    if not result.case.plan.point:
        return 'with nobody dying'
    return result.word if result.struck else 'with nobody to kill'


def _figures(results: list[Result]) -> str:
    points = sum(result.struck for result in results)
    losses = sum(bool(result.losses) for result in results)
    false = sum(bool(result.false) for result in results)
    return f'{points} points, {losses} losses, {false} false reports'


def main() -> int:
    """Make the matrix, run it, and print what came of it."""
    parser = argparse.ArgumentParser(
        prog='python -m tests.crash', description=__doc__
    )
    parser.add_argument(
        '--short', action='store_true', help='as in CI; some minutes'
    )
    parser.add_argument('--operation', default='', help='only those')
    parser.add_argument('--state', default='', help='of the guest')
    parser.add_argument('--only', default='', help='the lines with this')
    parser.add_argument('--times', type=int, default=1, help='of each')
    parser.add_argument('--workers', type=int, default=2)
    options = parser.parse_args()
    began = time.monotonic()
    settle = _SETTLE_SHORT if options.short else _SETTLE_LONG
    results, dry_results = [], []
    with Workers(options.workers, settle) as workers:
        cases = []
        dries = [
            dry
            for dry in matrix.undisturbed(options.short)
            if dry.operation.name.startswith(options.operation)
            and options.state in dry.state
        ]
        for dry in workers.run(dries):
            matrix.check(dry)
            dry_results.append(dry)
            print(_line(dry), flush=True)
        lengths = matrix.durations([dry for dry in dry_results if dry.fine])
        for dry in dry_results:
            cases += matrix.cases(dry, options.short, lengths)
        cases = [case for case in cases if options.only in _line(Result(case))]
        for result in workers.run(cases * options.times):
            results.append(result)
            print(_line(result), f'{result.seconds:6.1f} s', flush=True)
            print(*_wrong(result), sep='', end='', flush=True)
    everything = dry_results + results
    unseen = matrix.unseen(dry_results)
    if unseen and not (options.operation or options.state):
        print(f'No operation passes {sorted(unseen)}')
        return 1
    for result in everything:
        if not result.fine:
            print(*_complain(result), sep='\n')
    print(*_summary(everything), sep='\n')
    wrong = sum(not result.fine for result in everything)
    compared = sum(result.compared for result in everything)
    print(f'{compared} bytes read back and compared')
    print(f'{wrong} wrong, in {time.monotonic() - began:.0f} s')
    # An undisturbed run is no point; what it loses counts all the same.
    print(f'crash matrix: {_figures(everything)}')
    return int(wrong > 0 or not any(r.struck for r in results))


if __name__ == '__main__':
    sys.exit(main())
