# SPDX-License-Identifier: Apache-2.0
"""Whether what was merged is on disk, whatever becomes of QEMU.

It is brought there while the files are looked at, since each takes
milliseconds and Cinder waits for both. What the files say is in verify.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from nova_ext.agent import verify
from nova_ext.agent.job import Job, Kind
from nova_ext.virt import image

if TYPE_CHECKING:
    from nova_ext.virt import chain, guest

LOG = logging.getLogger(__name__)


class Flush:
    """The flush of a merge, which :func:`verify.look` says is over.

    :ivar wanted: whether it matters for this job
    :ivar done: whether what was merged is on disk, unless `error` says why
        that is not known
    """

    def __init__(self, job: Job, files: image.Files) -> None:
        self._job = job
        self._files = files
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
        # NOTE: QEMU keeps nothing of a commit to itself, nor of what it does
        # not have open any more; but it leaves it to the kernel, which has
        # not written all of it yet (7.2 with a raw base).
        pulled = job.kind is Kind.PULL and verify.disk_of(job, domain)
        self._thread = threading.Thread(
            target=self._flush,
            args=(found if pulled else None,),
            name='flush',
            daemon=True,
        )
        self._thread.start()

    def wait(self) -> None:
        """Until it is over; libvirt bounds that, and who looks at files."""
        if self._thread is not None:
            self._thread.join()

    def _flush(self, found: guest.Guest | None) -> None:
        try:
            if found is not None:
                found.flush(self._job.target)
            else:
                self._sync()
            self.done = True
        except image.NotOnDisk as error:
            LOG.error('What was merged is not on disk: %s', error)
        except Exception as error:
            # NOTE: it would end with this thread, and nobody would know.
            self.error = error

    def _sync(self) -> None:
        """Have the kernel write out what a merge wrote."""
        above, _, *below = self._job.around
        written = below if self._job.kind is Kind.COMMIT else []
        for path in (above, *written):
            # NOTE: it can take minutes; others look at that directory, and
            # are not to take it for hung.
            self._files.look(f'{path}/', image.sync, path)
