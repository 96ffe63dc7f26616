# SPDX-License-Identifier: Apache-2.0
"""When jobs are worked on: at once, when they are due, or when woken.

What a step is, and what comes of it, is the manager's business. A job is
never with two workers at a time, and a bad one does not stop the others.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent import futures

from nova_ext import context, exception
from nova_ext.agent.job import Job, describe
from nova_ext.agent.transition import Action

LOG = logging.getLogger(__name__)

_WORKERS = 16
_RETRY_SECONDS = 5.0
_LOOKING = (Action.LOOK, Action.CANCEL, Action.PIVOT)


class Run:
    """A job under way in this process, and who waits for it.

    :param settled_at: seconds of time.monotonic() from which on nothing that
        was asked of libvirt earlier can still be waiting there; infinity
        as long as it does not answer
    :ivar answered: set when what a waiting request is told is certain;
        ``error`` is that, or None for yes
    :ivar abandoned: nobody waits any more, so it must not be started;
        under ``lock``
    :ivar queued: it waits, or did, for another job of its guest, so that who
        asked for it is told that it will be done; under ``lock``
    :ivar doubtful: wall-clock seconds from when until when an API that was not
        answered may be saying that it is not done
    :ivar begin_by: wall-clock seconds after which an API may have said so of
        one that is not queued
    :ivar cancelled: an operator wants its block job to end
    :ivar asked_again: Cinder has asked once more, so that what it said of an
        earlier attempt does not count; under ``lock``
    :ivar hurried: whoever waits must not wait for its answer any longer
    :ivar dropped: an operator wants it to be left alone
    :ivar progress: bytes done and bytes in all, when it was last looked at
    :ivar bandwidth: MiB/s that an operator allowed since
    :ivar percent: what Cinder was last shown of that
    """

    def __init__(
        self, job: Job, action: Action, settled_at: float = 0.0
    ) -> None:
        self.job = job
        self.action = action
        self.settled_at = settled_at
        self.attempts = 0
        self.cancelled = job.cancelled
        self.dropped = False
        self.asked_again = False
        self.progress: tuple[int, int] | None = None
        self.bandwidth: int | None = None
        self.percent = 0
        self.lock = threading.Lock()
        self.abandoned = False
        self.queued = False
        self.doubtful = (math.inf, math.inf)
        self.begin_by = math.inf
        self.answered = threading.Event()
        self.hurried = False
        self.error: exception.NovaExtException | None = None
        # When the sweeper hands it to a worker; None while one has it.
        self.due: float | None = 0.0
        # Something happened since a worker took it.
        self.woken = False


class Sweeper:
    """Hands the jobs that are due to a few workers.

    :param step: does one step of a job; seconds until the next, or None if
        it is over
    :ivar closing: no job may be added any more
    """

    def __init__(self, step: Callable[[Run], float | None]) -> None:
        self._step = step
        self._runs: dict[int, Run] = {}
        self._changed = threading.Condition()
        self.closing = False
        self.stopping = False
        self._workers = futures.ThreadPoolExecutor(
            _WORKERS, thread_name_prefix='job'
        )
        self._thread = threading.Thread(
            target=self._sweep, name='sweeper', daemon=True
        )

    def start(self) -> None:
        """Begin to hand out."""
        self._thread.start()

    def hurry(self) -> None:
        """Let nobody wait any longer for a job, nor begin another."""
        with self._changed:
            self.closing = True
            for run in self._runs.values():
                run.hurried = True
                run.answered.set()

    def stop(self) -> None:
        """Hand out nothing more, and wait for the steps under way."""
        with self._changed:
            self.closing = self.stopping = True
            self._changed.notify_all()
        self._thread.join()
        self._workers.shutdown(wait=True, cancel_futures=True)

    def add(self, run: Run) -> None:
        """Take a job in; it is due at once."""
        with self._changed:
            self._runs[run.job.identity] = run
            self._changed.notify_all()

    def get(self, identity: int) -> Run | None:
        """The job with this database id, unless it is over."""
        with self._changed:
            return self._runs.get(identity)

    def count(self) -> int:
        """How many jobs are not over."""
        with self._changed:
            return len(self._runs)

    def wake(self, instance_id: str) -> None:
        """The jobs of a guest that wait for a look are due now."""
        with self._changed:
            for run in self._runs.values():
                looking = run.action in _LOOKING
                concerned = (run.job.instance_id, run.job.worker_id)
                if instance_id in concerned and looking:
                    run.woken = True
            self._changed.notify_all()

    def hasten(self, identity: int) -> None:
        """What a job waits for, if it does, is tried now."""
        with self._changed:
            if identity in self._runs:
                self._runs[identity].woken = True
            self._changed.notify_all()

    def _sweep(self) -> None:
        with self._changed:
            while not self.stopping:
                now = time.monotonic()
                waits = []
                for run in self._runs.values():
                    if run.due is None:
                        continue
                    if run.woken or run.due <= now:
                        run.due, run.woken = None, False
                        try:
                            self._workers.submit(self._drive, run)
                        except RuntimeError:
                            # It is queued; only one more thread is missing.
                            LOG.exception('No thread can be started')
                    else:
                        waits.append(run.due - now)
                self._changed.wait(min(waits, default=None))

    def _drive(self, run: Run) -> None:
        """Do the steps of a job until it is over or has to wait."""
        # Lines of the log have it, and what we ask Cinder.
        context.follow(run.job.request_id)
        wait: float | None = 0.0
        while wait == 0.0 and not self.stopping:
            try:
                wait = self._step(run)
            except Exception:
                LOG.exception('Unexpected error in %s', describe(run.job))
                wait = _RETRY_SECONDS
        with self._changed:
            if wait is None:
                # NOTE: nobody is woken: that would be a look at all others.
                if self._runs.get(run.job.identity) is run:
                    del self._runs[run.job.identity]
                return
            run.due = time.monotonic() + wait
            self._changed.notify_all()
