# SPDX-License-Identifier: Apache-2.0
"""What a request costs the API, in CPU time in process.

The floor is what no service in OpenStack can do without: keystonemiddleware,
which has the token in its cache, and fifteen lines that read what they are
sent and answer. Who is asked is in peers.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import urllib.parse
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.benchmark import peers
from tests.benchmark.report import Goal, Matrix

PATH = '/os-assisted-volume-snapshots'

# A round of each is a tenth of a second or less.
_COUNT, _WARM_UP = 30, 3
# Request → of ours to the floor's, and of ours behind stock filters.
_LIMITS = {
    'POST': 1.8,
    'DELETE': 2.0,
    '400 schema': 1.8,
    '403': 1.8,
    '401': 2.0,
}
_STOCK_LIMIT = 2.2
_IN_NOVA_LIMIT = 0.5
# With what is Nova's own below the API, and our look whether the host is up.
_WHOLE, _WHOLE_LIMIT = 'POST, with databases', 1.2
# Percent of Nova's CPU for a request that is not ours, at its cheapest.
_ADDED_LIMIT = 5
_OTHERS = ('GET /servers', 'GET /v2.1/', 'unknown path')
# What each peer is asked.
KINDS = (
    *('POST', 'DELETE', '400 schema', '400 project'),
    *('401', '403', '404', '406'),
)
# Requests that have a floor of their own; for others it is that of the POST.
_OWN_FLOOR = ('POST', 'DELETE', '401')


@dataclasses.dataclass(frozen=True)
class Order:
    """Requests that are measured together.

    :ivar bodies: those of the requests in turn, where they differ
    :ivar status: what the answer's status must begin with
    :ivar stub: whether Nova's compute API, which looks into its databases and
        sends a message, is left out; None where there is none
    :ivar app: what is asked instead of the peer, see peer.py
    """

    path: str
    method: str = 'GET'
    body: str = ''
    bodies: Sequence[str] = ()
    status: str = '200'
    token: str = 'a-token'
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stub: bool | None = None
    app: str = ''
    count: int = _COUNT
    warm_up: int = _WARM_UP


def snapshot_orders(volume_id: str, prefix: str = '/v2.1') -> dict[str, Order]:
    """Name → requests of the resource; both writes, and each refusal."""
    snapshot_id = str(uuid.uuid4())
    create_info: dict[str, Any] = {
        'snapshot_id': snapshot_id,
        'type': 'qcow2',
        'new_file': f'volume-{volume_id}.{snapshot_id}',
    }
    body = {'snapshot': {'volume_id': volume_id, 'create_info': create_info}}
    merge = {
        'volume_id': volume_id,
        'type': 'qcow2',
        'file_to_merge': create_info['new_file'],
        'merge_target_file': f'volume-{volume_id}',
    }
    query = urllib.parse.urlencode({'delete_info': json.dumps(merge)})
    post = Order(prefix + PATH, 'POST', json.dumps(body))
    del create_info['new_file']
    return {
        'POST': post,
        'DELETE': Order(
            f'{prefix}{PATH}/{snapshot_id}?{query}', 'DELETE', status='204'
        ),
        **_refusals(
            post,
            json.dumps(body),
            'X-OpenStack-Nova-API-Version',
            '2.999',
            f'{prefix}{PATH}/{snapshot_id}',
        ),
        '400 project': dataclasses.replace(
            post, path=f'{prefix}/{"0" * 32}{PATH}', status='400'
        ),
    }


def _refusals(
    post: Order, bad: str, header: str, version: str, unknown: str
) -> dict[str, Order]:
    def but(status: str, **changes: Any) -> Order:
        return dataclasses.replace(post, status=status, **changes)

    return {
        '400 schema': but('400', body=bad),
        '401': but('401', token=''),
        '403': but('403', token='a-reader'),  # noqa: S106 (no secret)
        '404': but('404', method='GET', body='', path=unknown),
        '406': but('406', headers={header: version}),
    }


def _provider_orders() -> dict[str, Order]:
    """The same of a resource of placement's."""
    name = str(uuid.uuid4())
    post = Order(
        '/resource_providers',
        'POST',
        json.dumps({'name': name, 'uuid': name}),
        headers={'OpenStack-API-Version': 'placement 1.20'},
    )
    refusals = _refusals(
        post,
        json.dumps({'name': name, 'uuid': 'x'}),
        'OpenStack-API-Version',
        'placement 1.999',
        '/nothing',
    )
    return {
        'POST': post,
        'DELETE': dataclasses.replace(
            post,
            path=f'/resource_providers/{name}',
            method='DELETE',
            body='',
            status='204',
        ),
        **refusals,
    }


def orders(name: str, volume_id: str) -> dict[str, Order]:
    """What a peer is asked."""
    if name == 'placement':
        return _provider_orders()
    orders = snapshot_orders(volume_id)
    if name == 'floor':
        return {kind: orders[kind] for kind in _OWN_FLOOR}
    if 'Nova' not in name:
        return orders
    # The costliest path to find no route for.
    passed = Order(f'/{"0" * 32}/servers/detail', count=10 * _COUNT)
    apps = ('trivial', 'behind_ours') if name == 'in Nova' else ()
    return {
        **{
            kind: dataclasses.replace(order, stub=True)
            for kind, order in orders.items()
        },
        _WHOLE: dataclasses.replace(orders['POST'], stub=False),
        'GET /servers': Order('/v2.1/servers'),
        'GET /v2.1/': Order('/v2.1/'),
        'unknown path': Order('/v2.1/nothing', status='404'),
        **{app: dataclasses.replace(passed, app=app) for app in apps},
    }


def measure(short: bool, others: bool) -> Matrix:
    """Requests in turn: each kind to each peer once a round.

    :raises: :class:`tests.benchmark.rig.MeasuringFailed`
    """
    rounds = 12 if short else 100
    with peers.prepared(others) as prepared, contextlib.ExitStack() as stack:
        ways = {
            (kind, name): (process, order)
            for name, peer in prepared.peers.items()
            for process in [stack.enter_context(peer.running())]
            for kind, order in orders(name, prepared.volume_id).items()
        }
        taken: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
        for number in range(rounds + 1):
            for way, (process, order) in ways.items():
                cost = process.cost(dataclasses.asdict(order))
                if number:
                    taken[way].append(cost['seconds'] / order.count)
        absent = prepared.absent
    return _matrix(taken, absent, rounds)


def ratios(
    taken: Mapping[tuple[str, str], Sequence[float]],
) -> Callable[[str, str, str], float]:
    """What gives how many times one peer takes what another does.

    :param taken: (kind, name) → seconds of each round
    :returns: of the kind of request, the peer, and the one it is compared with
    """

    def ratio(kind: str, of: str, to: str) -> float:
        base = kind
        if to == 'floor' and kind not in _OWN_FLOOR:
            base = 'POST'
        # Of each round: what disturbs one, disturbs both.
        pairs = zip(taken[base, to], taken[kind, of], strict=True)
        return statistics.median(other / one for one, other in pairs)

    return ratio


def cells(
    taken: Mapping[tuple[str, str], Sequence[float]], suffix: str = ''
) -> dict[tuple[str, str], tuple[float, float]]:
    """The table of what was taken, for :class:`report.Matrix`.

    :param suffix: of the names of the kinds
    """
    ratio = ratios(taken)
    return {
        (kind + suffix, name): (
            statistics.median(seconds) * 1e6,
            ratio(kind, name, 'floor'),
        )
        for (kind, name), seconds in taken.items()
    }


def _matrix(
    taken: Mapping[tuple[str, str], list[float]],
    absent: Mapping[str, str],
    rounds: int,
) -> Matrix:
    ratio = ratios(taken)
    goals = [
        Goal(
            f'{kind}, as shipped / floor', ratio(kind, 'ours', 'floor'), limit
        )
        for kind, limit in _LIMITS.items()
    ]
    goals.append(
        Goal(
            'POST, behind stock filters / floor',
            ratio('POST', 'stock filters', 'floor'),
            _STOCK_LIMIT,
        )
    )
    figure = f'post {ratio("POST", "ours", "floor"):.2f} floor'
    if ('POST', 'Nova') in taken:
        figure += f', nova {ratio("POST", "Nova", "floor"):.2f} floor'
        goals += [
            Goal(
                'POST, ours in Nova / Nova',
                ratio('POST', 'in Nova', 'Nova'),
                _IN_NOVA_LIMIT,
            ),
            Goal(
                "POST, the same with Nova's databases",
                ratio(_WHOLE, 'in Nova', 'Nova'),
                _WHOLE_LIMIT,
            ),
            _added(taken),
        ]
    return Matrix(
        title=f'post: {rounds} rounds of {_COUNT} requests; µs of CPU each, '
        'and how many times the floor',
        cells=cells(taken),
        absent=absent,
        goals=goals,
        figure=figure,
        drawn=KINDS,
    )


def _added(taken: Mapping[tuple[str, str], list[float]]) -> Goal:
    """What our filter adds to a request that it passes on, as a goal.

    NOTE: with and without it, Nova's own cost differs by more than that from
    one process to another.
    """
    cheapest = min(
        ((kind, 'Nova') for kind in _OTHERS),
        key=lambda way: statistics.median(taken[way]),
    )
    rounds = zip(
        taken['behind_ours', 'in Nova'],
        taken['trivial', 'in Nova'],
        taken[cheapest],
        strict=True,
    )
    return Goal(
        f'what ours adds where it passes, % of {cheapest[0]}, Nova',
        statistics.median(
            (ours - bare) / nova * 100 for ours, bare, nova in rounds
        ),
        _ADDED_LIMIT,
    )
