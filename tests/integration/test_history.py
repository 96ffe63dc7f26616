# SPDX-License-Identifier: Apache-2.0
"""What an agent remembers, and of what it lets go."""

from __future__ import annotations

import contextlib
import sqlite3

from tests.fixtures.host import Host

pytest_plugins = ['tests.fixtures.host']


def test_jobs_are_remembered_as_long_as_the_volume_is_here(host: Host) -> None:
    active = host.volume
    for _ in range(2):
        snapshot_id = host.snapshot()
        active = host.overlay(active)
        host.create(snapshot_id, active.name)
        host.double.set_snapshot(snapshot_id, 'available')
        host.wait_for_last_state('DONE')
    host.stop_agent()
    with (
        contextlib.closing(
            sqlite3.connect(host.state / 'journal.sqlite')
        ) as journal,
        journal,
    ):
        # Both are old, and one is of a volume that has left.
        journal.execute('UPDATE jobs SET updated_at = 1')
        journal.execute("UPDATE jobs SET volume_id = 'away' WHERE id = 1")
    host.start_agent()
    snapshot_id = host.snapshot()
    host.create(snapshot_id, host.overlay(active).name)
    host.double.set_snapshot(snapshot_id, 'available')
    host.wait_for_last_state('DONE')
    jobs = host.api.ask('job_list', {'everything': True}, timeout=10.0)
    assert [job['id'] for job in jobs] == [2, 3]
    assert {job['volume_id'] for job in jobs} == {host.volume_id}
