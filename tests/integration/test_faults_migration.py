# SPDX-License-Identifier: Apache-2.0
"""A guest is migrated or saved before, and in the middle of, the work.

One of the two at a time: while libvirt has a job of its own nothing is
begun, and while a merge runs libvirt begins none.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import libvirt
import pytest

from nova_ext import exception
from nova_ext.virt.private import PrivateLibvirtd
from tests.fixtures.agent_user import HostLibvirtd
from tests.fixtures.host import Host, short_directory
from tests.fixtures.merge import ASKED, SlowMerge, slow_share, wait_until

pytest_plugins = ['tests.fixtures.host']

# The two have one file system, and libvirt cannot know it.
_FLAGS = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    | libvirt.VIR_MIGRATE_UNSAFE
)


@pytest.fixture(scope='module')
def other_host() -> Iterator[PrivateLibvirtd]:
    """A libvirtd that takes itself for another machine's."""
    with short_directory() as directory:
        conf = directory / 'libvirt/libvirtd.conf'
        conf.parent.mkdir(mode=0o700)
        conf.write_text(f'host_uuid = "{uuid.uuid4()}"\n')
        with HostLibvirtd(directory) as running:
            yield running


def _migrate(host: Host, to: PrivateLibvirtd) -> None:
    target = libvirt.open(to.uri)
    socket = to.directory / f'{uuid.uuid4()}.sock'
    host.guest.domain.migrate(target, _FLAGS, None, f'unix://{socket}', 0)


def _is_busy(host: Host) -> bool:
    return host.guest.domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE


def test_nothing_is_begun_while_a_guest_migrates(
    libvirtd: PrivateLibvirtd, other_host: PrivateLibvirtd
) -> None:
    with slow_share(libvirtd) as share:
        host = share.host
        known, jobs = share.snapshot(), len(host.states())
        chain = host.chain()
        snapshot_id = host.snapshot()
        overlay = host.overlay(host.directory / chain[0])
        host.guest.domain.migrateSetMaxSpeed(1)
        errors: list[Exception] = []

        def migrate() -> None:
            try:
                _migrate(host, other_host)
            except libvirt.libvirtError as error:
                errors.append(error)

        thread = threading.Thread(target=migrate)
        thread.start()
        wait_until(lambda: errors or _is_busy(host), host)
        assert not errors
        with pytest.raises(exception.BlockJobExists, match='migrated'):
            host.create(snapshot_id, overlay.name)
        with pytest.raises(exception.BlockJobExists, match='migrated'):
            share.cinder.delete(known, share.compute_delete)
        assert _is_busy(host)
        thread.join(60)
        assert not errors
        # The guest is another agent's now.
        with pytest.raises(exception.VolumeNotAttached, match='No instance'):
            host.create(snapshot_id, overlay.name)
        assert len(host.states()) == jobs
        assert host.double.history(snapshot_id) == []
        assert ASKED not in host.double.history(known)


def test_none_is_begun_while_a_merge_runs(
    libvirtd: PrivateLibvirtd, other_host: PrivateLibvirtd
) -> None:
    with slow_share(libvirtd) as share:
        merge, domain = SlowMerge(share, 'commit'), share.host.guest.domain
        image = share.host.directory / 'memory'
        for begin in (
            lambda: _migrate(share.host, other_host),
            lambda: domain.save(str(image)),
            lambda: domain.managedSave(),
        ):
            with pytest.raises(libvirt.libvirtError, match='block job'):
                begin()
        merge.assert_under_way()
        assert domain.isActive()
        merge.let_go()
        merge.assert_done()
