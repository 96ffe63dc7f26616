# SPDX-License-Identifier: Apache-2.0
"""The broker goes, and comes back with what its queues held."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from tests.crash.rig import wait_for
from tests.fixtures.cinder import Request
from tests.fixtures.rabbitmq import RabbitMQ
from tests.fleet.conftest import Count, last_look
from tests.fleet.rig import Attempt, Fleet, StillMerge

# In which a broker surely comes back.
_REPLY_WAIT = 40.0


@pytest.fixture(scope='module')
def fleet(bus: RabbitMQ, count: Count) -> Iterator[Fleet]:
    """One that can wait for the broker."""
    with Fleet(bus, reply_wait=_REPLY_WAIT) as fleet:
        yield fleet
        last_look(fleet, count)


@contextlib.contextmanager
def broker_down(fleet: Fleet) -> Iterator[None]:
    """No broker, as long as this context lasts."""
    fleet.bus.stop()
    try:
        yield
    finally:
        fleet.bus.start()


def _is_fence(request: Request) -> bool:
    return (request.update or {}).get('progress') == '0%'


def test_workers_that_start_without_a_broker_say_so(fault: Fleet) -> None:
    share, _ = fault.shares
    with fault.new_workers('late') as late, fault.asked_by(late.url):
        with broker_down(fault):
            began = time.monotonic()
            refusal = Attempt(share.create).refusal()
            # It was sent to nobody, so nothing is waited for.
            assert time.monotonic() - began < _REPLY_WAIT / 2
            assert refusal.status == 503
            assert 'transport_url' in refusal.message
        share.create()


def test_a_request_waits_for_a_broker_that_comes_back(fault: Fleet) -> None:
    share, other = fault.shares
    # One, so that it is the one that has reached the broker before.
    with (
        fault.new_workers('one', number=1) as one,
        fault.asked_by(one.url),
    ):
        its_id = other.create()
        with broker_down(fault):
            mine = Attempt(share.create)
            its = Attempt(other.delete, its_id)
            for asked in (share, other):
                wait_for(
                    lambda asked=asked: not asked.last_call.status,
                    'not asked',
                )
            # Both are at it, and neither is refused.
            mine.join(2)
            assert mine.is_alive() and its.is_alive()
        mine.end()
        its.end()


def test_a_broker_that_restarts_while_a_call_is_under_way(
    fault: Fleet,
) -> None:
    share, other = fault.shares
    its_id = other.create()
    fences = len([r for r in fault.double.requests if _is_fence(r)])
    fault.double.delay(2.0, times=2, when=_is_fence)
    mine, its = Attempt(share.create), Attempt(other.delete, its_id)
    wait_for(
        lambda: (
            len([r for r in fault.double.requests if _is_fence(r)])
            == fences + 2
        ),
        'they do not reach Cinder',
    )
    with broker_down(fault):
        # What both want is done, and cannot be told.
        share.host.wait_for_last_state('CONFIRMING')
    mine.end()
    its.end()


def test_a_broker_that_restarts_in_a_merge_is_not_missed(
    fault: Fleet,
) -> None:
    share, other = fault.shares
    merge = StillMerge(share)
    with broker_down(fault):
        pass
    other.create()
    merge.let_go()
    merge.cinder.end()


def test_a_broker_that_is_away_at_the_report_is_not_missed(
    fault: Fleet,
) -> None:
    merge = StillMerge(fault.shares[0])
    with broker_down(fault):
        merge.let_go()
        merge.cinder.end()
