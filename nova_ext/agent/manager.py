# SPDX-License-Identifier: Apache-2.0
"""The agent's methods: who asks for a job, joins one, or waits for one.

What may start is decided in admission, and the engine does it. Here too is
what a start takes up again. No HTTP and no raw libvirt.
"""

from __future__ import annotations

import functools
import logging
import time
from importlib import metadata
from typing import TYPE_CHECKING, Any

from nova_ext import exception
from nova_ext.agent import admission as agent_admission
from nova_ext.agent import control as agent_control
from nova_ext.agent import (
    engine,
    forgetting,
    merge,
    outside,
    rollback,
    transition,
    wire,
)
from nova_ext.agent import intake as agent_intake
from nova_ext.agent import job as agent_job
from nova_ext.agent import journal as agent_journal
from nova_ext.agent import sweeper as agent_sweeper
from nova_ext.agent.job import FINAL, Job, Operation, State
from nova_ext.agent.sweeper import Run

if TYPE_CHECKING:
    from nova_ext.agent import hypervisor as agent_hypervisor

LOG = logging.getLogger(__name__)


@functools.cache
def _version() -> str:
    return metadata.version('nova_ext')


class Manager:
    """The jobs of this host.

    :param reply_wait: seconds that a request waits for its job; may change
    :param nova: None where no guest is Nova's
    :param history: see :class:`nova_ext.agent.forgetting.Forgetting`
    """

    def __init__(
        self,
        hypervisor: agent_hypervisor.Hypervisor,
        admission: agent_admission.Admission,
        journal: agent_journal.Journal,
        reports: outside.Reports,
        reply_wait: float,
        history: float,
        nova: outside.Records | None = None,
    ) -> None:
        self._hypervisor = hypervisor
        self._admission = admission
        self._journal = journal
        self._reports = reports
        self._nova = nova or outside.NoNova()
        self.reply_wait = reply_wait
        self._forgetting = forgetting.Forgetting(
            hypervisor, journal, reports, history
        )
        self._engine = engine.Engine(
            hypervisor,
            journal,
            reports,
            self._nova,
            self._ready,
            self._forgetting.begin,
        )
        self._sweeper = agent_sweeper.Sweeper(self._engine.step)
        self._intake = agent_intake.Intake(journal, self._sweeper)
        self.control = agent_control.Control(
            hypervisor,
            journal,
            self._sweeper,
            self._intake,
            rollback.Rollbacks(hypervisor, admission, journal, reports),
        )

    def start(self) -> None:
        """Take up what a former process left, and sweep from now on."""
        self._hypervisor.check()
        if isinstance(self._nova, outside.NoNova):
            self._refuse_nova()
        settled_at = time.monotonic() + engine.SETTLE_SECONDS
        recovered = [
            transition.recovered(job) for job in self._journal.unfinished()
        ]
        # NOTE: nothing is done before all of them are on disk.
        self._journal.update_all([job for job, _ in recovered])
        for job, action in recovered:
            LOG.info('Recovering %s', agent_job.describe(job))
            self._engine.take_up(job)
            self._sweeper.add(Run(job, action, settled_at))
        self._sweeper.start()

    def _ready(self, identity: int) -> None:
        self._sweeper.hasten(identity)

    def hurry(self) -> None:
        """Answer those who wait now, as if their time were over."""
        self._sweeper.hurry()

    def _refuse_nova(self) -> None:
        """:raises: :class:`nova_ext.exception.NovaNotConfigured`"""
        left = [
            job.instance_id
            for job in self._journal.unfinished()
            if job.refreshes
        ]
        for instance_id in (*left, *self._hypervisor.of_nova()):
            raise exception.NovaNotConfigured(instance_id=instance_id)

    def stop(self) -> None:
        """Begin no further step; what is unfinished is in the journal."""
        self._sweeper.stop()
        self._forgetting.stop()

    def wake(self, instance_id: str) -> None:
        """Something happened to a guest: look at its jobs at once."""
        self._sweeper.wake(instance_id)

    def status(self) -> dict[str, Any]:
        """What health checks show.

        :raises: :class:`nova_ext.exception.Unavailable`
        """
        self._hypervisor.check()
        for trouble in (
            self._reports.trouble,
            self._nova.trouble,
        ):
            if trouble:
                raise exception.AgentBusy(reason=trouble)
        running = self._sweeper.count()
        orphans = self._journal.count(State.ORPHANED)
        return {
            'summary': f'{running} jobs under way, {orphans} orphaned',
            'running': running,
            'orphaned': orphans,
            'version': _version(),
            'time': time.time(),
        }

    def volume_snapshot_create(
        self,
        volume_id: str,
        create_info: dict[str, Any],
        not_after: float,
        request_id: str | None = None,
    ) -> None:
        """Switch a guest to a new active layer.

        :param not_after: wall-clock seconds after which nothing is started
        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        snapshot_id = create_info['snapshot_id']
        with self._intake.volume(volume_id):
            known = self._journal.latest(snapshot_id, Operation.CREATE)
            over = known is not None and known.state in FINAL
            if known is None or (over and not known.succeeded):
                self._intake.refuse_while_touched(volume_id)
                job = self._admission.create(
                    volume_id, create_info, time.time()
                )
                self._check_clock(snapshot_id, not_after)
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
        """Begin to merge a layer away.

        :param not_after: wall-clock seconds after which nothing is started
        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        try:
            asked = merge.translate(volume_id, delete_info)
        except exception.SnapshotNotInChain:
            # As in Nova, a volume that is not here is the first to be named.
            self._admission.find(volume_id)
            raise
        with self._intake.volume(volume_id):
            run = self._join(volume_id, snapshot_id, asked)
            if run is None:
                self._intake.refuse_while_touched(volume_id)
                job = self._admit_delete(volume_id, snapshot_id, asked)
                self._check_clock(snapshot_id, not_after)
                run = self._accept(job, not_after, request_id)
        self._wait(run)

    def _accept(
        self, job: Job, not_after: float, request_id: str | None
    ) -> Run:
        return self._intake.accept(job, not_after, request_id, self.reply_wait)

    def _check_clock(self, snapshot_id: str, not_after: float) -> None:
        # NOTE: by a clock that is behind that of the API it would be started
        # when the API has said already that it is not.
        ahead = not_after - time.time()
        if ahead > self.reply_wait + wire.CLOCK_ALLOWANCE:
            raise exception.ClocksDiffer(
                snapshot_id=snapshot_id,
                ahead=round(ahead),
                limit=round(self.reply_wait),
            )

    def _join(
        self, volume_id: str, snapshot_id: str, asked: merge.Request
    ) -> Run | None:
        """The job under way that does what is asked for, if there is one."""
        known = self._journal.latest(snapshot_id, Operation.DELETE)
        run = self._sweeper.get(known.identity) if known else None
        if known is None or run is None:
            return None
        with run.lock:
            if run.job.state in FINAL:
                return None
            self._check_volume(known, volume_id)
            merge.check_same(known, asked)
            run.asked_again = True
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
            raise engine.failure(last)

    def _wait(self, run: Run) -> None:
        """Wait for the answer to a request; returning means yes."""
        answered = run.answered.wait(self.reply_wait)
        if run.hurried or not answered:
            with run.lock:
                run.abandoned = run.job.state is State.PENDING and (
                    run.hurried or not run.queued
                )
            if run.abandoned:
                raise exception.RequestExpired(snapshot_id=run.job.snapshot_id)
        if run.error is not None:
            raise run.error
