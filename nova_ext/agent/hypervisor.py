# SPDX-License-Identifier: Apache-2.0
"""What is asked of the hypervisor for a job: start, cancel, look.

When, and what follows, is the manager's business; what a look amounts to is
in :mod:`nova_ext.agent.verify`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nova_ext import exception
from nova_ext.agent import job as agent_job
from nova_ext.agent import quiesce, verify
from nova_ext.agent.job import Job, Kind
from nova_ext.virt import image

if TYPE_CHECKING:
    from nova_ext.virt import guest, host

LOG = logging.getLogger(__name__)


class Hypervisor:
    """The guests of this host, as far as jobs concern them.

    :param quiesce_mode: see :mod:`nova_ext.agent.quiesce`
    :param freeze_limit: seconds that a guest may stay frozen
    """

    def __init__(
        self,
        virt_host: host.Host,
        files: image.Files,
        quiesce_mode: str,
        freeze_limit: float,
    ) -> None:
        self._host = virt_host
        self._files = files
        self._quiesce_mode = quiesce_mode
        self._freeze_limit = freeze_limit

    def check(self) -> None:
        """:raises: :class:`nova_ext.exception.HypervisorUnavailable`"""
        self._host.connect()

    def look(self, job: Job) -> agent_job.Chain:
        """What the chain of a job is now."""
        chain = verify.look(job, self._host, self._files)
        if chain is agent_job.Chain.AFTER and job.kind is Kind.PULL:
            return self._flushed(job)
        return chain

    def _flushed(self, job: Job) -> agent_job.Chain:
        """AFTER once what was pulled is on disk, whatever becomes of QEMU."""
        try:
            found = self._host.guest(job.instance_id)
            if found is None or not found.has_process():
                # NOTE: had it been killed, the header would look the same.
                return agent_job.Chain.OTHER
            found.flush(job.target)
        except exception.NovaExtException as error:
            LOG.warning('Cannot flush %s: %s', agent_job.describe(job), error)
            return agent_job.Chain.UNKNOWN
        return agent_job.Chain.AFTER

    def start(self, job: Job) -> None:
        """Ask libvirt for what a job wants.

        :raises: :class:`nova_ext.exception.NovaExtException`; whatever it
            says, only a look tells what was done
        """
        found = self._host.guest(job.instance_id)
        if found is None:
            raise exception.VolumeNotAttached(volume_id=job.volume_id)
        if job.kind is Kind.OVERLAY:
            self._switch(job, found)
        elif job.kind is Kind.PULL:
            base = job.after[1] if len(job.after) > 1 else None
            found.pull(job.target, base)
        else:
            (top,) = job.doomed
            base = job.before[job.before.index(top) + 1]
            found.commit(job.target, base, top)

    def _switch(self, job: Job, found: guest.Guest) -> None:
        domain = found.describe()
        others = [
            disk.target for disk in domain.disks if disk.target != job.target
        ]
        with quiesce.quiesced(
            found, domain, self._quiesce_mode, self._freeze_limit
        ):
            found.snapshot(job.target, job.after[0], others)

    def cancel(self, job: Job) -> None:
        """End the block job of a job; a failure to is only logged."""
        try:
            found = self._host.guest(job.instance_id)
            if found is not None:
                found.cancel(job.target)
        except exception.NovaExtException as error:
            LOG.warning('Cannot cancel %s: %s', agent_job.describe(job), error)
