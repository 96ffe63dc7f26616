# SPDX-License-Identifier: Apache-2.0
"""POSTs to the agent of a real guest: chains, contents and reports."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from nova_ext import exception
from nova_ext.virt.private import PrivateLibvirtd
from nova_ext.virt.sample import read_records
from tests.fixtures import image, pages
from tests.fixtures.host import Host, short_directory

pytest_plugins = ['tests.fixtures.host']

DONE = [('creating', '0%'), ('creating', '90%')]
_SAMPLE = (
    *('api-ref', 'source', 'samples', 'os-assisted-volume-snapshots'),
    'fault-500.json',
)


def _headers(path: pathlib.Path) -> list[str]:
    answer = subprocess.run(
        ['qemu-img', 'info', '-U', '--backing-chain', '--output=json', path],
        check=True,
        capture_output=True,
    )
    return [
        pathlib.Path(layer['filename']).name
        for layer in json.loads(answer.stdout)
    ]


def _assert_nothing_lost(host: Host, active: pathlib.Path) -> None:
    host.guest.wait_reported(host.guest.reported() + 5)
    host.guest.suspend()
    records = read_records(active, 'qcow2')
    assert (records.bad, records.count) == (0, records.last)
    assert records.count >= host.guest.reported()
    image.check(active)
    host.guest.resume()


@pytest.fixture(params=['raw', 'qcow2'])
def host_of_format(
    request: pytest.FixtureRequest, libvirtd: PrivateLibvirtd
) -> Iterator[Host]:
    with short_directory() as directory:
        guest = {'disk_format': request.param}
        with Host(directory, libvirtd, guest).running() as running:
            running.guest.wait_reported(1)
            yield running


def test_three_in_a_row_stand_on_each_other(host_of_format: Host) -> None:
    host, names, active = host_of_format, [], None
    before = host.guest.reported()
    for _ in range(3):
        snapshot_id = host.snapshot()
        active = host.overlay(active)
        host.create(snapshot_id, active.name)
        names.insert(0, active.name)
        # The answer came after the report.
        assert host.double.history(snapshot_id) == DONE
        assert host.chain() == [*names, host.volume.name]
        host.guest.wait_reported(host.guest.reported() + 5)
    assert active is not None
    assert _headers(active) == host.chain()
    frozen = read_records(host.volume, host.format)
    assert frozen.count >= before and frozen.bad == 0
    _assert_nothing_lost(host, active)


def test_a_file_may_have_another_name_in_the_header(host: Host) -> None:
    # As where Cinder has the share mounted elsewhere.
    overlay = host.overlay()
    (host.directory / 'mount').symlink_to('.')
    name = host.directory / 'mount' / host.volume.name
    subprocess.run(
        ['qemu-img', 'rebase', '-u', '-b', name, '-F', 'raw', overlay],
        check=True,
    )
    snapshot_id = host.snapshot()
    host.create(snapshot_id, overlay.name)
    assert host.double.history(snapshot_id) == DONE
    assert host.chain() == [overlay.name, host.volume.name]


def test_a_paused_guest_is_switched(host: Host) -> None:
    host.guest.suspend()
    overlay = host.overlay()
    host.create(host.snapshot(), overlay.name)
    assert host.chain() == [overlay.name, host.volume.name]
    host.guest.resume()
    _assert_nothing_lost(host, overlay)


def test_a_stopped_guest_starts_on_the_overlay(host: Host) -> None:
    snapshot_id, overlay = host.snapshot(), host.overlay()
    host.guest.domain.destroy()
    reported = host.guest.reported()
    host.create(snapshot_id, overlay.name)
    assert host.double.history(snapshot_id) == DONE
    host.guest.start()
    assert host.chain() == [overlay.name, host.volume.name]
    host.guest.wait_reported(reported + 5)
    _assert_nothing_lost(host, overlay)


def test_a_repeat_gets_the_same_answer_and_switches_nothing(
    host: Host,
) -> None:
    snapshot_id, overlay = host.snapshot(), host.overlay()
    for _ in range(3):
        host.create(snapshot_id, overlay.name)
    host.double.set_snapshot(snapshot_id, 'available', '100%')
    host.create(snapshot_id, overlay.name)
    assert host.double.history(snapshot_id) == DONE
    assert host.chain() == [overlay.name, host.volume.name]
    assert len(host.states()) == 1


def test_a_known_snapshot_with_another_file_is_refused(host: Host) -> None:
    snapshot_id, overlay = host.snapshot(), host.overlay()
    host.create(snapshot_id, overlay.name)
    with pytest.raises(exception.SnapshotExists, match='another new_file'):
        host.create(snapshot_id, host.overlay(overlay).name)
    assert host.chain() == [overlay.name, host.volume.name]


def test_of_repeats_at_once_one_switches_and_all_say_yes(host: Host) -> None:
    snapshot_id, overlay = host.snapshot(), host.overlay()
    errors: list[Exception] = []

    def post() -> None:
        try:
            host.create(snapshot_id, overlay.name)
        except exception.NovaExtException as error:
            errors.append(error)

    callers = [threading.Thread(target=post) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert errors == []
    assert host.double.history(snapshot_id) == DONE
    assert len(host.states()) == 1


def test_cinder_is_told_until_it_can_be(host: Host) -> None:
    snapshot_id, overlay = host.snapshot(), host.overlay()
    for code in (500, 401, 404, 503):
        host.double.answer_with(code, when=_is_outcome)
    host.double.drop(when=_is_outcome)
    host.create(snapshot_id, overlay.name)
    history = host.double.history(snapshot_id, applied=True)
    assert history == DONE
    assert host.chain() == [overlay.name, host.volume.name]


def _is_outcome(request: object) -> bool:
    return request.update.get('progress') == '90%'  # type: ignore


def test_a_report_whose_answer_is_lost_counts_as_made(host: Host) -> None:
    snapshot_id = host.snapshot()
    host.double.drop(when=_is_outcome, apply=True)
    host.create(snapshot_id, host.overlay().name)
    host.double.set_snapshot(snapshot_id, 'available', '100%')
    _wait_for_state(host, 'DONE')


def test_after_the_reply_wait_the_job_goes_on(
    libvirtd: PrivateLibvirtd,
) -> None:
    with short_directory() as directory:
        with Host(directory, libvirtd, reply_wait=1).running() as host:
            snapshot_id, overlay = host.snapshot(), host.overlay()
            host.double.answer_with(503, times=None, when=_is_outcome)
            host.create(snapshot_id, overlay.name)
            assert host.chain() == [overlay.name, host.volume.name]
            with pytest.raises(exception.AgentBusy, match='Cinder cannot'):
                host.api.check()
            assert host.states() == ['REPORTING']
            host.double.clear_faults()
            host.double.wait_for(
                lambda: host.double.snapshots[snapshot_id].progress == '90%',
                timeout=30,
            )


def test_a_snapshot_that_cinder_gave_up_is_shown_as_orphaned(
    host: Host,
) -> None:
    snapshot_id, overlay = host.snapshot(), host.overlay()

    def give_up(request: object) -> bool:
        if _is_outcome(request):
            host.double.set_snapshot(snapshot_id, 'error')
        return False

    host.double.answer_with(500, times=None, when=give_up)
    host.create(snapshot_id, overlay.name)
    _wait_for_state(host, 'ORPHANED')
    assert '1 orphaned' in host.api.check()
    # Nothing is built on it: Cinder's next overlay names the old file.
    host.double.clear_faults()
    with pytest.raises(exception.InvalidOverlay, match='its backing file'):
        host.create(host.snapshot(), host.overlay().name)


def test_available_ends_the_job(host: Host) -> None:
    snapshot_id = host.snapshot()
    host.create(snapshot_id, host.overlay().name)
    assert host.states() == ['CONFIRMING']
    host.double.set_snapshot(snapshot_id, 'available', '100%')
    _wait_for_state(host, 'DONE')


def test_a_refusal_of_qemu_is_reported_and_nothing_is_switched(
    host: Host,
) -> None:
    snapshot_id, overlay = host.snapshot(), host.overlay()
    # QEMU can't write to it, whoever it runs as without privileges.
    overlay.chmod(0o444)
    with pytest.raises(exception.SnapshotFailed, match='denied') as error:
        host.create(snapshot_id, overlay.name)
    shown = json.loads(pages.ROOT.joinpath(*_SAMPLE).read_text('utf-8'))
    shown = shown['computeFault']['message']
    shown_id, shown_path = re.findall(r"Snapshot (\S+) .* '(/\S+)'", shown)[0]
    said = str(error.value).replace(snapshot_id, shown_id)
    assert said.replace(str(overlay), shown_path) == shown
    host.assert_untouched()
    assert host.double.snapshots[snapshot_id].status == 'error'
    assert host.double.history(snapshot_id)[-1] == ('error', None)


def _wait_for_state(host: Host, state: str) -> None:
    deadline = time.monotonic() + 30
    while host.states() != [state]:
        assert time.monotonic() < deadline, host.log()
        time.sleep(0.05)
