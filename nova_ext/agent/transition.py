# SPDX-License-Identifier: Apache-2.0
"""What comes next for a job: pure functions of what is known of the world.

All operations are one thing here. What is known comes in as arguments; no
I/O, no clock, no sleep and no libvirt is in this module, so the whole
behaviour can be read, and tested, as a table.
"""

from __future__ import annotations

import dataclasses
import enum

from nova_ext.agent.job import Job, Kind, Operation, State

# What an operator has tried again is over after this time.
_AGAIN_SECONDS = 60.0
# How long Cinder may copy a volume for a backup.
_HELD_SECONDS = 86400.0
_HELD = (
    'Cinder has the report, and shows the snapshot as in creation still, as '
    'it does while it copies a volume for a backup. Where it does not, look '
    'whether cinder-volume runs'
)
_KEEP = (
    'what it wrote before is in {}. Keep both, and stop the instance before '
    'more is written: what it holds now is not what Cinder takes it for'
)


class Chain(enum.Enum):
    """What a look at the chain found."""

    BEFORE = 'as before'
    AFTER = 'as wanted'
    RUNNING = 'a block job is under way'
    READY = 'the layer below is the same'
    OTHER = 'neither'
    STALE = 'as wanted, but not where the next start is described'
    UNSAFE = 'as wanted, but perhaps not on disk'
    UNKNOWN = 'cannot be known now'


class Verdict(enum.Enum):
    """What came of telling or asking Cinder."""

    DELIVERED = 'it accepted the report'
    CLAIMED = 'it acted on the report'
    GAVE_UP = 'it had given up before'
    OVERTAKEN = 'an earlier report arrived after this one'
    HELD = 'it has the report, and holds the snapshot for itself'
    RETRY = 'it is not known'


class Record(enum.Enum):
    """What came of having Nova know the active layer."""

    RIGHT = 'it names the active layer, and nothing older is under way'
    WRONG = 'it names another file'
    BUSY = 'an operation of Nova is under way, perhaps with what it named'
    GONE = 'Nova has none, or uses the active layer elsewhere'
    ELSEWHERE = 'Nova uses another file on another host'
    UNKNOWN = 'Nova cannot be asked'


class Action(enum.Enum):
    """What the manager does next."""

    FENCE = 'make sure that Cinder awaits it'
    START = 'ask libvirt for it'
    LOOK = 'look at the chain'
    CANCEL = 'end the block job'
    PIVOT = 'make the layer below the active one'
    REFRESH = 'have Nova know the active layer'
    RELEASE = 'end what was started for the job only'
    REPORT = 'tell Cinder'
    CONFIRM = 'ask Cinder'
    NOTHING = 'it is over'


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
    if job.state is State.REFRESHING or (
        job.state is State.REPORTING and job.refreshes and job.succeeded
    ):
        return job.to(State.REFRESHING), Action.REFRESH
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
        if job.aside:
            return job.to(State.RUNNING), Action.CANCEL
        ready = chain is Chain.READY
        return job.to(State.RUNNING), Action.PIVOT if ready else Action.LOOK
    if chain is Chain.BEFORE and job.aside and settled and not job.cancelled:
        if job.patient or not late:
            return job.to(State.RUNNING), Action.START
        job = job.to(job.state, reason='its deadline passed')
    if chain is Chain.AFTER:
        # NOTE: a look calls a merge this only once it is on disk.
        job = dataclasses.replace(job, flushed=True)
    # NOTE: a merge that ends in the midst of a look makes the definition and
    # the headers differ, so that a second look has to say the same.
    lost = chain is Chain.OTHER and late and job.state is State.VERIFYING
    ended = chain in (Chain.AFTER, Chain.UNSAFE) or (
        settled if chain is Chain.BEFORE else lost
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
    if chain is Chain.AFTER and job.refreshes:
        return job.to(
            State.REFRESHING, succeeded=True, reason=''
        ), Action.REFRESH
    if chain is Chain.AFTER:
        return job.to(
            State.REPORTING, succeeded=True, reason=''
        ), Action.REPORT
    if chain is Chain.OTHER and _was_merged(job):
        # NOTE: the chain has changed since, and who forgot that it is merged
        # would take the next request for another merge.
        return _unheard(job), Action.NOTHING
    if chain is Chain.BEFORE:
        reason = job.reason or 'the block job ended without success'
    elif chain is Chain.UNSAFE:
        reason = _unsafe(job)
    else:
        known = f'{job.reason}; ' if job.reason else ''
        return job.to(
            State.ORPHANED,
            reason=f'{known}what libvirt says of this and of the next start, '
            'what the headers say and what QEMU has open do not agree; '
            'nothing was reported as done. Compare "virsh dumpxml" with and '
            'without --inactive and "qemu-img info -U --backing-chain", and '
            'make the definition agree with the headers by "virsh edit" '
            'before the next start',
        ), Action.NOTHING
    return job.to(
        State.REPORTING, succeeded=False, reason=reason
    ), Action.REPORT


def _was_merged(job: Job) -> bool:
    """Whether a look has found it merged, and on disk."""
    return job.operation is Operation.DELETE and bool(
        job.flushed or job.succeeded
    )


def _unsafe(job: Job) -> str:
    """What mends a merge of which not all was surely written out."""
    above, doomed = (path.rpartition('/')[2] for path in job.around[:2])
    return (
        f'QEMU ended, or the disk failed, before all of {doomed} was surely '
        'elsewhere on disk. '
        f'Keep {doomed}: with the instance off, run "qemu-img rebase -u -F '
        f'FORMAT -b {doomed} {above}", where FORMAT is that of {doomed}, '
        'and delete the snapshot again'
    )


def refreshed(
    job: Job, chain: Chain, record: Record, now: float, trouble: str = ''
) -> tuple[Job, Action]:
    """What follows from an attempt to have Nova know the active layer.

    It is made before Cinder is told, so that no start uses the old file, again
    before each further attempt to tell it, and after Cinder acted, since Nova
    may have asked Cinder meanwhile.

    :param chain: what a look found after the attempt
    :param trouble: why Nova cannot be asked
    """
    told = job.outcome is not None
    gone = record is Record.GONE
    reporting = job.state is State.REPORTING
    # NOTE: that Nova has no record proves nothing of the files.
    if (gone and (told or reporting)) or (
        (gone or record is Record.RIGHT) and chain is Chain.AFTER
    ):
        return _refreshed(job)
    if record is Record.ELSEWHERE:
        return job.to(State.ORPHANED, reason=_moved(job)), Action.NOTHING
    late = now >= (job.accepted_at + job.deadline) / 2
    # NOTE: what Nova is doing may be why the files are as they are.
    settled = record is not Record.BUSY and not (
        record is Record.UNKNOWN and (told or not late)
    )
    if settled and chain in (Chain.BEFORE, Chain.OTHER):
        if told:
            return job.to(State.ORPHANED, reason=_restarted(job)), (
                Action.NOTHING
            )
        return job.to(
            State.VERIFYING,
            succeeded=None,
            reason='' if gone else _restarted(job),
        ), Action.LOOK
    reason = trouble or f'Nova is to be told: {record.value}'
    if chain is Chain.AFTER and late and not told:
        # NOTE: to have Cinder give up as well would help nobody.
        return job.to(State.REPORTING, reason=reason), Action.REPORT
    return dataclasses.replace(job, reason=reason), Action.REFRESH


def _refreshed(job: Job) -> tuple[Job, Action]:
    if job.outcome is None:
        return job.to(State.REPORTING, reason=''), Action.REPORT
    if job.outcome is State.ORPHANED:
        return _unheard(job), Action.NOTHING
    return job.to(job.outcome, reason=''), Action.NOTHING


def _active(job: Job) -> tuple[str, str]:
    old, new = (
        path.rpartition('/')[2] for path in (job.before[0], job.after[0])
    )
    return old, new


def _restarted(job: Job) -> str:
    old, new = _active(job)
    return (
        f'the instance was started on {old} again, which should not have '
        f'been used any more; {_KEEP.format(new)}'
    )


def _moved(job: Job) -> str:
    old, new = _active(job)
    return (
        f'Nova moved the instance to another host, where it uses {old}: that '
        f'is what Cinder, which was not told yet, said; {_KEEP.format(new)}'
    )


def reported(job: Job, verdict: Verdict, now: float) -> tuple[Job, Action]:
    """What follows from an attempt to tell Cinder the outcome."""
    if verdict in (Verdict.RETRY, Verdict.OVERTAKEN, Verdict.HELD):
        return job, Action.REPORT
    if not job.succeeded:
        return job.to(State.FAILED), Action.NOTHING
    if verdict is Verdict.GAVE_UP:
        return _over(_unheard(job))
    if verdict is Verdict.CLAIMED:
        return _over(job.to(State.DONE))
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
        return _over(job.to(State.DONE, reason=''))
    if verdict is Verdict.OVERTAKEN:
        return job.to(State.REPORTING), Action.REPORT
    late = now >= job.deadline + grace
    if late and verdict is Verdict.HELD and now < job.deadline + _HELD_SECONDS:
        return dataclasses.replace(job, reason=_HELD), Action.CONFIRM
    if late or verdict is Verdict.GAVE_UP:
        return _over(_unheard(job))
    return job, Action.CONFIRM


def _over(job: Job) -> tuple[Job, Action]:
    """The end of a success, before which Nova may have to be told."""
    if job.refreshes:
        return job.to(State.REFRESHING, outcome=job.state), Action.REFRESH
    return job, Action.NOTHING


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
        outcome=None,
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
    if _was_merged(job):
        # NOTE: that it is merged is what keeps a retry from a wrong merge.
        return job.to(State.UNCLAIMED, reason=reason)
    return job.to(State.ABANDONED, reason=reason)
