# SPDX-License-Identifier: Apache-2.0
"""Our API, or an agent, is down when a real Cinder asks."""

from __future__ import annotations

import signal

import pytest

from tests.fixtures.cinder_disk import Disk
from tests.fixtures.cinder_fleet import Fleet, Service

pytest_plugins = ['tests.fixtures.cinder_fleet', 'tests.fixtures.rabbitmq']


def _service(fleet: Fleet, name: str) -> Service:
    return fleet.api if name == 'api' else fleet.hypervisors[1].agent


@pytest.mark.parametrize(
    ('name', 'number'),
    [
        ('api', signal.SIGTERM),
        ('agent', signal.SIGTERM),
        ('agent', signal.SIGKILL),
    ],
)
def test_what_is_down_changes_nothing_and_is_asked_again(
    cinder_fleet: Fleet, name: str, number: signal.Signals
) -> None:
    service = _service(cinder_fleet, name)
    with Disk(cinder_fleet, cinder_fleet.hypervisors[1]) as disk:
        first = disk.create()
        disk.create()
        service.stop(number)
        try:
            failed = disk.begin()
            disk.failed(failed)
            disk.client.delete_snapshot(first)
            disk.client.wait_for('snapshot', first, 'error_deleting')
            disk.check_chain()
            disk.check_contents()
        finally:
            service.start()
        # Nothing of it is done late.
        disk.hypervisor.wait_idle()
        disk.check_chain()
        disk.delete_failed(failed)
        disk.create()
        disk.delete_again(first)
        disk.check()
