# SPDX-License-Identifier: Apache-2.0
"""May a switch that Cinder does not count be undone? The evidence for it.

No witness alone proves that an overlay is not in use by anybody, so each has
a line, and all lines must allow it. Nothing is changed here; a person says
whether it is done.
"""

from __future__ import annotations

import dataclasses
import os
import time
from typing import TYPE_CHECKING

from nova_ext import exception
from nova_ext.agent.job import Job, Operation, State
from nova_ext.agent.outside import Reports
from nova_ext.agent.transition import Chain

if TYPE_CHECKING:
    from nova_ext.agent import admission as agent_admission
    from nova_ext.agent import hypervisor as agent_hypervisor
    from nova_ext.agent import journal as agent_journal


@dataclasses.dataclass(frozen=True)
class Line:
    """What one witness says.

    :ivar allows: whether a rollback may be made, as far as this goes
    """

    witness: str
    says: str
    allows: bool


class Rollbacks:
    """What is known of an orphan, and the job that would end it."""

    def __init__(
        self,
        hypervisor: agent_hypervisor.Hypervisor,
        admission: agent_admission.Admission,
        journal: agent_journal.Journal,
        reports: Reports,
    ) -> None:
        self._hypervisor = hypervisor
        self._admission = admission
        self._journal = journal
        self._reports = reports

    def examine(self, job: Job) -> tuple[list[Line], Job | None]:
        """The evidence on a job, and the job to start if all allows it."""
        lines = [*self._jobs(job), *self._cinder(job), self._chain(job)]
        found, rollback = self._instance(job)
        lines += found
        allowed = all(line.allows for line in lines)
        return lines, rollback if allowed else None

    def _jobs(self, job: Job) -> list[Line]:
        orphan = job.operation is Operation.CREATE and job.succeeded is True
        last = self._journal.latest(job.snapshot_id, job.operation)
        later = self._journal.later(job)
        return [
            Line(
                'job',
                f'it is a {job.operation.value}, and {job.state.value}',
                orphan and job.state is State.ORPHANED and last == job,
            ),
            Line(
                'later jobs',
                f'job {later[0].identity}, a {later[0].operation.value}, is '
                f'{later[0].state.value}'
                if later
                else 'none has changed the volume',
                not later,
            ),
        ]

    def _cinder(self, job: Job) -> list[Line]:
        new_file = os.path.basename(job.after[0])
        try:
            status, files = self._reports.witness(job)
        except exception.CinderUnavailable as error:
            return [Line('Cinder', str(error), False)]
        return [
            Line(
                'snapshot in Cinder',
                f'its status is {status}' if status else 'there is none',
                status in (None, 'error'),
            ),
            Line(
                'attachments in Cinder',
                f'they name {", ".join(files)}'
                if files
                else 'none names a file',
                new_file not in files,
            ),
        ]

    def _chain(self, job: Job) -> Line:
        chain = self._hypervisor.look(job)
        return Line(
            'libvirt, headers and QEMU',
            f'the chain is {chain.value}',
            chain is Chain.AFTER,
        )

    def _instance(self, job: Job) -> tuple[list[Line], Job | None]:
        try:
            rollback, notes = self._admission.rollback(job, time.time())
        except exception.NovaExtException as error:
            return [Line('instance', str(error), False)], None
        new_file = os.path.basename(job.after[0])
        named = [key for key, name in notes.items() if name == new_file]
        return [
            Line('instance', 'it has a process and nothing under way', True),
            Line(
                ".info file of Cinder's",
                f'it names {new_file} for {", ".join(named)}'
                if named
                else f'it does not name {new_file}',
                not named and job.snapshot_id not in notes,
            ),
        ], rollback
