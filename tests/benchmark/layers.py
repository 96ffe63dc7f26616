# SPDX-License-Identifier: Apache-2.0
"""Where the CPU time of a POST goes, and of a start, layer by layer.

Of a POST as cProfile has it, which makes calls dearer than they are: these are
shares and never times. It would make a start, which is little but calls, five
times as dear: that is looked at every now and then. What they take is measured
in post.py and footprint.py.
"""

from __future__ import annotations

import collections
import dataclasses
import statistics
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from nova_ext import context
from nova_ext.api import app, filters, router, stock, wsgi
from tests.benchmark import peers, post
from tests.benchmark.report import Section

_COUNT = 300
# A layer → where it begins, and what of that is another's.
_LAYERS: dict[str, tuple[Callable[..., Any], ...]] = {
    'keystonemiddleware': (
        stock.RequestBodySizeLimiter.__call__,
        filters.ContextFilter.__call__,
    ),
    'the line of the log': (filters.FaultFilter._log,),
    'body, schema, version, answer': (
        wsgi.Resource.__call__,
        context.RequestContext.can,
    ),
    'policy': (context.RequestContext.can,),
    'router': (router.Router.__call__, wsgi.Resource.__call__),
    'context': (filters.ContextFilter.__call__, router.Router.__call__),
    'faults': (
        filters.FaultFilter.__call__,
        filters.FaultFilter._log,
        stock.RequestBodySizeLimiter.__call__,
    ),
    'request id, oslo.middleware': (
        app.Mount.__call__,
        filters.FaultFilter.__call__,
    ),
}
# A layer of a start → its packages; what only they import is theirs, as Jinja2
# is oslo.middleware's.
_PACKAGES: dict[str, tuple[str, ...]] = {
    'oslo.middleware, with Jinja2': ('oslo_middleware',),
    'oslo.policy, with PyYAML': ('oslo_policy', 'yaml'),
    'ours, with the log': ('nova_ext', ''),
    'oslo.config': ('oslo_config',),
    'PasteDeploy': ('paste',),
    'Routes': ('routes',),
    'keystonemiddleware': ('keystonemiddleware', 'keystoneauth1'),
}


def measure(short: bool, others: bool) -> Section:
    """One profile of many requests, and many starts of a tenth of a second.

    :raises: :class:`tests.benchmark.rig.MeasuringFailed`
    """
    starts = 10 if short else 40
    return Section(
        title=f'layers: {_COUNT} POSTs to ours, and {starts} starts of it',
        rows=[],
        notes=[
            'of a POST, as cProfile has it:',
            *_of_a_post(),
            'of what a start takes beyond the floor, by looks at it:',
            *_of_a_start(starts),
        ],
    )


def _of_a_post() -> Iterator[str]:
    with peers.prepared(others=False) as prepared:
        order = post.orders('ours', prepared.volume_id)['POST']
        with prepared.peers['ours'].running() as process:
            seconds = process.profile(
                {**dataclasses.asdict(order), 'count': _COUNT}
            )

    def of(function: Callable[..., Any]) -> float:
        code = function.__code__
        return seconds[f'{code.co_filename}:{code.co_firstlineno}']

    whole = of(app.Mount.__call__)
    for name, (first, *rest) in _LAYERS.items():
        share = (of(first) - sum(map(of, rest))) / whole
        yield f'{name:30} {share * 100:3.0f} %'


def _of_a_start(starts: int) -> Iterator[str]:
    """Ours is loaded where the floor is already."""
    found: collections.Counter[str] = collections.Counter()
    refusals = []
    packages = [name for names in _PACKAGES.values() for name in names]
    with peers.backends() as backends:
        for _ in range(starts):
            with backends['floor'].running() as process:
                found.update(process.start('shipped', packages))
                refusals.append(_refusals(process))
    for name, names in _PACKAGES.items():
        share = sum(found[one] for one in names) / found.total()
        yield f'{name:30} {share * 100:3.0f} %'
    first, second = map(statistics.median, zip(*refusals, strict=True))
    yield (
        f'the first refusal, which loads jsonschema: {first * 1e3:.0f} ms of '
        f'CPU, the second {second * 1e3:.1f}'
    )


def _refusals(process: peers.Process) -> tuple[float, float]:
    """CPU seconds of the first of a process, and of the second."""
    order = dataclasses.replace(
        post.snapshot_orders(str(uuid.uuid4()))['400 schema'],
        app='shipped',
        count=1,
        warm_up=0,
    )
    first, second = (
        process.cost(dataclasses.asdict(order))['seconds'] for _ in range(2)
    )
    return first, second
