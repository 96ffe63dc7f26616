# SPDX-License-Identifier: Apache-2.0
"""The agent of a host is killed, stopped, or was never there."""

from __future__ import annotations

import time

import pytest

from tests.fixtures.cinder import Attachment
from tests.fleet.rig import REPLY_WAIT, Attempt, Fleet


@pytest.mark.parametrize(
    'point',
    [
        'before request',
        'before journal PENDING',
        'after snapshot',
        'after deliver',
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


@pytest.mark.parametrize('point', ['before request', 'after pull'])
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


def test_what_waits_for_an_agent_that_is_stopped_starts_in_time(
    fault: Fleet,
) -> None:
    share, _ = fault.shares
    share.host.terminate_agent()
    mine = Attempt(share.create)
    # The first message of it lies in the queue.
    time.sleep(1)
    share.host.start_agent()
    mine.end()


def test_what_waits_for_an_agent_that_is_down_starts_never(
    fault: Fleet,
) -> None:
    share, other = fault.shares
    snapshot_id = share.create()
    share.host.stop_agent()
    try:
        mine = Attempt(share.create)
        other.create()
        refusal = mine.refusal()
        assert refusal.status == 503
        assert share.host.name in refusal.message
        assert 'nova-ext-agent' in refusal.message
        mine = Attempt(share.delete, snapshot_id)
        assert mine.refusal().status == 503
        jobs = share.host.states()
    finally:
        # All that was asked is in the queue, or has expired there.
        share.host.start_agent()
    share.delete(share.create())
    # The one that was refused last is what Cinder thinks that it is.
    assert share.host.states()[len(jobs) :] == ['DONE', 'DONE']
    assert fault.double.snapshots[snapshot_id].status == 'error_deleting'
    share.reset(snapshot_id)
    share.delete(snapshot_id)


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
    assert time.monotonic() - began < REPLY_WAIT
    share.create()
