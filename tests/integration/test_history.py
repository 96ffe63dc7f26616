# SPDX-License-Identifier: Apache-2.0
"""What an agent remembers, and of what it lets go."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from nova_ext import exception
from tests.fixtures.host import Host
from tests.fixtures.merge import wait_until
from tests.integration.test_delete import Share

pytest_plugins = ['tests.fixtures.host']


@contextlib.contextmanager
def _journal(host: Host) -> Iterator[sqlite3.Connection]:
    """The journal of an agent that is not running, to be written."""
    host.stop_agent()
    with (
        contextlib.closing(
            sqlite3.connect(host.state / 'journal.sqlite')
        ) as journal,
        journal,
    ):
        yield journal
    host.start_agent()


def _ids(host: Host) -> list[int]:
    jobs = host.api.ask('job_list', {'everything': True}, timeout=10.0)
    return [job['id'] for job in jobs]


def test_jobs_are_remembered_as_long_as_the_volume_is_here(host: Host) -> None:
    active = host.volume
    for _ in range(2):
        snapshot_id = host.snapshot()
        active = host.overlay(active)
        host.create(snapshot_id, active.name)
        host.double.set_snapshot(snapshot_id, 'available')
        host.wait_for_last_state('DONE')
    with _journal(host) as journal:
        # Both are old, and one is of a volume that has left.
        journal.execute('UPDATE jobs SET updated_at = 1')
        journal.execute("UPDATE jobs SET volume_id = 'away' WHERE id = 1")
    snapshot_id = host.snapshot()
    host.create(snapshot_id, host.overlay(active).name)
    host.double.set_snapshot(snapshot_id, 'available')
    wait_until(lambda: _ids(host) == [2, 3], host)


def test_nobody_remembers_what_nobody_can_ask_for(host: Host) -> None:
    share = Share(host)
    kept = share.snapshot()
    asked: dict[str, Any] = {}

    def compute_delete(snapshot_id: str, info: dict[str, Any]) -> None:
        asked.update(info)
        share.compute_delete(snapshot_id, info)

    deleted = share.snapshot()
    share.cinder.delete(deleted, compute_delete)
    host.wait_for_last_state('DONE')
    share._frozen.pop(deleted).unlink()
    with _journal(host) as journal:
        journal.execute('UPDATE jobs SET updated_at = 1')
    host.double.drop(
        when=lambda request: request.snapshot_id == kept, method='GET'
    )
    newest = share.snapshot()
    wait_until(lambda: 'No more jobs are forgotten' in host.log(), host)
    assert _ids(host) == [1, 2, 3, 4]
    host.stop_agent()
    host.start_agent()
    chain = host.chain()
    with pytest.raises(exception.SnapshotNotAwaited, match='400'):
        overlay = host.overlay(host.directory / chain[0])
        host.create(host.snapshot('error'), overlay.name)
    wait_until(lambda: _ids(host) == [1, 4, 5], host)
    # The same once more would pull a layer that is another snapshot's.
    with pytest.raises(exception.SnapshotNotAwaited, match='404'):
        share.compute_delete(deleted, asked)
    assert host.chain() == chain
    share.assert_the_same()
    share.delete(newest)
