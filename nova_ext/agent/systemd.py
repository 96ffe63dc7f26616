# SPDX-License-Identifier: Apache-2.0
"""What systemd, or whoever else waits for it, is told of the agent's life.

The protocol is that of sd_notify(3): lines, as a datagram to the socket that
the environment names.
"""

from __future__ import annotations

import logging
import os
import socket
import time

LOG = logging.getLogger(__name__)


def ready(status: str) -> None:
    """It was started, or has read its configuration again."""
    _tell('READY=1', f'STATUS={status}')


def reloading() -> None:
    """It reads its configuration again; :func:`ready` ends that."""
    microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    _tell('RELOADING=1', f'MONOTONIC_USEC={microseconds}')


def stopping(status: str) -> None:
    """It takes no request any more."""
    _tell('STOPPING=1', f'STATUS={status}')


def _tell(*lines: str) -> None:
    path = os.environ.get('NOTIFY_SOCKET', '')
    if not path:
        return
    if path.startswith('@'):
        path = f'\0{path[1:]}'
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
            notices.sendto('\n'.join(lines).encode(), path)
    except OSError as error:
        LOG.warning('NOTIFY_SOCKET %s cannot be told: %s', path, error)
