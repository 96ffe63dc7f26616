# SPDX-License-Identifier: Apache-2.0
"""What operators may ask of which job."""

from __future__ import annotations

import pathlib
from unittest import mock

import pytest

from nova_ext import exception
from nova_ext.agent.control import Control
from nova_ext.agent.hypervisor import Hypervisor
from nova_ext.agent.job import FINAL, Action, State
from nova_ext.agent.journal import Journal
from nova_ext.agent.sweeper import Run, Sweeper
from tests.unit.agent import jobs


class Desk:
    """A control with a journal of its own."""

    def __init__(self, path: pathlib.Path) -> None:
        self.journal = Journal(path)
        self.hypervisor = mock.create_autospec(Hypervisor, instance=True)
        self.sweeper = mock.create_autospec(Sweeper, instance=True)
        self.control = Control(self.hypervisor, self.journal, self.sweeper)


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
    desk.sweeper.wake.assert_called_once_with('instance')
    desk.control.job_limit(job.identity, 7)
    desk.hypervisor.limit.assert_called_once_with(job, 7)
    for bandwidth in (-1, 1 << 40):
        with pytest.raises(exception.InvalidInput, match='no bandwidth'):
            desk.control.job_limit(job.identity, bandwidth)
