# SPDX-License-Identifier: Apache-2.0
"""What the API costs before it is asked, and what it keeps of requests.

CPU time of the start of a process until it can answer, its resident memory
then, and how that grows over requests; with each backend for which an agent
does the work. Nova and placement are in it for comparison.
"""

from __future__ import annotations

import dataclasses
import statistics

from tests.benchmark import peers, post
from tests.benchmark.report import Goal, Section

_MIB = 1024
_LOAD_LIMIT = 1.3
_MEMORY_LIMITS = {'libvirt': 65.0, 'rpc': 85.0}
_GROWTH_LIMIT = 2.0
_REQUESTS = 10_000


def measure(short: bool, others: bool) -> Section:
    """Start each in turn, again and again; then many requests.

    :raises: :class:`tests.benchmark.rig.MeasuringFailed`
    """
    rounds = 5 if short else 15
    with (
        peers.backends() as backends,
        peers.prepared(others) as prepared,
    ):
        # The compute API as shipped in each, or Nova's and placement's own.
        all_peers = {
            **backends,
            **{
                name: peer
                for name, peer in prepared.peers.items()
                if name not in ('floor', 'ours', 'stock filters')
            },
        }
        loads: dict[str, list[dict[str, float]]] = {
            name: [] for name in all_peers
        }
        for _ in range(rounds):
            for name, peer in all_peers.items():
                with peer.running() as process:
                    loads[name].append(process.loading)
        grown = _growth(prepared)
        absent = prepared.absent
    seconds, memory, modules = (
        {
            name: statistics.median(load[what] for load in found)
            for name, found in loads.items()
        }
        for what in ('seconds', 'memory', 'modules')
    )
    ratios = {
        name: statistics.median(
            load['seconds'] / floor['seconds']
            for load, floor in zip(found, loads['floor'], strict=True)
        )
        for name, found in loads.items()
    }
    return Section(
        title=f'footprint: {rounds} starts of each',
        rows=[],
        notes=[
            *(
                f'{name:9}  load {seconds[name]:.2f} s of CPU '
                f'({ratios[name]:.2f})  memory {memory[name] / _MIB:.0f} MiB'
                f'  modules {modules[name]:.0f}'
                for name in all_peers
            ),
            f'growth over {_REQUESTS} requests: {grown:.2f} MiB',
            *(f'{name}: absent, {why}' for name, why in absent.items()),
        ],
        goals=[
            Goal('load / floor', ratios['libvirt'], _LOAD_LIMIT),
            *(
                Goal(f'MiB with {name}', memory[name] / _MIB, limit, 1.2)
                for name, limit in _MEMORY_LIMITS.items()
            ),
            # Half a page more or less is a third of nothing.
            Goal('MiB of growth', grown, _GROWTH_LIMIT, 2.0),
        ],
    )


def _growth(prepared: peers.Peers) -> float:
    """MiB that our process is larger after many requests of each kind."""
    orders = post.snapshot_orders(prepared.volume_id).values()
    with prepared.peers['ours'].running() as process:
        for order in orders:
            before = process.cost(
                dataclasses.asdict(dataclasses.replace(order, count=300))
            )
        for order in orders:
            count = _REQUESTS // len(orders)
            after = process.cost(
                dataclasses.asdict(dataclasses.replace(order, count=count))
            )
    return (after['memory'] - before['memory']) / _MIB
