# SPDX-License-Identifier: Apache-2.0
"""The engine of the agent: it admits jobs, drives them, and recovers them.

What may start is decided in admission, what comes next in job, what became
of a chain in verify; here it is done, in that order, each step journalled
before it is. No HTTP and no raw libvirt.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import TYPE_CHECKING, Any, Protocol

from nova_ext import exception
from nova_ext.agent import admission as agent_admission
from nova_ext.agent import job as agent_job
from nova_ext.agent import journal as agent_journal
from nova_ext.agent import quiesce, verify
from nova_ext.agent.job import Action, Job, Kind, Operation, State

if TYPE_CHECKING:
    from nova_ext.virt import host, image

LOG = logging.getLogger(__name__)

_WORKERS = 16
# NOTE: what a dead process asked of libvirtd can still wait there for the
# guest's job lock, 30 s at most (QEMU_JOB_WAIT_TIME), and be done after.
_SETTLE_SECONDS = 35.0
_JOB_LOOK_SECONDS = 2.0
_LOOK_SECONDS = (0.05, 0.2, 0.5, 1.0, 2.0)
_REPORT_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 10.0)
_CONFIRM_SECONDS = (1.0, 1.0, 2.0, 5.0, 10.0)
_CONFIRM_GRACE = 60.0
_RETRY_SECONDS = 5.0


class Reports(Protocol):
    """What the manager asks of a reporter."""

    trouble: str

    def fence(self, job: Job) -> None: ...

    def deliver(self, job: Job) -> agent_job.Verdict: ...

    def confirm(self, job: Job) -> agent_job.Verdict: ...


class _Run:
    """A job under way in this process, and who waits for it."""

    def __init__(
        self, job: Job, action: Action, settled_at: float = 0.0
    ) -> None:
        self.job = job
        self.action = action
        self.settled_at = settled_at
        self.attempts = 0
        # When the sweep hands it to a worker; None while one has it.
        self.due: float | None = 0.0
        # Something happened since a worker took it.
        self.woken = False
        self.lock = threading.Lock()
        self.abandoned = False
        self.answered = threading.Event()
        self.error: exception.NovaExtException | None = None


class Manager:
    """The jobs of this host.

    :param reply_wait: seconds that a request waits for its job
    :param freeze_limit: seconds that a guest may stay frozen
    """

    def __init__(
        self,
        virt_host: host.Host,
        files: image.Files,
        admission: agent_admission.Admission,
        journal: agent_journal.Journal,
        reports: Reports,
        *,
        reply_wait: float,
        quiesce_mode: str,
        freeze_limit: float,
    ) -> None:
        self._host = virt_host
        self._files = files
        self._admission = admission
        self._journal = journal
        self._reports = reports
        self._reply_wait = reply_wait
        self._quiesce_mode = quiesce_mode
        self._freeze_limit = freeze_limit
        self._runs: dict[int, _Run] = {}
        self._volumes: dict[str, tuple[threading.Lock, int]] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._workers = futures.ThreadPoolExecutor(
            _WORKERS, thread_name_prefix='job'
        )
        self._sweeper = threading.Thread(
            target=self._sweep, name='sweeper', daemon=True
        )

    def start(self) -> None:
        """Take up what a former process left, and sweep from now on."""
        self._host.connect()
        settled_at = time.time() + _SETTLE_SECONDS
        for found in self._journal.unfinished():
            job, action = agent_job.recovered(found)
            LOG.info('Recovering %s', _describe(job))
            self._journal.update(job)
            self._add(_Run(job, action, settled_at))
        self._sweeper.start()

    def stop(self) -> None:
        """Begin no further step; what is unfinished is in the journal."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._sweeper.join()
        self._workers.shutdown(wait=True, cancel_futures=True)

    def wake(self, instance_id: str) -> None:
        """Something happened to a guest: look at its jobs at once."""
        with self._changed:
            for run in self._runs.values():
                looking = run.action in (Action.LOOK, Action.CANCEL)
                if run.job.instance_id == instance_id and looking:
                    run.woken = True
            self._changed.notify_all()

    def status(self) -> dict[str, Any]:
        """What health checks show.

        :raises: :class:`nova_ext.exception.Unavailable`
        """
        self._host.connect()
        if self._reports.trouble:
            raise exception.AgentBusy(reason=self._reports.trouble)
        with self._changed:
            running = len(self._runs)
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
                run = self._runs.get(known.identity)
        if run is not None:
            self._wait(run)

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
        with self._volume(volume_id):
            self._refuse_while_touched(volume_id)
            job = self._admission.delete(
                volume_id, snapshot_id, delete_info, time.time()
            )
            run = self._accept(job, not_after, request_id)
        self._wait(run)

    def _check_same(
        self, known: Job, volume_id: str, create_info: dict[str, Any]
    ) -> None:
        difference = None
        if known.volume_id != volume_id:
            difference = 'volume_id'
        elif not known.after[0].endswith('/' + create_info['new_file']):
            difference = 'new_file'
        if difference:
            raise exception.SnapshotExists(
                snapshot_id=known.snapshot_id, difference=difference
            )

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
    ) -> _Run:
        if self._stopping:
            raise exception.AgentBusy(reason='it is about to stop')
        if time.time() > not_after:
            raise exception.RequestExpired(snapshot_id=job.snapshot_id)
        job = self._journal.add(job.to(State.PENDING, request_id=request_id))
        LOG.info('Accepted %s, for %s', _describe(job), request_id)
        run = _Run(job, Action.FENCE)
        self._add(run)
        return run

    def _wait(self, run: _Run) -> None:
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
        with self._changed:
            lock, users = self._volumes.get(volume_id, (threading.Lock(), 0))
            self._volumes[volume_id] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with self._changed:
                lock, users = self._volumes[volume_id]
                self._volumes[volume_id] = lock, users - 1
                if users == 1:
                    del self._volumes[volume_id]

    def _add(self, run: _Run) -> None:
        with self._changed:
            self._runs[run.job.identity] = run
            self._changed.notify_all()

    def _sweep(self) -> None:
        """Hand every job that is due to a worker, until stopped."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                waits = []
                for run in self._runs.values():
                    if run.due is None:
                        continue
                    if run.woken or run.due <= now:
                        run.due, run.woken = None, False
                        self._workers.submit(self._drive, run)
                    else:
                        waits.append(run.due - now)
                self._changed.wait(min(waits, default=None))

    def _drive(self, run: _Run) -> None:
        """Do the steps of a job until it is over or has to wait."""
        wait: float | None = 0.0
        while wait == 0.0 and not self._stopping:
            try:
                wait = self._step(run)
            except Exception:
                # NOTE: one bad job must not stop the others.
                LOG.exception('Unexpected error in %s', _describe(run.job))
                wait = _RETRY_SECONDS
        with self._changed:
            if wait is None:
                self._runs.pop(run.job.identity, None)
            else:
                run.due = time.monotonic() + wait
            self._changed.notify_all()

    def _step(self, run: _Run) -> float | None:
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
        if action is Action.CANCEL:
            self._cancel(run)
        if action in (Action.LOOK, Action.CANCEL):
            chain = verify.look(job, self._host, self._files)
            now = time.time()
            return self._enter(
                run,
                *agent_job.looked(job, chain, now, now >= run.settled_at),
            )
        if action is Action.REPORT:
            return self._enter(
                run, *agent_job.reported(job, self._reports.deliver(job))
            )
        return self._enter(
            run,
            *agent_job.confirmed(
                job, self._reports.confirm(job), time.time(), _CONFIRM_GRACE
            ),
        )

    def _fence(self, run: _Run) -> float:
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

    def _start(self, run: _Run) -> str:
        """Ask libvirt for what the job wants; why it refused, if it did."""
        job = run.job
        try:
            found = self._host.guest(job.instance_id)
            if found is None:
                return 'the instance is gone'
            domain = found.describe()
            if job.kind is Kind.OVERLAY:
                others = [
                    disk.target
                    for disk in domain.disks
                    if disk.target != job.target
                ]
                with quiesce.quiesced(
                    found, domain, self._quiesce_mode, self._freeze_limit
                ):
                    found.snapshot(job.target, job.after[0], others)
            elif job.kind is Kind.PULL:
                base = job.after[1] if len(job.after) > 1 else None
                found.pull(job.target, base)
            else:
                (top,) = job.doomed
                base = job.before[job.before.index(top) + 1]
                found.commit(job.target, base, top)
        except exception.HypervisorUnavailable as error:
            run.settled_at = time.time() + _SETTLE_SECONDS
            return str(error)
        except exception.NovaExtException as error:
            if isinstance(error, exception.Invalid):
                run.error = error
            return str(error)
        return ''

    def _cancel(self, run: _Run) -> None:
        try:
            found = self._host.guest(run.job.instance_id)
            if found is not None:
                found.cancel(run.job.target)
        except exception.NovaExtException as error:
            LOG.warning('Cannot cancel %s: %s', _describe(run.job), error)

    def _enter(self, run: _Run, job: Job, action: Action) -> float:
        """Journal what comes next; seconds until it is done."""
        same = (job.state, action) == (run.job.state, run.action)
        run.attempts = run.attempts + 1 if same else 0
        if job != run.job:
            self._journal.update(job)
            if job.state is not run.job.state:
                LOG.info('Now %s', _describe(job))
        run.job, run.action = job, action
        if self._is_answer(job):
            if job.succeeded is False and run.error is None:
                run.error = exception.SnapshotFailed(
                    snapshot_id=job.snapshot_id, reason=job.reason
                )
            run.answered.set()
        return self._pause(run) if same else 0.0

    def _is_answer(self, job: Job) -> bool:
        """Whether what a waiting request is told is certain now."""
        if job.operation is Operation.DELETE and not job.reason:
            # It was started, and is reported when it ends.
            return job.state not in (State.PENDING, State.RUNNING)
        return job.state in agent_job.FINAL or (
            job.state is State.CONFIRMING
            or (job.state is State.REPORTING and job.succeeded is False)
        )

    def _pause(self, run: _Run) -> float:
        if run.job.state is State.RUNNING:
            return _JOB_LOOK_SECONDS
        seconds = {
            Action.REPORT: _REPORT_SECONDS,
            Action.CONFIRM: _CONFIRM_SECONDS,
        }.get(run.action, _LOOK_SECONDS)
        pause = seconds[min(run.attempts, len(seconds)) - 1]
        return pause * random.uniform(0.8, 1.2)  # noqa: S311 (jitter only)


def _describe(job: Job) -> str:
    """A job for a log line; ids come from outside, hence the quotes."""
    text = (
        f'{job.operation.value} of snapshot {job.snapshot_id!r} of volume '
        f'{job.volume_id!r} on instance {job.instance_id}: {job.state.value}'
    )
    return f'{text} ({job.reason})' if job.reason else text
