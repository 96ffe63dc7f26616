# SPDX-License-Identifier: Apache-2.0
"""What becomes of a job that waits for another one of its guest."""

from __future__ import annotations

import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from unittest import mock

import pytest

from nova_ext import exception
from nova_ext.agent import engine as agent_engine
from nova_ext.agent import intake, wire
from nova_ext.agent.job import Job, Kind, Operation, State
from nova_ext.agent.transition import Chain
from tests.unit.agent import jobs
from tests.unit.agent.engines import Engine, running

pytestmark = pytest.mark.usefixtures('quick')

PULL = {'file_to_merge': None, 'merge_target_file': None}


class Guest:
    """A guest: another of its disks is pulled until a test ends that.

    :ivar found: what a look at the job that waits finds, before its start
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.found = Chain.BEFORE
        self.pull = Chain.RUNNING
        engine.hypervisor.look.side_effect = self._look
        engine.hypervisor.start.side_effect = self._start
        self._started: set[str] = set()
        self.fenced_at = 0.0
        engine.reports.fence.side_effect = self._fence
        self._pool = futures.ThreadPoolExecutor(1)
        engine.manager.volume_snapshot_delete(
            'other', 'pulled', PULL, time.time() + wire.CLOCK_ALLOWANCE
        )

    def ask(self, method: Callable[[], None]) -> futures.Future[None]:
        asked = self._pool.submit(method)
        self.engine.wait_for(lambda: len(self.engine.states()) == 2)
        self.engine.wait_for(lambda: 'waits for the delete' in self.reason())
        assert self._started == {'other'}
        return asked

    def reason(self) -> str:
        return self.last().reason

    def first(self) -> Job:
        return self.engine.journal.jobs(everything=True)[0]

    def last(self) -> Job:
        return self.engine.journal.jobs(everything=True)[-1]

    def wait_for_last(self, state: State) -> Job:
        self.engine.wait_for(lambda: self.last().state is state)
        return self.last()

    def end_the_pull(self) -> None:
        self.pull = Chain.AFTER
        self.engine.manager.wake('instance')

    @property
    def started(self) -> bool:
        return 'volume' in self._started

    def _fence(self, job: Job) -> None:
        self.fenced_at = time.time()

    def _start(self, job: Job, bandwidth: int | None) -> None:
        self._started.add(job.volume_id)
        if job.volume_id == 'other':
            self.pull = Chain.RUNNING

    def _look(self, job: Job) -> Chain:
        if job.kind is Kind.PULL and job.volume_id == 'other':
            return self.pull
        return Chain.AFTER if self.started else self.found


@pytest.fixture
def engine(path: pathlib.Path) -> Iterator[Engine]:
    with running(path) as engine:
        yield engine


@pytest.fixture
def guest(engine: Engine) -> Guest:
    return Guest(engine)


def test_it_is_done_when_its_turn_comes(engine: Engine, guest: Guest) -> None:
    asked = guest.ask(engine.create)
    # Cinder is asked at the last moment.
    engine.reports.fence.assert_called_once()
    guest.end_the_pull()
    asked.result()
    engine.wait_for_state(State.DONE, State.DONE)
    assert engine.reports.fence.call_count == 2
    assert guest.reason() == ''


def test_who_waits_too_long_is_told_that_it_goes_on(
    path: pathlib.Path,
) -> None:
    with running(path, reply_wait=0.2) as engine:
        guest = Guest(engine)
        guest.ask(engine.create).result()
        assert guest.last().state is State.PENDING
        guest.end_the_pull()
        guest.wait_for_last(State.DONE)
        assert guest.started


def test_it_is_not_begun_while_no_may_be_said_of_it(
    path: pathlib.Path,
) -> None:
    with (
        mock.patch.object(intake, '_NO_SECONDS', 0.5),
        mock.patch.object(wire, 'answer_wait', lambda reply_wait: 0.5),
        running(path) as engine,
    ):
        guest = Guest(engine)
        not_after = time.time() + 0.2
        guest.ask(lambda: engine.create(not_after=not_after))
        engine.wait_for(lambda: time.time() > not_after)
        guest.end_the_pull()
        engine.wait_for(lambda: guest.first().state is State.DONE)
        assert not guest.started
        guest.wait_for_last(State.DONE)
        fence = engine.reports.fence
        assert fence.call_count == 2
        assert guest.fenced_at >= not_after + 1.0


def test_its_deadline_ends_it(engine: Engine, guest: Guest) -> None:
    engine.deadline = 0.5
    asked = guest.ask(engine.create)
    with pytest.raises(exception.SnapshotFailed, match='deadline passed'):
        asked.result()
    assert 'snapshot pulled' in guest.wait_for_last(State.FAILED).reason
    assert not guest.started
    assert 'error' in engine.done()


def test_an_operator_ends_it(engine: Engine, guest: Guest) -> None:
    asked = guest.ask(engine.delete)
    engine.manager.control.job_cancel(guest.last().identity)
    asked.exception()
    assert 'operator' in guest.wait_for_last(State.FAILED).reason
    assert not guest.started


def test_an_agent_that_stops_says_no(engine: Engine, guest: Guest) -> None:
    asked = guest.ask(engine.create)
    engine.manager.hurry()
    with pytest.raises(exception.RequestExpired):
        asked.result()
    guest.end_the_pull()
    guest.wait_for_last(State.FAILED)
    assert not guest.started


def test_a_restart_ends_it(path: pathlib.Path) -> None:
    with running(path) as engine:
        guest = Guest(engine)
        asked = guest.ask(engine.create)
        engine.manager.hurry()
        asked.exception()
    with running(path) as engine:
        engine.wait_for(
            lambda: engine.latest(Operation.CREATE).state is State.FAILED
        )
        assert 'restarted' in engine.latest(Operation.CREATE).reason
        engine.hypervisor.start.assert_not_called()


@pytest.mark.parametrize('found', [Chain.OTHER, Chain.AFTER, Chain.RUNNING])
def test_a_chain_that_changed_meanwhile_is_left_alone(
    engine: Engine, guest: Guest, found: Chain
) -> None:
    asked = guest.ask(engine.create)
    guest.found = found
    guest.end_the_pull()
    with pytest.raises(exception.SnapshotFailed, match='while it waited'):
        asked.result()
    assert not guest.started


def test_a_chain_that_cannot_be_seen_is_waited_for(
    engine: Engine, guest: Guest
) -> None:
    asked = guest.ask(engine.create)
    guest.found = Chain.UNKNOWN
    guest.end_the_pull()
    engine.wait_for(lambda: engine.hypervisor.look.call_count > 10)
    assert not guest.started
    guest.found = Chain.BEFORE
    asked.result()
    assert guest.started


def test_a_fence_that_fails_then_is_reported(
    engine: Engine, guest: Guest
) -> None:
    asked = guest.ask(engine.create)
    error = exception.SnapshotNotAwaited(snapshot_id='s', answer='400')
    engine.reports.fence.side_effect = error
    guest.end_the_pull()
    with pytest.raises(exception.SnapshotNotAwaited):
        asked.result()
    guest.wait_for_last(State.FAILED)
    assert 'error' in engine.done()
    assert not guest.started


def test_what_a_former_process_began_is_waited_for(
    path: pathlib.Path,
) -> None:
    left = jobs.delete(
        volume_id='other',
        kind=Kind.PULL,
        state=State.RUNNING,
        deadline=time.time() + 60,
    )
    looked, go_on = threading.Event(), threading.Event()

    def look(job: Job) -> Chain:
        if job.volume_id == 'other':
            looked.set()
            return Chain.AFTER if go_on.is_set() else Chain.RUNNING
        return Chain.AFTER if engine.hypervisor.start.called else Chain.BEFORE

    def prepare(engine: Engine) -> None:
        engine.hypervisor.look.side_effect = look
        engine.hypervisor.start.side_effect = None

    with running(path, before=(left,), prepare=prepare) as engine:
        assert looked.wait(5)
        with futures.ThreadPoolExecutor(1) as pool:
            asked = pool.submit(engine.create)
            engine.wait_for(lambda: len(engine.states()) == 2)
            engine.wait_for(lambda: 'waits' in engine.latest().reason)
            assert not engine.hypervisor.start.called
            go_on.set()
            asked.result()
        engine.wait_for_state(State.DONE, State.DONE)


# What a long pull does for a switch.


@pytest.fixture
def soon() -> Iterator[None]:
    with mock.patch.object(agent_engine, '_ASIDE_SECONDS', 0.1):
        yield


def _cancelled(guest: Guest) -> Callable[[Job], None]:
    def cancel(job: Job) -> None:
        assert guest.engine.journal.get(job.identity).aside  # type: ignore
        guest.pull = Chain.BEFORE

    return cancel


@pytest.mark.usefixtures('soon')
def test_a_long_pull_steps_aside(engine: Engine, guest: Guest) -> None:
    engine.hypervisor.cancel.side_effect = _cancelled(guest)
    engine.manager.control.job_limit(1, 7)
    guest.ask(engine.create).result()
    assert guest.wait_for_last(State.DONE).operation is Operation.CREATE
    starts = engine.hypervisor.start
    engine.wait_for(lambda: starts.call_count == 3)
    assert [call.args[0].volume_id for call in starts.call_args_list] == [
        'other',
        'volume',
        'other',
    ]
    pull, bandwidth = starts.call_args.args
    assert bandwidth == 7
    assert not pull.aside
    guest.end_the_pull()
    engine.wait_for_state(State.DONE, State.DONE)


@pytest.mark.usefixtures('soon')
def test_one_that_stepped_aside_can_be_cancelled(
    engine: Engine, guest: Guest
) -> None:
    engine.hypervisor.cancel.side_effect = _cancelled(guest)
    go_on = threading.Event()
    engine.hypervisor.start.side_effect = lambda *_: go_on.wait(5)
    asked = guest.ask(engine.create)
    engine.wait_for(lambda: guest.pull is Chain.BEFORE)
    engine.wait_for(lambda: guest.first().reason != '')
    engine.manager.control.job_cancel(guest.first().identity)
    engine.wait_for(lambda: guest.first().state is State.FAILED)
    assert 'operator' in guest.first().reason
    go_on.set()
    asked.exception()


@pytest.mark.usefixtures('soon')
def test_one_that_stepped_aside_goes_on_after_a_restart(
    path: pathlib.Path,
) -> None:
    left = jobs.delete(
        volume_id='other',
        kind=Kind.PULL,
        state=State.RUNNING,
        aside=True,
        deadline=time.time() + 60,
    )
    found = [Chain.RUNNING]

    def prepare(engine: Engine) -> None:
        hypervisor = engine.hypervisor
        hypervisor.look.side_effect = lambda job: found[0]
        hypervisor.cancel.side_effect = lambda job: found.insert(
            0, Chain.BEFORE
        )
        hypervisor.start.side_effect = lambda *_: found.insert(0, Chain.AFTER)

    with running(path, before=(left,), prepare=prepare) as engine:
        engine.wait_for_state(State.DONE)
        engine.hypervisor.cancel.assert_called_once()
        engine.hypervisor.start.assert_called_once()
