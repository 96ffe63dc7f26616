# SPDX-License-Identifier: Apache-2.0
"""Build the API reference with warnings as errors and print its figure.

The last line printed is ``api-ref: N pages, 0 warnings`` and the exit status
0 only if Sphinx ended well, warned of nothing and made at least one page, and
if each link within the pages leads somewhere.
What the pages say belongs in ``source/``, how they look in its ``conf.py``.
"""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import links

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE / 'source'
TARGET = HERE / 'build' / 'html'

# NOTE: one warning may take several lines; only its first has this mark.
_WARNING = re.compile(r'(?:^|\s)(?:WARNING|ERROR|SEVERE|CRITICAL): ')


def count_warnings(text: str) -> int:
    """The number of warnings and errors in what Sphinx wrote of them."""
    return sum(1 for line in text.splitlines() if _WARNING.search(line))


def run_sphinx(
    source: pathlib.Path, target: pathlib.Path
) -> tuple[int, int, int]:
    """Build `source` as HTML into `target`, which is emptied first.

    :returns: Sphinx's exit status, HTML pages made, warnings given
    :raises OSError: if `target` cannot be emptied
    """
    # NOTE: a page that is left from an earlier build would be counted.
    if target.exists():
        shutil.rmtree(target)
    with tempfile.TemporaryDirectory() as scratch:
        warnings = pathlib.Path(scratch, 'warnings')
        # NOTE: noqa because only paths of ours go into this command.
        status = subprocess.run(  # noqa: S603
            [
                sys.executable,
                '-m',
                'sphinx',
                '-W',
                '--keep-going',
                '--no-color',
                # NOTE: out of the page tree, and never reused.
                '-d',
                str(pathlib.Path(scratch, 'doctrees')),
                '-w',
                str(warnings),
                '-b',
                'html',
                str(source),
                str(target),
            ],
            check=False,
        ).returncode
        found = (
            count_warnings(warnings.read_text(encoding='utf-8'))
            if warnings.exists()
            else 0
        )
    return status, len(list(target.rglob('*.html'))), found


def main() -> int:
    """Build, print the figure, return the exit status."""
    status, pages, warnings = run_sphinx(SOURCE, TARGET)
    for link in links.broken(TARGET):
        print(f'WARNING: a link leads nowhere: {link}')
        warnings += 1
    good = status == 0 and pages > 0 and warnings == 0
    # NOTE: Sphinx can fail before it warns, and that must not look good.
    verdict = '' if good else f'FAILED (Sphinx ended with {status}): '
    print(f'api-ref: {verdict}{pages} pages, {warnings} warnings', flush=True)
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())
