# SPDX-License-Identifier: Apache-2.0
"""A real Cinder backs up a volume that a guest has open.

It asks for a temporary snapshot to be deleted whose row says already that this
is done.
"""

from __future__ import annotations

import time

from tests.fixtures.cinder_disk import Disk
from tests.fixtures.cinder_fleet import Fleet

pytest_plugins = ['tests.fixtures.cinder_fleet', 'tests.fixtures.rabbitmq']

WIPED, MERGED = ('deleting', '0%'), ('deleting', '90%')


def test_nothing_is_removed_before_it_is_merged(cinder_fleet: Fleet) -> None:
    with Disk(cinder_fleet, cinder_fleet.slow) as disk:
        kept = disk.create()
        disk.fill(4)
        backup = disk.client.create_backup(disk.id)
        while disk.client.status('backup', backup) == 'creating':
            disk.check_removed()
            time.sleep(0.1)
        assert disk.client.status('backup', backup) == 'available'
        disk.check_removed()
        (temporary,) = cinder_fleet.cinder.snapshots_of(disk.id) - {kept}
        history = cinder_fleet.cinder.history(temporary)
        assert history.index(MERGED) < history.index(WIPED)
        assert history[-2:] == [MERGED, ('deleted', '90%')]
        # The temporary file is the active one, and what was below is gone.
        disk.files[-1] = f'{disk.path.name}.{temporary}'
        disk.check()
        disk.create()
        disk.check()
