# SPDX-License-Identifier: Apache-2.0
"""Clocks that are wrong, or jump."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.fixtures.clock import Clock
from tests.fleet.rig import LONG, Attempt, Fleet, Refused, StillMerge

_MINUTE = 60.0


@contextlib.contextmanager
def wrong(clock: Clock, seconds: float) -> Iterator[None]:
    """It goes wrong, as long as this context lasts."""
    clock.jump(seconds)
    try:
        yield
    finally:
        clock.jump(0.0)


def _assert_told(refusal: Refused) -> None:
    assert refusal.status == 503
    assert 'clocks' in refusal.message
    assert 'NTP' in refusal.message


@pytest.mark.parametrize('who', ['api', 'agent'])
@pytest.mark.parametrize('seconds', [-_MINUTE, *([_MINUTE] if LONG else [])])
def test_where_clocks_differ_nothing_is_begun(
    fault: Fleet, who: str, seconds: float
) -> None:
    share, other = fault.shares
    snapshot_id = share.create()
    clock = fault.workers.clock if who == 'api' else share.host.clock
    share.host.wait_final()
    jobs = share.host.states()
    with wrong(clock, seconds):
        if who == 'agent':
            # Whose clock is right is served.
            other.create()
        _assert_told(Attempt(share.create).refusal())
        _assert_told(Attempt(share.delete, snapshot_id).refusal())
    assert share.host.states() == jobs
    share.reset(snapshot_id)
    share.delete(snapshot_id)


@pytest.mark.parametrize('seconds', [-_MINUTE, *([_MINUTE] if LONG else [])])
def test_a_clock_that_jumps_during_a_merge_loses_nothing(
    fault: Fleet, seconds: float
) -> None:
    share, _ = fault.shares
    merge = StillMerge(share)
    with wrong(share.host.clock, seconds), wrong(fault.workers.clock, seconds):
        merge.let_go()
        merge.cinder.end()
        share.create()


def test_a_clock_that_jumps_beyond_a_deadline_cancels(fault: Fleet) -> None:
    share, _ = fault.shares
    merge = StillMerge(share)
    with wrong(share.host.clock, 3 * 3600.0):
        assert 'error_deleting' in str(merge.cinder.failure())
        share.host.wait_final()
    assert share.host.states()[-1] == 'FAILED'
    share.reset(merge.snapshot_id)
    share.delete(merge.snapshot_id)


def test_a_clock_that_jumps_while_a_broken_call_is_repeated(
    fault: Fleet,
) -> None:
    share, _ = fault.shares
    share.host.stop_agent()
    try:
        mine = Attempt(share.create)
        with wrong(fault.workers.clock, -3600.0):
            # It does not ask for an hour.
            assert mine.refusal().status == 503
    finally:
        share.host.start_agent()
    share.create()
