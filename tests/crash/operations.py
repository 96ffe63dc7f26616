# SPDX-License-Identifier: Apache-2.0
"""The operations of the matrix, and the states of the guest under them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from nova_ext.agent import job as agent_job
from nova_ext.agent import transition
from nova_ext.agent.job import State
from nova_ext.agent.transition import Chain, Verdict

if TYPE_CHECKING:
    from tests.crash.share import CrashShare

RUNNING, PAUSED, STOPPED = 'running', 'paused', 'stopped'


REFUSED, GIVEN_UP = 'refused by QEMU', 'given up by Cinder'


@dataclasses.dataclass(frozen=True)
class Operation:
    """One thing that Cinder asks for.

    :ivar snapshots: how many there are before
    :ivar doomed: which of them is deleted; None for a creation
    :ivar start: what is called to start the work
    :ivar slow: bytes per second at which it takes a good part of a second
    :ivar trouble: what goes wrong in it even if nobody dies
    """

    name: str
    snapshots: int
    doomed: int | None
    start: str
    slow: int
    trouble: str = ''

    def act(self, share: CrashShare, snapshots: list[str]) -> str:
        """Do it as Cinder does; the snapshot concerned.

        :raises: what the compute API raises, SnapshotFailed
        """
        share.give_up = self.trouble == GIVEN_UP
        share.write_protect = self.trouble == REFUSED
        if self.doomed is None:
            return share.create()
        share.delete(snapshots[self.doomed])
        return snapshots[self.doomed]

    def states_passed(self) -> set[str]:
        """The states of its job, by the transition table."""
        job = agent_job.Job(
            snapshot_id='',
            volume_id='',
            operation=(
                agent_job.Operation.CREATE
                if self.doomed is None
                else agent_job.Operation.DELETE
            ),
            kind=agent_job.Kind.COMMIT,
            instance_id='',
            target='',
            before=('a', 'b', 'c'),
            after=('a', 'c'),
            accepted_at=0.0,
            deadline=1.0,
        )
        passed = {job.state, State.RUNNING, State.VERIFYING}
        job = job.to(State.VERIFYING)
        refused = self.trouble == REFUSED
        chain = Chain.BEFORE if refused else Chain.AFTER
        job, _ = transition.looked(job, chain, 0.0)
        while job.state not in agent_job.FINAL:
            passed.add(job.state)
            if job.state is State.CONFIRMING:
                job, _ = transition.confirmed(job, Verdict.CLAIMED, 0.0, 0.0)
            else:
                given_up = self.trouble == GIVEN_UP
                verdict = Verdict.GAVE_UP if given_up else Verdict.DELIVERED
                job, _ = transition.reported(job, verdict, 0.0)
        return {state.value for state in (*passed, job.state)}


CREATE = Operation('create', 1, None, 'snapshot', 0)
# NOTE: of a raw file all counts as data, of an overlay a few clusters do.
PULL_TO_NONE = Operation('pull to none', 1, 0, 'pull', 1 << 30)
PULL_TO_BASE = Operation('pull to base', 2, 1, 'pull', 1 << 18)
COMMIT = Operation('commit', 3, 1, 'commit', 1 << 18)
OPERATIONS = (
    *(CREATE, PULL_TO_NONE, PULL_TO_BASE, COMMIT),
    *(
        dataclasses.replace(
            operation, name=f'{operation.name}, {trouble}', trouble=trouble
        )
        for operation, trouble in (
            (CREATE, REFUSED),
            (COMMIT, REFUSED),
            (CREATE, GIVEN_UP),
            (PULL_TO_BASE, GIVEN_UP),
            (COMMIT, GIVEN_UP),
        )
    ),
)
