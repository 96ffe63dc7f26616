# SPDX-License-Identifier: Apache-2.0
"""The agent of a host is killed, stopped, or was never there."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.crash.rig import wait_for
from tests.fixtures.cinder import Attachment
from tests.fixtures.rabbitmq import RabbitMQ
from tests.fleet.conftest import Count, last_look
from tests.fleet.rig import LONG, Attempt, Fleet

# In which an agent surely comes back.
_REPLY_WAIT = 15.0


@pytest.fixture(scope='module')
def fleet(bus: RabbitMQ, count: Count) -> Iterator[Fleet]:
    """One that can wait for an agent."""
    with Fleet(bus, reply_wait=_REPLY_WAIT) as fleet:
        yield fleet
        last_look(fleet, count)


@pytest.mark.parametrize(
    'point',
    [
        'before journal PENDING',
        'after snapshot',
        *(['before request', 'after deliver'] if LONG else []),
    ],
)
def test_an_agent_killed_in_a_creation_comes_back(
    fault: Fleet, point: str
) -> None:
    share, other = fault.shares
    share.host.die_at(point)
    mine, its = Attempt(share.create), Attempt(other.create)
    share.host.wait_killed()
    share.host.restart_agent()
    mine.end()
    its.end()


def test_an_agent_killed_as_it_accepts_has_not_begun(fault: Fleet) -> None:
    share, other = fault.shares
    share.host.die_at('after journal PENDING')
    mine, its = Attempt(share.create), Attempt(other.create)
    share.host.wait_killed()
    share.host.restart_agent()
    # Cinder hears of it, be it by the answer or by a report.
    mine.failure()
    its.end()
    assert share.host.states()[-1] == 'FAILED'
    share.create()


@pytest.mark.parametrize(
    'point', ['after pull', *(['before request'] if LONG else [])]
)
def test_an_agent_killed_in_a_deletion_comes_back(
    fault: Fleet, point: str
) -> None:
    share, other = fault.shares
    snapshot_id, its_id = share.create(), other.create()
    share.host.die_at(point, bandwidth=1 << 18)
    mine = Attempt(share.delete, snapshot_id)
    its = Attempt(other.delete, its_id)
    share.host.wait_killed()
    share.host.restart_agent()
    mine.end()
    its.end()


def _lies_in_queue(bus: RabbitMQ, host: str) -> bool:
    """Whether there is a message for a host that nobody has taken."""
    listed = bus.control('-q', 'list_queues', 'messages_ready', 'name')
    return any(
        line[0].isdecimal() and int(line[0]) and line[1].endswith(f'.{host}')
        for line in map(str.split, listed.splitlines())
    )


def test_what_waits_for_an_agent_that_is_stopped_starts_in_time(
    fault: Fleet,
) -> None:
    share, _ = fault.shares
    share.host.terminate_agent()
    mine = Attempt(share.create)
    wait_for(lambda: _lies_in_queue(fault.bus, share.host.name), 'not sent')
    share.host.start_agent()
    mine.end()


def test_what_waits_for_agents_that_are_down_starts_never(
    fault: Fleet,
) -> None:
    share, other = fault.shares
    its_id = other.create()
    for one in fault.shares:
        one.host.wait_final()
        one.host.stop_agent()
    jobs = [one.host.states() for one in fault.shares]
    try:
        asked = Attempt(share.create), Attempt(other.delete, its_id)
        for one, attempt in zip(fault.shares, asked, strict=True):
            refusal = attempt.refusal()
            assert refusal.status == 503
            assert one.host.name in refusal.message
            assert 'nova-ext-agent' in refusal.message
    finally:
        # All that was asked is in the queue, or has expired there.
        for one in fault.shares:
            one.host.start_agent()
    share.create()
    other.reset(its_id)
    other.delete(its_id)
    for one, before in zip(fault.shares, jobs, strict=True):
        one.host.wait_final()
        assert one.host.states()[len(before) :] == ['DONE']


def test_an_agent_that_was_never_there_is_said_to_be(fault: Fleet) -> None:
    share, _ = fault.shares
    volume = fault.double.volumes[share.volume_id]
    (attachment,) = volume.attachments
    volume.attachments[:] = [Attachment(attachment.server_id, 'host-z')]
    began = time.monotonic()
    try:
        # By workers that have not asked Cinder before.
        with fault.new_workers('fresh') as fresh, fault.asked_by(fresh.url):
            began = time.monotonic()
            refusal = Attempt(share.create).refusal()
    finally:
        volume.attachments[:] = [attachment]
    assert refusal.status == 503
    assert 'host-z' in refusal.message
    assert 'never listened' in refusal.message
    # Nobody can have it, so nothing is waited for.
    assert time.monotonic() - began < _REPLY_WAIT
    share.create()
