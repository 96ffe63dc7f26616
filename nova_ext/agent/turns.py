# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is where the disks of one guest are worked on.

QEMU (7.2 and 10.0 were tried) dies of a segmentation fault when a pull ends
at the moment at which another disk of the guest is switched, or another of
its merges begins or ends. When a pull ends cannot be chosen, so nothing else
is under way in that QEMU meanwhile; all else may be side by side. Only the
order is kept here: what is done in a turn, and when it is over, is the
engine's business.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable

from nova_ext.agent.job import Job, Kind


@dataclasses.dataclass
class _Entry:
    job: Job
    working: bool = False
    since: float = dataclasses.field(default_factory=time.monotonic)

    def waits_for(self, other: _Entry, earlier: bool) -> bool:
        """Whether this may not begin while there is that one."""
        # NOTE: a switch is over soon, and Cinder waits 600 s for it only.
        in_order = earlier and self.job.kind is not Kind.OVERLAY
        return (other.working or in_order) and (
            Kind.PULL in (self.job.kind, other.job.kind)
        )


class Turns:
    """Who works on a guest, and who waits to, by and large in order.

    :param ready: is called with the database id of a job that waited, when
        its turn may have come
    """

    def __init__(self, ready: Callable[[int], None]) -> None:
        self._ready = ready
        self._lock = threading.Lock()
        # By the domain that does the work, then by the id of the job.
        self._guests: dict[str, dict[int, _Entry]] = {}

    def take(self, job: Job) -> Job | None:
        """Begin a turn, or wait for it; the job that is waited for, if so."""
        with self._lock:
            entries = self._guests.setdefault(job.worker_id, {})
            entry = entries.setdefault(job.identity, _Entry(job))
            earlier = True
            for other in entries.values():
                if other is entry:
                    earlier = False
                elif entry.waits_for(other, earlier):
                    return other.job
            entry.working, entry.since = True, time.monotonic()
            return None

    def is_wanted(self, job: Job, seconds: float) -> bool:
        """Whether a pull has kept a switch waiting for so long."""
        since = time.monotonic() - seconds
        with self._lock:
            entries = self._guests.get(job.worker_id, {})
            entry = entries.get(job.identity)
            return (
                job.kind is Kind.PULL
                and entry is not None
                and entry.since <= since
                and any(
                    other.job.kind is Kind.OVERLAY
                    and not other.working
                    and other.since <= since
                    for other in entries.values()
                )
            )

    def hold(self, job: Job) -> None:
        """Have a turn, whoever else has one: something was begun already."""
        with self._lock:
            entries = self._guests.setdefault(job.worker_id, {})
            entries.setdefault(job.identity, _Entry(job)).working = True

    def leave(self, job: Job) -> None:
        """End a turn, or wait for none any more."""
        with self._lock:
            entries = self._guests.get(job.worker_id, {})
            if entries.pop(job.identity, None) is None:
                return
            if not entries:
                del self._guests[job.worker_id]
            waiting = [
                identity
                for identity, entry in entries.items()
                if not entry.working
            ]
        for identity in waiting:
            self._ready(identity)
