# SPDX-License-Identifier: Apache-2.0
"""Processes that run cases, each with a libvirtd of its own."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Iterator
from typing import Any

from tests.crash import case as crash_case
from tests.crash.result import MISSED, Case, Result
from tests.crash.rig import Rig

_TRIES = 3  # where the point was not reached, or too late


class Workers:
    """Processes that run cases."""

    def __init__(self, count: int, settle: float) -> None:
        context = multiprocessing.get_context('spawn')
        self._tasks: Any = context.Queue()
        self._results: Any = context.Queue()
        self._processes = [
            context.Process(
                target=_work, args=(self._tasks, self._results, settle)
            )
            for _ in range(count)
        ]

    def __enter__(self) -> Workers:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *args: object) -> None:
        for _ in self._processes:
            self._tasks.put(None)
        for process in self._processes:
            process.join()

    def run(self, cases: list[Case]) -> Iterator[Result]:
        """The results, as they come."""
        for case in cases:
            self._tasks.put(case)
        for _ in cases:
            while True:
                try:
                    yield self._results.get(timeout=5)
                    break
                except queue.Empty:
                    if not all(p.is_alive() for p in self._processes):
                        raise SystemExit('a worker died') from None


def _work(tasks: Any, results: Any, settle: float) -> None:
    with Rig() as rig:
        for case in iter(lambda: _next(tasks), None):
            for _ in range(_TRIES):
                result = crash_case.run(rig, case, settle)
                if result.word != MISSED:
                    break
            results.put(result)


def _next(tasks: Any) -> Case | None:
    """The next case; None if there is none, or nobody to hand them out."""
    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive():
        try:
            return tasks.get(timeout=1)
        except queue.Empty:
            continue
    return None
