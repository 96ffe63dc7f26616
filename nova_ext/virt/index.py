# SPDX-License-Identifier: Apache-2.0
"""Who has which volume, as was read last, and how that is kept fresh.

Whoever asks never waits for a reader that hangs: what is known stays known.
How guests are read is not known here, nor what a volume is.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable

LOG = logging.getLogger(__name__)

# NOTE: libvirt does not answer for a guest in the middle of its start, which
# has no end where a share hangs, nor when it is asked for all of them.
PATIENCE_SECONDS = 5.0


class Index:
    """From the serial of a disk to the guests that have it.

    :param read_all: UUID and serials of the disks of each guest
    :param read_one: the same of one; none if there is no such guest
    """

    def __init__(
        self,
        read_all: Callable[[], Iterable[tuple[str, frozenset[str]]]],
        read_one: Callable[[str], frozenset[str]],
    ) -> None:
        self._read_all = read_all
        self._read_one = read_one
        self._lock = threading.Lock()
        self._serials: dict[str, frozenset[str]] = {}
        self._holders: dict[str, set[str]] = {}
        self._stale: set[str] = set()
        # How often all was to be read anew, and for which time it was.
        self._wanted, self._done = 1, 0
        self._reading = threading.Lock()
        # When the one did that is under way, or read a guest last.
        self._moved = math.inf

    def touch(self, uuid: str) -> None:
        """Something happened to a guest; from any thread, and at once."""
        self._stale.add(uuid)

    def outdate(self) -> None:
        """Anything may have happened; begin to read all anew."""
        self._wanted += 1
        if self._reading.acquire(blocking=False):
            with contextlib.suppress(RuntimeError):
                self._start(_Reading(whole=True))

    def serials(self) -> set[str]:
        """Those of all disks."""
        with self._lock:
            return {*self._holders}

    def holders(self, serial: str) -> list[str]:
        """The UUIDs of the guests that have a disk of this serial."""
        with self._lock:
            return [*self._holders.get(serial, ())]

    def update(self, whole: bool = False) -> bool:
        """Read what has happened since, or all; whether that was done.

        It is not if one guest takes longer than ``PATIENCE_SECONDS``, and then
        goes on: until it does nobody waits for it.

        :raises: what reading raised
        """
        if not whole and self._is_fresh() and not self._reading.locked():
            return True
        if not self._waited(lambda left: self._reading.acquire(timeout=left)):
            return False
        if not whole and self._is_fresh():
            self._reading.release()
            return True
        reading = self._start(_Reading(whole))
        if not self._waited(reading.done.wait):
            LOG.warning(
                'libvirt has not answered for %d s what %s has; volumes that '
                'came to this host since then are not found',
                PATIENCE_SECONDS,
                reading.about,
            )
            return False
        if reading.error is not None:
            raise reading.error
        return True

    def _waited(self, wait: Callable[[float], bool]) -> bool:
        """Wait as long as there is a reader that gets on; whether it came."""
        while True:
            now = time.monotonic()
            left = min(now, self._moved) + PATIENCE_SECONDS - now
            if wait(max(0.0, left)):
                return True
            if left <= 0:
                return False

    def _is_fresh(self) -> bool:
        return self._done == self._wanted and not self._stale

    def _start(self, reading: _Reading) -> _Reading:
        """Begin; whoever calls it has the lock, and gives it away."""
        self._moved = time.monotonic()
        # NOTE: a thread, since a call that hangs can't be taken back, and
        # daemonic, so that it can't keep the process from ending.
        thread = threading.Thread(
            target=self._read, args=(reading,), name='index', daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            self._end()
            raise
        return reading

    def _end(self) -> None:
        self._moved = math.inf
        self._reading.release()

    def _read(self, reading: _Reading) -> None:
        try:
            if reading.whole or self._done != self._wanted:
                self._learn_all()
            while self._stale:
                uuid = self._stale.pop()
                reading.about = f'instance {uuid}'
                self._learn(uuid, self._read_one(uuid))
                self._moved = time.monotonic()
        except Exception as error:
            reading.error = error
            self._wanted += 1
        finally:
            self._end()
            reading.done.set()

    def _learn_all(self) -> None:
        wanted = self._wanted
        # NOTE: of what happens from now on there is a touch.
        self._done = 0
        self._stale.clear()
        serials: dict[str, frozenset[str]] = {}
        holders: dict[str, set[str]] = {}
        for uuid, found in self._read_all():
            self._moved = time.monotonic()
            serials[uuid] = found
            for serial in found:
                holders.setdefault(serial, set()).add(uuid)
        with self._lock:
            self._serials, self._holders = serials, holders
        self._done = wanted

    def _learn(self, uuid: str, serials: frozenset[str]) -> None:
        with self._lock:
            for serial in self._serials.pop(uuid, ()):
                self._holders[serial].discard(uuid)
                if not self._holders[serial]:
                    del self._holders[serial]
            if serials:
                self._serials[uuid] = serials
            for serial in serials:
                self._holders.setdefault(serial, set()).add(uuid)


class _Reading:
    """One under way, in a thread of its own."""

    def __init__(self, whole: bool) -> None:
        self.whole = whole
        self.done = threading.Event()
        self.error: Exception | None = None
        self.about = 'each instance'
