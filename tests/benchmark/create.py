# SPDX-License-Identifier: Apache-2.0
"""What making an overlay the active layer costs.

The floor is what no service that reports to Cinder can do without: the bare
call to libvirt, and two reports over an open connection.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

from keystoneauth1 import adapter, noauth, session

from tests.benchmark import rig
from tests.benchmark.report import Row, Section

LIMIT = 2.0

_WARM_UP = 6
# Three more layers each, so that no chain is longer than nine and a volume.
_ROUNDS_PER_CHAIN = 3


class Floor:
    """The bare calls.

    :ivar parts: seconds of libvirt's call and of both reports, each time
    """

    def __init__(self, parts: rig.Rig) -> None:
        self._domain = parts.domain
        self._parts = parts
        self._cinder = client(parts.cinder.endpoint)
        self.parts: list[tuple[float, float]] = []

    def __call__(self, overlay: rig.Overlay) -> None:
        started = time.perf_counter()
        self._report(overlay, '0%')
        asked = time.perf_counter()
        self._domain.snapshotCreateXML(
            self._parts.snapshot_xml(overlay), rig.SNAPSHOT
        )
        switched = time.perf_counter()
        self._report(overlay, '90%')
        reported = time.perf_counter()
        self.parts.append(
            (switched - asked, asked - started + reported - switched)
        )

    def _report(self, overlay: rig.Overlay, progress: str) -> None:
        update = {'status': 'creating', 'progress': progress}
        self._cinder.post(
            f'/snapshots/{overlay.snapshot_id}/action',
            json={'os-update_snapshot_status': update},
        )


class Agent:
    """Our agent, by its socket, as an API process asks it."""

    def __init__(self, parts: rig.Rig) -> None:
        self._compute = parts.compute
        self._context = parts.context

    def __call__(self, overlay: rig.Overlay) -> None:
        self._compute.volume_snapshot_create(
            self._context, overlay.volume_id, overlay.create_info
        )


class Http:
    """A POST to the shipped pipeline, as Cinder sends it."""

    def __init__(self, parts: rig.Rig) -> None:
        self._service = client(parts.url)

    def __call__(self, overlay: rig.Overlay) -> None:
        self._service.post(
            '/os-assisted-volume-snapshots',
            json={
                'snapshot': {
                    'volume_id': overlay.volume_id,
                    'create_info': overlay.create_info,
                }
            },
        )


def measure(short: bool, others: bool) -> Section:
    """Create after create, each way in turn.

    :raises: :class:`tests.benchmark.rig.MeasuringFailed`, and what the parts
        raise
    """
    rounds, seconds = (150, 35.0) if short else (501, 300.0)
    with rig.running() as parts:
        floor, agent, http = Floor(parts), Agent(parts), Http(parts)
        taken = _take(parts, (floor, agent, http), rounds, seconds)
        machine = parts.machine
    return _section(taken, floor.parts[_WARM_UP:], machine)


def _take(
    parts: rig.Rig,
    ways: Sequence[Callable[[rig.Overlay], None]],
    rounds: int,
    limit: float,
) -> list[list[float]]:
    """Seconds that each way took in each round.

    :param limit: seconds after which no further round is begun
    """
    # All orders in turn, since each way leaves caches and dirty pages behind.
    orders = itertools.cycle(itertools.permutations(range(len(ways))))
    taken: list[list[float]] = [[] for _ in ways]
    overlays: list[rig.Overlay] = []
    end = time.monotonic() + limit
    for number in range(1, _WARM_UP + rounds + 1):
        for way in next(orders):
            overlays.append(parts.overlay())
            started = time.perf_counter()
            ways[way](overlays[-1])
            taken[way].append(time.perf_counter() - started)
            parts.check(overlays[-1])
        if number % _ROUNDS_PER_CHAIN == 0:
            parts.settle(overlays)
            parts.flatten()
            overlays = []
            if number > _WARM_UP and time.monotonic() > end:
                break
    return [seconds[_WARM_UP:] for seconds in taken]


def _section(
    taken: list[list[float]], parts: list[tuple[float, float]], machine: str
) -> Section:
    floor, agent, http = taken
    rows = [
        Row('floor: bare libvirt call and two reports', floor, is_floor=True),
        Row('  of which snapshotCreateXML', [part[0] for part in parts]),
        Row('  of which the reports', [part[1] for part in parts]),
        Row('agent, by its socket', agent),
        Row('service, over HTTP (noauth)', http),
    ]
    ratio = Row('', agent).median / rows[0].median
    verdict = 'met' if ratio <= LIMIT else 'NOT met'
    return Section(
        title=f'create: {len(floor)} rounds, each way once a round; ms',
        rows=rows,
        notes=[
            machine,
            f'agent / floor = {ratio:.2f}: the limit of {LIMIT:.2f} is '
            f'{verdict}',
        ],
        figure=f'create {ratio:.2f} libvirt',
    )


def client(endpoint: str) -> adapter.Adapter:
    """A client whose connection stays open, if the server lets it."""
    return adapter.Adapter(
        session.Session(auth=noauth.NoAuth(endpoint=endpoint)),
        service_type='block-storage',
        endpoint_override=endpoint,
    )
