# SPDX-License-Identifier: Apache-2.0
"""Where the CPU time of a POST goes, layer by layer, as cProfile has it.

The profile makes calls dearer than they are, so these are shares and never
times. What a POST takes is measured in post.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
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


def measure(short: bool, others: bool) -> Section:
    """One profile of many requests, whatever is asked for.

    :raises: :class:`tests.benchmark.rig.MeasuringFailed`
    """
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
    return Section(
        title=f'layers: {_COUNT} times a POST to ours, as cProfile has it',
        rows=[],
        notes=[
            f'{name:30} '
            f'{(of(first) - sum(map(of, rest))) / whole * 100:3.0f} %'
            for name, (first, *rest) in _LAYERS.items()
        ],
    )
