# SPDX-License-Identifier: Apache-2.0
"""What a restart takes, with few and many jobs in the journal.

The agent's own parts are started on a journal as a killed agent left it; no
guest is needed, since the jobs wait for nothing but Cinder, which is not told.
"""

from __future__ import annotations

import statistics
import time
import uuid
from pathlib import Path

from nova_ext.agent import engine, hypervisor, journal, manager, reporter
from nova_ext.agent import job as agent_job
from nova_ext.virt import host, image
from tests.benchmark.report import Goal, Section
from tests.benchmark.rig import MeasuringFailed
from tests.fixtures.host import short_directory

_SIZES = (1, 100, 10_000)
_SECONDS = 300.0
# Of 10 000 jobs that are over to 1.
_FLAT_LIMIT = 1.5
# Milliseconds for each of 10 000 that are not, until it is over.
_EACH_LIMIT = 2.0


def _fill(path: Path, number: int, state: agent_job.State) -> None:
    found = journal.Journal(path)
    # NOTE: not one by one, which is what the journal is for.
    found._database.execute('BEGIN')
    for _ in range(number):
        name = str(uuid.uuid4())
        found.add(
            agent_job.Job(
                snapshot_id=name,
                volume_id=name,
                operation=agent_job.Operation.DELETE,
                kind=agent_job.Kind.COMMIT,
                instance_id=str(uuid.uuid4()),
                target='vdb',
                before=(f'/s/{name}.2', f'/s/{name}.1', f'/s/{name}'),
                after=(f'/s/{name}.2', f'/s/{name}'),
                accepted_at=time.time(),
                deadline=time.time() + 7000,
                state=state,
                succeeded=True,
                flushed=True,
            )
        )
    found._database.execute('COMMIT')
    found.close()


def _recover(path: Path) -> tuple[float, float]:
    """Seconds until requests are taken, and until no job is left."""
    virt_host = host.Host('test:///default')
    virt_host.connect()
    found = None
    try:
        began = time.perf_counter()
        found = journal.Journal(path)
        agent = manager.Manager(
            hypervisor.Hypervisor(
                virt_host, image.Files(5.0), 'never', 10.0, 0
            ),
            None,  # type: ignore[arg-type]
            found,
            reporter.Silence(),
            reply_wait=1.0,
            history=engine.SETTLE_SECONDS,
        )
        agent.start()
        ready = time.perf_counter() - began
        while agent.status()['running']:
            if time.perf_counter() - began > _SECONDS:
                raise MeasuringFailed('a recovered job is never over')
            time.sleep(0.001)
        over = time.perf_counter() - began
        agent.stop()
    finally:
        if found is not None:
            found.close()
        virt_host.close()
    return ready, over


def measure(short: bool, others: bool) -> Section:
    """Start on each journal in turn.

    :raises: :class:`tests.benchmark.rig.MeasuringFailed`
    """
    rounds = 1 if short else 9
    states = {
        'over': agent_job.State.DONE,
        'not over': agent_job.State.CONFIRMING,
    }
    taken: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with short_directory() as directory:
        for _ in range(rounds):
            for name, state in states.items():
                for size in _SIZES:
                    path = directory / str(uuid.uuid4())
                    _fill(path, size, state)
                    taken.setdefault((name, size), []).append(_recover(path))
    medians = {
        way: [
            statistics.median(found) * 1e3
            for found in zip(*times, strict=True)
        ]
        for way, times in taken.items()
    }
    most = _SIZES[-1]
    return Section(
        title=f'recovery: {rounds} starts with each journal',
        rows=[],
        notes=[
            f'{size:6} jobs {name:8}: ready after {ready:8.1f} ms, the last '
            f'over after {over:8.1f} ms'
            for (name, size), (ready, over) in medians.items()
        ],
        goals=[
            Goal(
                f'ready with {most} jobs that are over / 1',
                medians['over', most][0] / medians['over', 1][0],
                _FLAT_LIMIT,
                slack=None,
            ),
            Goal(
                f'ms for each of {most} jobs, until over',
                medians['not over', most][1] / most,
                _EACH_LIMIT,
                slack=10.0,
            ),
        ],
    )
