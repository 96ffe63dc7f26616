# SPDX-License-Identifier: Apache-2.0
"""One run: an operation, somebody who dies in it, and how it ends."""

from __future__ import annotations

import dataclasses
import threading
import time

from nova_ext import exception
from nova_ext.agent.job import State
from tests.crash import mends
from tests.crash import plan as crash_plan
from tests.crash.judge import Judge, prepare
from tests.crash.operations import Operation
from tests.crash.result import ANSWERED, CUT, MISSED, Case, Result
from tests.crash.rig import Rig, Stuck, wait_for
from tests.crash.share import CrashShare
from tests.fixtures import cinder_volume

# Seconds. The jobs in which somebody else dies may last so long; where the
# chain is lost, all of it is waited for.
_DEADLINE = 10
# Beyond deadline and settling: Cinder gives up last.
_MARGIN = 15.0
# For a machine that is busy: nobody waits for them but who is stuck.
_CINDERS_LIMIT = 120.0
_PATIENCE = 60.0
# Some jobs stay open: what is to be known of them is known by then.
_ENDS = 30.0
_QCOW2 = b'QFI\xfb'
_STARTS = ('before snapshot', 'before pull', 'before commit')


class Attempt(threading.Thread):
    """The operation, as Cinder carries it out."""

    def __init__(
        self, operation: Operation, share: CrashShare, snapshots: list[str]
    ) -> None:
        super().__init__(daemon=True)
        self._operation = operation
        self._share = share
        self._snapshots = snapshots
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._operation.act(self._share, self._snapshots)
        except Exception as error:
            self.error = error


class Run:
    """A case while it runs."""

    def __init__(self, case: Case, share: CrashShare, result: Result) -> None:
        self._case = case
        self._share = share
        self._host = share.host
        self._result = result
        self._uncounted: list[str] = []
        self._told = False

    def run(self) -> None:
        """Do it all; what is found is in the result."""
        operation, plan = self._case.operation, self._case.plan
        snapshots = []
        for _ in range(operation.snapshots):
            # Some clusters in each layer, or there is nothing to merge.
            guest = self._host.guest
            guest.wait_reported(guest.reported() + 40)
            snapshots.append(self._share.snapshot())
        self._host.wait_final()
        prepare(self._share, self._case.state)
        judge = Judge(
            self._share, self._case.state, plan.victim == crash_plan.QEMU
        )
        judge.remember()
        rows = set(self._host.double.snapshots)
        if plan.victim == crash_plan.LIBVIRTD:
            pid = self._host.libvirtd.pid
            plan = dataclasses.replace(plan, pid=pid or 0)
        self._host.arm(plan)
        attempt = Attempt(operation, self._share, snapshots)
        if plan.point:
            wait_for(
                lambda: self._host.killed() or not attempt.is_alive(),
                'the operation does not end',
            )
            try:
                wait_for(self._host.killed, 'the point was not reached', 10)
            except Stuck:
                self._result.word = MISSED
                raise
            self._host.repair(plan)
        attempt.join(_CINDERS_LIMIT + _PATIENCE)
        if attempt.is_alive():
            raise Stuck('Cinder waits for ever')
        self._host.post.disarm()
        ended = self._ended()
        self._result.passed = self._host.passed()
        (concerned,) = (
            {snapshots[operation.doomed]}
            if operation.doomed is not None
            else set(self._host.double.snapshots) - rows
        )
        self._share.write_protect = self._share.give_up = False
        self._settle(attempt.error, ended, concerned)
        self._result.losses += judge.judge(self._uncounted, self._told)
        self._result.compared = judge.compared

    def _ended(self) -> bool:
        """Whether the job came to an end in time."""
        try:
            self._host.wait_final(_ENDS)
        except Stuck:
            return False
        return True

    def _settle(
        self, error: Exception | None, ended: bool, snapshot_id: str
    ) -> None:
        """Name the outcome; where it failed, do what one would do then."""
        state = self._host.states()[-1]
        starts = self._starts()
        jobs = sum(
            passed.point.startswith('before journal PENDING')
            for passed in self._result.passed
        )
        if not jobs:
            state = 'not begun'
        if starts > max(jobs, 1):
            self._result.wrong.append(
                f'the work was started {starts} times for {jobs} requests'
            )
        if error is None:
            self._result.word = 'done'
            if state != State.DONE.value:
                self._result.wrong.append(f'Cinder has it, and it is {state}')
            if starts != 1:
                self._result.wrong.append(f'it was started {starts} times')
            self._check_reports(snapshot_id)
            return
        if state == State.ORPHANED.value:
            # The next request may well be refused for another reason.
            self._told = mends.of_definition(self._host.reason())
        if self._case.operation.doomed is None:
            self._result.word = self._create_again(state, snapshot_id)
        else:
            self._result.word = self._delete_again(state, snapshot_id)
        if not ended:
            self._result.word += ', open'

    def _check_reports(self, snapshot_id: str) -> None:
        """What was reported is what is reported where nobody dies."""
        made = self._case.operation.doomed is None
        doing = 'creating' if made else 'deleting'
        seen = self._host.double.history(snapshot_id, applied=True)
        shown = [
            report
            for report, before in zip(seen, [None, *seen], strict=False)
            if report != before and report[1] in ('0%', '90%', None)
        ]
        if not made:
            shown = shown[-2:]
        if shown != [(doing, '0%'), (doing, '90%')]:
            self._result.wrong.append(f'it was reported as {shown}')

    def _starts(self) -> int:
        """How often the work was asked for."""
        starts = sum(
            passed.point.partition(' #')[0] in _STARTS
            for passed in self._result.passed
        )
        plan = self._case.plan
        at_once = plan.victim == crash_plan.AGENT and not plan.delay
        return starts - (at_once and plan.point in _STARTS)

    def _create_again(self, state: str, snapshot_id: str) -> str:
        """A snapshot that failed is removed, and another made."""
        new_file = f'volume-{self._share.volume_id}.{snapshot_id}'
        switched = self._share.switched(new_file)
        self._share.drop(snapshot_id)
        if switched:
            self._uncounted = [new_file]
            if state not in (State.ORPHANED.value, State.VERIFYING.value):
                self._result.wrong.append(f'switched, and it is {state}')
        try:
            self._share.create()
        except exception.NovaExtException as refusal:
            if mends.of_power(str(refusal)):
                self._host.pull_the_plug()
                self._revive()
                self._share.create()
                return 'failed, made again after a power cycle'
            if not switched and state == State.FAILED.value:
                self._result.wrong.append(f'cannot be made again: {refusal}')
            if switched and isinstance(refusal, exception.InvalidOverlay):
                told = ', says how to mend' if self._told else ''
                return f'{state.lower()}, next refused{told}'
            return state.lower() + self._mend(refusal)
        if switched:
            self._result.losses.append('a snapshot was made on an orphan')
        return 'failed, made again'

    def _delete_again(self, state: str, snapshot_id: str) -> str:
        """A snapshot in error_deleting is reset, and deleted again."""
        self._share.reset(snapshot_id)
        mended = self._rebase()
        if self._case.plan.victim == crash_plan.QEMU:
            self._revive()
        try:
            self._share.delete(snapshot_id)
        except exception.NovaExtException as refusal:
            return 'refused' + self._mend(refusal)
        self._host.wait_final()
        # Done now, it has nothing left to be mended.
        self._told = False
        return f'{state.lower()}, {mended}deleted again'

    def _rebase(self) -> str:
        """Do what the reason of a job says that is to be done."""
        found = mends.rebase(self._host.reason())
        if found is None:
            return ''
        below, above = found
        if self._host.is_active():
            self._host.pull_the_plug()
        path = self._host.directory / below
        image_format = 'qcow2' if path.open('rb').read(4) == _QCOW2 else 'raw'
        cinder_volume.qemu_img(
            *('rebase', '-u', '-F', image_format, '-b', below),
            str(self._host.directory / above),
        )
        return 'rebased, '

    def _revive(self) -> None:
        """Start a guest that died, as its user would."""
        if self._case.state != 'stopped' and not self._host.is_active():
            self._host.guest.start()
            if self._case.state == 'paused':
                self._host.guest.suspend()

    def _mend(self, refusal: exception.NovaExtException) -> str:
        self._told |= mends.of_definition(str(refusal))
        if self._told or mends.any_of(str(refusal)):
            return ', says how to mend'
        self._result.wrong.append(f'says not how to mend: {refusal}')
        return ''


def run(rig: Rig, case: Case, settle: float) -> Result:
    """Run a case on a fresh guest."""
    began = time.monotonic()
    result = Result(case)
    options: dict[str, float] = {}
    limit = _CINDERS_LIMIT
    if case.calls == ANSWERED:
        options['reply_wait'] = 1.0
    if case.plan.victim != crash_plan.AGENT:
        options['create_deadline'] = options['delete_deadline'] = _DEADLINE
        limit = _DEADLINE + settle + _MARGIN
    with rig.host(once=case.calls == CUT, settle=settle, **options) as host:
        share = CrashShare(host, limit)
        try:
            Run(case, share, result).run()
        except Stuck as error:
            result.word = result.word or 'stuck'
            result.wrong.append(str(error))
        except Exception as error:
            result.word = 'broken'
            result.wrong.append(f'{type(error).__name__}: {error}')
        result.false += share.false
        if not result.fine:
            result.log = host.log()
    result.seconds = time.monotonic() - began
    return result
