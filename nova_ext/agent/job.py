# SPDX-License-Identifier: Apache-2.0
"""A job as a value: a chain of files that shall become another chain.

What comes next for it is said by :mod:`nova_ext.agent.transition`. No I/O, no
clock and no libvirt is here.
"""

from __future__ import annotations

import dataclasses
import enum
import uuid
from typing import Any


class State(str, enum.Enum):
    """Where a job is. Each is journalled before what it names is done."""

    PENDING = 'PENDING'  # nothing was asked of libvirt
    RUNNING = 'RUNNING'  # libvirt was asked, or is about to be
    VERIFYING = 'VERIFYING'  # what became of it is being looked at
    REFRESHING = 'REFRESHING'  # Nova is told which file is active now
    REPORTING = 'REPORTING'  # the outcome is known and Cinder is not told
    CONFIRMING = 'CONFIRMING'  # told; whether it was heard is looked at
    DONE = 'DONE'
    FAILED = 'FAILED'  # the chain is as it was before
    ORPHANED = 'ORPHANED'  # done, but Cinder counts it as failed
    UNCLAIMED = 'UNCLAIMED'  # merged, and Cinder did not take note
    ABANDONED = 'ABANDONED'  # an operator took it over, whatever it came to


FINAL = frozenset(
    {
        State.DONE,
        State.FAILED,
        State.ORPHANED,
        State.UNCLAIMED,
        State.ABANDONED,
    }
)
# NOTE: while a job is in one of these, the chain may change under whoever
# else would touch the volume, or Nova may start from a file that a merge
# would remove.
TOUCHING = frozenset(
    {State.PENDING, State.RUNNING, State.VERIFYING, State.REFRESHING}
)

# What is done in the first of two is done again, to the same end, where the
# second was not known to be reached: a look, and a report.
_REPEATED = frozenset(
    {
        (State.RUNNING, State.VERIFYING),
        (State.VERIFYING, State.RUNNING),
        (State.REPORTING, State.CONFIRMING),
    }
)

_STAND_INS = uuid.UUID('3f4a3c52-6d0f-5e0b-9a53-1f7c2f0a6f55')


class Operation(str, enum.Enum):
    """What was asked for."""

    CREATE = 'create'
    DELETE = 'delete'
    ROLLBACK = 'rollback'  # by an operator; Cinder is not told


class Kind(str, enum.Enum):
    """How one chain becomes the other."""

    OVERLAY = 'overlay'  # a new active layer on top
    PULL = 'pull'  # the layer below moves into the active one
    COMMIT = 'commit'  # a layer moves into the one below it
    ACTIVE = 'active commit'  # the active layer does


@dataclasses.dataclass(frozen=True)
class Job:
    """One request for a chain to become another.

    :ivar before: paths of the chain as it was found, active layer first
    :ivar after: paths of the chain as it shall be
    :ivar base: for a merge the name of the file that stays below, None for
        none; with `kind` and `top` this is what was asked for
    :ivar top: for a commit the name of the file that disappears
    :ivar format: of the active layer as it shall be
    :ivar of_nova: whether Nova has defined the guest, and will again
    :ivar stored: whether the guest was off: its stored definition changes,
        and a merge is done by a stand-in
    :ivar process: which QEMU process does the work, where that matters
    :ivar merged: whether the chain was as wanted already, so that nothing is
        started: Cinder asks again for what it did not take note of
    :ivar flushed: whether what was merged is on disk
    :ivar released: whether the stand-in has ended
    :ivar cancelled: whether an operator wants it to end
    :ivar aside: whether its block job is ended for the sake of another job of
        the guest, and begun again after that
    :ivar patient: whether it goes on when its deadline has passed
    :ivar accepted_at: wall-clock seconds; the deadline derives from it
    :ivar deadline: wall-clock seconds
    :ivar succeeded: None while that is not known
    :ivar outcome: what Cinder's answer makes of a success, while Nova is to
        be told; None before
    :ivar reason: the cause of a failure, or what an operator should know
    :ivar identity: database id; 0 before it is journalled
    """

    snapshot_id: str
    volume_id: str
    operation: Operation
    kind: Kind
    instance_id: str
    target: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    accepted_at: float
    deadline: float
    base: str | None = None
    top: str | None = None
    format: str = 'qcow2'
    of_nova: bool = False
    stored: bool = False
    process: str = ''
    merged: bool = False
    flushed: bool = False
    released: bool = False
    cancelled: bool = False
    aside: bool = False
    patient: bool = False
    request_id: str | None = None
    state: State = State.PENDING
    succeeded: bool | None = None
    outcome: State | None = None
    reason: str = ''
    identity: int = 0

    @property
    def overlay(self) -> str | None:
        """The file that is new in the chain, for a create."""
        return self.after[0] if self.kind is Kind.OVERLAY else None

    @property
    def merges(self) -> bool:
        """Whether what is below the active layer changes."""
        return self.kind in (Kind.PULL, Kind.COMMIT)

    @property
    def refreshes(self) -> bool:
        """Whether Nova is to be told of another active layer."""
        return self.of_nova and not self.merges

    @property
    def doomed(self) -> tuple[str, ...]:
        """The files that are no part of the chain afterwards."""
        return tuple(path for path in self.before if path not in self.after)

    @property
    def around(self) -> tuple[str, ...]:
        """Of a merge: the layer above the one that disappears, that one, and
        the one below it if there is one.
        """
        place = self.before.index(self.doomed[0])
        return self.before[place - 1 : place + 2]

    @property
    def worker_id(self) -> str:
        """UUID of the domain that does the work: the guest, or a stand-in."""
        if not self.stored or self.kind is Kind.OVERLAY:
            return self.instance_id
        name = f'{self.instance_id} {self.snapshot_id!r} {self.accepted_at}'
        return str(uuid.uuid5(_STAND_INS, name))

    @property
    def lent(self) -> bool:
        """Whether a stand-in may have the disk of a guest that is off."""
        return self.worker_id != self.instance_id and not self.released

    def to(self, state: State, **changes: Any) -> Job:
        """This job in another state."""
        return dataclasses.replace(self, state=state, **changes)


def repeats(before: Job, after: Job) -> bool:
    """Whether who forgets `after`, and goes on at `before`, does no harm."""
    alike = dataclasses.replace(after, state=before.state) == before
    return alike and (before.state, after.state) in _REPEATED


def describe(job: Job) -> str:
    """A job for a log line; ids come from outside, hence the quotes."""
    text = (
        f'{job.operation.value} of snapshot {job.snapshot_id!r} of volume '
        f'{job.volume_id!r} on instance {job.instance_id}: {job.state.value}'
    )
    return f'{text} ({job.reason})' if job.reason else text
