# SPDX-License-Identifier: Apache-2.0
"""What a request costs over HTTP: one worker of uWSGI, a connection each.

The requests per second are told by the clock of the wall, of which others on
the machine take their part; CPU time of the worker is told beside.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmark import peers, post
from tests.benchmark.report import Goal, Matrix
from tests.benchmark.rig import MeasuringFailed
from tests.fixtures.servers import ServerFailed, ServerProcess, free_port

_COUNT = 30
_RATE_LIMIT = 0.55
_NOVA_LIMIT = 6.0
_START_SECONDS = 120.0


class Served:
    """A peer behind HTTP."""

    def __init__(self, process: ServerProcess) -> None:
        self._process = process

    def seconds(self, order: post.Order, count: int) -> tuple[float, float]:
        """What one request took of many: by the wall, and of CPU."""
        headers = dict(order.headers)
        if order.token:
            headers['X-Auth-Token'] = order.token
        if order.body:
            headers['Content-Type'] = 'application/json'
        used, began = self._cpu(), time.perf_counter()
        for _ in range(count):
            connection = http.client.HTTPConnection(
                '127.0.0.1', self._process.port, timeout=60
            )
            connection.request(order.method, order.path, order.body, headers)
            answer = connection.getresponse()
            text = answer.read()
            connection.close()
            if not str(answer.status).startswith(order.status):
                raise MeasuringFailed(f'{answer.status} {text.decode()}')
        taken = time.perf_counter() - began
        return taken / count, (self._cpu() - used) / count

    def _cpu(self) -> float:
        """CPU seconds of the one process that there is."""
        path = f'/proc/{self._process.pid}/schedstat'
        return int(Path(path).read_text().split()[0]) / 1e9


@contextlib.contextmanager
def _serving(peer: peers.Peer) -> Iterator[Served]:
    uwsgi = shutil.which('uwsgi', path=str(Path(sys.executable).parent))
    if uwsgi is None:
        raise ServerFailed('uwsgi is not installed; it is in the extra bench')
    port = free_port()
    argv = [
        *(uwsgi, '--need-app', '--die-on-term'),
        *('--disable-logging', '--enable-threads'),
        *('--http11-socket', f'127.0.0.1:{port}', '--so-keepalive'),
        *('--home', str(peer.python.parent.parent)),
        *('--wsgi-file', str(peers.SCRIPT)),
    ]
    with ServerProcess(
        argv,
        port=port,
        log=peer.log,
        env={**peer.env, 'NOVA_EXT_BENCHMARK': peer.kind},
        start_timeout=_START_SECONDS,
    ) as process:
        yield Served(process)


def measure(short: bool, others: bool) -> Matrix:
    """Each kind of request to each peer in turn.

    :raises: :class:`tests.benchmark.rig.MeasuringFailed`, and
        :class:`tests.fixtures.servers.ServerFailed`
    """
    rounds = 8 if short else 40
    wall: dict[tuple[str, str], list[float]] = {}
    cpu: dict[tuple[str, str], list[float]] = {}
    with peers.prepared(others) as prepared, contextlib.ExitStack() as stack:
        ways = {
            (kind, name): (served, order)
            for name, peer in prepared.peers.items()
            for served in [stack.enter_context(_serving(peer))]
            for kind, order in post.orders(name, prepared.volume_id).items()
            if kind in post.KINDS
        }
        for number in range(rounds + 1):
            for way, (served, order) in ways.items():
                found = served.seconds(order, _COUNT)
                if number:
                    wall.setdefault(way, []).append(found[0])
                    cpu.setdefault(way, []).append(found[1])
        absent = prepared.absent
    ratio = post.ratios(wall)
    goals = [
        Goal(
            'requests/s, ours / floor',
            1 / ratio('POST', 'ours', 'floor'),
            _RATE_LIMIT,
            2.0,
            least=True,
        )
    ]
    if ('POST', 'Nova') in ways:
        found = 1 / ratio('POST', 'ours', 'Nova')
        goals.append(
            Goal('requests/s, ours / Nova', found, _NOVA_LIMIT, 2.0, True)
        )
    return Matrix(
        title=f'served: {rounds} rounds of {_COUNT} requests over HTTP; µs '
        'each, and how many times the floor',
        cells={**post.cells(wall), **post.cells(cpu, ', CPU')},
        absent=absent,
        goals=goals,
        drawn=('POST', 'POST, CPU'),
    )
