# SPDX-License-Identifier: Apache-2.0
"""The gate before libvirt: is it a job's turn, and do the others await it?

What stands in its way is said here; it is journalled, and the job begun, in
the engine.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, NamedTuple

from nova_ext import exception
from nova_ext.agent import outside, turns
from nova_ext.agent.job import Job, Operation, State
from nova_ext.agent.sweeper import Run
from nova_ext.agent.transition import Action, Chain

if TYPE_CHECKING:
    from nova_ext.agent import hypervisor as agent_hypervisor

_LOOK_SECONDS = 2.0
_PATIENT_SECONDS = 86400.0


class Stop(NamedTuple):
    """What becomes of a job that is not begun now.

    :ivar seconds: until it is tried again; None for what the state has
    """

    job: Job
    action: Action
    seconds: float | None = None


def refusal(job: Job, reason: str) -> Stop:
    """Cinder is told that nothing was started."""
    return Stop(
        job.to(State.REPORTING, succeeded=False, reason=reason), Action.REPORT
    )


class Gate:
    """Whether a job may be begun."""

    def __init__(
        self,
        order: turns.Turns,
        hypervisor: agent_hypervisor.Hypervisor,
        reports: outside.Reports,
        nova: outside.Records,
    ) -> None:
        self._turns = order
        self._hypervisor = hypervisor
        self._reports = reports
        self._nova = nova

    def first(self, run: Run) -> Stop | None:
        """What keeps a job from being begun; None if nothing does.

        Of a fence that failed the cause is in `run.error`, too.
        """
        job = run.job
        stop = None if job.merged else self._queue(run)
        if stop is not None:
            return stop
        try:
            if job.refreshes:
                self._nova.fence(job)
            if job.operation is not Operation.ROLLBACK:
                self._reports.fence(job)
        except exception.NovaExtException as error:
            run.error = error
            if run.queued:
                # NOTE: who asked may have been told that it goes on.
                return refusal(job, str(error))
            return Stop(
                job.to(State.FAILED, succeeded=False, reason=str(error)),
                Action.NOTHING,
            )
        return None

    def again(self, run: Run) -> Stop | None:
        """What keeps a job that stepped aside from going on."""
        job = run.job
        late = _is_late(job)
        reason = 'its deadline passed' if late else ''
        look = Stop(
            job.to(State.VERIFYING, aside=False, reason=reason), Action.LOOK
        )
        if run.cancelled or late:
            return look
        other = self._turns.take(job)
        if other is not None:
            return _waiting(run, other)
        found = self._hypervisor.look(job)
        if found is Chain.UNKNOWN:
            return Stop(job, run.action, _LOOK_SECONDS)
        return None if found is Chain.BEFORE else look

    def _queue(self, run: Run) -> Stop | None:
        """What keeps a job waiting for its turn, or from waiting for it."""
        job = run.job
        other = self._turns.take(job)
        with run.lock:
            run.queued = run.queued or other is not None
            if not run.queued:
                return None
            too_late = run.abandoned
        if too_late:
            return refusal(job, 'it came too late')
        if run.cancelled:
            return refusal(job, 'an operator cancelled it')
        if _is_late(job):
            return refusal(job, f'its deadline passed. {job.reason}')
        if other is not None:
            return _waiting(run, other)
        now = time.time()
        begin, end = run.doubtful
        if begin <= now < end:
            # NOTE: later Cinder knows, and with it the fence.
            self._turns.leave(job)
            return Stop(job, run.action, end - now)
        # NOTE: what was seen when it was accepted may have changed since.
        found = self._hypervisor.look(job)
        if found is Chain.UNKNOWN:
            return Stop(job, run.action, _LOOK_SECONDS)
        if found is not Chain.BEFORE:
            return refusal(
                job, f'while it waited its chain became {found.value}'
            )
        return None


def _is_late(job: Job) -> bool:
    return time.time() >= job.deadline and not job.patient


def _waiting(run: Run, other: Job) -> Stop:
    """It is shown for what a job waits, until its deadline at most."""
    job = run.job
    reason = (
        f'It waits for the {other.operation.value} of snapshot '
        f'{other.snapshot_id} on another disk of the instance'
    )
    left = _PATIENT_SECONDS if job.patient else job.deadline - time.time()
    return Stop(
        dataclasses.replace(job, reason=reason), run.action, max(left, 0.1)
    )
