# SPDX-License-Identifier: Apache-2.0
"""What an agent takes, sampled, and how much more of it in the end."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import sqlite3

# Of these an agent has some more or less, as what it waits for has it.
_SLACK = {'memory': 0, 'descriptors': 3, 'threads': 3, 'jobs': 20, 'pages': 8}


@dataclasses.dataclass(frozen=True)
class Sample:
    """What an agent takes.

    :ivar memory: KiB that are its own
    :ivar jobs: in its journal, which has so many pages on disk
    """

    memory: int
    descriptors: int
    threads: int
    jobs: int
    pages: int


def sample(pid: int, path: pathlib.Path) -> Sample:
    """What an agent takes now. :raises: OSError if it is gone

    :param path: of its journal
    """
    status = pathlib.Path(f'/proc/{pid}/status').read_text()

    def field(name: str) -> int:
        found = re.search(rf'^{name}:\s+(\d+)', status, re.MULTILINE)
        assert found is not None, name
        return int(found[1])

    with contextlib.closing(sqlite3.connect(path)) as journal:
        (jobs,) = journal.execute('SELECT count(*) FROM jobs').fetchone()
        (pages,) = journal.execute('PRAGMA page_count').fetchone()
    return Sample(
        memory=field('RssAnon'),
        descriptors=len(os.listdir(f'/proc/{pid}/fd')),
        threads=field('Threads'),
        jobs=jobs,
        pages=pages,
    )


def growth(samples: list[Sample]) -> dict[str, float]:
    """Percent by which the last quarter is above the second, by name.

    The first quarter is for what a process loads when it is first asked; of
    the others the least counts, since a sample can meet it at work.

    :raises: ValueError for less than four samples
    """
    quarter = len(samples) // 4
    if not quarter:
        raise ValueError('too few samples')
    found = {}
    for name, slack in _SLACK.items():
        early, late = (
            min(getattr(one, name) for one in part)
            for part in (samples[quarter : 2 * quarter], samples[-quarter:])
        )
        found[name] = 100 * max(late - early - slack, 0) / early
    return found
