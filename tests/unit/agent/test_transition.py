# SPDX-License-Identifier: Apache-2.0
"""The transition functions, as tables."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from nova_ext.agent.job import FINAL, Job, Kind, State, repeats
from nova_ext.agent.transition import (
    Action,
    Chain,
    Record,
    Verdict,
    abandoned,
    confirmed,
    looked,
    recovered,
    refreshed,
    reported,
    retried,
)
from tests.unit.agent import jobs

LATE = jobs.DEADLINE
GRACE = 60.0


@pytest.mark.parametrize(
    ('state', 'next_state', 'action'),
    [
        (State.PENDING, State.REPORTING, Action.REPORT),
        (State.RUNNING, State.RUNNING, Action.LOOK),
        (State.VERIFYING, State.VERIFYING, Action.LOOK),
        (State.REFRESHING, State.REFRESHING, Action.REFRESH),
        (State.REPORTING, State.REPORTING, Action.REPORT),
        (State.CONFIRMING, State.CONFIRMING, Action.CONFIRM),
        *((state, state, Action.NOTHING) for state in FINAL),
    ],
)
def test_recovery_takes_up_where_the_journal_ends(
    state: State, next_state: State, action: Action
) -> None:
    job, then = recovered(jobs.create(state=state))
    assert (job.state, then) == (next_state, action)
    # What was not started is a failure; nothing else is decided.
    assert job.succeeded is (False if state is State.PENDING else None)


@pytest.mark.parametrize('before', State)
@pytest.mark.parametrize('after', State)
def test_what_a_power_cut_takes_back_is_done_again(
    before: State, after: State
) -> None:
    job = jobs.delete(state=before, succeeded=True)
    if not repeats(job, job.to(after)):
        return
    actions = [recovered(job.to(state))[1] for state in (before, after)]
    assert actions in (
        [Action.LOOK, Action.LOOK],
        [Action.REPORT, Action.CONFIRM],
    )
    # And leads where the other leads, whatever is seen or said then.
    for chain in Chain:
        assert looked(job, chain, 0.0) == looked(job.to(after), chain, 0.0)
    for verdict in (Verdict.CLAIMED, Verdict.GAVE_UP):
        assert reported(job.to(State.REPORTING), verdict, 0.0) == confirmed(
            job.to(State.CONFIRMING), verdict, 0.0, GRACE
        )
    # What was learned is never taken back.
    assert not repeats(job, job.to(after, reason='libvirt said no'))


def test_little_may_be_taken_back() -> None:
    pairs = itertools.product(State, repeat=2)
    assert {
        pair
        for pair in pairs
        if repeats(jobs.create(state=pair[0]), jobs.create(state=pair[1]))
    } == {
        (State.RUNNING, State.VERIFYING),
        (State.VERIFYING, State.RUNNING),
        (State.REPORTING, State.CONFIRMING),
    }


# chain, late, settled → state, action, succeeded
LOOKS = {
    **{
        (Chain.AFTER, late, settled): (State.REPORTING, Action.REPORT, True)
        for late, settled in itertools.product((False, True), repeat=2)
    },
    **{
        (Chain.BEFORE, late, True): (State.REPORTING, Action.REPORT, False)
        for late in (False, True)
    },
    **{
        (Chain.BEFORE, late, False): (State.VERIFYING, Action.LOOK, None)
        for late in (False, True)
    },
    **{
        (Chain.RUNNING, False, settled): (State.RUNNING, Action.LOOK, None)
        for settled in (False, True)
    },
    **{
        (Chain.RUNNING, True, settled): (State.RUNNING, Action.CANCEL, None)
        for settled in (False, True)
    },
    **{
        (Chain.READY, False, settled): (State.RUNNING, Action.PIVOT, None)
        for settled in (False, True)
    },
    **{
        (Chain.READY, True, settled): (State.RUNNING, Action.CANCEL, None)
        for settled in (False, True)
    },
    **{
        (Chain.OTHER, False, settled): (State.VERIFYING, Action.LOOK, None)
        for settled in (False, True)
    },
    **{
        (Chain.OTHER, True, settled): (State.ORPHANED, Action.NOTHING, None)
        for settled in (False, True)
    },
    **{
        (Chain.UNSAFE, late, settled): (State.REPORTING, Action.REPORT, False)
        for late, settled in itertools.product((False, True), repeat=2)
    },
    # Whoever looks makes it agree, or calls it neither.
    **{
        (Chain.STALE, late, settled): (State.VERIFYING, Action.LOOK, None)
        for late, settled in itertools.product((False, True), repeat=2)
    },
    **{
        (Chain.UNKNOWN, late, settled): (State.VERIFYING, Action.LOOK, None)
        for late, settled in itertools.product((False, True), repeat=2)
    },
}


@pytest.mark.parametrize('state', [State.RUNNING, State.VERIFYING])
@pytest.mark.parametrize('make', [jobs.create, jobs.delete])
@pytest.mark.parametrize('case', LOOKS)
def test_what_follows_from_a_look(case, make, state) -> None:  # type: ignore
    chain, late, settled = case
    if make is jobs.create and chain is Chain.UNSAFE:
        # Of a create nothing is left in memory, and no look says so.
        return
    now = LATE if late else LATE - 1
    job, action = looked(make(state=state), chain, now, settled)
    expected = LOOKS[case]
    if make is jobs.create and chain in (Chain.RUNNING, Chain.READY):
        # A block job that is not ours: neither waited for nor cancelled.
        expected = (State.VERIFYING, Action.LOOK, None)
    if chain is Chain.OTHER and state is State.RUNNING:
        # It may have ended in the midst of the look.
        expected = (State.VERIFYING, Action.LOOK, None)
    assert (job.state, action, job.succeeded) == expected


def test_every_look_has_a_row() -> None:
    assert set(LOOKS) == set(
        itertools.product(Chain, (False, True), (False, True))
    )


def test_success_is_said_only_of_the_chain_that_was_wanted() -> None:
    assert {case[0] for case, row in LOOKS.items() if row[2]} == {Chain.AFTER}


@pytest.mark.parametrize(
    ('make', 'unheard'),
    [(jobs.create, State.ORPHANED), (jobs.delete, State.UNCLAIMED)],
)
def test_what_follows_from_a_report(make, unheard) -> None:  # type: ignore
    done = make(state=State.REPORTING, succeeded=True)
    for verdict, state, action in (
        (Verdict.DELIVERED, State.CONFIRMING, Action.CONFIRM),
        (Verdict.CLAIMED, State.DONE, Action.NOTHING),
        (Verdict.GAVE_UP, unheard, Action.NOTHING),
        (Verdict.RETRY, State.REPORTING, Action.REPORT),
        (Verdict.OVERTAKEN, State.REPORTING, Action.REPORT),
        (Verdict.HELD, State.REPORTING, Action.REPORT),
    ):
        job, then = reported(done, verdict, 0.0)
        assert (job.state, then) == (state, action)
    failed = make(state=State.REPORTING, succeeded=False)
    for verdict in Verdict:
        job, then = reported(failed, verdict, 0.0)
        if verdict in (Verdict.RETRY, Verdict.OVERTAKEN, Verdict.HELD):
            assert (job, then) == (failed, Action.REPORT)
        else:
            assert (job.state, then) == (State.FAILED, Action.NOTHING)


@pytest.mark.parametrize(
    ('make', 'unheard'),
    [(jobs.create, State.ORPHANED), (jobs.delete, State.UNCLAIMED)],
)
def test_what_follows_from_asking(make, unheard) -> None:  # type: ignore
    job = make(state=State.CONFIRMING, succeeded=True)
    end = jobs.DEADLINE + GRACE
    assert confirmed(job, Verdict.CLAIMED, end, GRACE)[0].state is State.DONE
    # It is told again, by the one report that Cinder heeds.
    again = confirmed(job, Verdict.OVERTAKEN, 0.0, GRACE)
    assert again == (job.to(State.REPORTING), Action.REPORT)
    for verdict, now in ((Verdict.GAVE_UP, 0.0), (Verdict.RETRY, end)):
        ended, action = confirmed(job, verdict, now, GRACE)
        assert (ended.state, action) == (unheard, Action.NOTHING)
        assert ended.reason
    # As long as a volume is copied for its backup, it is not over.
    held, action = confirmed(job, Verdict.HELD, end, GRACE)
    assert (held.state, action) == (State.CONFIRMING, Action.CONFIRM)
    assert 'backup' in held.reason
    assert confirmed(held, Verdict.CLAIMED, end, GRACE)[0].reason == ''
    ended, action = confirmed(held, Verdict.HELD, end + 86400, GRACE)
    assert (ended.state, action) == (unheard, Action.NOTHING)
    assert confirmed(job, Verdict.RETRY, end - 1, GRACE) == (
        job,
        Action.CONFIRM,
    )


def test_doomed_is_what_the_new_chain_lacks() -> None:
    assert jobs.create().doomed == ()
    assert jobs.create().overlay == '/share/v.s'
    assert jobs.delete().doomed == ('/share/v.s1',)
    assert jobs.delete().overlay is None


def _stopped(**changes: Any) -> Job:
    return jobs.delete(stored=True, state=State.VERIFYING, **changes)


@pytest.mark.parametrize(
    ('chain', 'late'),
    [
        (Chain.AFTER, False),
        (Chain.BEFORE, False),
        (Chain.UNSAFE, False),
        (Chain.OTHER, True),
    ],
)
def test_a_stand_in_is_ended_before_anything_is_said(
    chain: Chain, late: bool
) -> None:
    now = LATE if late else LATE - 1
    job, action = looked(_stopped(), chain, now)
    assert (job.state, action) == (State.VERIFYING, Action.RELEASE)
    # What was seen on it is known of the files alone afterwards.
    assert job.flushed is (chain is Chain.AFTER)
    job, action = looked(job.to(job.state, released=True), chain, now)
    assert action in (Action.REPORT, Action.NOTHING)
    assert looked(_stopped(), Chain.RUNNING, 0.0)[1] is Action.LOOK


def test_who_does_the_work() -> None:
    stopped = _stopped()
    assert stopped.worker_id == _stopped().worker_id != stopped.instance_id
    assert stopped.worker_id != _stopped(snapshot_id='other').worker_id
    assert stopped.worker_id != _stopped(accepted_at=1.0).worker_id
    assert jobs.delete().worker_id == jobs.delete().instance_id
    # The overlay of a guest that is off is only written into its definition.
    assert jobs.create(stored=True).worker_id == jobs.create().instance_id


def test_what_is_merged_already_is_never_cancelled_or_failed() -> None:
    again = jobs.delete(merged=True)
    assert recovered(again) == (again.to(State.VERIFYING), Action.LOOK)
    # A block job there is somebody else's.
    for now in (0.0, LATE):
        assert looked(again, Chain.RUNNING, now)[1] is Action.LOOK


def test_an_operator_may_cancel() -> None:
    job = jobs.delete(state=State.RUNNING, cancelled=True, reason='told to')
    assert looked(job, Chain.RUNNING, 0.0) == (job, Action.CANCEL)
    ended, action = looked(job, Chain.BEFORE, 0.0)
    assert (ended.succeeded, ended.reason) == (False, 'told to')
    # It may have won the race.
    assert looked(job, Chain.AFTER, 0.0)[0].succeeded is True


def test_what_is_tried_again_is_looked_at_first() -> None:
    orphan = jobs.create(
        state=State.ORPHANED, succeeded=True, reason='unheard'
    )
    job, action = retried(orphan, LATE + 1)
    assert (job.state, action) == (State.VERIFYING, Action.LOOK)
    assert (job.succeeded, job.reason) == (None, '')
    # It does not wait for what does not come.
    assert looked(job, Chain.OTHER, LATE + 1)[0].state is State.VERIFYING
    ended, _ = looked(job, Chain.OTHER, LATE + 100)
    assert ended.state is State.ORPHANED
    # What is merged stays merged, whatever was done to the volume since.
    merged = jobs.delete(state=State.UNCLAIMED, succeeded=True, flushed=True)
    again, _ = retried(merged, LATE + 1)
    ended, action = looked(again, Chain.OTHER, LATE + 100)
    assert (ended.state, action) == (State.UNCLAIMED, Action.NOTHING)
    assert abandoned(again).state is State.UNCLAIMED


@pytest.mark.parametrize(
    ('make', 'succeeded', 'state'),
    [
        (jobs.create, True, State.ABANDONED),
        (jobs.create, None, State.ABANDONED),
        (jobs.create, False, State.FAILED),
        (jobs.delete, None, State.ABANDONED),
        (jobs.delete, False, State.FAILED),
        # That it is merged must not be forgotten.
        (jobs.delete, True, State.UNCLAIMED),
    ],
)
def test_what_is_abandoned_stays_what_it_was(make, succeeded, state) -> None:  # type: ignore
    job = abandoned(
        make(state=State.REPORTING, succeeded=succeeded, reason='no answer')
    )
    assert (job.state, job.succeeded) == (state, succeeded)
    assert job.reason == (
        'abandoned by an operator when it was REPORTING: no answer'
    )


def test_a_patient_merge_goes_on_after_its_deadline() -> None:
    job = jobs.delete(state=State.RUNNING, patient=True)
    assert looked(job, Chain.RUNNING, LATE + 1)[1] is Action.LOOK
    told = job.to(State.RUNNING, cancelled=True)
    assert looked(told, Chain.RUNNING, LATE + 1)[1] is Action.CANCEL
    # Whether Cinder heard is asked for as long as after any other.
    done, _ = looked(job, Chain.AFTER, LATE + 500)
    done, action = reported(done, Verdict.DELIVERED, LATE + 500)
    assert action is Action.CONFIRM
    for now, then in (
        (LATE + 500, Action.CONFIRM),
        (LATE + 560, Action.NOTHING),
    ):
        assert confirmed(done, Verdict.RETRY, now, GRACE)[1] is then


def _of_nova(**fields: Any) -> Job:
    return jobs.create(of_nova=True, **fields)


def test_nova_is_told_before_cinder_and_looked_at_after() -> None:
    job, action = looked(_of_nova(state=State.VERIFYING), Chain.AFTER, 0.0)
    assert (job.state, action) == (State.REFRESHING, Action.REFRESH)
    job, action = refreshed(job, Chain.AFTER, Record.RIGHT, 0.0)
    assert (job.state, action) == (State.REPORTING, Action.REPORT)
    for verdict, end in (
        (Verdict.CLAIMED, State.DONE),
        (Verdict.GAVE_UP, State.ORPHANED),
    ):
        for told, action in (
            reported(job, verdict, 0.0),
            confirmed(job.to(State.CONFIRMING), verdict, 0.0, GRACE),
        ):
            assert (told.state, action) == (State.REFRESHING, Action.REFRESH)
            assert told.outcome is end
            then = refreshed(told, Chain.AFTER, Record.RIGHT, 0.0)
            assert (then[0].state, then[1]) == (end, Action.NOTHING)
            assert bool(then[0].reason) is (end is State.ORPHANED)


@pytest.mark.parametrize('verdict', [Verdict.CLAIMED, Verdict.GAVE_UP])
def test_of_a_merge_nova_needs_to_know_nothing(verdict: Verdict) -> None:
    job = jobs.delete(of_nova=True, state=State.VERIFYING)
    job, action = looked(job, Chain.AFTER, 0.0)
    assert (job.state, action) == (State.REPORTING, Action.REPORT)
    assert reported(job, verdict, 0.0)[1] is Action.NOTHING


# chain, record → what becomes of it before and after Cinder is told
_DONE, _WAIT = (State.REPORTING, State.DONE), (State.REFRESHING,) * 2
_LOST = (State.VERIFYING, State.ORPHANED)
REFRESHES = {
    **{
        (chain, Record.GONE): (State.REFRESHING, State.DONE) for chain in Chain
    },
    **{(chain, Record.ELSEWHERE): (State.ORPHANED,) * 2 for chain in Chain},
    **{
        (chain, record): _WAIT
        for chain in Chain
        for record in (Record.BUSY, Record.UNKNOWN)
    },
    **{
        (chain, record): _WAIT
        for chain in Chain
        for record in (Record.RIGHT, Record.WRONG)
    },
    (Chain.AFTER, Record.RIGHT): _DONE,
    (Chain.AFTER, Record.GONE): _DONE,
    **{
        (chain, record): _LOST
        for chain in (Chain.BEFORE, Chain.OTHER)
        for record in (Record.RIGHT, Record.WRONG)
    },
    **{
        (chain, Record.GONE): (State.VERIFYING, State.DONE)
        for chain in (Chain.BEFORE, Chain.OTHER)
    },
}


@pytest.mark.parametrize('case', REFRESHES)
def test_what_follows_from_an_attempt_to_tell_nova(case) -> None:  # type: ignore
    job = _of_nova(state=State.REFRESHING, succeeded=True)
    told = job.to(State.REFRESHING, outcome=State.DONE)
    assert {*REFRESHES} == {*itertools.product(Chain, Record)}
    for found, end in zip((job, told), REFRESHES[case], strict=True):
        then, action = refreshed(found, *case, now=0.0)
        assert then.state is end
        assert (action is Action.REFRESH) is (end is State.REFRESHING)
        if end is State.VERIFYING:
            # What it is now is found out as if nothing were known.
            assert (then.succeeded, action) == (None, Action.LOOK)


@pytest.mark.parametrize('chain', [Chain.BEFORE, Chain.OTHER])
def test_without_an_answer_of_nova_it_is_looked_at_in_time(
    chain: Chain,
) -> None:
    for state in (State.REFRESHING, State.REPORTING):
        job = _of_nova(state=state, succeeded=True)
        half = (job.accepted_at + job.deadline) / 2
        then, action = refreshed(job, chain, Record.UNKNOWN, half - 1)
        assert (then.state, action) == (state, Action.REFRESH)
        then, action = refreshed(job, chain, Record.UNKNOWN, half)
        assert (then.state, then.succeeded) == (State.VERIFYING, None)
        assert action is Action.LOOK


def test_of_an_instance_that_is_gone_cinder_is_told_what_was_seen() -> None:
    job = _of_nova(state=State.REPORTING, succeeded=True)
    for chain in Chain:
        again, action = refreshed(job, chain, Record.GONE, 0.0)
        assert (again, action) == (job, Action.REPORT)


def test_after_a_restart_nova_is_looked_at_before_cinder_is_told() -> None:
    job = _of_nova(state=State.REPORTING, succeeded=True)
    again, action = recovered(job)
    assert (again.state, action) == (State.REFRESHING, Action.REFRESH)
    failed = job.to(State.REPORTING, succeeded=False)
    assert recovered(failed) == (failed, Action.REPORT)


@pytest.mark.parametrize('record', [Record.BUSY, Record.UNKNOWN])
def test_cinder_is_told_in_time_without_nova(record: Record) -> None:
    job = _of_nova(state=State.REFRESHING, succeeded=True)
    half = (job.accepted_at + job.deadline) / 2
    waiting, action = refreshed(job, Chain.AFTER, record, half - 1, 'why')
    assert (waiting.state, action) == (State.REFRESHING, Action.REFRESH)
    assert waiting.reason == 'why'
    then, action = refreshed(job, Chain.AFTER, record, half)
    assert (then.state, action) == (State.REPORTING, Action.REPORT)
    # Of what is in doubt Cinder is not told.
    doubtful, action = refreshed(job, Chain.UNKNOWN, record, LATE)
    assert (doubtful.state, action) == (State.REFRESHING, Action.REFRESH)
    # And then it is not over before Nova knows.
    told, action = reported(then, Verdict.CLAIMED, half)
    for now in (half, LATE, 100 * LATE):
        told, action = refreshed(told, Chain.AFTER, record, now)
        assert (told.state, action) == (State.REFRESHING, Action.REFRESH)


def test_what_is_tried_again_is_told_again() -> None:
    job = _of_nova(state=State.ORPHANED, outcome=State.ORPHANED)
    assert retried(job, 0.0)[0].outcome is None


# chain, late, patient, cancelled → state, action
ASIDE = [
    (Chain.RUNNING, False, False, False, State.RUNNING, Action.CANCEL),
    (Chain.BEFORE, False, False, False, State.RUNNING, Action.START),
    (Chain.BEFORE, True, True, False, State.RUNNING, Action.START),
    (Chain.BEFORE, True, False, False, State.REPORTING, Action.REPORT),
    (Chain.BEFORE, False, False, True, State.REPORTING, Action.REPORT),
    (Chain.AFTER, False, False, False, State.REPORTING, Action.REPORT),
    (Chain.UNKNOWN, False, False, False, State.VERIFYING, Action.LOOK),
]


@pytest.mark.parametrize('case', ASIDE)
def test_a_pull_that_stepped_aside_is_begun_again(case) -> None:  # type: ignore
    chain, late, patient, cancelled, state, action = case
    aside = jobs.delete(
        kind=Kind.PULL, aside=True, patient=patient, cancelled=cancelled
    )
    now = LATE if late else jobs.NOW
    job, then = looked(aside.to(State.RUNNING), chain, now)
    assert (job.state, then) == (state, action)
    assert job.succeeded is {State.REPORTING: chain is Chain.AFTER}.get(state)


def test_it_is_not_begun_while_its_end_may_still_come() -> None:
    aside = jobs.delete(kind=Kind.PULL, aside=True, state=State.RUNNING)
    job, then = looked(aside, Chain.BEFORE, jobs.NOW, settled=False)
    assert (job.state, then) == (State.VERIFYING, Action.LOOK)
