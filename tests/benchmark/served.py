# SPDX-License-Identifier: Apache-2.0
"""What a request costs over HTTP: one worker of uWSGI, a connection each.

The requests per second are told by the clock of the wall, of which others on
the machine take their part; CPU time of the worker is told beside.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmark import peers, post
from tests.benchmark.report import Goal, Row, Section
from tests.benchmark.rig import MeasuringFailed
from tests.fixtures.servers import ServerFailed, ServerProcess, free_port

_COUNT = 60
_RATE_LIMIT = 0.55
_NOVA_LIMIT = 6.0
_NAMES = ('floor', 'ours', 'Nova', 'placement')
_START_SECONDS = 120.0


class Served:
    """A peer behind HTTP."""

    def __init__(self, process: ServerProcess, order: post.Order) -> None:
        self._process = process
        self._order = order

    def seconds(self, count: int) -> tuple[float, float]:
        """What one request took of many: by the wall, and of CPU."""
        order = self._order
        headers = {**order.headers, 'X-Auth-Token': order.token}
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
def _serving(peer: peers.Peer, order: post.Order) -> Iterator[Served]:
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
        yield Served(process, order)


def measure(short: bool, others: bool) -> Section:
    """POST after POST, to each peer in turn.

    :raises: :class:`tests.benchmark.rig.MeasuringFailed`, and
        :class:`tests.fixtures.servers.ServerFailed`
    """
    rounds = 15 if short else 80
    with peers.prepared(others) as prepared, contextlib.ExitStack() as stack:
        ways = {
            name: stack.enter_context(
                _serving(
                    prepared.peers[name],
                    dataclasses.replace(
                        post.orders(name, prepared.volume_id)['POST'],
                        stub=None,
                    ),
                )
            )
            for name in _NAMES
            if name in prepared.peers
        }
        wall: dict[str, list[float]] = {name: [] for name in ways}
        cpu: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name, way in ways.items():
                found = way.seconds(_COUNT)
                if number:
                    wall[name].append(found[0])
                    cpu[name].append(found[1])
        absent = prepared.absent

    def rate(of: str, to: str) -> float:
        pairs = zip(wall[to], wall[of], strict=True)
        return statistics.median(one / other for one, other in pairs)

    goals = [
        Goal(
            'requests/s, ours / floor',
            rate('ours', 'floor'),
            _RATE_LIMIT,
            2.0,
            least=True,
        )
    ]
    if 'Nova' in ways:
        found = rate('ours', 'Nova')
        goals.append(
            Goal('requests/s, ours / Nova', found, _NOVA_LIMIT, 2.0, True)
        )
    return Section(
        title=f'served: {rounds} rounds of {_COUNT} POSTs over HTTP; ms each',
        rows=[
            Row(f'POST to {name} over HTTP', seconds, name == 'floor')
            for name, seconds in wall.items()
        ],
        notes=[
            *(
                f'{name}: {1 / statistics.median(wall[name]):.0f} requests/s,'
                f' {statistics.median(cpu[name]) * 1e6:.0f} µs of CPU each'
                for name in ways
            ),
            *(
                f'{name}: absent, {why}'
                for name, why in absent.items()
                if name in _NAMES
            ),
        ],
        goals=goals,
    )
