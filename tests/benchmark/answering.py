# SPDX-License-Identifier: Apache-2.0
"""Agents without a hypervisor, many in one process, for a fleet of hosts.

``python -m tests.benchmark.answering URL PREFIX FIRST COUNT`` has COUNT of
them on the message bus URL, by the names PREFIX plus a number from FIRST on.
Each is the server of an agent as it is shipped, with a manager that says yes
to everything; only the connections by which they send are shared by those of
a process, since the threads of a thousand are too many for one machine. A line
on standard output says that all listen; each line on standard input is
answered by one with what the hosts were asked until then. Its end ends the
process. Not here: who asks.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from nova_ext import bus
from nova_ext.agent import dispatch, rpc
from tests.benchmark.rig import MeasuringFailed
from tests.fixtures.bus import ObedientManager, private_conf

# Each takes half a second until it is sure of its name, waiting for the most.
_AT_ONCE = 4
_START_SECONDS = 120.0


class Answering:
    """Such a process."""

    def __init__(self, url: str, prefix: str, first: int, count: int) -> None:
        self._process = subprocess.Popen(
            [*(sys.executable, '-W', 'ignore', '-m', __name__), url, prefix]
            + [f'{first}', f'{count}'],
            # Else each keeps as many threads as it has had requests.
            env={**os.environ, 'OS_DEFAULT__EXECUTOR_THREAD_POOL_SIZE': '1'},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def wait(self) -> None:
        """Wait until all of them listen."""
        self._line()

    def asked(self) -> dict[str, list[str]]:
        """Host → the volumes that it was asked for, in order."""
        assert self._process.stdin is not None
        self._process.stdin.write('\n')
        return self._line()

    def memory(self) -> int:
        """KiB that are resident."""
        with open(f'/proc/{self._process.pid}/status') as file:
            lines = dict(line.split(':', 1) for line in file)
        return int(lines['VmRSS'].split()[0])

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _line(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise MeasuringFailed('hosts that answer ended; see above')
        return json.loads(line)


@contextmanager
def hosts(
    url: str, prefix: str, number: int, processes: int
) -> Iterator[list[Answering]]:
    """So many hosts in so many processes, until this context ends."""
    started: list[Answering] = []
    try:
        for at in range(processes):
            first, end = (number * one // processes for one in (at, at + 1))
            started.append(Answering(url, prefix, first, end - first))
        for process in started:
            process.wait()
        yield started
    finally:
        for process in started:
            process.end()


class _Settled(logging.Handler):
    """Lets the next one start when one listens, and is sure of its name."""

    def __init__(self, free: threading.Semaphore) -> None:
        super().__init__(logging.INFO)
        self._free = free

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith('Listening'):
            self._free.release()


def _end(reason: str) -> None:
    print(reason, file=sys.stderr, flush=True)
    os._exit(1)


def _main(url: str, prefix: str, first: int, count: int) -> None:
    free = threading.Semaphore(_AT_ONCE)
    log = logging.getLogger(rpc.__name__)
    log.addHandler(_Settled(free))
    log.setLevel(logging.INFO)
    # Who waits for the interpreter would wake up two hundred times a second,
    # and they are hundreds.
    sys.setswitchinterval(0.1)
    shared = bus.transport(private_conf(url))
    managers = {
        f'{prefix}{number}': ObedientManager()
        for number in range(first, first + count)
    }
    servers = []
    for host, manager in managers.items():
        if not free.acquire(timeout=_START_SECONDS):
            _end(f'{host} waits for those before it')
        conf = private_conf(url, nova_ext_agent__host=host)
        # Our manager is one by its methods.
        dispatcher = dispatch.Dispatcher(manager)  # type: ignore[arg-type]
        with mock.patch.object(bus, 'transport', return_value=shared):
            servers.append(rpc.Server(conf, dispatcher, _end))
        servers[-1].start()
    for _ in range(_AT_ONCE):
        if not free.acquire(timeout=_START_SECONDS):
            _end('not all of them listen')
    print(json.dumps(len(servers)), flush=True)
    for _ in sys.stdin:
        asked = {
            host: [arguments['volume_id'] for _, arguments in manager.calls]
            for host, manager in managers.items()
        }
        print(json.dumps(asked), flush=True)
    # To stop each of them would take a second.
    os._exit(0)


if __name__ == '__main__':
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
