# SPDX-License-Identifier: Apache-2.0
"""What is asked of the hypervisor for a job: start, cancel, look.

When, and what follows, is the manager's business; what a look amounts to is
in :mod:`nova_ext.agent.verify`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nova_ext import exception
from nova_ext.agent import flushing, quiesce, transition, verify
from nova_ext.agent import job as agent_job
from nova_ext.agent.job import Job, Kind
from nova_ext.virt import image, stand_in

if TYPE_CHECKING:
    from nova_ext.virt import chain, guest, host

LOG = logging.getLogger(__name__)


class Hypervisor:
    """The guests of this host, as far as jobs concern them.

    The parameters that are no objects may change while it works.

    :param quiesce_mode: see :mod:`nova_ext.agent.quiesce`
    :param freeze_limit: seconds that a guest may stay frozen
    :param bandwidth: MiB/s that a merge may do; 0 for no limit
    """

    def __init__(
        self,
        virt_host: host.Host,
        files: image.Files,
        quiesce_mode: str,
        freeze_limit: float,
        bandwidth: int,
    ) -> None:
        self._host = virt_host
        self._files = files
        self.quiesce_mode = quiesce_mode
        self.freeze_limit = freeze_limit
        self.bandwidth = bandwidth

    def check(self) -> None:
        """:raises: :class:`nova_ext.exception.HypervisorUnavailable`"""
        self._host.connect()

    def volumes(self) -> set[str]:
        """The ids of the volumes that guests of this host have.

        :raises: :class:`nova_ext.exception.HypervisorUnavailable`
        """
        return self._host.volumes()

    def of_nova(self) -> list[str]:
        """The UUIDs of the guests that Nova has defined.

        :raises: :class:`nova_ext.exception.HypervisorUnavailable`
        """
        return self._host.of_nova()

    def look(self, job: Job) -> transition.Chain:
        """What the chain of a job is now."""
        flush = flushing.Flush(job, self._files)
        chain = verify.look(job, self._host, self._files, flush.over)
        flush.wait()
        if chain is transition.Chain.STALE:
            chain = self._refreshed(job)
        if chain is not transition.Chain.AFTER or not flush.wanted:
            return chain
        if flush.error is not None:
            LOG.warning(
                'Cannot flush %s: %s', agent_job.describe(job), flush.error
            )
            return transition.Chain.UNKNOWN
        return chain if flush.done else self._unsafe(job)

    def _refreshed(self, job: Job) -> transition.Chain:
        """Another look after the stored definition was made to agree.

        The first file that it names is right, and of those below it says
        nothing then, so that the next start reads them from the headers.
        """
        try:
            self._forget_backing(job)
        except exception.HypervisorUnavailable:
            return transition.Chain.UNKNOWN
        chain = verify.look(job, self._host, self._files)
        stale = chain is transition.Chain.STALE
        return transition.Chain.OTHER if stale else chain

    def _unsafe(self, job: Job) -> transition.Chain:
        # NOTE: whoever mends the headers shall not have to mend libvirt too.
        self._forget_backing(job)
        return transition.Chain.UNSAFE

    def _forget_backing(self, job: Job) -> None:
        found = self._host.guest(job.instance_id)
        if found is not None:
            try:
                found.forget_backing(job.target)
            except (exception.HypervisorError, ValueError) as error:
                LOG.warning(
                    'The definition of instance %s keeps its <backingStore>: '
                    '%s',
                    job.instance_id,
                    error,
                )

    def start(self, job: Job, bandwidth: int | None = None) -> None:
        """Ask libvirt for what a job wants.

        :param bandwidth: MiB/s that a merge may do, instead of what all may
        :raises: :class:`nova_ext.exception.NovaExtException`; whatever it
            says, only a look tells what was done
        """
        described = self._host.described(job.instance_id)
        # NOTE: since it was admitted another volume may be at its target.
        disk = verify.disk_of(job, described[1]) if described else None
        if described is None or disk is None:
            raise exception.VolumeNotAttached(volume_id=job.volume_id)
        found, domain = described
        # NOTE: nothing was asked of libvirt so far, so that the engine takes
        # this for a refusal.
        if disk.layers and disk.layers[0].path != job.before[0]:
            raise exception.LayerChanged(
                volume_id=job.volume_id, expected=job.before[0]
            )
        if job.stored and found.has_managed_save():
            raise exception.InstanceInvalidState(
                instance_id=job.instance_id,
                state='was suspended meanwhile',
                method=f'volume_snapshot_{job.operation.value}',
            )
        if job.kind is Kind.OVERLAY:
            self._switch(job, found, domain)
            return
        if job.stored:
            name = f'nova-ext-{job.worker_id}'
            try:
                xml = stand_in.definition(
                    found.forget_backing(job.target),
                    job.target,
                    name,
                    job.worker_id,
                )
            except ValueError:
                # The disk was taken away a moment ago.
                raise exception.VolumeNotAttached(
                    volume_id=job.volume_id
                ) from None
            found = self._host.start_paused(xml)
            self._check_opened(job)
        elif job.process not in ('', domain.process):
            # NOTE: a look would say of what it merges that it is perhaps not
            # on disk.
            raise exception.JobStateUnknown(
                volume_id=job.volume_id,
                reason='its instance was stopped or started anew before the '
                'merge began; nothing was merged. Delete the snapshot again',
            )
        if bandwidth is None:
            bandwidth = self.bandwidth
        if job.kind is Kind.PULL:
            base = job.after[1] if len(job.after) > 1 else None
            found.pull(job.target, base, bandwidth)
        else:
            (doomed,) = job.doomed
            base = job.before[job.before.index(doomed) + 1]
            top = None if job.kind is Kind.ACTIVE else doomed
            found.commit(job.target, base, top, bandwidth)

    def _check_opened(self, job: Job) -> None:
        """Refuse to work on files that are not those that were looked at.

        QEMU opens by name, what a name leads to can change meanwhile, and
        a merge would copy what another volume holds.
        """
        if verify.look(job, self._host, self._files) is not (
            transition.Chain.BEFORE
        ):
            raise exception.JobStateUnknown(
                volume_id=job.volume_id,
                reason='the stand-in of its guest, which is off, did not '
                'open the files that the headers named before; nothing was '
                'merged. Who else writes to this directory?',
            )

    def progress(self, job: Job) -> tuple[int, int] | None:
        """Bytes done and bytes in all of a job's block job, if it has one.

        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        found = self._host.guest(job.worker_id)
        info = found.block_job(job.target) if found else None
        return (info.cur, info.end) if info else None

    def limit(self, job: Job, bandwidth: int) -> None:
        """Bound how many MiB/s the block job of a job does; 0 for all.

        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        found = self._host.guest(job.worker_id)
        if found is not None:
            found.limit(job.target, bandwidth)

    def release(self, job: Job) -> bool:
        """End the stand-in of a job; whether none is left."""
        try:
            found = self._host.guest(job.worker_id)
            if found is not None:
                found.end()
        except exception.NovaExtException as error:
            LOG.warning(
                'Cannot end the stand-in %s of %s: %s',
                job.worker_id,
                agent_job.describe(job),
                error,
            )
            return False
        return True

    def _switch(
        self, job: Job, found: guest.Guest, domain: chain.Domain
    ) -> None:
        # NOTE: what was suspended since names the old file (W3).
        if job.stored != (domain.number is None):
            raise exception.InstanceInvalidState(
                instance_id=job.instance_id,
                state='was started or stopped meanwhile',
                method='volume_snapshot_create',
            )
        others = [
            disk.target for disk in domain.disks if disk.target != job.target
        ]
        with quiesce.quiesced(
            found, domain, self.quiesce_mode, self.freeze_limit
        ):
            found.snapshot(job.target, job.after[0], others)

    def thaw(self, job: Job) -> None:
        """Thaw what a switch that did not come back may have left frozen.

        A failure to is only logged.
        """
        try:
            described = self._host.described(job.instance_id)
            if described is not None:
                quiesce.thaw(*described, self.quiesce_mode, self.freeze_limit)
        except exception.NovaExtException as error:
            LOG.warning('Cannot thaw %s: %s', agent_job.describe(job), error)

    def pivot(self, job: Job) -> None:
        """Have a guest go on in the layer that its active one was put into.

        That it is not done, or not yet, only a look tells.
        """
        try:
            found = self._host.guest(job.worker_id)
            if found is not None:
                found.pivot(job.target)
        except exception.NovaExtException as error:
            LOG.info('Cannot pivot %s: %s', agent_job.describe(job), error)

    def cancel(self, job: Job) -> None:
        """End the block job of a job; a failure to is only logged."""
        try:
            found = self._host.guest(job.worker_id)
            if found is not None:
                found.cancel(job.target)
        except exception.NovaExtException as error:
            LOG.warning('Cannot cancel %s: %s', agent_job.describe(job), error)
