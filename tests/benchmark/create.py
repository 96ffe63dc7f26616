# SPDX-License-Identifier: Apache-2.0
"""What making an overlay the active layer costs.

The floor is what no service that reports to Cinder can do without: the bare
call to libvirt, two reports over an open connection, and three durable writes:
that it was accepted, that libvirt is asked, and what came of it.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from keystoneauth1 import adapter, noauth, session

from nova_ext.agent import job as agent_job
from nova_ext.agent import journal
from tests.benchmark import agent_log, cpu, rig
from tests.benchmark.report import Goal, Row, Section, middle

LIMIT = 1.5
# By the wall, of which others on the machine take their part.
_SLACK = 2.5

# A step → the state of the job that ends it; that of the last is the answer.
_STEPS = {
    'admission, first write': 'PENDING',
    'first report, second write': 'RUNNING',
    'the switch': 'VERIFYING',
    'the look after it, third write': 'REPORTING',
    'second report, answer': None,
}
_SWITCH = 2

_WARM_UP = 6
# Three more layers each, so that no chain is longer than nine and a volume.
_ROUNDS_PER_CHAIN = 3


class Floor:
    """The bare calls.

    :ivar steps: seconds of each of the steps, each time
    """

    def __init__(self, parts: rig.Rig) -> None:
        self._domain = parts.domain
        self._parts = parts
        self._cinder = client(parts.cinder.endpoint)
        self._journal = journal.Journal(parts.guest.directory / 'floor.sqlite')
        self.steps: list[list[float]] = []

    def __call__(self, overlay: rig.Overlay) -> None:
        at = [time.perf_counter()]
        job = self._journal.add(
            agent_job.Job(
                snapshot_id=overlay.snapshot_id,
                volume_id=overlay.volume_id,
                operation=agent_job.Operation.CREATE,
                kind=agent_job.Kind.OVERLAY,
                instance_id=self._domain.UUIDString(),
                target=self._parts.guest.target,
                before=(str(overlay.path),),
                after=(str(overlay.path),),
                accepted_at=0.0,
                deadline=0.0,
            )
        )
        at.append(time.perf_counter())
        self._report(overlay, '0%')
        self._journal.update(job.to(agent_job.State.RUNNING))
        at.append(time.perf_counter())
        self._domain.snapshotCreateXML(
            self._parts.snapshot_xml(overlay), rig.SNAPSHOT
        )
        at.append(time.perf_counter())
        self._journal.update(job.to(agent_job.State.REPORTING))
        at.append(time.perf_counter())
        self._report(overlay, '90%')
        at.append(time.perf_counter())
        self.steps.append(_between(at))

    def _report(self, overlay: rig.Overlay, progress: str) -> None:
        update = {'status': 'creating', 'progress': progress}
        self._cinder.post(
            f'/snapshots/{overlay.snapshot_id}/action',
            json={'os-update_snapshot_status': update},
        )


class Agent:
    """Our agent, by its socket, as an API process asks it.

    :ivar cpu: seconds of CPU time of its process, each time
    """

    def __init__(self, parts: rig.Rig) -> None:
        self._asked: list[tuple[str, float, float]] = []
        self._pid = cpu.listener(parts.compute.conf.nova_ext_agent.socket)
        self.cpu: list[float] = []
        self._compute = parts.compute
        self._context = parts.context

    def __call__(self, overlay: rig.Overlay) -> None:
        asked, before = time.time(), cpu.seconds(self._pid)
        self._compute.volume_snapshot_create(
            self._context, overlay.volume_id, overlay.create_info
        )
        self.cpu.append(cpu.seconds(self._pid) - before)
        self._asked.append((overlay.snapshot_id, asked, time.time()))

    def steps(self, log: Path) -> list[list[float]]:
        """Seconds of each of the steps, each time."""
        found = agent_log.read(log)
        *states, _ = _STEPS.values()
        return [
            _between([began, *(found[name][state] for state in states), ended])
            for name, began, ended in self._asked
        ]


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
        ours = agent.steps(parts.log)[_WARM_UP:]
        machine = parts.machine
    used = statistics.median(agent.cpu[_WARM_UP:])
    bare = floor.steps[_WARM_UP:]
    return _section(taken, bare, used, [machine, *_compared(bare, ours)])


def _between(at: Sequence[float]) -> list[float]:
    return [end - begin for begin, end in itertools.pairwise(at)]


def _compared(
    bare: Sequence[Sequence[float]], ours: Sequence[Sequence[float]]
) -> Iterator[str]:
    """Where the time goes that the agent takes more than the floor."""
    taken = [
        [middle(step) * 1e3 for step in zip(*rounds, strict=True)]
        for rounds in (bare, ours)
    ]
    whole = sum(taken[1]) - sum(taken[0])
    for name, floor, agent in zip(_STEPS, *taken, strict=True):
        yield (
            f'{name:30}  floor {floor:5.1f}  agent {agent:5.1f}  of what is '
            f'more {(agent - floor) / whole * 100:3.0f} %'
        )


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
            # What follows an answer is not within the next one's clock.
            parts.settle([])
        if number % _ROUNDS_PER_CHAIN == 0:
            parts.settle(overlays)
            parts.flatten()
            overlays = []
            if number > _WARM_UP and time.monotonic() > end:
                break
    return [seconds[_WARM_UP:] for seconds in taken]


def _section(
    taken: list[list[float]],
    steps: Sequence[Sequence[float]],
    used: float,
    notes: Sequence[str],
) -> Section:
    floor, agent, http = taken
    rows = [
        Row(
            'floor: bare libvirt call, two reports, three writes',
            floor,
            is_floor=True,
        ),
        Row('  of which snapshotCreateXML', [one[_SWITCH] for one in steps]),
        Row(
            '  of which the reports, and the writes',
            [sum(one) - one[_SWITCH] for one in steps],
        ),
        Row('agent, by its socket', agent),
        Row('service, over HTTP (noauth)', http),
    ]
    # Within a round, since a disk is now fast and now slow.
    pairs = list(zip(floor, agent, strict=True))
    ratio = statistics.median(ours / bare for bare, ours in pairs)
    more = statistics.median(ours - bare for bare, ours in pairs)
    return Section(
        title=f'create: {len(floor)} rounds, each way once a round; ms',
        rows=rows,
        notes=[
            *notes,
            f'the agent takes {more * 1e3:.1f} ms more than the floor, and '
            f'{used * 1e3:.1f} ms of CPU time',
        ],
        goals=[Goal('create, agent / floor', ratio, LIMIT, _SLACK)],
        figure=f'create {ratio:.2f} libvirt',
    )


def client(endpoint: str) -> adapter.Adapter:
    """A client whose connection stays open, if the server lets it."""
    return adapter.Adapter(
        session.Session(auth=noauth.NoAuth(endpoint=endpoint)),
        service_type='block-storage',
        endpoint_override=endpoint,
    )
