# SPDX-License-Identifier: Apache-2.0
"""The CPU time of another process, threads that have ended included."""

from __future__ import annotations

import time


def seconds(pid: int) -> float:
    """What a process has used until now, to the nanosecond.

    :raises: OSError
    """
    # NOTE: MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of Linux, as in
    # clock_getcpuclockid(3); /proc counts hundredths of a second.
    return time.clock_gettime(~pid << 3 | 2)
