# SPDX-License-Identifier: Apache-2.0
"""A call that may not come back, for those who must answer in time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent import futures
from typing import TypeVar

T = TypeVar('T')


def begin(function: Callable[[], T]) -> futures.Future[T]:
    """Call a function in a thread that keeps no process from ending."""
    future: futures.Future[T] = futures.Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
