# SPDX-License-Identifier: Apache-2.0
"""What the journal lets go: jobs that are long over and nobody's business.

Where no instance of this host has the volume, time alone decides. Elsewhere
a repeated request is recognised by them, so Cinder must know their snapshot
no more: then nobody can ask for it again, and the fence would refuse who
does. Which jobs others need is decided in journal. No job waits for any of
this.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from concurrent import futures
from typing import TYPE_CHECKING

from nova_ext import cinder, exception, patience
from nova_ext.agent import outside

if TYPE_CHECKING:
    from nova_ext.agent import hypervisor as agent_hypervisor
    from nova_ext.agent import journal as agent_journal

LOG = logging.getLogger(__name__)

_DAY_SECONDS = 86400.0
# Of which Cinder is asked at a time, one after another: 200 volumes with a
# snapshot every half hour have 9600 a day.
_SNAPSHOTS = 10_000


class Forgetting:
    """Looks from time to time for what can be forgotten.

    :param history: seconds for which a job is remembered, from its end
    """

    def __init__(
        self,
        hypervisor: agent_hypervisor.Hypervisor,
        journal: agent_journal.Journal,
        reports: outside.Reports,
        history: float,
    ) -> None:
        self._hypervisor = hypervisor
        self._journal = journal
        self._reports = reports
        self._history = history
        self._pause = min(history, _DAY_SECONDS)
        self._next = -math.inf
        self._lock = threading.Lock()
        self._under_way: futures.Future[None] | None = None
        self._stopped = False
        # Of the last snapshot that Cinder was asked about.
        self._after = 0

    def begin(self) -> None:
        """Look in the background, unless that was done not long ago."""
        with self._lock:
            now = time.monotonic()
            busy = self._under_way and not self._under_way.done()
            if busy or now < self._next or self._stopped:
                return
            self._next = now + self._pause
            self._under_way = patience.begin(self._forget)

    def stop(self) -> None:
        """Touch the journal no more; an answer of Cinder is not awaited."""
        with self._lock:
            self._stopped = True

    def _forget(self) -> None:
        before = time.time() - self._history
        try:
            volumes = self._hypervisor.volumes()
            if self._stopped:
                return
            number = self._journal.forget(volumes, before)
            LOG.info('Forgot %d jobs of volumes that are not here', number)
            self._forget_snapshots(before)
        except (exception.NovaExtException, cinder.NoAnswer) as error:
            LOG.info('No more jobs are forgotten for now: %s', error)
        except Exception:
            # NOTE: whoever has stopped us may have closed all that is used.
            if not self._stopped:
                LOG.exception('Unexpected error while jobs are forgotten')

    def _forget_snapshots(self, before: float) -> None:
        number = 0
        for _ in range(_SNAPSHOTS):
            found = self._journal.old_snapshot(self._after, before)
            # NOTE: the next time goes on from there, so that those which
            # Cinder has, or says nothing of, do not keep it from the others.
            self._after, snapshot_id = found or (0, '')
            if found is None:
                break
            gone = self._reports.is_gone(snapshot_id)
            if self._stopped:
                return
            if gone:
                number += self._journal.forget_snapshot(snapshot_id, before)
        LOG.info('Forgot %d jobs of snapshots that are no more', number)
