# SPDX-License-Identifier: Apache-2.0
"""The broker goes, and comes back with what its queues held."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from tests.fleet.rig import REPLY_WAIT, Attempt, Fleet


@contextlib.contextmanager
def broker_down(fleet: Fleet) -> Iterator[None]:
    """No broker, as long as this context lasts."""
    fleet.bus.stop()
    try:
        yield
    finally:
        fleet.bus.start()


def test_a_broker_that_is_down_is_said_to_be(fault: Fleet) -> None:
    share, _ = fault.shares
    # One that has never had a connection, and one that has lost it.
    with (
        fault.new_workers('late') as late,
        broker_down(fault),
    ):
        for url in (late.url, share.front.url):
            with fault.asked_by(url):
                began = time.monotonic()
                refusal = Attempt(share.create).refusal()
                print(refusal, time.monotonic() - began)
                assert refusal.status == 503
                assert 'broker' in refusal.message
                assert time.monotonic() - began < 3 * REPLY_WAIT
    Attempt(share.create).end()
