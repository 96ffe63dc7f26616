# SPDX-License-Identifier: Apache-2.0
"""cinder-volume is ended while it waits for a hypervisor, and comes back."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.fixtures.cinder_client import wait
from tests.fixtures.cinder_disk import Disk
from tests.fixtures.cinder_fleet import Fleet

pytest_plugins = ['tests.fixtures.cinder_fleet', 'tests.fixtures.rabbitmq']

SWITCHED, MERGED = ('creating', '90%'), ('deleting', '90%')


@pytest.fixture
def disk(cinder_fleet: Fleet) -> Iterator[Disk]:
    """One that has a snapshot, on a hypervisor whose merges are slow."""
    with Disk(cinder_fleet, cinder_fleet.slow) as disk:
        disk.create()
        disk.check()
        yield disk
        disk.check()
        disk.hypervisor.wait_idle()


def _kill(fleet: Fleet) -> None:
    fleet.cinder.signal('volume', signal.SIGKILL)
    fleet.cinder.stop('volume')


def test_killed_before_a_switch_which_is_not_made_then(
    cinder_fleet: Fleet, disk: Disk
) -> None:
    with cinder_fleet.api.hung():
        snapshot = disk.begin()
        cinder_fleet.wait_asked()
        _kill(cinder_fleet)
        cinder_fleet.cinder.start('volume')
        disk.failed(snapshot)
    # The request is heard only now, and Cinder does not await it any more.
    disk.hypervisor.wait_for_state(snapshot, 'FAILED')
    disk.check()
    disk.delete_failed(snapshot)
    disk.create()


def test_killed_before_a_switch_that_is_made_and_rolled_back(
    cinder_fleet: Fleet, disk: Disk
) -> None:
    with cinder_fleet.api.hung():
        snapshot = disk.begin()
        cinder_fleet.wait_asked()
        _kill(cinder_fleet)
    wait('it', lambda: SWITCHED in cinder_fleet.cinder.history(snapshot))
    cinder_fleet.cinder.start('volume')
    disk.failed(snapshot)
    orphan = disk.hypervisor.wait_for_state(snapshot, 'ORPHANED')
    assert f'{orphan} ORPHANED' in disk.hypervisor.manage('job', 'list')
    # Nothing is built on what Cinder does not count.
    another = disk.begin()
    disk.failed(another)
    disk.hypervisor.manage('job', 'rollback', str(orphan), '--yes')
    disk.check()
    disk.delete_failed(snapshot)
    disk.delete_failed(another)
    disk.create()


def test_terminated_while_a_switch_is_made(
    cinder_fleet: Fleet, disk: Disk
) -> None:
    before = disk.guest.reported()
    with cinder_fleet.api.hung():
        snapshot = disk.begin()
        cinder_fleet.wait_asked()
        cinder_fleet.cinder.signal('volume', signal.SIGTERM)
    # It ends what it has begun.
    cinder_fleet.cinder.stop('volume')
    cinder_fleet.cinder.start('volume')
    disk.client.wait_for('snapshot', snapshot, 'available')
    disk.created(snapshot, before, disk.guest.reported())


def test_killed_during_a_commit_which_is_deleted_again(
    cinder_fleet: Fleet, disk: Disk
) -> None:
    older = disk.snapshots[0]
    disk.fill(8)
    disk.create()
    disk.client.delete_snapshot(older)
    disk.hypervisor.wait_for_state(older, 'RUNNING')
    _kill(cinder_fleet)
    disk.let_go()
    wait('it', lambda: MERGED in cinder_fleet.cinder.history(older))
    cinder_fleet.cinder.start('volume')
    # What waited for the report is gone, and its row stays as it is.
    disk.hypervisor.wait_for_state(older, 'CONFIRMING')
    assert disk.client.status('snapshot', older) == 'deleting'
    disk.delete_again(older)


def test_killed_during_a_pull_which_is_not_done_twice(
    cinder_fleet: Fleet, disk: Disk
) -> None:
    disk.fill(8)
    newer = disk.create()
    disk.client.delete_snapshot(newer)
    disk.hypervisor.wait_for_state(newer, 'RUNNING')
    _kill(cinder_fleet)
    disk.let_go()
    wait('it', lambda: MERGED in cinder_fleet.cinder.history(newer))
    cinder_fleet.cinder.start('volume')
    # Cinder does not know that it was merged: it asks for another merge,
    # which would lose the older snapshot.
    disk.client.reset_snapshot(newer, 'available')
    disk.client.delete_snapshot(newer)
    disk.client.wait_for('snapshot', newer, 'error_deleting')
    doomed = disk.files[-2]
    disk.deleted(newer)
    disk.left.add(doomed)
    disk.check_chain()
    disk.check_contents()
    # As the refusal says.
    disk.note({disk.snapshots[0]: disk.files[-1], 'active': disk.files[-1]})
    disk.client.reset_snapshot(newer, 'available')
    disk.delete_failed(newer)
    disk.check()
    disk.create()


def test_terminated_during_a_merge(cinder_fleet: Fleet, disk: Disk) -> None:
    older = disk.snapshots[0]
    disk.fill(8)
    disk.create()
    disk.client.delete_snapshot(older)
    disk.hypervisor.wait_for_state(older, 'RUNNING')
    cinder_fleet.cinder.signal('volume', signal.SIGTERM)
    disk.let_go()
    cinder_fleet.cinder.stop('volume')
    cinder_fleet.cinder.start('volume')
    disk.client.wait_for('snapshot', older, None)
    disk.deleted(older)
