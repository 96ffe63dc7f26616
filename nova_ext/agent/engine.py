# SPDX-License-Identifier: Apache-2.0
"""The engine: it takes a job one step further, each journalled before it is.

What comes next is decided in job, what became of a chain in verify. Which
jobs there are, and who waits for them, is the manager's business.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from nova_ext import exception
from nova_ext.agent import gate, outside, transition, turns
from nova_ext.agent import job as agent_job
from nova_ext.agent.job import Job, Operation, State
from nova_ext.agent.sweeper import Run
from nova_ext.agent.transition import Action, Chain, Record, Verdict

if TYPE_CHECKING:
    from nova_ext.agent import hypervisor as agent_hypervisor
    from nova_ext.agent import journal as agent_journal

LOG = logging.getLogger(__name__)

# NOTE: what a dead process asked of libvirtd can still wait there for the
# guest's job lock, 30 s at most (QEMU_JOB_WAIT_TIME), and be done after.
SETTLE_SECONDS = 35.0
_JOB_LOOK_SECONDS = 2.0
_LOOK_SECONDS = (0.05, 0.2, 0.5, 1.0, 2.0)
_REPORT_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 10.0)
# So that who waits is answered first; Cinder looks once a second itself.
_ANSWER_SECONDS = 0.05
_CONFIRM_SECONDS = (1.0, 1.0, 2.0, 5.0, 10.0)
_CONFIRM_GRACE = 60.0
# After this time in a guest a pull makes way for its other disks.
_ASIDE_SECONDS = 10.0
_AT_WORK = frozenset({State.RUNNING, State.VERIFYING})


class Engine:
    """Does what jobs want done.

    :param over: is called when a job is over
    :param ready: is called with the database id of a job that can go on
    """

    def __init__(
        self,
        hypervisor: agent_hypervisor.Hypervisor,
        journal: agent_journal.Journal,
        reports: outside.Reports,
        nova: outside.Records,
        ready: Callable[[int], None],
        over: Callable[[], None],
    ) -> None:
        self._turns = turns.Turns(ready)
        self._gate = gate.Gate(self._turns, hypervisor, reports, nova)
        self._nova = nova
        self._over = over
        self._hypervisor = hypervisor
        self._journal = journal
        self._reports = reports

    def take_up(self, job: Job) -> None:
        """Know of a job that a former process left, before any step."""
        if job.state in _AT_WORK:
            self._turns.hold(job)

    def step(self, run: Run) -> float | None:
        """One action; seconds until the next, None if there is none."""
        if run.dropped:
            self._drop(run)
        job, action = run.job, run.action
        if action is Action.NOTHING:
            run.answered.set()
            self._over()
            return None
        if action is Action.FENCE:
            return self._fence(run)
        if action is Action.START:
            return self._begin(run)
        if action is Action.RELEASE:
            if not self._hypervisor.release(job):
                return self._enter(run, job, action)
            return self._enter(
                run, job.to(State.VERIFYING, released=True), Action.LOOK
            )
        if action is Action.CANCEL:
            self._hypervisor.cancel(job)
        if action is Action.PIVOT:
            self._hypervisor.pivot(job)
        if action in (Action.LOOK, Action.CANCEL, Action.PIVOT):
            return self._look(run)
        if action is Action.REFRESH:
            return self._refresh(run)
        if action is Action.REPORT:
            return self._report(run)
        return self._reported(run, self._confirm(job))

    def _reported(self, run: Run, verdict: Verdict) -> float:
        """What follows from what Cinder said."""
        # NOTE: a later job may have changed the file meanwhile.
        if (
            verdict is Verdict.CLAIMED
            and run.job.overlay
            and not self._journal.later(run.job)
        ):
            self._reports.compare(run.job)
        with run.lock:
            if run.asked_again and verdict is Verdict.GAVE_UP:
                verdict = Verdict.OVERTAKEN
            run.asked_again = False
            now = time.time()
            if run.action is Action.REPORT:
                then = transition.reported(run.job, verdict, now)
            else:
                then = transition.confirmed(
                    run.job, verdict, now, _CONFIRM_GRACE
                )
            return self._enter(run, *then)

    def _report(self, run: Run) -> float:
        """Tell Cinder the outcome."""
        job = run.job
        # NOTE: since the last attempt Nova may have moved the instance, with
        # what Cinder still takes for the active layer.
        if run.attempts and job.refreshes and job.succeeded:
            then = self._refreshed(job)
            if then[1] is not Action.REPORT:
                return self._enter(run, *then)
        return self._reported(run, self._deliver(job))

    def _refresh(self, run: Run) -> float:
        return self._enter(run, *self._refreshed(run.job))

    def _refreshed(self, job: Job) -> tuple[Job, Action]:
        """Have Nova know what QEMU has open, and what follows from that."""
        # NOTE: what Nova knows from a later job is not taken back.
        used = not self._is_covered(job) and (
            self._hypervisor.look(job) is Chain.AFTER
        )
        record = self._nova.refresh(job, used)
        # NOTE: only now a start that read the old record has shown itself.
        chain = self._hypervisor.look(job)
        if chain is not Chain.AFTER and self._is_found(job):
            chain = Chain.AFTER
            if self._is_covered(job):
                record = Record.RIGHT
        elif chain is not Chain.AFTER and record in (
            Record.RIGHT,
            Record.WRONG,
        ):
            # NOTE: what it sees may be an operation that began after Nova
            # was asked: libvirt waits for the end of a guest.
            record = self._nova.refresh(job, False)
        trouble = self._nova.trouble if record is Record.UNKNOWN else ''
        return transition.refreshed(job, chain, record, time.time(), trouble)

    def _is_found(self, job: Job) -> bool:
        """Whether the next job of the volume found it done, and goes on from
        there: Cinder may have acted long before it is asked.
        """
        later = self._journal.later(job)
        return bool(later) and later[0].before[0] == job.after[0]

    def _is_covered(self, job: Job) -> bool:
        """Whether a later job puts a layer on top, and tells Nova of that."""
        return any(other.overlay for other in self._journal.later(job))

    def _drop(self, run: Run) -> None:
        """Leave a job to an operator, unless something is under way."""
        run.dropped = False
        if run.job.state in (State.PENDING, State.RUNNING):
            return
        if run.job.lent:
            self._hypervisor.release(run.job)
        job = transition.abandoned(run.job)
        if not job.succeeded and run.error is None:
            run.error = failure(job)
        self._enter(run, job, Action.NOTHING)

    def _deliver(self, job: Job) -> Verdict:
        if job.operation is not Operation.ROLLBACK:
            return self._reports.deliver(job)
        # Cinder counts the snapshot as failed, and now that is true.
        orphan = self._journal.latest(job.snapshot_id, Operation.CREATE)
        if orphan is not None and job.succeeded:
            self._journal.update(
                orphan.to(State.FAILED, succeeded=False, reason='rolled back')
            )
        return Verdict.CLAIMED

    def _look(self, run: Run) -> float:
        self._turns.hold(run.job)
        # NOTE: before the look, since what waits may be done after it.
        settled = time.monotonic() >= run.settled_at
        chain = self._hypervisor.look(run.job)
        # NOTE: while libvirtd stands still so does what waits in it.
        if chain is Chain.UNKNOWN and not settled:
            run.settled_at = math.inf
        elif run.settled_at == math.inf:
            run.settled_at = time.monotonic() + SETTLE_SECONDS
        if chain is transition.Chain.RUNNING:
            self._show_progress(run)
            self._step_aside(run)
        now = time.time()
        # NOTE: an operator may have asked for its end meanwhile.
        job = run.job
        if run.cancelled:
            job = dataclasses.replace(
                job, cancelled=True, reason='an operator cancelled it'
            )
        job, action = transition.looked(job, chain, now, settled)
        # NOTE: whoever froze it, and died or lost libvirt, did not thaw it.
        if (
            run.settled_at
            and job.kind is agent_job.Kind.OVERLAY
            and chain is not Chain.UNKNOWN
            and (run.attempts == 0 or action is not Action.LOOK)
        ):
            self._hypervisor.thaw(job)
        if action is Action.START:
            self._turns.leave(job)
        return self._enter(run, job, action)

    def _step_aside(self, run: Run) -> None:
        """Have a long pull end for a while if another disk waits for it."""
        # NOTE: what it has pulled stays, so that it goes on where it was.
        job = run.job
        if self._turns.is_wanted(job, _ASIDE_SECONDS):
            LOG.info('Stepping aside: %s', agent_job.describe(job))
            run.job = dataclasses.replace(job, aside=True)
            self._journal.update(run.job)

    def _show_progress(self, run: Run) -> None:
        try:
            run.progress = self._hypervisor.progress(run.job)
        except exception.NovaExtException as error:
            LOG.info('Progress cannot be read: %s', error)
            return
        # NOTE: most merges are over before anybody could look.
        shown = run.job.operation is Operation.DELETE
        if run.progress is None or not (run.attempts and shown):
            return
        done, total = run.progress
        percent = 1 + 88 * done // max(total, done, 1)
        if percent > run.percent:
            run.percent = percent
            self._reports.progress(run.job, percent)

    def _confirm(self, job: Job) -> Verdict:
        # NOTE: Cinder has compute delete only what it counted, and then the
        # row may be gone before we look at it.
        if job.operation is Operation.CREATE and self._journal.latest(
            job.snapshot_id, Operation.DELETE
        ):
            return Verdict.CLAIMED
        return self._reports.confirm(job)

    def _fence(self, run: Run) -> float:
        stop = self._gate.first(run)
        if stop is not None:
            return self._stop(run, stop)
        job = run.job
        with run.lock:
            if run.abandoned:
                return self._stop(run, gate.refusal(job, 'it came too late'))
            if job.merged:
                return self._enter(run, job.to(State.VERIFYING), Action.LOOK)
            return self._enter(
                run, job.to(State.RUNNING, reason=''), Action.START
            )

    def _begin(self, run: Run) -> float:
        """Start a job, or what stepped aside again."""
        if run.job.aside:
            stop = self._gate.again(run)
            if stop is not None:
                return self._stop(run, stop)
            self._enter(
                run,
                run.job.to(State.RUNNING, aside=False, reason=''),
                Action.START,
            )
        elif time.time() > run.begin_by and not run.queued:
            # NOTE: the journal, or all of the agent, stood still meanwhile.
            late = gate.refusal(run.job, 'it came too late')
            return self._stop(run, late)
        # NOTE: whatever fails from here on, it is asked for once only.
        run.action = Action.LOOK
        reason = self._start(run)
        if isinstance(run.error, exception.LayerChanged):
            return self._stop(run, gate.refusal(run.job, reason))
        return self._enter(
            run, run.job.to(State.VERIFYING, reason=reason), Action.LOOK
        )

    def _stop(self, run: Run, stop: gate.Stop) -> float:
        pause = self._enter(run, stop.job, stop.action)
        return pause if stop.seconds is None else stop.seconds

    def _start(self, run: Run) -> str:
        """Ask libvirt for what the job wants; why it refused, if it did."""
        try:
            self._hypervisor.start(run.job, run.bandwidth)
        except exception.HypervisorUnavailable as error:
            run.settled_at = math.inf
            return str(error)
        except exception.NovaExtException as error:
            if isinstance(error, exception.Invalid):
                run.error = error
            return str(error)
        return ''

    def _enter(self, run: Run, job: Job, action: Action) -> float:
        """Journal what comes next; seconds until it is done."""
        same = (job.state, action) == (run.job.state, run.action)
        run.attempts = run.attempts + 1 if same else 0
        working = (job.state, action) == (State.RUNNING, Action.LOOK)
        if job != run.job:
            durable = not agent_job.repeats(run.job, job)
            self._journal.update(job, durable)
            if job.state is not run.job.state:
                LOG.info('Now %s', agent_job.describe(job))
        run.job, run.action = job, action
        if job.state not in (State.PENDING, *_AT_WORK):
            self._turns.leave(job)
        if self._is_answer(job):
            if job.succeeded is False and run.error is None:
                run.error = failure(job)
            run.answered.set()
        if same or working:
            return self._pause(run)
        return _ANSWER_SECONDS if action is Action.CONFIRM else 0.0

    def _is_answer(self, job: Job) -> bool:
        """Whether what a waiting request is told is certain now."""
        if job.operation is not Operation.CREATE and not job.reason:
            # It was started, and is reported when it ends.
            return job.state not in (State.PENDING, State.RUNNING)
        return job.state in agent_job.FINAL or (
            job.outcome is not None
            or job.state is State.CONFIRMING
            or (job.state is State.REPORTING and job.succeeded is False)
        )

    def _pause(self, run: Run) -> float:
        if run.job.state is State.RUNNING:
            return _JOB_LOOK_SECONDS
        seconds = {
            Action.REFRESH: _REPORT_SECONDS,
            Action.REPORT: _REPORT_SECONDS,
            Action.CONFIRM: _CONFIRM_SECONDS,
        }.get(run.action, _LOOK_SECONDS)
        pause = seconds[min(run.attempts, len(seconds)) - 1]
        return pause * random.uniform(0.8, 1.2)  # noqa: S311 (jitter only)


def failure(job: Job) -> exception.Failed:
    """What a client is told of a job that failed."""
    failed = (
        exception.SnapshotFailed
        if job.operation is Operation.CREATE
        else exception.MergeFailed
    )
    return failed(snapshot_id=job.snapshot_id, reason=job.reason)
