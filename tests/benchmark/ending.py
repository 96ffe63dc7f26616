# SPDX-License-Identifier: Apache-2.0
"""When libvirt said that a merge had completed."""

from __future__ import annotations

import threading
import time
import types
from typing import Any

import libvirt

from nova_ext.virt.host import Host
from tests.benchmark import rig

_SECONDS = 120.0


class Ending:
    """The event, on a connection of its own, inside a `with` block."""

    def __init__(self, parts: rig.Rig) -> None:
        # Makes the loop of events, which connections before it do not have.
        self._host = Host(parts.uri)
        self._connection = libvirt.open(parts.uri)
        self._ended = threading.Event()
        self._at = 0.0
        self._connection.domainEventRegisterAny(
            self._connection.lookupByUUIDString(parts.guest.uuid),
            libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
            self._note,
            None,
        )

    def __enter__(self) -> Ending:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._connection.close()
        self._host.close()

    def expect(self) -> None:
        """A merge is about to begin."""
        self._ended.clear()

    def wait(self) -> float:
        """When it completed, by time.monotonic().

        :raises: :class:`tests.benchmark.rig.MeasuringFailed`
        """
        if not self._ended.wait(_SECONDS):
            raise rig.MeasuringFailed('a merge hangs')
        return self._at

    def _note(self, *details: Any) -> None:
        at = time.monotonic()
        if details[4] == libvirt.VIR_DOMAIN_BLOCK_JOB_COMPLETED:
            self._at = at
            self._ended.set()
