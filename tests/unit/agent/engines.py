# SPDX-License-Identifier: Apache-2.0
"""A manager whose guests, files and Cinder do what a unit test says."""

from __future__ import annotations

import contextlib
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from nova_ext import exception
from nova_ext.agent import merge, outside, wire
from nova_ext.agent.admission import Admission
from nova_ext.agent.hypervisor import Hypervisor
from nova_ext.agent.job import Job, Operation, State
from nova_ext.agent.journal import Journal
from nova_ext.agent.manager import Manager
from nova_ext.agent.reporter import Reporter
from nova_ext.agent.transition import Chain, Record, Verdict
from tests.unit.agent import jobs

TIMEOUT = 10.0
INFO = {'snapshot_id': 'snapshot', 'type': 'qcow2', 'new_file': 'v.s'}
DELETE_INFO = {'file_to_merge': 'v.s1', 'merge_target_file': 'v'}
OUTAGE = exception.CinderUnavailable(snapshot_id='snapshot', reason='down')


class Engine:
    """A manager whose guests, files and Cinder do what a test says.

    :ivar world: what a look at the chain finds; a start makes it AFTER
    :ivar seen: (what was done, the job's state on disk while it was done)
    """

    def __init__(
        self,
        path: pathlib.Path,
        reply_wait: float = 5.0,
        of_nova: bool = False,
    ) -> None:
        self.path = path
        self.of_nova = of_nova
        self.nova = mock.create_autospec(outside.Records, instance=True)
        self.nova.trouble = ''
        self.nova.fence.side_effect = self._noting('nova fence', None)
        self.nova.refresh.side_effect = self._refresh
        self.records: list[Record] = []
        self.journal = Journal(path)
        self.world = Chain.BEFORE
        self.seen: list[tuple[str, str]] = []
        self.hypervisor = mock.create_autospec(Hypervisor, instance=True)
        self.hypervisor.start.side_effect = self._start
        self.hypervisor.look.side_effect = self._look
        self.hypervisor.progress.return_value = None
        self.hypervisor.volumes.return_value = {'volume'}
        self.hypervisor.cancel.side_effect = self._cancel
        self.start_error: Exception | None = None
        self.starts_before_it_fails = False
        self.cancels = True
        self.admission = mock.create_autospec(Admission, instance=True)
        self.admission.create.side_effect = self._admit_create
        self.admission.delete.side_effect = self._admit_delete
        self.reports = mock.create_autospec(Reporter, instance=True)
        self.reports.trouble = ''
        self.reports.fence.side_effect = self._noting('fence', None)
        self.deliveries: list[Verdict] = []
        self.reports.deliver.side_effect = self._deliver
        self.reports.confirm.side_effect = self._noting(
            'confirm', Verdict.CLAIMED
        )
        self.reports.is_gone.return_value = False
        self.deadline = 600.0
        self.manager = Manager(
            self.hypervisor,
            self.admission,
            self.journal,
            self.reports,
            reply_wait,
            history=86400.0,
            nova=self.nova if of_nova else None,
        )

    def create(self, new_file: str = 'v.s', **arguments: Any) -> None:
        self.manager.volume_snapshot_create(
            **{
                'volume_id': 'volume',
                'create_info': {**INFO, 'new_file': new_file},
                'not_after': time.time() + wire.CLOCK_ALLOWANCE,
                **arguments,
            }
        )

    def delete(self) -> None:
        self.manager.volume_snapshot_delete(
            'volume',
            'snapshot',
            DELETE_INFO,
            time.time() + wire.CLOCK_ALLOWANCE,
        )

    def states(self) -> list[str]:
        rows = self.journal._database.execute(
            'SELECT state FROM jobs ORDER BY id'
        )
        return [state for (state,) in rows.fetchall()]

    def latest(self, operation: Operation = Operation.CREATE) -> Job:
        found = self.journal.latest('snapshot', operation)
        assert found is not None
        return found

    def done(self) -> list[str]:
        return [name for name, _ in self.seen]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, (self.states(), self.seen)
            time.sleep(0.005)

    def wait_for_state(self, *states: State) -> None:
        self.wait_for(lambda: self.states() == [s.value for s in states])

    def hold_the_fence(self) -> tuple[threading.Event, threading.Event]:
        """Events: one is set when a fence begins, one ends it."""
        begun, go_on = threading.Event(), threading.Event()

        def hold(job: Job) -> None:
            self._note('fence', job)
            begun.set()
            assert go_on.wait(TIMEOUT)

        self.reports.fence.side_effect = hold
        return begun, go_on

    def _note(self, name: str, job: Job) -> None:
        (row,) = self.journal._database.execute(
            'SELECT state FROM jobs WHERE id = ?', (job.identity,)
        ).fetchall()
        self.seen.append((name, row[0]))

    def _noting(self, name: str, answer: Any) -> Callable[[Job], Any]:
        def noted(job: Job, *_: Any) -> Any:
            self._note(name, job)
            return answer

        return noted

    def _deliver(self, job: Job) -> Verdict:
        self._note('done' if job.succeeded else 'error', job)
        return (
            self.deliveries.pop(0) if self.deliveries else (Verdict.DELIVERED)
        )

    def _refresh(self, job: Job, used: bool) -> Record:
        self._note(f'refresh {used}', job)
        return self.records.pop(0) if self.records else Record.RIGHT

    def _start(self, job: Job, bandwidth: int | None) -> None:
        self._note('start', job)
        if self.start_error is None or self.starts_before_it_fails:
            self.world = Chain.AFTER
        if self.start_error is not None:
            raise self.start_error

    def _look(self, job: Job) -> Chain:
        self._note('look', job)
        return self.world

    def _cancel(self, job: Job) -> None:
        self._note('cancel', job)
        if self.cancels:
            self.world = Chain.BEFORE

    def _admit_create(
        self, volume_id: str, create_info: dict[str, Any], now: float
    ) -> Job:
        return jobs.create(
            snapshot_id=create_info['snapshot_id'],
            volume_id=volume_id,
            after=(f'/share/{create_info["new_file"]}', '/share/v'),
            before=('/share/v',),
            accepted_at=now,
            deadline=now + self.deadline,
            of_nova=self.of_nova,
        )

    def _admit_delete(
        self,
        volume_id: str,
        snapshot_id: str,
        asked: merge.Request,
        now: float,
    ) -> Job:
        return jobs.delete(
            volume_id=volume_id,
            snapshot_id=snapshot_id,
            kind=asked.kind,
            base=asked.base,
            top=asked.top,
            accepted_at=now,
            deadline=now + self.deadline,
        )


@contextlib.contextmanager
def running(
    path: pathlib.Path,
    reply_wait: float = 5.0,
    before: tuple[Job, ...] = (),
    prepare: Callable[[Engine], None] = lambda engine: None,
    of_nova: bool = False,
) -> Iterator[Engine]:
    engine = Engine(path, reply_wait, of_nova)
    for job in before:
        engine.journal.add(job)
    prepare(engine)
    engine.manager.start()
    try:
        yield engine
    finally:
        engine.manager.stop()
