# SPDX-License-Identifier: Apache-2.0
"""What operators may ask of which job."""

from __future__ import annotations

import pathlib
from unittest import mock

import pytest

from nova_ext import exception
from nova_ext.agent.control import Control
from nova_ext.agent.hypervisor import Hypervisor
from nova_ext.agent.intake import Intake
from nova_ext.agent.job import FINAL, Operation, State
from nova_ext.agent.journal import Journal
from nova_ext.agent.rollback import Line, Rollbacks
from nova_ext.agent.sweeper import Run, Sweeper
from nova_ext.agent.transition import Action
from tests.unit.agent import jobs


class Desk:
    """A control with a journal of its own."""

    def __init__(self, path: pathlib.Path) -> None:
        self.journal = Journal(path)
        self.hypervisor = mock.create_autospec(Hypervisor, instance=True)
        self.sweeper = mock.create_autospec(Sweeper, instance=True)
        self.rollbacks = mock.create_autospec(Rollbacks, instance=True)
        self.control = Control(
            self.hypervisor,
            self.journal,
            self.sweeper,
            Intake(self.journal, self.sweeper),
            self.rollbacks,
        )
        self.sweeper.closing = False


@pytest.fixture
def desk(tmp_path: pathlib.Path) -> Desk:
    return Desk(tmp_path / 'journal')


def test_what_is_over_is_shown_on_demand(desk: Desk) -> None:
    for state in State:
        desk.journal.add(jobs.delete(state=state))
    assert {job['state'] for job in desk.control.job_list()} == {
        state.value for state in State if state not in FINAL
    }
    assert len(desk.control.job_list(everything=True)) == len(State)


def test_a_job_is_shown_with_its_progress(desk: Desk) -> None:
    desk.hypervisor.progress.return_value = (3, 4)
    running = desk.journal.add(jobs.delete(state=State.RUNNING))
    shown = desk.control.job_show(running.identity)
    assert (shown['done'], shown['total']) == (3, 4)
    over = desk.journal.add(jobs.delete(state=State.DONE))
    assert desk.control.job_show(over.identity)['done'] is None
    with pytest.raises(exception.JobNotFound, match='no job 99'):
        desk.control.job_show(99)


@pytest.mark.parametrize(
    'job', [jobs.create(state=State.RUNNING), jobs.delete(state=State.DONE)]
)
def test_only_a_merge_under_way_is_ended_or_slowed(desk, job) -> None:  # type: ignore
    identity = desk.journal.add(job).identity
    for call in (
        lambda: desk.control.job_cancel(identity),
        lambda: desk.control.job_limit(identity, 1),
    ):
        with pytest.raises(exception.InvalidInput, match='is no merge'):
            call()


def test_a_merge_is_ended_and_slowed(desk: Desk) -> None:
    job = desk.journal.add(jobs.delete(state=State.RUNNING))
    run = desk.sweeper.get.return_value = Run(job, Action.LOOK)
    desk.control.job_cancel(job.identity)
    assert run.cancelled
    desk.sweeper.hasten.assert_called_once_with(job.identity)
    desk.control.job_limit(job.identity, 7)
    desk.hypervisor.limit.assert_called_once_with(job, 7)
    for bandwidth in (-1, 1 << 40):
        with pytest.raises(exception.InvalidInput, match='0 for no limit'):
            desk.control.job_limit(job.identity, bandwidth)


def test_what_waits_is_tried_now(desk: Desk) -> None:
    job = desk.journal.add(jobs.create(state=State.REPORTING))
    desk.control.job_retry(job.identity)
    desk.sweeper.hasten.assert_called_once_with(job.identity)


@pytest.mark.parametrize('state', [State.ORPHANED, State.UNCLAIMED])
def test_what_cinder_does_not_count_is_looked_at_again(desk, state) -> None:  # type: ignore
    job = desk.journal.add(jobs.create(state=state, succeeded=True))
    desk.control.job_retry(job.identity)
    (run,) = desk.sweeper.add.call_args.args
    assert run.action is Action.LOOK
    # It is on disk before anything comes of it.
    assert desk.journal.get(job.identity) == run.job
    assert run.job.state is State.VERIFYING


def test_nothing_else_is_tried_again(desk: Desk) -> None:
    older = desk.journal.add(jobs.create(state=State.ORPHANED))
    for state in (State.DONE, State.FAILED, State.ABANDONED):
        last = desk.journal.add(jobs.create(state=state))
        for job in (older, last):
            with pytest.raises(exception.InvalidInput, match='nothing is'):
                desk.control.job_retry(job.identity)
    orphan = desk.journal.add(jobs.create(state=State.ORPHANED))
    desk.journal.add(jobs.delete(state=State.RUNNING))
    with pytest.raises(exception.BlockJobExists):
        desk.control.job_retry(orphan.identity)
    desk.sweeper.add.assert_not_called()


def test_a_rollback_is_begun_only_on_demand(desk: Desk) -> None:
    orphan = desk.journal.add(jobs.create(state=State.ORPHANED))
    rollback = jobs.delete(operation=Operation.ROLLBACK)
    line = Line('who', 'what', True)
    desk.rollbacks.examine.return_value = ([line], rollback)
    shown = desk.control.job_rollback(orphan.identity)
    assert (shown['allowed'], shown['job_id']) == (True, None)
    assert shown['evidence'] == [
        {'witness': 'who', 'says': 'what', 'allows': True}
    ]
    desk.sweeper.add.assert_not_called()
    done = desk.control.job_rollback(orphan.identity, confirmed=True)
    (run,) = desk.sweeper.add.call_args.args
    assert run.job.identity == done['job_id']
    desk.rollbacks.examine.return_value = ([line], None)
    refused = desk.control.job_rollback(orphan.identity, confirmed=True)
    assert (refused['allowed'], refused['job_id']) == (False, None)


def test_what_may_be_abandoned(desk: Desk) -> None:
    orphan = desk.journal.add(jobs.create(state=State.ORPHANED))
    desk.sweeper.get.return_value = None
    desk.control.job_abandon(orphan.identity)
    found = desk.journal.get(orphan.identity)
    assert found is not None
    assert found.state is State.ABANDONED
    waiting = desk.journal.add(jobs.create(state=State.REPORTING))
    run = desk.sweeper.get.return_value = Run(waiting, Action.REPORT)
    desk.control.job_abandon(waiting.identity)
    assert run.dropped
    desk.sweeper.hasten.assert_called_once_with(waiting.identity)
    for state in (State.RUNNING, State.PENDING):
        job = desk.journal.add(jobs.delete(state=state))
        desk.sweeper.get.return_value = Run(job, Action.LOOK)
        with pytest.raises(exception.InvalidInput, match='cancelled first'):
            desk.control.job_abandon(job.identity)
    for state in FINAL - {State.ORPHANED}:
        job = desk.journal.add(jobs.delete(state=state))
        desk.sweeper.get.return_value = None
        with pytest.raises(exception.InvalidInput, match='it is over'):
            desk.control.job_abandon(job.identity)
