# SPDX-License-Identifier: Apache-2.0
"""W1, W2, W8, W10, W11, W23 to W26 and W32: merges, and how they end."""

from __future__ import annotations

import re
import threading
import time
import uuid
from typing import Any

import libvirt
import pytest

from tests.fixtures.cinder_volume import ServiceDown
from tests.fixtures.merge import (
    DONE,
    FAILED,
    KINDS,
    SlowMerge,
    WatchedHost,
    wait_for_state,
    wait_until,
)
from tests.integration.test_delete import Share
from tests.integration.test_delete_stopped import SlowStored
from tests.weaknesses.sites import Refused, Site, filled

pytest_plugins = ['tests.fixtures.host', 'tests.fixtures.rabbitmq']

_WATCHED_SECONDS = 6.0
# Nova's, of each kind.
_NOVA_S_CALLS = 2 * _WATCHED_SECONDS


def _answered(share: Share) -> threading.Event:
    """Set once a DELETE was answered, and Cinder waits for the report."""
    answered, compute_delete = threading.Event(), share.compute_delete

    def delete(snapshot_id: str, info: dict[str, Any]) -> None:
        compute_delete(snapshot_id, info)
        answered.set()

    share.compute_delete = delete  # type: ignore[method-assign]
    return answered


def _abort(merge: SlowMerge) -> None:
    """As where QEMU fails, or somebody cancels it past us."""
    domain, target = merge.host.guest.domain, merge.host.guest.target
    domain.blockJobAbort(target)


@pytest.mark.parametrize('kind', KINDS)
def test_w01_a_block_job_that_vanished_is_not_done(
    share: Share, kind: str
) -> None:
    """Nova takes a vanished block job for a success, and Cinder deletes what
    the guest depends on; here the chain says what became of it.
    """
    merge = SlowMerge(share, kind)
    _abort(merge)
    merge.assert_failed()
    merge.assert_retry_succeeds()


@pytest.mark.parametrize('kind', KINDS)
def test_w02_progress_of_before_is_not_taken_for_success(
    share: Share, kind: str
) -> None:
    """Nova reports errors as 90%, too, which Cinder finds at the next try
    and deletes the file while the merge runs; here errors carry none, and
    0% is at Cinder before the 204.
    """
    merge = SlowMerge(share, kind)
    _abort(merge)
    merge.assert_failed()
    assert share.host.double.history(merge.doomed)[-1] == FAILED
    # As others may have left it, or a creation.
    share.host.double.set_snapshot(merge.doomed, 'error', '90%')
    files = share.files()
    merge.begin()
    time.sleep(0.5)
    merge.assert_under_way()
    assert share.files() == files
    merge.let_go()
    merge.end()
    assert merge.error is None
    share.assert_the_same()
    share.assert_nothing_lost()


def test_w08_a_merge_outlives_who_began_it(share: Share) -> None:
    """Nova forgets its merges when it is restarted, and Cinder waits two
    hours; here the next process takes them up and reports.
    """
    answered = _answered(share)
    merge = SlowMerge(share, 'commit')
    assert answered.wait(5)
    share.host.kill_agent()
    merge.let_go()
    domain, target = share.host.guest.domain, share.host.guest.target
    wait_until(lambda: not domain.blockJobInfo(target), share.host)
    merge.assert_under_way()
    share.host.start_agent()
    merge.assert_done()


def test_w10_what_is_done_is_answered_as_it_was(share: Share) -> None:
    """Nova fails a repeated POST, and with it a snapshot that was good, and
    a repeated DELETE; here both get the answer that they had, and nothing is
    done twice.
    """
    host, snapshot_id = share.host, str(uuid.uuid4())

    def create_twice(volume_id: str, info: dict[str, Any]) -> None:
        share.compute_create(volume_id, info)
        share.compute_create(volume_id, info)

    share.cinder.create(share.volume_id, snapshot_id, create_twice)
    assert host.double.history(snapshot_id).count(('creating', '90%')) == 1
    newer = share.snapshot()

    def delete_unheard(snapshot_id: str, info: dict[str, Any]) -> None:
        share.compute_delete(snapshot_id, info)
        share.cinder.crash()

    with pytest.raises(ServiceDown):
        share.cinder.delete(snapshot_id, delete_unheard)
    history = host.double.history
    wait_until(lambda: history(snapshot_id)[-1] == DONE, host)
    share.cinder.recover()
    # Its administrator, who resets what hangs.
    host.double.set_snapshot(snapshot_id, 'available')
    wait_for_state(host, 'UNCLAIMED')
    chain = host.chain()
    share.cinder.delete(snapshot_id, share.compute_delete)
    assert host.chain() == chain
    share.assert_the_same()
    share.delete(newer)
    share.assert_nothing_lost()


def test_w11_a_merge_can_be_watched(share: Share) -> None:
    """Nova shows no progress of a merge of hours; here Cinder's users see it
    grow from 1% to 89%, and 90% only at its end.
    """
    merge = SlowMerge(share, 'commit')
    domain, target = share.host.guest.domain, share.host.guest.target
    # 128 MiB are to be moved.
    domain.blockJobSetSpeed(target, 16)
    merge.assert_done()
    shown = [
        int(progress.removesuffix('%'))
        for status, progress in share.host.double.history(merge.doomed)
        if status == 'deleting'
    ]
    assert (shown[0], shown[-1]) == (0, 90)
    between = shown[1:-1]
    assert len(between) >= 2
    assert between == sorted(set(between))
    assert 1 <= between[0] < between[-1] <= 89


def test_w23_one_thing_at_a_time_is_done_to_a_volume(share: Share) -> None:
    """Nova takes no lock, so that a second operation, a detachment or a
    suspension can begin under a merge; here the one is refused by us and the
    others by libvirt, and the log has a line for each step.
    """
    merge, host = SlowMerge(share, 'commit'), share.host
    overlay = host.overlay(host.directory / merge.chain[0])
    with pytest.raises(Refused, match='is busy') as refusal:
        host.create(host.snapshot(), overlay.name)
    assert refusal.value.status == 400
    info = {
        'type': 'qcow2',
        'volume_id': share.volume_id,
        'file_to_merge': merge.chain[2],
        'merge_target_file': None,
    }
    with pytest.raises(Refused, match='is busy'):
        share.compute_delete(merge.kept, info)
    domain, target = host.guest.domain, host.guest.target
    with pytest.raises(libvirt.libvirtError, match='block job'):
        domain.managedSave()
    disk = _disk_xml(domain, target)
    with pytest.raises(libvirt.libvirtError, match='block job|in use'):
        domain.detachDeviceFlags(disk, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    merge.assert_under_way()
    merge.let_go()
    merge.assert_done()
    steps = re.findall(f'(Accepted|Now) delete .*{merge.doomed}', host.log())
    assert len(steps) >= 4


def _disk_xml(domain: libvirt.virDomain, target: str) -> str:
    disks = re.findall(r'<disk .*?</disk>', domain.XMLDesc(), re.DOTALL)
    (found,) = (disk for disk in disks if f"dev='{target}'" in disk)
    return found


def test_w24_a_running_merge_costs_little(share: Share) -> None:
    """Nova holds a thread for each merge and asks libvirt twice a second,
    with two definitions read at its end; here DELETE is answered at once, a
    look every two seconds is enough, and others are served meanwhile.
    """
    host = share.host
    assert isinstance(host, WatchedHost)
    answered = _answered(share)
    merge = SlowMerge(share, 'pull')
    assert answered.wait(5)
    time.sleep(1)
    since = time.time()
    time.sleep(_WATCHED_SECONDS)
    calls = [name for at, name in host.calls() if at >= since]
    assert 1 <= calls.count('blockJobInfo') <= _NOVA_S_CALLS / 2
    assert calls.count('XMLDesc') <= _NOVA_S_CALLS / 2
    assert '1 jobs under way' in host.api.check()
    merge.assert_under_way()
    merge.let_go()
    merge.assert_done()


class _Bounded(SlowMerge):
    """A merge whose speed is looked at before it is slowed down."""

    speed: int | None = None

    def _slow_down(self) -> bool:
        domain, target = self.host.guest.domain, self.host.guest.target
        flags = libvirt.VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES
        info = domain.blockJobInfo(target, flags)
        if not info:
            return False
        if self.speed is None:
            self.speed = info['bandwidth']
        return super()._slow_down()


@pytest.mark.parametrize('kind', KINDS)
def test_w25_the_speed_of_merges_can_be_bounded(site: Site, kind: str) -> None:
    """Nova's merges take all that the share can give; here an option bounds
    each, and what it is set to is what QEMU keeps.
    """
    with site.share(bandwidth=3) as share:
        merge = _Bounded(share, kind)
        assert merge.speed == 3 << 20
        merge.let_go()
        merge.assert_done()


def test_w26_a_guest_does_not_start_under_its_merge(site: Site) -> None:
    """Nova has qemu-img rewrite files of a guest that is off and may be
    started meanwhile; here a stand-in holds QEMU's locks, the start is
    refused while it works, and succeeds after.
    """
    with site.share(prepare=filled) as share:
        guest = share.host.guest
        share.snapshot()
        guest.domain.destroy()
        merge = SlowStored(share)
        with pytest.raises(libvirt.libvirtError, match='lock'):
            guest.domain.create()
        merge.let_go()
        merge.end()
        guest.start()
        share.assert_nothing_lost()


@pytest.mark.parametrize('newest_first', [True, False])
def test_w32_a_guest_starts_after_merges_while_it_was_off(
    share: Share, newest_first: bool
) -> None:
    """Nova's way leaves names of removed files in the stored definition, so
    that libvirt does not start the guest until Nova writes it anew; here it
    starts as it is.
    """
    snapshots = [share.snapshot(), share.snapshot()]
    share.host.guest.domain.destroy()
    for snapshot_id in snapshots[:: -1 if newest_first else 1]:
        share.delete(snapshot_id)
    assert len(share.files()) == 1
    share.host.guest.start()
    assert set(share.host.chain()) == share.files()
    share.assert_nothing_lost()
