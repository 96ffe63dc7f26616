# SPDX-License-Identifier: Apache-2.0
"""A job as a value, and the pure function that says what comes next.

Both operations are one thing here: a chain of files that shall become
another chain. What is known of the world comes in as arguments; no I/O, no
clock, no sleep and no libvirt is in this module, so the whole behaviour can
be read, and tested, as a table.
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
# else would touch the volume.
TOUCHING = frozenset({State.PENDING, State.RUNNING, State.VERIFYING})

# What an operator has tried again is over after this time.
_AGAIN_SECONDS = 60.0

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


class Chain(enum.Enum):
    """What a look at the chain found."""

    BEFORE = 'as before'
    AFTER = 'as wanted'
    RUNNING = 'a block job is under way'
    READY = 'the layer below is the same'
    OTHER = 'neither'
    UNSAFE = 'as wanted, but perhaps not on disk'
    UNKNOWN = 'cannot be known now'


class Verdict(enum.Enum):
    """What came of telling or asking Cinder."""

    DELIVERED = 'it accepted the report'
    CLAIMED = 'it acted on the report'
    GAVE_UP = 'it had given up before'
    OVERTAKEN = 'an earlier report arrived after this one'
    RETRY = 'it is not known'


class Action(enum.Enum):
    """What the manager does next."""

    FENCE = 'make sure that Cinder awaits it'
    START = 'ask libvirt for it'
    LOOK = 'look at the chain'
    CANCEL = 'end the block job'
    PIVOT = 'make the layer below the active one'
    RELEASE = 'end what was started for the job only'
    REPORT = 'tell Cinder'
    CONFIRM = 'ask Cinder'
    NOTHING = 'it is over'


@dataclasses.dataclass(frozen=True)
class Job:
    """One request for a chain to become another.

    :ivar before: paths of the chain as it was found, active layer first
    :ivar after: paths of the chain as it shall be
    :ivar base: for a merge the name of the file that stays below, None for
        none; with `kind` and `top` this is what was asked for
    :ivar top: for a commit the name of the file that disappears
    :ivar stored: whether the guest was off: its stored definition changes,
        and a merge is done by a stand-in
    :ivar process: which QEMU process does the work, where that matters
    :ivar merged: whether the chain was as wanted already, so that nothing is
        started: Cinder asks again for what it did not take note of
    :ivar flushed: whether what was merged is on disk
    :ivar released: whether the stand-in has ended
    :ivar cancelled: whether an operator wants it to end
    :ivar patient: whether it goes on when its deadline has passed
    :ivar accepted_at: wall-clock seconds; the deadline derives from it
    :ivar deadline: wall-clock seconds
    :ivar succeeded: None while that is not known
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
    stored: bool = False
    process: str = ''
    merged: bool = False
    flushed: bool = False
    released: bool = False
    cancelled: bool = False
    patient: bool = False
    request_id: str | None = None
    state: State = State.PENDING
    succeeded: bool | None = None
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
    def doomed(self) -> tuple[str, ...]:
        """The files that are no part of the chain afterwards."""
        return tuple(path for path in self.before if path not in self.after)

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


def recovered(job: Job) -> tuple[Job, Action]:
    """What to do with a job that a former agent process left."""
    if job.state is State.PENDING and job.merged:
        return job.to(State.VERIFYING), Action.LOOK
    if job.state is State.PENDING:
        return job.to(
            State.REPORTING,
            succeeded=False,
            reason='the agent was restarted before anything was started',
        ), Action.REPORT
    if job.state in (State.RUNNING, State.VERIFYING):
        return job, Action.LOOK
    if job.state is State.REPORTING:
        return job, Action.REPORT
    if job.state is State.CONFIRMING:
        return job, Action.CONFIRM
    return job, Action.NOTHING


def looked(
    job: Job, chain: Chain, now: float, settled: bool = True
) -> tuple[Job, Action]:
    """What follows from a look at the chain of a job that was started.

    :param settled: whether nothing that was asked earlier, perhaps by a
        process that has died since, can still be waiting in libvirt
    """
    late = now >= job.deadline
    ours = job.kind is not Kind.OVERLAY and not job.merged
    if chain in (Chain.RUNNING, Chain.READY) and ours:
        if job.cancelled or (late and not job.patient):
            reason = job.reason or 'its deadline passed'
            return job.to(State.RUNNING, reason=reason), Action.CANCEL
        ready = chain is Chain.READY
        return job.to(State.RUNNING), Action.PIVOT if ready else Action.LOOK
    if chain is Chain.AFTER:
        # NOTE: a look calls a merge this only once it is on disk.
        job = dataclasses.replace(job, flushed=True)
    ended = chain in (Chain.AFTER, Chain.UNSAFE) or (
        settled if chain is Chain.BEFORE else chain is Chain.OTHER and late
    )
    if ended and job.lent:
        return job.to(State.VERIFYING), Action.RELEASE
    if ended:
        return _ended(job, chain)
    # NOTE: "cannot know" is never "gone": looked at again, without end. So
    # is a block job under a new overlay, which is somebody else's.
    reason = job.reason
    if late:
        reason = (
            reason or f'its deadline passed, and its chain is {chain.value}'
        )
    return job.to(State.VERIFYING, reason=reason), Action.LOOK


def _ended(job: Job, chain: Chain) -> tuple[Job, Action]:
    if chain is Chain.AFTER:
        return job.to(
            State.REPORTING, succeeded=True, reason=''
        ), Action.REPORT
    if chain is Chain.BEFORE:
        reason = job.reason or 'the block job ended without success'
    elif chain is Chain.UNSAFE:
        reason = _unsafe(job)
    else:
        return job.to(
            State.ORPHANED,
            reason='what libvirt says of this and of the next start, what '
            'the headers say and what QEMU has open do not agree; nothing '
            'was reported as done. Compare "virsh dumpxml" with and without '
            '--inactive and "qemu-img info -U --backing-chain", and make the '
            'definition agree with the headers by "virsh edit" before the '
            'next start',
        ), Action.NOTHING
    return job.to(
        State.REPORTING, succeeded=False, reason=reason
    ), Action.REPORT


def _unsafe(job: Job) -> str:
    """What mends a merge whose QEMU was killed before it wrote all out."""
    place = job.before.index(job.doomed[0])
    above, doomed = (
        path.rpartition('/')[2] for path in job.before[place - 1 : place + 1]
    )
    return (
        f'QEMU ended before all of {doomed} was surely elsewhere on disk. '
        f'Keep {doomed}: with the instance off, run "qemu-img rebase -u -F '
        f'FORMAT -b {doomed} {above}", where FORMAT is that of {doomed}, '
        'and delete the snapshot again'
    )


def reported(job: Job, verdict: Verdict, now: float) -> tuple[Job, Action]:
    """What follows from an attempt to tell Cinder the outcome."""
    if verdict in (Verdict.RETRY, Verdict.OVERTAKEN):
        return job, Action.REPORT
    if not job.succeeded:
        return job.to(State.FAILED), Action.NOTHING
    if verdict is Verdict.GAVE_UP:
        return _unheard(job), Action.NOTHING
    if verdict is Verdict.CLAIMED:
        return job.to(State.DONE), Action.NOTHING
    # NOTE: who waits for something late waits for it from now on.
    deadline = max(job.deadline, now)
    return job.to(State.CONFIRMING, deadline=deadline), Action.CONFIRM


def confirmed(
    job: Job, verdict: Verdict, now: float, grace: float
) -> tuple[Job, Action]:
    """What follows from asking whether Cinder acted on the report.

    :param grace: seconds after the deadline for Cinder to act
    """
    if verdict is Verdict.CLAIMED:
        return job.to(State.DONE), Action.NOTHING
    if verdict is Verdict.OVERTAKEN:
        return job.to(State.REPORTING), Action.REPORT
    if verdict is Verdict.GAVE_UP or now >= job.deadline + grace:
        return _unheard(job), Action.NOTHING
    return job, Action.CONFIRM


def _unheard(job: Job) -> Job:
    if job.operation is Operation.CREATE:
        return job.to(
            State.ORPHANED,
            reason='the instance uses the new file, and Cinder counts the '
            'snapshot as failed',
        )
    return job.to(
        State.UNCLAIMED,
        reason='the layer is merged, and Cinder did not take note; delete '
        'the snapshot again',
    )


def retried(job: Job, now: float) -> tuple[Job, Action]:
    """What an operator's wish to try again does with a job that is over."""
    return job.to(
        State.VERIFYING,
        succeeded=None,
        reason='',
        deadline=now + _AGAIN_SECONDS,
    ), Action.LOOK


def abandoned(job: Job) -> Job:
    """A job that an operator takes over; what is known of it stays known."""
    reason = f'abandoned by an operator when it was {job.state.value}'
    if job.reason:
        reason += f': {job.reason}'
    if job.succeeded is False:
        return job.to(State.FAILED, reason=reason)
    if job.succeeded and job.operation is Operation.DELETE:
        # NOTE: that it is merged is what keeps a retry from a wrong merge.
        return job.to(State.UNCLAIMED, reason=reason)
    return job.to(State.ABANDONED, reason=reason)


def describe(job: Job) -> str:
    """A job for a log line; ids come from outside, hence the quotes."""
    text = (
        f'{job.operation.value} of snapshot {job.snapshot_id!r} of volume '
        f'{job.volume_id!r} on instance {job.instance_id}: {job.state.value}'
    )
    return f'{text} ({job.reason})' if job.reason else text
