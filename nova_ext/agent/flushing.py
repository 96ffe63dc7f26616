# SPDX-License-Identifier: Apache-2.0
"""Whether what was merged is on disk, whatever becomes of QEMU.

It is brought there while the files are looked at, since each takes
milliseconds and Cinder waits for both. What the files say is in verify.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from nova_ext.agent import verify
from nova_ext.agent.job import Job, Kind

if TYPE_CHECKING:
    from nova_ext.virt import chain, guest


class Flush:
    """The flush of a merge, which :func:`verify.look` says is over.

    :ivar wanted: whether it matters for this job
    :ivar done: whether what was merged is on disk, unless `error` says why
        that is not known
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._thread: threading.Thread | None = None
        self.wanted = job.merges and not job.flushed
        self.done = False
        self.error: Exception | None = None

    def over(self, found: guest.Guest, domain: chain.Domain) -> None:
        """Begin, if the process is still the one that merged."""
        job = self._job
        # NOTE: had the process been killed, perhaps to be started again, the
        # header would look the same.
        same = domain.uuid == job.worker_id and (
            job.process in ('', domain.process)
        )
        if not (self.wanted and same):
            return
        # NOTE: QEMU has flushed a base before a commit counts as over, and
        # what it does not have open any more when it closed it.
        if job.kind is not Kind.PULL or not verify.disk_of(job, domain):
            self.done = True
            return
        self._thread = threading.Thread(
            target=self._flush, args=(found,), name='flush', daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Until it is over; libvirt bounds that."""
        if self._thread is not None:
            self._thread.join()

    def _flush(self, found: guest.Guest) -> None:
        try:
            found.flush(self._job.target)
            self.done = True
        except Exception as error:
            # NOTE: it would end with this thread, and nobody would know.
            self.error = error
