# SPDX-License-Identifier: Apache-2.0
"""Cinder is down: when it is asked for a host, fenced, or told the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from tests.fixtures.cinder import Request
from tests.fixtures.rabbitmq import RabbitMQ
from tests.fleet.conftest import Count, last_look
from tests.fleet.rig import LONG, Attempt, Fleet, StillMerge

# Seconds; longer than the longest pause between two attempts.
_AWAY = 180 if LONG else 20

# In which an agent surely comes back.
_REPLY_WAIT = 20.0


@pytest.fixture(scope='module')
def fleet(bus: RabbitMQ, count: Count) -> Iterator[Fleet]:
    """One that can wait for an agent."""
    with Fleet(bus, reply_wait=_REPLY_WAIT) as fleet:
        yield fleet
        last_look(fleet, count)


@contextlib.contextmanager
def cinder_down(fleet: Fleet) -> Iterator[None]:
    """No API of Cinder's, as long as this context lasts."""
    fleet.double.stop_listening()
    try:
        yield
    finally:
        fleet.double.listen_again()


def _is_fence(request: Request) -> bool:
    return (request.update or {}).get('progress') == '0%'


def test_a_host_that_cannot_be_looked_up(fault: Fleet) -> None:
    share, _ = fault.shares
    jobs = share.host.states()
    with fault.new_workers('fresh') as fresh, fault.asked_by(fresh.url):
        with cinder_down(fault):
            refusal = Attempt(share.create).refusal()
        assert refusal.status == 503
        assert 'which host' in refusal.message
        assert share.host.states() == jobs
        share.create()


def test_a_fence_that_cannot_be_put_up(fault: Fleet) -> None:
    share, _ = fault.shares
    snapshot_id = share.create()
    fault.double.drop(times=2, when=_is_fence)
    for mine in (share.create, lambda: share.delete(snapshot_id)):
        refusal = Attempt(mine).refusal()
        assert refusal.status == 503
        assert 'nothing was started' in refusal.message
    share.reset(snapshot_id)
    share.delete(snapshot_id)


def test_reports_wait_for_a_cinder_that_is_away_for_long(
    fault: Fleet,
) -> None:
    share, other = fault.shares
    merge = StillMerge(share)
    other.host.die_at('before deliver')
    its = Attempt(other.create)
    other.host.wait_killed()
    with cinder_down(fault):
        merge.let_go()
        other.host.restart_agent()
        share.host.wait_for_last_state('REPORTING')
        time.sleep(_AWAY)
        assert merge.cinder.is_alive()
        assert share.host.states()[-1] == 'REPORTING'
        assert other.host.states()[-1] == 'REPORTING'
    merge.cinder.end()
    its.end()
