# SPDX-License-Identifier: Apache-2.0
"""What a request costs the API with one host, and with a thousand.

Two fleets are on one RabbitMQ, each in a virtual host of its own with an API
process that knows no other, and as many volumes in both. The agents are as
they are shipped down to the manager, which does nothing (answering.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import statistics
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.benchmark import answering, peers, post
from tests.benchmark.report import Goal, Row, Section
from tests.benchmark.rig import MeasuringFailed
from tests.fixtures.cinder import Attachment, CinderDouble
from tests.fixtures.host import short_directory
from tests.fixtures.rabbitmq import RabbitMQ

_LIMIT = 1.2
_HOSTS = 1_000
_PROCESSES = 4
_COUNT = 100
_MIB = 1024


class Fleet:
    """One API process, and who answers it.

    :ivar seconds: of CPU time for each request, by rounds
    :ivar wall: seconds until it was answered, by rounds
    :ivar memory: KiB of the API process after the last round
    """

    def __init__(
        self,
        process: peers.Process,
        agents: list[answering.Answering],
        number: int,
        double: CinderDouble,
        prefix: str,
    ) -> None:
        self._process, self._agents = process, agents
        self._hosts = [f'{prefix}{at}' for at in range(number)]
        self._where: dict[str, str] = {}
        for at in range(_HOSTS):
            volume_id, host = str(uuid.uuid4()), self._hosts[at % number]
            double.add_volume(volume_id, Attachment(str(uuid.uuid4()), host))
            self._where[volume_id] = host
        self._orders = [
            post.snapshot_orders(volume_id)['POST']
            for volume_id in self._where
        ]
        self._sent = 0
        self.seconds: list[float] = []
        self.wall: list[float] = []
        self.memory = 0.0

    def round(self) -> None:
        """POST to the next volumes."""
        begin = self._sent % len(self._orders)
        chosen = self._orders[begin : begin + _COUNT]
        order = dataclasses.replace(
            chosen[0],
            bodies=[one.body for one in chosen],
            count=_COUNT,
            warm_up=0,
        )
        began = time.perf_counter()
        cost = self._process.cost(dataclasses.asdict(order))
        self.wall.append((time.perf_counter() - began) / _COUNT)
        self.seconds.append(cost['seconds'] / _COUNT)
        self.memory = cost['memory']
        self._sent += _COUNT

    @property
    def agents_memory(self) -> int:
        """KiB of all its hosts."""
        return sum(process.memory() for process in self._agents)

    def account(self) -> None:
        """See that each host was asked for its own volumes, once a request.

        :raises: :class:`tests.benchmark.rig.MeasuringFailed`
        """
        expected: dict[str, list[str]] = {host: [] for host in self._hosts}
        volumes = itertools.cycle(self._where)
        for volume_id in itertools.islice(volumes, self._sent):
            expected[self._where[volume_id]].append(volume_id)
        asked: dict[str, list[str]] = {}
        for process in self._agents:
            asked.update(process.asked())
        if asked != expected:
            wrong = [host for host in asked if asked[host] != expected[host]]
            raise MeasuringFailed(f'not asked for what was sent: {wrong}')


@contextlib.contextmanager
def _fleet(
    directory: Path,
    broker: RabbitMQ,
    double: CinderDouble,
    number: int,
    processes: int,
) -> Iterator[Fleet]:
    """A fleet of so many hosts, until this context ends."""
    name = f'of-{number}'
    broker.control('add_vhost', name)
    broker.control('set_permissions', '-p', name, 'nova_ext', '.*', '.*', '.*')
    url, prefix = broker.url + name, f'host-{number}-'
    groups = {
        'nova_ext_cinder': {'auth_type': 'none', 'endpoint': double.endpoint},
        # Or a round would find some forgotten, and others not.
        'nova_ext_rpc': {'remember_host': 3600},
    }
    with contextlib.ExitStack() as stack:
        agents = stack.enter_context(
            answering.hosts(url, prefix, number, processes)
        )
        peer = peers.on_bus(directory, name, url, groups)
        process = stack.enter_context(peer.running())
        yield Fleet(process, agents, number, double, prefix)


def measure(short: bool, others: bool) -> Section:
    """Round after round, each fleet in turn.

    :raises: :class:`tests.benchmark.rig.MeasuringFailed`, and what the parts
        raise
    """
    first = _HOSTS // _COUNT
    rounds = first + (10 if short else 30)
    sizes = (1, _HOSTS)
    load = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(short_directory())
        broker = stack.enter_context(RabbitMQ(directory))
        double = stack.enter_context(CinderDouble())
        began = time.monotonic()
        fleets = {
            size: stack.enter_context(
                _fleet(directory, broker, double, size, min(size, _PROCESSES))
            )
            for size in sizes
        }
        started = time.monotonic() - began
        for number in range(rounds):
            # Each is the first as often as the other.
            for size in sizes if number % 2 else reversed(sizes):
                fleets[size].round()
        for fleet in fleets.values():
            fleet.account()
        agents = fleets[_HOSTS].agents_memory
    one, many = (fleets[size] for size in sizes)

    def ratio(begin: int, end: int) -> float:
        pairs = zip(many.seconds, one.seconds, strict=True)
        return statistics.median(
            of / to for of, to in itertools.islice(pairs, begin, end)
        )

    again = ratio(first, rounds)
    return Section(
        title=f'hosts: {rounds} rounds of {_COUNT} POSTs over RabbitMQ; ms of '
        "the API's CPU each",
        rows=[
            Row('1 host', one.seconds[first:], is_floor=True),
            Row(f'{_HOSTS} hosts', many.seconds[first:]),
            Row('  1 host, first requests for a volume', one.seconds[:first]),
            Row(f'  {_HOSTS} hosts, the same', many.seconds[:first]),
        ],
        notes=[
            f'{os.cpu_count()} CPUs, load before {load:.1f}',
            f'{rounds * _COUNT} requests to each fleet, each answered once, '
            'by its host',
            *(
                f'{name}: {statistics.median(fleet.wall[first:]) * 1e3:.1f} '
                'ms until the answer, API process of '
                f'{fleet.memory / _MIB:.0f} MiB'
                for name, fleet in (('1 host', one), (f'{_HOSTS} hosts', many))
            ),
            f'{_HOSTS} hosts in {_PROCESSES} processes of together '
            f'{agents / _MIB:.0f} MiB listen after {started:.0f} s',
        ],
        goals=[
            Goal(f'CPU, {_HOSTS} hosts / 1', again, _LIMIT),
            Goal('  of the first requests', ratio(0, first), _LIMIT),
        ],
        figure=f'hosts {again:.2f}',
    )
