# SPDX-License-Identifier: Apache-2.0
"""The engine of the agent: it admits jobs, drives them, and recovers them.

What may start is decided in admission, what comes next in job, what became
of a chain in verify; here it is done, in that order, each step journalled
before it is. No HTTP and no raw libvirt.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import random
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from nova_ext import exception
from nova_ext.agent import admission as agent_admission
from nova_ext.agent import control as agent_control
from nova_ext.agent import job as agent_job
from nova_ext.agent import journal as agent_journal
from nova_ext.agent import merge
from nova_ext.agent import sweeper as agent_sweeper
from nova_ext.agent.job import Action, Job, Operation, State
from nova_ext.agent.sweeper import Run

if TYPE_CHECKING:
    from nova_ext.agent import hypervisor as agent_hypervisor

LOG = logging.getLogger(__name__)

# NOTE: what a dead process asked of libvirtd can still wait there for the
# guest's job lock, 30 s at most (QEMU_JOB_WAIT_TIME), and be done after.
_SETTLE_SECONDS = 35.0
_JOB_LOOK_SECONDS = 2.0
_LOOK_SECONDS = (0.05, 0.2, 0.5, 1.0, 2.0)
_REPORT_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 10.0)
_CONFIRM_SECONDS = (1.0, 1.0, 2.0, 5.0, 10.0)
_CONFIRM_GRACE = 60.0


class Reports(Protocol):
    """What the manager asks of a reporter."""

    trouble: str

    def fence(self, job: Job) -> None: ...

    def progress(self, job: Job, percent: int) -> None: ...

    def deliver(self, job: Job) -> agent_job.Verdict: ...

    def confirm(self, job: Job) -> agent_job.Verdict: ...


class Manager:
    """The jobs of this host.

    :param reply_wait: seconds that a request waits for its job
    """

    def __init__(
        self,
        hypervisor: agent_hypervisor.Hypervisor,
        admission: agent_admission.Admission,
        journal: agent_journal.Journal,
        reports: Reports,
        reply_wait: float,
    ) -> None:
        self._hypervisor = hypervisor
        self._admission = admission
        self._journal = journal
        self._reports = reports
        self._reply_wait = reply_wait
        self._volumes: dict[str, tuple[threading.Lock, int]] = {}
        self._volumes_lock = threading.Lock()
        self._sweeper = agent_sweeper.Sweeper(self._step)
        self.control = agent_control.Control(
            hypervisor, journal, self._sweeper
        )

    def start(self) -> None:
        """Take up what a former process left, and sweep from now on."""
        self._hypervisor.check()
        settled_at = time.time() + _SETTLE_SECONDS
        for found in self._journal.unfinished():
            job, action = agent_job.recovered(found)
            LOG.info('Recovering %s', agent_job.describe(job))
            self._journal.update(job)
            self._sweeper.add(Run(job, action, settled_at))
        self._sweeper.start()

    def stop(self) -> None:
        """Begin no further step; what is unfinished is in the journal."""
        self._sweeper.stop()

    def wake(self, instance_id: str) -> None:
        """Something happened to a guest: look at its jobs at once."""
        self._sweeper.wake(instance_id)

    def status(self) -> dict[str, Any]:
        """What health checks show.

        :raises: :class:`nova_ext.exception.Unavailable`
        """
        self._hypervisor.check()
        if self._reports.trouble:
            raise exception.AgentBusy(reason=self._reports.trouble)
        running = self._sweeper.count()
        orphans = self._journal.count(State.ORPHANED)
        return {
            'summary': f'{running} jobs under way, {orphans} orphaned',
            'running': running,
            'orphaned': orphans,
        }

    def volume_snapshot_create(
        self,
        volume_id: str,
        create_info: dict[str, Any],
        not_after: float,
        request_id: str | None = None,
    ) -> None:
        """Switch a guest to a new active layer (design §3).

        :param not_after: wall-clock seconds after which nothing is started
        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        snapshot_id = create_info['snapshot_id']
        with self._volume(volume_id):
            known = self._journal.latest(snapshot_id, Operation.CREATE)
            if known is None or known.state is State.FAILED:
                self._refuse_while_touched(volume_id)
                job = self._admission.create(
                    volume_id, create_info, time.time()
                )
                run = self._accept(job, not_after, request_id)
            else:
                self._check_same(known, volume_id, create_info)
                run = self._sweeper.get(known.identity)
        if run is not None:
            self._wait(run)
        elif known is not None:
            self._refuse_failed(known)

    def volume_snapshot_delete(
        self,
        volume_id: str,
        snapshot_id: str,
        delete_info: dict[str, Any],
        not_after: float,
        request_id: str | None = None,
    ) -> None:
        """Begin to merge a layer away (design §4).

        :param not_after: wall-clock seconds after which nothing is started
        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        asked = merge.translate(volume_id, delete_info)
        with self._volume(volume_id):
            run = self._join(volume_id, snapshot_id, asked)
            if run is None:
                self._refuse_while_touched(volume_id)
                job = self._admit_delete(volume_id, snapshot_id, asked)
                run = self._accept(job, not_after, request_id)
        self._wait(run)

    def _join(
        self, volume_id: str, snapshot_id: str, asked: merge.Request
    ) -> Run | None:
        """The job under way that does what is asked for, if there is one."""
        known = self._journal.latest(snapshot_id, Operation.DELETE)
        run = self._sweeper.get(known.identity) if known else None
        if known is not None and run is not None:
            self._check_volume(known, volume_id)
            merge.check_same(known, asked)
        return run

    def _admit_delete(
        self, volume_id: str, snapshot_id: str, asked: merge.Request
    ) -> Job:
        merged = self._journal.merged(snapshot_id)
        if merged is not None:
            self._check_volume(merged, volume_id)
            job = self._admission.repeat(merged, time.time())
            if job is not None:
                merge.check_same(merged, asked)
                return job
        return self._admission.delete(
            volume_id, snapshot_id, asked, time.time()
        )

    def _check_volume(self, known: Job, volume_id: str) -> None:
        if known.volume_id != volume_id:
            raise exception.SnapshotExists(
                snapshot_id=known.snapshot_id, difference='volume_id'
            )

    def _check_same(
        self, known: Job, volume_id: str, create_info: dict[str, Any]
    ) -> None:
        self._check_volume(known, volume_id)
        if not known.after[0].endswith('/' + create_info['new_file']):
            raise exception.SnapshotExists(
                snapshot_id=known.snapshot_id, difference='new_file'
            )

    def _refuse_failed(self, known: Job) -> None:
        """Refuse what failed between two looks at it."""
        last = self._journal.latest(known.snapshot_id, known.operation)
        if last is not None and last.state is State.FAILED:
            raise _failure(last)

    def _refuse_while_touched(self, volume_id: str) -> None:
        other = self._journal.touching(volume_id)
        if other is not None:
            raise exception.BlockJobExists(
                volume_id=volume_id,
                instance_id=other.instance_id,
                reason=f'the {other.operation.value} of snapshot '
                f'{other.snapshot_id} is {other.state.value}',
            )

    def _accept(
        self, job: Job, not_after: float, request_id: str | None
    ) -> Run:
        if self._sweeper.stopping:
            raise exception.AgentBusy(reason='it is about to stop')
        if time.time() > not_after:
            raise exception.RequestExpired(snapshot_id=job.snapshot_id)
        job = self._journal.add(job.to(State.PENDING, request_id=request_id))
        LOG.info('Accepted %s, for %s', agent_job.describe(job), request_id)
        run = Run(job, Action.FENCE)
        self._sweeper.add(run)
        return run

    def _wait(self, run: Run) -> None:
        """Wait for the answer to a request; returning means yes."""
        if not run.answered.wait(self._reply_wait):
            with run.lock:
                run.abandoned = run.job.state is State.PENDING
            if run.abandoned:
                raise exception.RequestExpired(snapshot_id=run.job.snapshot_id)
        if run.error is not None:
            raise run.error

    @contextlib.contextmanager
    def _volume(self, volume_id: str) -> Iterator[None]:
        """One request at a time for each volume."""
        with self._volumes_lock:
            lock, users = self._volumes.get(volume_id, (threading.Lock(), 0))
            self._volumes[volume_id] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with self._volumes_lock:
                lock, users = self._volumes[volume_id]
                self._volumes[volume_id] = lock, users - 1
                if users == 1:
                    del self._volumes[volume_id]

    def _step(self, run: Run) -> float | None:
        """One action; seconds until the next, None if there is none."""
        job, action = run.job, run.action
        if action is Action.NOTHING:
            run.answered.set()
            return None
        if action is Action.FENCE:
            return self._fence(run)
        if action is Action.START:
            reason = self._start(run)
            return self._enter(
                run, job.to(State.VERIFYING, reason=reason), Action.LOOK
            )
        if action is Action.RELEASE:
            if not self._hypervisor.release(job):
                return self._enter(run, job, action)
            return self._enter(
                run, job.to(State.VERIFYING, released=True), Action.LOOK
            )
        if action is Action.CANCEL:
            self._hypervisor.cancel(job)
        if action in (Action.LOOK, Action.CANCEL):
            return self._look(run)
        if action is Action.REPORT:
            return self._enter(
                run, *agent_job.reported(job, self._reports.deliver(job))
            )
        return self._enter(
            run,
            *agent_job.confirmed(
                job, self._confirm(job), time.time(), _CONFIRM_GRACE
            ),
        )

    def _look(self, run: Run) -> float:
        chain = self._hypervisor.look(run.job)
        if chain is agent_job.Chain.RUNNING:
            self._show_progress(run)
        now = time.time()
        # NOTE: an operator may have asked for its end meanwhile.
        job = run.job
        if run.cancelled:
            job = dataclasses.replace(
                job, cancelled=True, reason='an operator cancelled it'
            )
        return self._enter(
            run, *agent_job.looked(job, chain, now, now >= run.settled_at)
        )

    def _show_progress(self, run: Run) -> None:
        try:
            run.progress = self._hypervisor.progress(run.job)
        except exception.NovaExtException as error:
            LOG.info('Progress cannot be read: %s', error)
            return
        # NOTE: most merges are over before anybody could look.
        if run.progress is None or not run.attempts:
            return
        done, total = run.progress
        percent = 1 + 88 * done // max(total, done, 1)
        if percent > run.percent:
            run.percent = percent
            self._reports.progress(run.job, percent)

    def _confirm(self, job: Job) -> agent_job.Verdict:
        # NOTE: Cinder has compute delete only what it counted, and then the
        # row may be gone before we look at it.
        if job.operation is Operation.CREATE and self._journal.latest(
            job.snapshot_id, Operation.DELETE
        ):
            return agent_job.Verdict.CLAIMED
        return self._reports.confirm(job)

    def _fence(self, run: Run) -> float:
        try:
            self._reports.fence(run.job)
        except exception.NovaExtException as error:
            run.error = error
            return self._enter(
                run,
                run.job.to(State.FAILED, succeeded=False, reason=str(error)),
                Action.NOTHING,
            )
        with run.lock:
            if not run.abandoned:
                if run.job.merged:
                    return self._enter(
                        run, run.job.to(State.VERIFYING), Action.LOOK
                    )
                return self._enter(
                    run, run.job.to(State.RUNNING), Action.START
                )
        return self._enter(
            run,
            run.job.to(
                State.REPORTING, succeeded=False, reason='it came too late'
            ),
            Action.REPORT,
        )

    def _start(self, run: Run) -> str:
        """Ask libvirt for what the job wants; why it refused, if it did."""
        try:
            self._hypervisor.start(run.job)
        except exception.HypervisorUnavailable as error:
            run.settled_at = time.time() + _SETTLE_SECONDS
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
            self._journal.update(job)
            if job.state is not run.job.state:
                LOG.info('Now %s', agent_job.describe(job))
        run.job, run.action = job, action
        if self._is_answer(job):
            if job.succeeded is False and run.error is None:
                run.error = _failure(job)
            run.answered.set()
        return self._pause(run) if same or working else 0.0

    def _is_answer(self, job: Job) -> bool:
        """Whether what a waiting request is told is certain now."""
        if job.operation is Operation.DELETE and not job.reason:
            # It was started, and is reported when it ends.
            return job.state not in (State.PENDING, State.RUNNING)
        return job.state in agent_job.FINAL or (
            job.state is State.CONFIRMING
            or (job.state is State.REPORTING and job.succeeded is False)
        )

    def _pause(self, run: Run) -> float:
        if run.job.state is State.RUNNING:
            return _JOB_LOOK_SECONDS
        seconds = {
            Action.REPORT: _REPORT_SECONDS,
            Action.CONFIRM: _CONFIRM_SECONDS,
        }.get(run.action, _LOOK_SECONDS)
        pause = seconds[min(run.attempts, len(seconds)) - 1]
        return pause * random.uniform(0.8, 1.2)  # noqa: S311 (jitter only)


def _failure(job: Job) -> exception.Failed:
    failed = (
        exception.SnapshotFailed
        if job.operation is Operation.CREATE
        else exception.MergeFailed
    )
    return failed(snapshot_id=job.snapshot_id, reason=job.reason)
