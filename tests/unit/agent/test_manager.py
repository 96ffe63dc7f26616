# SPDX-License-Identifier: Apache-2.0
"""The engine: order, repeats, refusals, abandonment and recovery."""

from __future__ import annotations

import contextlib
import math
import pathlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any
from unittest import mock

import pytest

from nova_ext import exception
from nova_ext.agent import engine as agent_engine
from nova_ext.agent import wire
from nova_ext.agent.job import Job, Kind, Operation, State
from nova_ext.agent.transition import Chain, Record, Verdict
from tests.unit.agent import fakes, jobs
from tests.unit.agent.engines import (
    INFO,
    OUTAGE,
    TIMEOUT,
    Engine,
    running,
)

pytestmark = pytest.mark.usefixtures('quick')


@pytest.fixture
def engine(path: pathlib.Path) -> Iterator[Engine]:
    with running(path) as engine:
        yield engine


def _refused(
    kind: type[exception.NovaExtException],
    words: str,
    call: Callable[..., None],
    **arguments: Any,
) -> None:
    with pytest.raises(kind, match=words):
        call(**arguments)


# The order of things.


def test_each_step_is_on_disk_before_it_is_done(engine: Engine) -> None:
    engine.create(request_id='req-1')
    engine.wait_for_state(State.DONE)
    assert engine.seen == [
        ('fence', 'PENDING'),
        ('start', 'RUNNING'),
        ('look', 'VERIFYING'),
        ('done', 'REPORTING'),
        ('confirm', 'CONFIRMING'),
    ]
    assert engine.latest().request_id == 'req-1'
    engine.wait_for(lambda: engine.manager.status()['running'] == 0)


def test_a_power_cut_leaves_what_was_asked_for_and_what_came_of_it(
    engine: Engine,
) -> None:
    durable: list[tuple[str, int]] = []
    update = engine.journal.update

    def spy(job: Job, surely: bool = True) -> None:
        update(job, surely)
        if surely:
            durable.append((job.state.value, len(engine.seen)))

    with mock.patch.object(engine.journal, 'update', spy):
        engine.create()
        engine.wait_for(lambda: engine.manager.status()['running'] == 0)
    assert engine.done() == ['fence', 'start', 'look', 'done', 'confirm']
    assert durable == [('RUNNING', 1), ('REPORTING', 3), ('DONE', 5)]


def test_the_answer_comes_after_the_report(engine: Engine) -> None:
    engine.reports.confirm.side_effect = engine._noting(
        'confirm', Verdict.RETRY
    )
    engine.deliveries = [Verdict.RETRY, Verdict.RETRY]
    engine.create()
    assert engine.done().count('done') == 3
    assert engine.states() == ['CONFIRMING']


def test_a_delete_is_answered_when_it_was_started(engine: Engine) -> None:
    engine.hypervisor.look.side_effect = engine._noting('look', Chain.RUNNING)
    engine.delete()
    assert engine.done()[:2] == ['fence', 'start']
    assert 'done' not in engine.done()
    engine.wait_for(lambda: engine.done().count('look') > 2)
    assert engine.states() == ['RUNNING']
    engine.hypervisor.look.side_effect = engine._look
    engine.wait_for_state(State.DONE)


# What is refused.


def test_a_refusal_of_admission_leaves_nothing_behind(engine: Engine) -> None:
    error = exception.VolumeNotAttached(volume_id='volume')
    engine.admission.create.side_effect = error
    engine.admission.delete.side_effect = error
    for call in (engine.create, engine.delete):
        _refused(exception.VolumeNotAttached, 'volume', call)
    assert (engine.states(), engine.seen) == ([], [])


@pytest.mark.parametrize(
    'error',
    [OUTAGE, exception.SnapshotNotAwaited(snapshot_id='s', answer='400')],
)
def test_a_fence_that_fails_starts_nothing(
    engine: Engine, error: exception.NovaExtException
) -> None:
    engine.reports.fence.side_effect = error
    for call in (engine.create, engine.delete):
        with pytest.raises(type(error)) as raised:
            call()
        assert raised.value is error
    assert engine.done() == []
    engine.wait_for_state(State.FAILED, State.FAILED)
    assert engine.latest().reason == str(error)


def test_a_request_that_came_too_late_starts_nothing(engine: Engine) -> None:
    _refused(
        exception.RequestExpired,
        'clocks',
        engine.create,
        not_after=time.time() - 0.001,
    )
    assert (engine.states(), engine.seen) == ([], [])


def test_a_clock_that_is_behind_starts_nothing(engine: Engine) -> None:
    # It would start it when the API has said that it is not started.
    _refused(
        exception.ClocksDiffer,
        'NTP',
        engine.create,
        not_after=time.time() + 5.0 + wire.CLOCK_ALLOWANCE + 1.0,
    )
    assert (engine.states(), engine.done()) == ([], [])


def test_one_job_at_a_time_touches_a_volume(engine: Engine) -> None:
    begun, go_on = engine.hold_the_fence()
    first = threading.Thread(target=engine.create)
    first.start()
    assert begun.wait(TIMEOUT)
    words = 'the create of snapshot snapshot is PENDING'
    info = {**INFO, 'snapshot_id': 'second'}
    _refused(exception.BlockJobExists, words, engine.create, create_info=info)
    _refused(exception.BlockJobExists, words, engine.delete)
    # Another volume has nothing to do with it.
    other = threading.Thread(
        target=engine.create,
        kwargs={'volume_id': 'other', 'create_info': info},
    )
    other.start()
    engine.wait_for(lambda: engine.done().count('fence') == 2)
    go_on.set()
    first.join(TIMEOUT)
    other.join(TIMEOUT)
    assert engine.done().count('start') == 2


def test_admissions_of_one_volume_wait_for_each_other(engine: Engine) -> None:
    inside, overlaps, lock = [0], [0], threading.Lock()
    admit = engine.admission.create.side_effect

    def slow(*arguments: Any) -> Job:
        with lock:
            inside[0] += 1
            overlaps[0] += inside[0] > 1
        time.sleep(0.02)
        with lock:
            inside[0] -= 1
        return admit(*arguments)

    engine.admission.create.side_effect = slow

    def post(number: int) -> None:
        with contextlib.suppress(exception.BlockJobExists):
            engine.create(create_info={**INFO, 'snapshot_id': f's{number}'})

    callers = [threading.Thread(target=post, args=(n,)) for n in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(TIMEOUT)
    assert overlaps == [0]
    # No lock is kept for a volume that nobody asks for.
    assert engine.manager._intake._volumes == {}


# Repeats.


def test_a_repeat_is_the_same_answer_and_no_second_switch(
    engine: Engine,
) -> None:
    engine.create()
    engine.create()
    engine.wait_for_state(State.DONE)
    engine.create()
    assert engine.done().count('start') == 1
    assert engine.admission.create.call_count == 1


def test_repeats_at_once_are_one_job(engine: Engine) -> None:
    begun, go_on = engine.hold_the_fence()
    answers: list[str] = []

    def post() -> None:
        engine.create()
        answers.append('yes')

    callers = [threading.Thread(target=post) for _ in range(5)]
    for caller in callers:
        caller.start()
    assert begun.wait(TIMEOUT)
    go_on.set()
    for caller in callers:
        caller.join(TIMEOUT)
    assert answers == ['yes'] * 5
    assert engine.done().count('start') == 1


def test_a_repeat_that_wants_something_else_is_refused(engine: Engine) -> None:
    engine.create()
    with pytest.raises(exception.SnapshotExists, match='another new_file'):
        engine.create('other')
    with pytest.raises(exception.SnapshotExists, match='another new_file'):
        engine.create('s')
    with pytest.raises(exception.SnapshotExists, match='another volume_id'):
        engine.create(volume_id='other')
    assert engine.done().count('start') == 1


def test_after_a_failure_it_is_a_new_attempt(engine: Engine) -> None:
    fence = engine.reports.fence.side_effect
    engine.reports.fence.side_effect = OUTAGE
    with pytest.raises(exception.CinderUnavailable):
        engine.create()
    engine.reports.fence.side_effect = fence
    # The failed one is no obstacle, nor is its file's name.
    engine.create('other')
    engine.wait_for_state(State.FAILED, State.DONE)


def test_a_repeat_of_what_fails_at_that_moment_is_told_so(
    engine: Engine,
) -> None:
    engine.reports.fence.side_effect = OUTAGE
    with pytest.raises(exception.CinderUnavailable):
        engine.create()
    engine.wait_for(lambda: engine.manager.status()['running'] == 0)
    stale, truth = engine.latest().to(State.PENDING), engine.latest()
    # It was read a moment before it failed.
    with mock.patch.object(
        engine.journal, 'latest', autospec=True, side_effect=[stale, truth]
    ):
        with pytest.raises(exception.SnapshotFailed, match='down'):
            engine.create()


# What libvirt says is not what is believed.


def test_a_switch_that_failed_is_an_error(engine: Engine) -> None:
    engine.start_error = fakes.refusal('Permission denied')
    with pytest.raises(exception.SnapshotFailed, match='Permission denied'):
        engine.create()
    engine.wait_for_state(State.FAILED)
    assert engine.done() == ['fence', 'start', 'look', 'error']


def test_a_refusal_that_says_whose_fault_it_is_is_handed_on(
    engine: Engine,
) -> None:
    engine.start_error = exception.GuestAgentRequired(
        instance_id='instance', reason='its agent hangs'
    )
    with pytest.raises(exception.GuestAgentRequired):
        engine.create()
    engine.wait_for_state(State.FAILED)
    assert engine.done() == ['fence', 'start', 'look', 'error']


@pytest.mark.parametrize('error', [fakes.refusal(), fakes.unreachable()])
def test_a_switch_that_was_made_is_a_success_whatever_libvirt_said(
    engine: Engine, error: Exception
) -> None:
    engine.start_error, engine.starts_before_it_fails = error, True
    engine.create()
    assert engine.done()[:4] == ['fence', 'start', 'look', 'done']
    engine.wait_for_state(State.DONE)


def test_what_may_still_wait_in_libvirt_is_waited_for(engine: Engine) -> None:
    engine.start_error = fakes.unreachable()
    begun = time.monotonic()
    with pytest.raises(exception.SnapshotFailed, match='cannot be reached'):
        engine.create()
    # SETTLE_SECONDS
    assert time.monotonic() - begun >= 0.4
    assert engine.done().count('look') > 2


def test_that_wait_begins_when_libvirt_answers_again(engine: Engine) -> None:
    answered: list[float] = []
    lost = time.monotonic()

    def look(job: Job) -> Chain:
        # Longer than SETTLE_SECONDS.
        if time.monotonic() < lost + 0.6:
            return Chain.UNKNOWN
        answered.append(time.monotonic())
        return Chain.BEFORE

    engine.start_error = fakes.unreachable()
    engine.hypervisor.look.side_effect = look
    with pytest.raises(exception.SnapshotFailed, match='cannot be reached'):
        engine.create()
    assert time.monotonic() - answered[0] >= 0.4


def test_what_is_done_while_it_is_waited_for_is_a_success(
    engine: Engine,
) -> None:
    engine.start_error = fakes.unreachable()
    looks = [Chain.BEFORE, Chain.UNKNOWN, Chain.OTHER, Chain.AFTER]
    engine.hypervisor.look.side_effect = looks
    engine.create()
    assert 'done' in engine.done()


@pytest.mark.parametrize('before', [False, True])
def test_what_fails_after_it_was_asked_for_is_not_asked_for_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """Whatever fails, and whether it did what it was asked for or not."""
    full = sqlite3.OperationalError('database or disk is full')
    if before:
        engine.start_error = full
    else:
        update = engine.journal.update
        errors = [full]

        def once(job: Job, durable: bool = True) -> None:
            if job.state is State.VERIFYING and errors:
                raise errors.pop()
            update(job, durable)

        monkeypatch.setattr(engine.journal, 'update', once)
    with contextlib.suppress(exception.SnapshotFailed):
        engine.create()
    engine.wait_for_state(State.FAILED if before else State.DONE)
    assert engine.done().count('start') == 1


def test_what_cannot_be_known_is_reported_as_nothing(
    path: pathlib.Path,
) -> None:
    with running(path, reply_wait=0.5) as engine:
        engine.deadline = 0.2
        engine.hypervisor.look.side_effect = engine._noting(
            'look', Chain.UNKNOWN
        )
        # It was started: an error would be a lie.
        engine.create()
        time.sleep(0.3)
        assert engine.states() == ['VERIFYING']
        assert not {'done', 'error'} & set(engine.done())
        engine.hypervisor.look.side_effect = engine._look
        engine.wait_for_state(State.DONE)


def test_a_chain_that_is_neither_is_an_operators_at_the_deadline(
    path: pathlib.Path,
) -> None:
    with running(path, reply_wait=0.5) as engine:
        engine.deadline = 0.3
        engine.hypervisor.look.side_effect = engine._noting(
            'look', Chain.OTHER
        )
        engine.create()
        engine.wait_for_state(State.ORPHANED)
        assert not {'done', 'error'} & set(engine.done())
        assert 'do not agree' in engine.latest().reason
        assert engine.manager.status()['orphaned'] == 1


def test_a_merge_over_its_time_is_cancelled_and_looked_at(
    path: pathlib.Path,
) -> None:
    with running(path, reply_wait=0.5) as engine:
        engine.deadline = 0.1
        engine.hypervisor.start.side_effect = engine._noting('start', None)
        engine.world = Chain.RUNNING
        engine.delete()
        engine.wait_for_state(State.FAILED)
        assert engine.done()[-3:] == ['cancel', 'look', 'error']
        assert 'deadline' in engine.latest(Operation.DELETE).reason


def test_a_merge_that_wins_the_race_with_its_cancellation_is_done(
    path: pathlib.Path,
) -> None:
    with running(path, reply_wait=0.5) as engine:
        engine.deadline = 0.1
        engine.hypervisor.start.side_effect = engine._noting('start', None)

        def too_late(job: Job) -> None:
            engine._note('cancel', job)
            engine.world = Chain.AFTER

        engine.hypervisor.cancel.side_effect = too_late
        engine.world = Chain.RUNNING
        engine.delete()
        engine.wait_for_state(State.DONE)


def test_a_strangers_block_job_is_not_cancelled(path: pathlib.Path) -> None:
    # A create has none: this one is an operator's.
    with running(path, reply_wait=0.5) as engine:
        engine.deadline = 0.1
        engine.hypervisor.look.side_effect = engine._noting(
            'look', Chain.RUNNING
        )
        engine.create()
        time.sleep(0.3)
        assert 'cancel' not in engine.done()
        engine.hypervisor.look.side_effect = engine._look
        engine.wait_for_state(State.DONE)


def test_a_merge_that_libvirt_refuses_is_an_error(engine: Engine) -> None:
    engine.start_error = fakes.refusal('could not find image', code=8)
    with pytest.raises(exception.MergeFailed, match='could not find'):
        engine.delete()
    engine.wait_for_state(State.FAILED)


# Who waits, and for how long.


def test_a_request_nobody_waits_for_is_never_started(
    path: pathlib.Path,
) -> None:
    with running(path, reply_wait=0.1) as engine:
        begun, go_on = engine.hold_the_fence()
        with pytest.raises(exception.RequestExpired):
            engine.create()
        assert begun.is_set()
        go_on.set()
        engine.wait_for_state(State.FAILED)
        assert engine.done() == ['fence', 'error']
        assert engine.latest().reason == 'it came too late'


def test_a_second_caller_does_not_revive_it(path: pathlib.Path) -> None:
    with running(path, reply_wait=0.2) as engine:
        begun, go_on = engine.hold_the_fence()
        errors: list[Exception] = []

        def post() -> None:
            try:
                engine.create()
            except exception.NovaExtException as error:
                errors.append(error)

        first = threading.Thread(target=post)
        first.start()
        assert begun.wait(TIMEOUT)
        time.sleep(0.1)
        second = threading.Thread(target=post)
        second.start()
        first.join(TIMEOUT)
        # The first has given up, the second still waits.
        go_on.set()
        second.join(TIMEOUT)
        assert len(errors) == 2
        engine.wait_for_state(State.FAILED)
        assert 'start' not in engine.done()


def test_a_report_that_takes_long_is_not_waited_for(
    path: pathlib.Path,
) -> None:
    with running(path, reply_wait=0.5) as engine:
        engine.reports.deliver.side_effect = engine._noting(
            'done', Verdict.RETRY
        )
        begun = time.monotonic()
        engine.create()
        assert time.monotonic() - begun < TIMEOUT
        assert engine.states() == ['REPORTING']
        engine.reports.deliver.side_effect = engine._deliver
        engine.wait_for_state(State.DONE)


def test_one_bad_job_does_not_stop_the_others(engine: Engine) -> None:
    fence = engine.reports.fence.side_effect

    def bad(job: Job) -> None:
        if job.snapshot_id == 'bad':
            raise ZeroDivisionError
        fence(job)

    engine.reports.fence.side_effect = bad
    caller = threading.Thread(
        target=engine.create,
        kwargs={
            'volume_id': 'other',
            'create_info': {**INFO, 'snapshot_id': 'bad'},
        },
    )
    caller.start()
    engine.wait_for(lambda: engine.states() == ['PENDING'])
    engine.create()
    engine.wait_for_state(State.PENDING, State.DONE)
    # And it goes on by itself when what was bad is mended.
    engine.reports.fence.side_effect = fence
    caller.join(TIMEOUT)
    engine.wait_for_state(State.DONE, State.DONE)


# What Cinder says in the end.


@pytest.mark.parametrize(
    ('call', 'state'),
    [('create', State.ORPHANED), ('delete', State.UNCLAIMED)],
)
def test_a_success_that_cinder_gave_up_is_an_operators(
    engine: Engine, call: str, state: State
) -> None:
    engine.deliveries = [Verdict.GAVE_UP]
    # It was done: an error would be a lie.
    getattr(engine, call)()
    engine.wait_for_state(state)


def test_a_snapshot_that_cinder_has_deleted_was_claimed(
    engine: Engine,
) -> None:
    # It is gone before anybody looked whether it was available.
    with mock.patch.object(agent_engine, '_CONFIRM_SECONDS', (0.5,)):
        engine.reports.confirm.side_effect = engine._noting(
            'confirm', Verdict.RETRY
        )
        engine.create()
        engine.wait_for(lambda: 'confirm' in engine.done())
        engine.reports.confirm.side_effect = engine._noting(
            'confirm', Verdict.GAVE_UP
        )
        engine.delete()
        engine.wait_for(lambda: engine.states()[0] != 'CONFIRMING')
        assert engine.latest().state is State.DONE


def test_silence_of_cinder_ends_after_the_grace(path: pathlib.Path) -> None:
    with running(path) as engine:
        engine.deadline = 0.1
        engine.reports.confirm.side_effect = engine._noting(
            'confirm', Verdict.RETRY
        )
        engine.create()
        engine.wait_for_state(State.ORPHANED)
        # _CONFIRM_GRACE, and the pauses grow.
        assert 2 < engine.done().count('confirm') < 100


# Recovery.


def _left(state: State, **changes: Any) -> Job:
    return jobs.create(
        **{'state': state, 'deadline': time.time() + 600, **changes}
    )


def test_what_was_not_started_is_an_error(path: pathlib.Path) -> None:
    with running(path, before=(_left(State.PENDING),)) as engine:
        engine.wait_for_state(State.FAILED)
        assert engine.seen == [('error', 'REPORTING')]
        assert 'before anything was started' in engine.latest().reason


@pytest.mark.parametrize('state', [State.RUNNING, State.VERIFYING])
def test_what_was_switched_is_reported(
    path: pathlib.Path, state: State
) -> None:
    def switched(engine: Engine) -> None:
        engine.world = Chain.AFTER

    with running(path, before=(_left(state),), prepare=switched) as engine:
        engine.wait_for_state(State.DONE)
        assert engine.done() == ['look', 'done', 'confirm']


@pytest.mark.parametrize('state', [State.RUNNING, State.VERIFYING])
def test_what_was_asked_may_still_be_done(
    path: pathlib.Path, state: State
) -> None:
    begun = time.monotonic()
    with running(path, before=(_left(state),)) as engine:
        engine.wait_for_state(State.FAILED)
        # SETTLE_SECONDS
        assert time.monotonic() - begun >= 0.4
        assert 'start' not in engine.done()
    with running(path, before=(_left(state),)) as engine:
        engine.wait_for(lambda: engine.done().count('look') > 1)
        engine.world = Chain.AFTER
        engine.wait_for_state(State.FAILED, State.DONE)


def test_that_wait_is_over_before_the_look_that_counts(
    path: pathlib.Path,
) -> None:
    clock, late, looked = time.monotonic, [0.0], threading.Event()

    def look(job: Job) -> Chain:
        if late[0]:
            looked.set()
            return Chain.AFTER
        # What waited is done when this look has read the chain.
        late[0] = 100.0
        return Chain.BEFORE

    def prepare(engine: Engine) -> None:
        engine.hypervisor.look.side_effect = look

    with (
        mock.patch.object(agent_engine, 'SETTLE_SECONDS', 50.0),
        mock.patch.object(time, 'monotonic', lambda: clock() + late[0]),
        running(path, before=(_left(State.RUNNING),), prepare=prepare) as made,
    ):
        assert looked.wait(TIMEOUT)
        made.wait_for_state(State.DONE)


def test_that_wait_does_not_go_by_the_wall_clock(path: pathlib.Path) -> None:
    begun, ahead = time.monotonic(), time.time() + 100
    with (
        mock.patch.object(time, 'time', autospec=True, return_value=ahead),
        running(path, before=(_left(State.RUNNING),)) as engine,
    ):
        engine.wait_for_state(State.FAILED)
        assert time.monotonic() - begun >= 0.4


@pytest.mark.parametrize(
    ('succeeded', 'word', 'end'),
    [(True, 'done', State.DONE), (False, 'error', State.FAILED)],
)
def test_what_was_not_told_is_told(
    path: pathlib.Path, succeeded: bool, word: str, end: State
) -> None:
    left = _left(State.REPORTING, succeeded=succeeded)
    with running(path, before=(left,)) as engine:
        engine.wait_for_state(end)
        assert engine.done()[0] == word
        assert not {'start', 'look'} & set(engine.done())


def test_what_was_told_is_asked_about(path: pathlib.Path) -> None:
    left = _left(State.CONFIRMING, succeeded=True)
    with running(path, before=(left,)) as engine:
        engine.wait_for_state(State.DONE)
        assert engine.seen == [('confirm', 'CONFIRMING')]


@pytest.mark.parametrize(
    'state', [State.DONE, State.FAILED, State.ORPHANED, State.UNCLAIMED]
)
def test_what_is_over_is_left_alone(path: pathlib.Path, state: State) -> None:
    with running(path, before=(_left(state),)) as engine:
        time.sleep(0.05)
        assert engine.seen == []
        assert engine.states() == [state.value]


def test_a_merge_goes_on_after_a_restart(path: pathlib.Path) -> None:
    left = jobs.delete(
        state=State.RUNNING, kind=Kind.PULL, deadline=time.time() + 600
    )

    def merging(engine: Engine) -> None:
        engine.world = Chain.RUNNING

    with running(path, before=(left,), prepare=merging) as engine:
        engine.wait_for(lambda: engine.done().count('look') > 2)
        engine.world = Chain.AFTER
        engine.wait_for_state(State.DONE)
        assert 'start' not in engine.done()


def test_after_a_restart_a_repeat_joins(path: pathlib.Path) -> None:
    with running(path, before=(_left(State.VERIFYING),)) as engine:
        engine.wait_for(lambda: 'look' in engine.done())
        caller = threading.Thread(target=engine.create)
        caller.start()
        engine.world = Chain.AFTER
        caller.join(TIMEOUT)
        assert 'start' not in engine.done()
        assert not engine.admission.create.called


def test_many_are_recovered_at_once(path: pathlib.Path) -> None:
    left = tuple(
        _left(State.REPORTING, succeeded=True, snapshot_id=f's{n}')
        for n in range(50)
    )
    with running(path, before=left) as engine:
        engine.wait_for_state(*[State.DONE] * 50)
        assert engine.done().count('done') == 50


def test_without_libvirt_it_does_not_start(path: pathlib.Path) -> None:
    engine = Engine(path)
    engine.hypervisor.check.side_effect = fakes.unreachable()
    with pytest.raises(exception.HypervisorUnavailable):
        engine.manager.start()


# What is forgotten.


def _end_another(engine: Engine) -> None:
    """A job is over, after one from long ago of a volume that has left."""
    old = jobs.create(state=State.DONE, volume_id='gone')
    identity = engine.journal.add(old).identity
    engine.journal._database.execute(
        'UPDATE jobs SET updated_at = 0 WHERE id = ?', (identity,)
    )
    snapshot_id = f's{identity}'
    engine.create(create_info={**INFO, 'snapshot_id': snapshot_id})
    engine.wait_for(lambda: engine.manager.status()['running'] == 0)


def test_at_the_end_of_a_job_old_ones_of_volumes_elsewhere_are_forgotten(
    path: pathlib.Path,
) -> None:
    with running(path) as engine:
        _end_another(engine)
        engine.wait_for_state(State.DONE)
        # Once a day is enough.
        _end_another(engine)
        _end_another(engine)
    states = engine.states()
    assert len(states) == 5
    with running(path) as engine:
        assert engine.states() == states
        _end_another(engine)
        engine.wait_for_state(*[State.DONE] * 4)


# Start, stop, health.


def test_who_is_about_to_stop_takes_nothing_on(path: pathlib.Path) -> None:
    with running(path) as engine:
        pass
    with pytest.raises(exception.AgentBusy, match='about to stop'):
        engine.create()
    assert engine.states() == []


def test_what_is_unfinished_at_a_stop_is_in_the_journal(
    path: pathlib.Path,
) -> None:
    with running(path, reply_wait=0.5) as engine:
        engine.reports.deliver.side_effect = engine._noting(
            'done', Verdict.RETRY
        )
        engine.create()
    assert engine.states() == ['REPORTING']
    with running(path) as engine:
        engine.wait_for_state(State.DONE)


def test_health_names_what_is_wrong(engine: Engine) -> None:
    status = engine.manager.status()
    assert abs(status.pop('time') - time.time()) < 60
    assert status == {
        'summary': '0 jobs under way, 0 orphaned',
        'running': 0,
        'orphaned': 0,
        'version': metadata.version('nova_ext'),
    }
    engine.reports.trouble = 'Cinder cannot be told: 503'
    with pytest.raises(exception.AgentBusy, match='Cinder cannot be told'):
        engine.manager.status()
    engine.hypervisor.check.side_effect = fakes.unreachable()
    with pytest.raises(exception.HypervisorUnavailable):
        engine.manager.status()


def test_an_event_of_a_guest_is_a_look_at_once(engine: Engine) -> None:
    with mock.patch.object(agent_engine, '_JOB_LOOK_SECONDS', 60.0):
        engine.hypervisor.start.side_effect = engine._noting('start', None)
        engine.world = Chain.RUNNING
        engine.delete()
        engine.wait_for(lambda: engine.done().count('look') == 1)
        time.sleep(0.05)
        engine.world = Chain.AFTER
        engine.manager.wake('other')
        time.sleep(0.05)
        assert engine.done().count('look') == 1
        engine.manager.wake('instance')
        engine.wait_for_state(State.DONE)


def test_what_ends_while_it_is_asked_for_again_is_a_job_of_its_own(
    engine: Engine,
) -> None:
    # What is over is still with a worker for a moment.
    over, go_on = threading.Event(), threading.Event()

    def hold() -> set[str]:
        over.set()
        assert go_on.wait(TIMEOUT)
        return set()

    engine.hypervisor.volumes.side_effect = hold
    engine.admission.repeat.return_value = None
    engine.deliveries = [Verdict.GAVE_UP]
    engine.delete()
    assert over.wait(TIMEOUT)
    engine.wait_for_state(State.UNCLAIMED)
    engine.delete()
    go_on.set()
    engine.wait_for_state(State.UNCLAIMED, State.DONE)


def test_who_asks_again_is_told_even_if_cinder_had_given_up(
    engine: Engine,
) -> None:
    asking, go_on = threading.Event(), threading.Event()
    verdicts = [Verdict.GAVE_UP, Verdict.CLAIMED]

    def hold(job: Job) -> Verdict:
        verdict = verdicts.pop(0)
        asking.set()
        assert go_on.wait(TIMEOUT)
        return verdict

    engine.reports.confirm.side_effect = hold
    engine.delete()
    assert asking.wait(TIMEOUT)
    # Cinder is asked about the former attempt, and its answer is on its way.
    engine.delete()
    go_on.set()
    engine.wait_for_state(State.DONE)
    assert engine.done().count('done') == 2


# On a host of Nova's.


def test_nova_is_asked_before_and_told_before_and_after_cinder(
    path: pathlib.Path,
) -> None:
    told = [
        ('look', 'REFRESHING'),
        ('refresh True', 'REFRESHING'),
        ('look', 'REFRESHING'),
    ]
    with running(path, of_nova=True) as engine:
        engine.create()
        engine.wait_for_state(State.DONE)
        assert engine.seen == [
            ('nova fence', 'PENDING'),
            ('fence', 'PENDING'),
            ('start', 'RUNNING'),
            ('look', 'VERIFYING'),
            *told,
            ('done', 'REPORTING'),
            ('confirm', 'CONFIRMING'),
            *told,
        ]


def test_what_nova_began_meanwhile_is_waited_for(path: pathlib.Path) -> None:
    """A shelve ends the guest between the question and the look."""
    with running(path, of_nova=True) as engine:
        engine.hypervisor.look.side_effect = [
            *[Chain.AFTER] * 4,
            *[Chain.BEFORE] * 20,
        ]
        engine.deliveries += [Verdict.RETRY]
        engine.records += [Record.RIGHT, Record.RIGHT, Record.BUSY]
        engine.records += [Record.GONE] * 20
        engine.create()
        engine.wait_for_state(State.DONE)
        assert 'error' not in engine.done()


def test_what_nova_cannot_be_told_of_is_not_begun(path: pathlib.Path) -> None:
    with running(path, of_nova=True) as engine:
        engine.nova.fence.side_effect = exception.NovaUnavailable(
            snapshot_id='snapshot', reason='down'
        )
        _refused(exception.NovaUnavailable, 'nothing', engine.create)
        engine.wait_for_state(State.FAILED)
        # Cinder was not told that it begins.
        assert engine.seen == []


def test_nova_is_told_until_it_is(path: pathlib.Path) -> None:
    def be_down(engine: Engine) -> None:
        engine.nova.trouble = 'no conductor'
        engine.records += [Record.UNKNOWN] * 100_000

        engine.world = Chain.AFTER

    with running(path, of_nova=True, prepare=be_down) as engine:
        thread = threading.Thread(target=engine.create)
        thread.start()
        engine.wait_for(lambda: engine.done().count('refresh True') > 2)
        assert engine.states() == ['REFRESHING']
    # What a process left is taken up by the next.
    with running(path, of_nova=True, prepare=be_down) as engine:
        engine.wait_for(lambda: engine.done().count('refresh True') > 2)
        (shown,) = engine.manager.control.job_list()
        assert shown['state'] == 'REFRESHING'
        assert shown['reason'] == 'no conductor'
        _refused(exception.AgentBusy, 'no con', engine.manager.status)
        # Nothing may rest on what Nova does not know.
        other = {**INFO, 'snapshot_id': 'other', 'new_file': 'w'}
        _refused(
            exception.BlockJobExists,
            'REFRESHING',
            engine.manager.volume_snapshot_create,
            volume_id='volume',
            create_info=other,
            not_after=time.time() + 60,
        )
        engine.nova.trouble = ''
        engine.records.clear()
        engine.wait_for_state(State.DONE)
        assert engine.manager.control.job_show(1)['reason'] == ''
    thread.join(TIMEOUT)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ('record', 'proceed'),
    [
        (Record.RIGHT, lambda engine: engine.delete()),
        (
            Record.WRONG,
            lambda engine: engine.create(
                create_info={**INFO, 'snapshot_id': 'next'}
            ),
        ),
    ],
)
def test_the_next_job_of_the_volume_is_no_start_of_the_old_file(
    path: pathlib.Path, record: Record, proceed: Callable[[Engine], None]
) -> None:
    with (
        mock.patch.object(agent_engine, '_CONFIRM_SECONDS', (0.5,)),
        running(path, of_nova=True) as engine,
    ):
        engine.reports.confirm.side_effect = [
            Verdict.RETRY,
            Verdict.CLAIMED,
            Verdict.CLAIMED,
        ]
        engine.create()
        engine.wait_for(lambda: engine.reports.confirm.called)
        # Cinder has acted and gone on, before it is asked again.
        engine.hypervisor.look.side_effect = lambda job: (
            Chain.OTHER if job.identity == 1 else Chain.AFTER
        )
        engine.nova.refresh.side_effect = lambda job, used: (
            record if job.identity == 1 else Record.RIGHT
        )
        before = engine.latest().after
        engine.admission.create.side_effect = [
            jobs.create(
                snapshot_id='next',
                before=before,
                after=('/share/w', *before),
                deadline=math.inf,
            )
        ]
        engine.admission.delete.side_effect = [
            jobs.delete(before=before, after=before[:1], deadline=math.inf)
        ]
        proceed(engine)
        engine.wait_for_state(State.DONE, State.DONE)


def test_no_agent_takes_up_what_it_cannot_tell_nova(
    path: pathlib.Path,
) -> None:
    for job in (jobs.create(of_nova=True, state=State.REPORTING), None):
        engine = Engine(path)
        engine.journal.add(job or jobs.create(state=State.REPORTING))
        engine.hypervisor.of_nova.return_value = [] if job else ['instance']
        _refused(
            exception.NovaNotConfigured,
            'nova_config_file',
            engine.manager.start,
        )
