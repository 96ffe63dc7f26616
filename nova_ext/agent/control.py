# SPDX-License-Identifier: Apache-2.0
"""What operators ask of jobs: to see them, slow them, end or mend them.

Of a job under way everything is a wish, which the engine follows in its own
order.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import TYPE_CHECKING, Any

from nova_ext import exception
from nova_ext.agent import transition
from nova_ext.agent.job import FINAL, Job, Operation, State
from nova_ext.agent.sweeper import Run

if TYPE_CHECKING:
    from nova_ext.agent import hypervisor as agent_hypervisor
    from nova_ext.agent import intake as agent_intake
    from nova_ext.agent import journal as agent_journal
    from nova_ext.agent import rollback as agent_rollback
    from nova_ext.agent import sweeper as agent_sweeper


class Control:
    """The jobs of this host, for those who operate it."""

    def __init__(
        self,
        hypervisor: agent_hypervisor.Hypervisor,
        journal: agent_journal.Journal,
        sweeper: agent_sweeper.Sweeper,
        intake: agent_intake.Intake,
        rollbacks: agent_rollback.Rollbacks,
    ) -> None:
        self._hypervisor = hypervisor
        self._journal = journal
        self._sweeper = sweeper
        self._intake = intake
        self._rollbacks = rollbacks

    def job_list(self, everything: bool = False) -> list[dict[str, Any]]:
        """The jobs that are not over or need an operator; or all of them."""
        return [_shown(job) for job in self._journal.jobs(everything)]

    def job_show(self, job_id: int) -> dict[str, Any]:
        """One job, and how far its block job is.

        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        job = self._get(job_id)
        progress = None
        if (
            job.state is State.RUNNING
            and job.operation is not Operation.CREATE
        ):
            progress = self._hypervisor.progress(job)
        done, total = progress or (None, None)
        return {**_shown(job), 'done': done, 'total': total}

    def job_cancel(self, job_id: int) -> None:
        """Have a merge end; what it comes to is seen and reported.

        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        self._merging(job_id)
        run = self._sweeper.get(job_id)
        if run is not None:
            run.cancelled = True
            self._sweeper.hasten(job_id)

    def job_limit(self, job_id: int, bandwidth: int) -> None:
        """Have a merge do `bandwidth` MiB/s at most; 0 for no limit.

        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        if not 0 <= bandwidth <= 1 << 30:
            raise exception.InvalidInput(
                reason=f'{bandwidth} MiB/s is no bandwidth: say 0 for no '
                'limit, or a number up to 2^30'
            )
        job = self._merging(job_id)
        run = self._sweeper.get(job_id)
        if run is not None:
            # Also for when it is begun again.
            run.bandwidth = bandwidth
        self._hypervisor.limit(job, bandwidth)

    def job_retry(self, job_id: int) -> None:
        """Try at once what a job waits to try again.

        Of one that ended without Cinder's consent the chain is looked at
        again, and Cinder is told again what it is.

        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        job = self._get(job_id)
        if job.state not in FINAL:
            self._sweeper.hasten(job_id)
            return
        with self._intake.volume(job.volume_id):
            job = self._get(job_id)
            last = self._journal.latest(job.snapshot_id, job.operation)
            if (
                job.state not in (State.ORPHANED, State.UNCLAIMED)
                or last != job
            ):
                raise exception.InvalidInput(
                    reason=f'Job {job_id} is {job.state.value}, or another '
                    'one came after it; nothing is left to try. Ask for the '
                    'same in Cinder again.'
                )
            self._intake.refuse_while_touched(job.volume_id)
            job, action = transition.retried(job, time.time())
            self._journal.update(job)
            self._sweeper.add(Run(job, action))

    def job_rollback(
        self, job_id: int, confirmed: bool = False
    ) -> dict[str, Any]:
        """Undo a switch that Cinder does not count, if all allows it.

        :param confirmed: else the evidence is shown and nothing is done
        :returns: ``evidence``; ``allowed``; ``job_id`` of what was started,
            or None
        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        job = self._get(job_id)
        with self._intake.volume(job.volume_id):
            lines, rollback = self._rollbacks.examine(job)
            started = None
            if confirmed and rollback is not None:
                self._intake.refuse_while_touched(job.volume_id)
                run = self._intake.accept(rollback, math.inf, None)
                started = run.job.identity
        return {
            'evidence': [dataclasses.asdict(line) for line in lines],
            'allowed': rollback is not None,
            'job_id': started,
        }

    def job_abandon(self, job_id: int) -> None:
        """Do nothing more for a job; whatever is left is the operator's.

        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        job = self._get(job_id)
        run = self._sweeper.get(job_id)
        if run is not None and job.state not in (State.PENDING, State.RUNNING):
            run.dropped = True
            self._sweeper.hasten(job_id)
        elif job.state is State.ORPHANED:
            self._journal.update(transition.abandoned(job))
        else:
            raise exception.InvalidInput(
                reason=f'Job {job_id} is {job.state.value}: it is over, or '
                'must be cancelled first.'
            )

    def _get(self, job_id: int) -> Job:
        job = self._journal.get(job_id)
        if job is None:
            raise exception.JobNotFound(job_id=job_id)
        return job

    def _merging(self, job_id: int) -> Job:
        job = self._get(job_id)
        if job.state in FINAL or job.operation is Operation.CREATE:
            raise exception.InvalidInput(
                reason=f'Job {job_id} is no merge that is under way: it is '
                f'a {job.operation.value} and {job.state.value}.'
            )
        return job


def _shown(job: Job) -> dict[str, Any]:
    return {
        'id': job.identity,
        'operation': job.operation.value,
        'kind': job.kind.value,
        'state': job.state.value,
        'reason': job.reason,
        'snapshot_id': job.snapshot_id,
        'volume_id': job.volume_id,
        'instance_id': job.instance_id,
        'request_id': job.request_id,
        'before': list(job.before),
        'after': list(job.after),
        'accepted_at': job.accepted_at,
        'deadline': job.deadline,
    }
