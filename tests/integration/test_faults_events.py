# SPDX-License-Identifier: Apache-2.0
"""What a merge costs libvirt while it runs, and how soon its end is told."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import libvirt
import pytest

from nova_ext.virt import connection as virt_connection
from nova_ext.virt.private import PrivateLibvirtd
from tests.fixtures.cinder import Request
from tests.fixtures.host import Host
from tests.fixtures.merge import (
    KINDS,
    SlowMerge,
    WatchedHost,
    slow_share,
    wait_until,
)

pytest_plugins = ['tests.fixtures.host']

_WATCHED_SECONDS = 10.0
# One look: the guest's process, its definition and its block job, whether it
# is occupied, and how far it is.
_CALLS_A_LOOK = 5


def test_a_running_merge_is_looked_at_once_in_a_while(
    libvirtd: PrivateLibvirtd,
) -> None:
    with slow_share(libvirtd, make=WatchedHost) as share:
        merge = SlowMerge(share, 'pull')
        assert isinstance(share.host, WatchedHost)
        # What was asked for the beginning of it is none of this.
        time.sleep(1)
        since = time.time()
        time.sleep(_WATCHED_SECONDS)
        calls = [name for at, name in share.host.calls() if at >= since]
        merge.assert_under_way()
        looks = calls.count('XMLDesc')
        print(f'{looks} looks in {_WATCHED_SECONDS} s: {calls}')
        assert 1 <= looks <= _WATCHED_SECONDS / 2 + 1
        assert len(calls) <= looks * _CALLS_A_LOOK
        merge.let_go()
        merge.assert_done()


@contextlib.contextmanager
def _completed(host: Host) -> Iterator[list[float]]:
    """When libvirt says that a block job is completed."""
    found: list[float] = []

    def happened(*event: Any) -> None:
        # NOTE: connection, domain, disk, type, status, opaque.
        if event[4] == libvirt.VIR_DOMAIN_BLOCK_JOB_COMPLETED:
            found.append(time.monotonic())

    # A connection has events only if libvirt's loop ran before it.
    virt_connection.start_events()
    connection = libvirt.open(host.uri)
    wanted = libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2
    handle = connection.domainEventRegisterAny(None, wanted, happened, None)
    try:
        yield found
    finally:
        connection.domainEventDeregisterAny(handle)
        connection.close()


@pytest.mark.parametrize('kind', KINDS)
def test_the_end_of_a_merge_is_told_at_once(
    libvirtd: PrivateLibvirtd, kind: str
) -> None:
    with slow_share(libvirtd, make=WatchedHost) as share:
        merge = SlowMerge(share, kind)
        assert isinstance(share.host, WatchedHost)
        told: list[float] = []

        def arrived(request: Request) -> bool:
            if (request.update or {}).get('progress') == '90%':
                told.append(time.monotonic())
            return False

        share.host.double.clear_faults()
        share.host.double.answer_with(500, times=None, when=arrived)
        with _completed(share.host) as ended:
            # After a look, so that the next one is two seconds away.
            looks = len(share.host.calls())
            wait_until(lambda: len(share.host.calls()) > looks, share.host)
            merge.let_go()
            merge.end()
        seconds = told[0] - ended[0]
        print(f'{kind}: told {seconds * 1000:.0f} ms after its end')
        assert seconds < 1
