# SPDX-License-Identifier: Apache-2.0
"""When a step is done, and that it is never done twice at a time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from unittest import mock

import pytest

from nova_ext.agent import sweeper
from nova_ext.agent.sweeper import Run, Sweeper
from nova_ext.agent.transition import Action
from tests.unit.agent import jobs

TIMEOUT = 10.0
Step = Callable[[Run], float | None]


class Steps:
    """The steps that a sweeper asks for, answered by the test."""

    def __init__(self) -> None:
        self.asked: queue.Queue[Run] = queue.Queue()
        self.answers: dict[int, queue.Queue[float | None | Exception]] = {}
        self.lock = threading.Lock()
        self.inside: dict[int, int] = {}
        self.overlaps = 0

    def __call__(self, run: Run) -> float | None:
        identity = run.job.identity
        with self.lock:
            self.inside[identity] = self.inside.get(identity, 0) + 1
            self.overlaps += self.inside[identity] > 1
        self.asked.put(run)
        answer = self._answers(identity).get(timeout=TIMEOUT)
        with self.lock:
            self.inside[identity] -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    def next(self) -> Run:
        return self.asked.get(timeout=TIMEOUT)

    def answer(self, run: Run, answer: float | None | Exception) -> None:
        self._answers(run.job.identity).put(answer)

    def nothing_is_asked(self, seconds: float = 0.15) -> bool:
        try:
            self.asked.get(timeout=seconds)
        except queue.Empty:
            return True
        return False

    def _answers(self, identity: int) -> queue.Queue[float | None | Exception]:
        with self.lock:
            return self.answers.setdefault(identity, queue.Queue())


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
def swept(steps: Steps) -> Iterator[Sweeper]:
    made = Sweeper(steps)
    made.start()
    yield made
    assert steps.overlaps == 0
    if not made.stopping:
        # Whatever is still under way ends at once.
        for answers in steps.answers.values():
            answers.put(None)
        made.stop()


def _run(
    identity: int = 1, action: Action = Action.LOOK, instance: str = 'instance'
) -> Run:
    job = jobs.create(identity=identity, instance_id=instance)
    return Run(job, action)


def _gone(swept: Sweeper, identity: int) -> bool:
    deadline = time.monotonic() + TIMEOUT
    while swept.get(identity) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def test_a_job_is_due_at_once_and_until_it_is_over(
    swept: Sweeper, steps: Steps
) -> None:
    run = _run()
    swept.add(run)
    assert swept.get(1) is run
    assert swept.count() == 1
    for wait in (0.0, 0.0, 0.01):
        steps.answer(steps.next(), wait)
    steps.answer(steps.next(), None)
    assert _gone(swept, 1)
    assert swept.count() == 0
    assert steps.nothing_is_asked()


def test_a_job_that_waits_is_not_due(swept: Sweeper, steps: Steps) -> None:
    swept.add(_run())
    steps.answer(steps.next(), 0.3)
    begun = time.monotonic()
    steps.answer(steps.next(), None)
    assert 0.25 < time.monotonic() - begun < TIMEOUT


def test_a_job_that_waits_for_a_look_is_woken(
    swept: Sweeper, steps: Steps
) -> None:
    for action in (Action.LOOK, Action.CANCEL):
        swept.add(_run(action=action))
        steps.answer(steps.next(), 60.0)
        assert steps.nothing_is_asked()
        swept.wake('instance')
        steps.answer(steps.next(), None)
        assert _gone(swept, 1)


@pytest.mark.parametrize(
    'action', [Action.FENCE, Action.START, Action.REPORT, Action.CONFIRM]
)
def test_events_of_guests_concern_looks_only(
    swept: Sweeper, steps: Steps, action: Action
) -> None:
    swept.add(_run(action=action))
    steps.answer(steps.next(), 60.0)
    swept.wake('instance')
    assert steps.nothing_is_asked()


def test_events_of_other_guests_concern_nobody(
    swept: Sweeper, steps: Steps
) -> None:
    swept.add(_run())
    steps.answer(steps.next(), 60.0)
    swept.wake('other')
    assert steps.nothing_is_asked()


def test_who_is_woken_in_a_step_takes_another_after_it(
    swept: Sweeper, steps: Steps
) -> None:
    swept.add(_run())
    run = steps.next()
    for _ in range(3):
        swept.wake('instance')
    assert steps.nothing_is_asked()
    steps.answer(run, 60.0)
    steps.answer(steps.next(), 60.0)
    # Once: it was the same event.
    assert steps.nothing_is_asked()


def test_a_bad_job_does_not_stop_the_others(
    swept: Sweeper, steps: Steps
) -> None:
    with mock.patch.object(sweeper, '_RETRY_SECONDS', 0.05):
        swept.add(_run(1))
        bad = steps.next()
        for _ in range(3):
            steps.answer(bad, ZeroDivisionError())
            assert steps.next() is bad
        swept.add(_run(2))
        assert steps.next().job.identity == 2
        # It is tried again, and may recover.
        steps.answer(bad, None)
        assert _gone(swept, 1)


def test_jobs_do_not_wait_for_each_other(swept: Sweeper, steps: Steps) -> None:
    for identity in range(1, 9):
        swept.add(_run(identity))
    under_way = [steps.next() for _ in range(8)]
    assert {run.job.identity for run in under_way} == set(range(1, 9))
    for run in under_way:
        steps.answer(run, None)


def test_a_stop_waits_for_steps_and_begins_none(
    swept: Sweeper, steps: Steps
) -> None:
    swept.add(_run(1))
    run = steps.next()
    stopper = threading.Thread(target=swept.stop)
    stopper.start()
    stopper.join(0.1)
    assert stopper.is_alive() and swept.stopping
    swept.add(_run(2))
    steps.answer(run, 0.0)
    stopper.join(TIMEOUT)
    assert not stopper.is_alive()
    assert steps.nothing_is_asked()


def test_one_that_is_added_while_another_ends_stays() -> None:
    """As an operator does who has a job tried again."""
    begun, added = threading.Event(), threading.Event()

    def step(run: Run) -> float | None:
        if run.action is not Action.NOTHING:
            return 60.0
        begun.set()
        assert added.wait(TIMEOUT)
        return None

    made = Sweeper(step)
    made.start()
    made.add(_run(action=Action.NOTHING))
    assert begun.wait(TIMEOUT)
    new = _run()
    made.add(new)
    added.set()
    # It waits for the steps that are under way.
    made.stop()
    assert made.get(1) is new


def test_it_goes_on_where_no_thread_could_be_started(
    swept: Sweeper, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = threading.Event()

    def start(self: threading.Thread) -> None:
        refused.set()
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, 'start', start)
        swept.add(_run(1))
        assert refused.wait(TIMEOUT)
    swept.add(_run(2))
    for identity in (1, 2):
        steps.answer(steps.next(), None)
        assert _gone(swept, identity)
