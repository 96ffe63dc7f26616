# SPDX-License-Identifier: Apache-2.0
"""What operators ask of jobs: to see them, to slow them, to end them.

Everything is a wish that the engine follows in its own order; no job is
changed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nova_ext import exception
from nova_ext.agent.job import FINAL, Job, Operation, State

if TYPE_CHECKING:
    from nova_ext.agent import hypervisor as agent_hypervisor
    from nova_ext.agent import journal as agent_journal
    from nova_ext.agent import sweeper as agent_sweeper


class Control:
    """The jobs of this host, for those who operate it."""

    def __init__(
        self,
        hypervisor: agent_hypervisor.Hypervisor,
        journal: agent_journal.Journal,
        sweeper: agent_sweeper.Sweeper,
    ) -> None:
        self._hypervisor = hypervisor
        self._journal = journal
        self._sweeper = sweeper

    def job_list(self, everything: bool = False) -> list[dict[str, Any]]:
        """The jobs that are not over, the oldest first; or all of them."""
        return [_shown(job) for job in self._journal.jobs(everything)]

    def job_show(self, job_id: int) -> dict[str, Any]:
        """One job, and how far its block job is.

        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        job = self._get(job_id)
        progress = None
        if job.state is State.RUNNING and job.operation is Operation.DELETE:
            progress = self._hypervisor.progress(job)
        done, total = progress or (None, None)
        return {**_shown(job), 'done': done, 'total': total}

    def job_cancel(self, job_id: int) -> None:
        """Have a merge end; what it comes to is seen and reported.

        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        job = self._merging(job_id)
        run = self._sweeper.get(job_id)
        if run is not None:
            run.cancelled = True
            self._sweeper.wake(job.instance_id)

    def job_limit(self, job_id: int, bandwidth: int) -> None:
        """Have a merge do `bandwidth` MiB/s at most; 0 for no limit.

        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        if not 0 <= bandwidth <= 1 << 30:
            raise exception.InvalidInput(
                reason=f'{bandwidth} MiB/s is no bandwidth'
            )
        self._hypervisor.limit(self._merging(job_id), bandwidth)

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
