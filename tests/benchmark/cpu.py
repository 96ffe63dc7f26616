# SPDX-License-Identifier: Apache-2.0
"""The CPU time of another process, threads that have ended included."""

from __future__ import annotations

import socket
import struct
import time

_CREDENTIALS = struct.Struct('3i')


def listener(path: str) -> int:
    """Process id of who listens on a UNIX socket.

    :raises: OSError
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        credentials = connection.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
        )
    return _CREDENTIALS.unpack(credentials)[0]


def seconds(pid: int) -> float:
    """What a process has used until now, to the nanosecond.

    :raises: OSError
    """
    # NOTE: MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of Linux, as in
    # clock_getcpuclockid(3); /proc counts hundredths of a second.
    return time.clock_gettime(~pid << 3 | 2)
