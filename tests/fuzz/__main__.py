# SPDX-License-Identifier: Apache-2.0
"""Feed each target for a while; the last line tells how many inputs it took.

The exit status is 0 only if none of them led to an end that is not allowed.
An input that does is printed, to be put into a test and into the corpus.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile

CORPUS = pathlib.Path(__file__).parent / 'corpus'
NAMES = tuple(sorted(path.name for path in CORPUS.iterdir()))
_MAX_BYTES = 8192


def _child(name: str, arguments: list[str]) -> None:
    import atheris

    # What is fuzzed is imported so that what it reaches can be seen.
    with atheris.instrument_imports(include=['nova_ext']):
        targets = importlib.import_module('tests.fuzz.targets')
    targets.fuzz(name, arguments)


def _run(
    name: str, seconds: float, kept: pathlib.Path | None
) -> tuple[int, str]:
    """How many inputs a target took, and what was wrong with the last.

    :param kept: where inputs that reached something new stay
    """
    with tempfile.TemporaryDirectory() as directory:
        found_there = directory
        if kept is not None:
            found_there = str(kept / name)
            os.makedirs(found_there, exist_ok=True)
        done = subprocess.run(
            [
                *(sys.executable, '-m', 'tests.fuzz', '--target', name, '--'),
                *(found_there, str(CORPUS / name)),
                f'-max_total_time={max(1, round(seconds))}',
                f'-max_len={_MAX_BYTES}',
                '-timeout=20',
                f'-artifact_prefix={directory}/',
                '-print_final_stats=1',
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, 'PYTHONHASHSEED': '0'},
        )
        said = done.stdout.decode(errors='replace')
        found = re.findall(r'number_of_executed_units: (\d+)', said)
        if done.returncode == 0 and found:
            return int(found[-1]), ''
        for path in pathlib.Path(directory).glob('*-*'):
            if re.match('(crash|timeout|oom|leak)-', path.name):
                said += f'\n{path.name}: {path.read_bytes()!r}'
        return int(found[-1]) if found else 0, said


def main() -> int:
    """Feed all targets; 0 if all ends were allowed ones."""
    parser = argparse.ArgumentParser(prog='tox -e fuzz --')
    parser.add_argument('--minutes', type=float, default=1.0)
    parser.add_argument('--target', choices=NAMES)
    parser.add_argument(
        '--keep',
        type=pathlib.Path,
        help='directory of inputs that reached something new, for next time',
    )
    parser.add_argument('arguments', nargs='*', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arguments and options.target:
        _child(options.target, options.arguments)
    wanted = (options.target,) if options.target else NAMES
    inputs = faults = 0
    for name in wanted:
        number, wrong = _run(
            name, options.minutes * 60 / len(wanted), options.keep
        )
        inputs += number
        faults += bool(wrong)
        print(f'{name}: {number} inputs', flush=True)
        if wrong:
            print(wrong[-6000:], flush=True)
    print(f'fuzz: {inputs} inputs, {faults} faults')
    return 1 if faults or not inputs else 0


if __name__ == '__main__':
    sys.exit(main())
