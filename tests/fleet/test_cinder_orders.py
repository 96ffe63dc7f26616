# SPDX-License-Identifier: Apache-2.0
"""A real Cinder makes and deletes snapshots in all orders, on both hosts, at
the same time, while all guests write.
"""

from __future__ import annotations

import contextlib
import itertools
from concurrent import futures

from tests.fixtures.cinder_disk import Disk
from tests.fixtures.cinder_fleet import Fleet

pytest_plugins = ['tests.fixtures.cinder_fleet', 'tests.fixtures.rabbitmq']

_ORDERS = list(itertools.permutations(range(3)))


def _run(disk: Disk, order: tuple[int, ...]) -> None:
    made = []
    for _ in order:
        made.append(disk.create())
        disk.check()
    for number in order:
        disk.delete(made[number])
        disk.check()
    # What is left serves as a base for more.
    disk.create()
    disk.check()


def test_all_orders_on_both_hosts_at_the_same_time(
    cinder_fleet: Fleet,
) -> None:
    disks = [
        Disk(cinder_fleet, cinder_fleet.hypervisors[number % 2])
        for number, _ in enumerate(_ORDERS)
    ]
    with contextlib.ExitStack() as stack:
        for disk in disks:
            stack.enter_context(disk)
        with futures.ThreadPoolExecutor(len(disks)) as pool:
            list(pool.map(_run, disks, _ORDERS))
        for hypervisor in cinder_fleet.hypervisors:
            hypervisor.wait_idle()
