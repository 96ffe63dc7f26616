# SPDX-License-Identifier: Apache-2.0
"""The double of cinder-volume does what the stock NFS driver does.

Here: its files, its requests to compute, its wait, its traps.  A stand-in for
qemu-img writes headers only, so that these tests need no QEMU.  Not here: the
API (test_cinder_double.py); real images.
"""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Iterator
from concurrent import futures
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from keystoneauth1 import noauth, session

from tests.fixtures.cinder import Attachment, CinderDouble
from tests.fixtures.cinder_volume import (
    CinderVolume,
    ServiceDown,
    SnapshotFailed,
    WaitNeverEnds,
    backing_name,
)

VOLUME = '11111111-1111-4111-8111-111111111111'
OTHER = '22222222-2222-4222-8222-222222222222'
S1, S2, S3 = (f'{n}a7b7c55-0000-4000-8000-00000000000{n}' for n in '123')
BASE = f'volume-{VOLUME}'


def write_image(path: Path, backing: str) -> None:
    name = backing.encode()
    numbers = [(3, 4), (512 if name else 0, 8), (len(name), 4)]
    header = b'QFI\xfb' + b''.join(n.to_bytes(s, 'big') for n, s in numbers)
    path.write_bytes(header.ljust(512, b'\0') + name)


class QemuImg:
    """Stands in for qemu-img."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, *args: str) -> None:
        self.calls.append(args)
        if args[0] == 'create':
            backing = args[4].partition(',')[0].removeprefix('backing_file=')
            write_image(Path(args[5]), backing)
        else:
            write_image(Path(args[-1]), args[3])


class Compute:
    """Stands in for the compute service: merges headers, and reports."""

    def __init__(self, cinder: CinderDouble, share: Path):
        self.cinder = cinder
        self.share = share
        self.calls: list[tuple[str, Any]] = []

    def create(self, volume_id: str, create_info: dict[str, Any]) -> None:
        self.calls.append((volume_id, create_info))
        self.cinder.set_snapshot(create_info['snapshot_id'], progress='90%')

    def delete(self, snapshot_id: str, delete_info: dict[str, Any]) -> None:
        self.merge(snapshot_id, delete_info)
        self.cinder.set_snapshot(snapshot_id, progress='90%')

    def merge(self, snapshot_id: str, delete_info: dict[str, Any]) -> None:
        self.calls.append((snapshot_id, delete_info))
        info = json.loads((self.share / f'{BASE}.info').read_text())
        overlay, base = info['active'], delete_info['file_to_merge']
        if delete_info['merge_target_file'] is not None:
            base = delete_info['merge_target_file']
            while (
                backing_name(self.share / overlay)
                != (delete_info['file_to_merge'])
            ):
                overlay = backing_name(self.share / overlay)
        write_image(self.share / overlay, base or '')


@pytest.fixture
def cinder() -> Iterator[CinderDouble]:
    with CinderDouble() as double:
        double.add_volume(VOLUME, Attachment('server', 'host1'))
        double.add_volume(OTHER, Attachment('server', 'host1'), size=2)
        yield double


@pytest.fixture
def share(tmp_path: Path) -> Path:
    path = tmp_path / 'cd82877b'
    path.mkdir()
    for volume_id in (VOLUME, OTHER):
        (path / f'volume-{volume_id}').write_bytes(bytes(512))
    return path


@pytest.fixture
def qemu_img() -> QemuImg:
    return QemuImg()


@pytest.fixture
def compute(cinder: CinderDouble, share: Path) -> Compute:
    return Compute(cinder, share)


@pytest.fixture
def volume(
    cinder: CinderDouble, share: Path, qemu_img: QemuImg
) -> CinderVolume:
    return CinderVolume(
        cinder,
        share,
        step=0.005,
        create_limit=0.1,
        delete_limit=0.1,
        run=qemu_img,
    )


def row(cinder: CinderDouble, snapshot_id: str) -> tuple[str, str]:
    snapshot = cinder.snapshots[snapshot_id]
    return snapshot.status, snapshot.progress


def ask_nothing(*args: Any) -> None:
    """Answer well, and do nothing."""


# Creation


def test_create(
    cinder: CinderDouble,
    share: Path,
    volume: CinderVolume,
    compute: Compute,
    qemu_img: QemuImg,
) -> None:
    volume.create(VOLUME, S1, compute.create)

    overlay = f'{BASE}.{S1}'
    assert row(cinder, S1) == ('available', '100%')
    assert compute.calls == [
        (VOLUME, {'type': 'qcow2', 'new_file': overlay, 'snapshot_id': S1})
    ]
    options = f'backing_file={share / BASE},backing_fmt=raw'
    path = str(share / overlay)
    assert qemu_img.calls == [
        ('create', '-f', 'qcow2', '-o', options, path, '1G'),
        ('rebase', '-u', '-b', BASE, '-F', 'raw', path),
    ]
    assert stat.S_IMODE((share / overlay).stat().st_mode) & 0o666 == 0o666
    assert volume.info(VOLUME) == {'active': overlay, S1: overlay}
    assert volume.chain(VOLUME) == [overlay, BASE]
    row_of_volume = cinder.volumes[VOLUME]
    assert row_of_volume.attachments[0].connection_info == {
        'name': overlay,
        'format': 'qcow2',
    }
    assert row_of_volume.admin_metadata == {
        'format': 'qcow2',
        'base_format': 'raw',
    }


def test_second_overlay_is_on_the_first(
    volume: CinderVolume, compute: Compute, qemu_img: QemuImg
) -> None:
    for snapshot_id in (S1, S2):
        volume.create(VOLUME, snapshot_id, compute.create)

    assert volume.chain(VOLUME) == [f'{BASE}.{S2}', f'{BASE}.{S1}', BASE]
    assert qemu_img.calls[-1][2:6] == ('-b', f'{BASE}.{S1}', '-F', 'qcow2')


def test_first_look_is_at_once(
    cinder: CinderDouble, share: Path, compute: Compute, qemu_img: QemuImg
) -> None:
    slow = CinderVolume(cinder, share, step=3600, run=qemu_img)

    watchdog = threading.Timer(5, slow.crash)
    watchdog.start()

    slow.create(VOLUME, S1, compute.create)

    assert watchdog.is_alive()
    watchdog.cancel()
    watchdog.join()


@pytest.mark.parametrize('progress', ['0%', '5%', '91%', '100%', ' 90%'])
def test_only_90_percent_ends_the_wait(
    cinder: CinderDouble, volume: CinderVolume, progress: str
) -> None:
    def compute_create(*args: Any) -> None:
        cinder.set_snapshot(S1, progress=progress)

    with pytest.raises(SnapshotFailed, match='no report'):
        volume.create(VOLUME, S1, compute_create)

    assert row(cinder, S1) == ('error', progress)
    assert volume.info(VOLUME) == {}
    assert (volume.share / f'{BASE}.{S1}').exists()


def test_report_through_the_api(
    cinder: CinderDouble, share: Path, qemu_img: QemuImg
) -> None:
    volume = CinderVolume(cinder, share, step=0.005, run=qemu_img)
    api = session.Session(auth=noauth.NoAuth())
    reports = [('creating', '5%'), ('creating', '90%')]

    def report() -> None:
        for status, progress in reports:
            body = {'status': status, 'progress': progress}
            api.post(
                f'{cinder.endpoint}/snapshots/{S1}/action',
                json={'os-update_snapshot_status': body},
            )

    reporter = threading.Timer(0.05, report)
    volume.create(VOLUME, S1, lambda *args: reporter.start())
    reporter.join()

    assert cinder.history(S1) == reports
    assert row(cinder, S1) == ('available', '100%')


def test_refusal_of_compute_ends_in_error(
    cinder: CinderDouble, volume: CinderVolume
) -> None:
    def refuse(*args: Any) -> None:
        raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        volume.create(VOLUME, S1, refuse)

    assert row(cinder, S1) == ('error', '0%')


def test_reported_error(cinder: CinderDouble, volume: CinderVolume) -> None:
    with pytest.raises(SnapshotFailed, match='status error'):
        volume.create(
            VOLUME, S1, lambda *args: cinder.set_snapshot(S1, 'error')
        )

    assert row(cinder, S1) == ('error', '0%')


def test_reported_available_never_ends(
    cinder: CinderDouble, volume: CinderVolume
) -> None:
    with pytest.raises(WaitNeverEnds):
        volume.create(
            VOLUME, S1, lambda *args: cinder.set_snapshot(S1, 'available')
        )

    assert row(cinder, S1) == ('available', '0%')
    assert volume.info(VOLUME) == {}


def test_legacy_attachment_fails_after_the_switch(
    cinder: CinderDouble, volume: CinderVolume, compute: Compute
) -> None:
    cinder.volumes[VOLUME].attachments[0].connection_info = None

    with pytest.raises(TypeError):
        volume.create(VOLUME, S1, compute.create)

    assert row(cinder, S1) == ('error', '90%')
    assert volume.info(VOLUME) == {}


# Deletion


def create_all(volume: CinderVolume, compute: Compute, *ids: str) -> None:
    for snapshot_id in ids:
        volume.create(VOLUME, snapshot_id, compute.create)
    compute.calls.clear()


def f(snapshot_id: str) -> str:
    return f'{BASE}.{snapshot_id}'


@pytest.mark.parametrize(
    'existing, deleted, file_to_merge, target, removed, info',
    [
        (
            (S1, S2, S3),
            S3,
            f(S1),
            None,
            f(S2),
            {'active': f(S3), S1: f(S1), S2: f(S3)},
        ),
        (
            (S1, S2, S3),
            S2,
            f(S2),
            f(S1),
            f(S2),
            {'active': f(S3), S1: f(S1), S3: f(S3)},
        ),
        (
            (S1, S2, S3),
            S1,
            f(S1),
            BASE,
            f(S1),
            {'active': f(S3), S2: f(S2), S3: f(S3)},
        ),
        ((S1, S2), S2, BASE, None, f(S1), {'active': f(S2), S1: f(S2)}),
        ((S1,), S1, None, None, BASE, {'active': f(S1)}),
    ],
)
def test_delete(
    cinder: CinderDouble,
    volume: CinderVolume,
    compute: Compute,
    existing: tuple[str, ...],
    deleted: str,
    file_to_merge: str | None,
    target: str | None,
    removed: str,
    info: dict[str, str],
) -> None:
    create_all(volume, compute, *existing)
    before = volume.chain(VOLUME)

    volume.delete(deleted, compute.delete)

    assert compute.calls == [
        (
            deleted,
            {
                'file_to_merge': file_to_merge,
                'merge_target_file': target,
                'type': 'qcow2',
                'volume_id': VOLUME,
            },
        )
    ]
    assert deleted not in cinder.snapshots
    assert not (volume.share / removed).exists()
    assert volume.info(VOLUME) == info
    before.remove(removed)
    assert volume.chain(VOLUME) == before


def test_after_the_only_one_left_an_overlay_is_the_base(
    volume: CinderVolume, compute: Compute
) -> None:
    create_all(volume, compute, S1)
    volume.delete(S1, compute.delete)
    create_all(volume, compute, S2, S3)

    volume.delete(S2, compute.delete)

    assert compute.calls[-1][1]['merge_target_file'] == f(S1)


def test_oldest_of_a_base_with_a_backing_file(
    volume: CinderVolume, compute: Compute
) -> None:
    create_all(volume, compute, S1)
    write_image(volume.share / f(S3), '')
    write_image(volume.share / BASE, f(S3))

    volume.delete(S1, compute.delete)

    assert compute.calls[-1][1]['file_to_merge'] is None


def test_retry_of_a_finished_pull_loses_another_snapshot(
    cinder: CinderDouble, volume: CinderVolume, compute: Compute
) -> None:
    create_all(volume, compute, S1, S2)

    def merge_and_fail(snapshot_id: str, delete_info: dict[str, Any]) -> None:
        compute.merge(snapshot_id, delete_info)
        cinder.set_snapshot(snapshot_id, 'error_deleting')

    with pytest.raises(SnapshotFailed):
        volume.delete(S2, merge_and_fail)
    volume.delete(S2, compute.delete, force=True)

    first, second = (call[1]['file_to_merge'] for call in compute.calls)
    assert (first, second) == (BASE, None)
    assert backing_name(volume.share / f(S1)) == BASE
    assert not (volume.share / BASE).exists()


def test_row_while_deleting(
    cinder: CinderDouble, volume: CinderVolume, compute: Compute
) -> None:
    create_all(volume, compute, S1)
    seen = []

    def look(*args: Any) -> None:
        seen.append(row(cinder, S1))

    with pytest.raises(SnapshotFailed, match='no report'):
        volume.delete(S1, look)

    assert seen == [('deleting', '100%')]
    assert row(cinder, S1) == ('error_deleting', '100%')
    assert volume.info(VOLUME) == {'active': f(S1), S1: f(S1)}
    assert (volume.share / BASE).exists()


def test_error_deleting_needs_an_administrator(
    cinder: CinderDouble, volume: CinderVolume, compute: Compute
) -> None:
    create_all(volume, compute, S1)
    cinder.set_snapshot(S1, 'error_deleting', '0%')

    with pytest.raises(SnapshotFailed, match='available or error'):
        volume.delete(S1, compute.delete)
    assert compute.calls == []

    volume.delete(S1, compute.delete, force=True)
    assert S1 not in cinder.snapshots


def test_stale_90_percent_removes_the_file_at_once(
    cinder: CinderDouble, volume: CinderVolume, compute: Compute
) -> None:
    create_all(volume, compute, S1)

    def fail(*args: Any) -> None:
        cinder.set_snapshot(S1, 'error_deleting', '90%')

    with pytest.raises(SnapshotFailed):
        volume.delete(S1, fail)
    volume.delete(S1, ask_nothing, force=True)

    assert S1 not in cinder.snapshots
    assert not (volume.share / BASE).exists()
    assert backing_name(volume.share / f(S1)) == BASE


def test_stale_90_percent_is_harmless_once_overwritten(
    cinder: CinderDouble, volume: CinderVolume, compute: Compute
) -> None:
    create_all(volume, compute, S1)
    cinder.set_snapshot(S1, 'error', '90%')

    with pytest.raises(SnapshotFailed, match='no report'):
        volume.delete(S1, lambda *a: cinder.set_snapshot(S1, progress='0%'))

    assert (volume.share / BASE).exists()


def test_clone_leaves_a_stale_90_percent(
    cinder: CinderDouble, volume: CinderVolume, compute: Compute
) -> None:
    seen = []

    def delete(snapshot_id: str, delete_info: dict[str, Any]) -> None:
        seen.append(row(cinder, snapshot_id))
        compute.delete(snapshot_id, delete_info)

    volume.clone(VOLUME, S1, compute.create, delete)

    assert seen == [('deleting', '90%')]
    assert S1 not in cinder.snapshots


def test_failed_clone_deletes_while_creating(
    cinder: CinderDouble, volume: CinderVolume, compute: Compute
) -> None:
    seen = []

    def copy() -> None:
        raise OSError

    with pytest.raises(SnapshotFailed, match='status creating'):
        volume.clone(
            VOLUME,
            S1,
            compute.create,
            lambda *args: seen.append(row(cinder, S1)),
            copy,
        )

    assert seen == [('creating', '90%')]


def test_snapshot_without_info_is_forgotten(
    cinder: CinderDouble, volume: CinderVolume, compute: Compute
) -> None:
    with pytest.raises(SnapshotFailed):
        volume.create(VOLUME, S1, ask_nothing)

    volume.delete(S1, compute.delete)

    assert compute.calls == []
    assert S1 not in cinder.snapshots
    assert (volume.share / f(S1)).exists()


def test_stale_layer_is_removed_without_compute(
    cinder: CinderDouble, volume: CinderVolume, compute: Compute
) -> None:
    create_all(volume, compute, S1, S2)
    write_image(volume.share / f(S1), '')

    volume.delete(S1, compute.delete)

    assert compute.calls == []
    assert not (volume.share / f(S1)).exists()
    assert volume.info(VOLUME) == {'active': f(S2), S2: f(S2)}


# What Cinder thinks of headers


@pytest.mark.parametrize(
    'name, accepted',
    [
        (BASE, True),
        ('{share}/' + BASE, True),
        ('./' + BASE, False),
        ('/var/lib/nova/mnt/cd82877b/' + BASE, False),
        ('json:{"driver": "file", "filename": "' + BASE + '"}', False),
        (f'volume-{OTHER}', False),
    ],
)
@pytest.mark.parametrize('operation', ['create', 'delete'])
def test_backing_names(
    cinder: CinderDouble,
    volume: CinderVolume,
    compute: Compute,
    operation: str,
    name: str,
    accepted: bool,
) -> None:
    create_all(volume, compute, S1)
    header = name.replace('{share}', str(volume.share))
    write_image(volume.share / f(S1), header)
    run: Any = {
        'create': partial(volume.create, VOLUME, S2, compute.create),
        'delete': partial(volume.delete, S1, compute.delete),
    }[operation]

    if accepted:
        run()
        assert len(compute.calls) == 1
    else:
        with pytest.raises(SnapshotFailed, match='invalid backing file'):
            run()
        assert compute.calls == []
        statuses = [snapshot.status for snapshot in cinder.snapshots.values()]
        assert (
            statuses
            == {
                'create': ['available', 'error'],
                'delete': ['error_deleting'],
            }[operation]
        )


# Service and locks


def test_crash_while_creating(
    cinder: CinderDouble, volume: CinderVolume, compute: Compute
) -> None:
    with pytest.raises(ServiceDown):
        volume.create(VOLUME, S1, lambda *args: volume.crash())
    assert row(cinder, S1) == ('creating', '0%')
    cinder.set_snapshot(S1, progress='90%')

    volume.recover()

    assert row(cinder, S1) == ('error', '90%')
    assert volume.info(VOLUME) == {}
    volume.create(VOLUME, S2, compute.create)
    assert volume.chain(VOLUME) == [f(S2), BASE]


def test_crash_while_deleting(
    cinder: CinderDouble, volume: CinderVolume, compute: Compute
) -> None:
    create_all(volume, compute, S1)

    with pytest.raises(ServiceDown):
        volume.delete(S1, lambda *args: volume.crash())
    volume.recover()

    assert row(cinder, S1) == ('deleting', '100%')
    assert (volume.share / BASE).exists()


def test_one_call_at_a_time_for_a_volume(
    cinder: CinderDouble, share: Path, compute: Compute, qemu_img: QemuImg
) -> None:
    volume = CinderVolume(cinder, share, step=0.005, run=qemu_img)
    called = threading.Semaphore(0)

    def accept(volume_id: str, create_info: dict[str, Any]) -> None:
        compute.calls.append((volume_id, create_info))
        called.release()

    with futures.ThreadPoolExecutor(3) as pool:
        first = pool.submit(volume.create, VOLUME, S1, accept)
        assert called.acquire(timeout=5)
        second = pool.submit(volume.create, VOLUME, S2, accept)
        cinder.wait_for(lambda: S2 in cinder.snapshots)
        other = pool.submit(volume.create, OTHER, S3, accept)
        assert called.acquire(timeout=5)
        assert [call[0] for call in compute.calls] == [VOLUME, OTHER]
        for snapshot_id in (S1, S3):
            cinder.set_snapshot(snapshot_id, progress='90%')
        assert called.acquire(timeout=5)
        cinder.set_snapshot(S2, progress='90%')
        for done in (first, second, other):
            done.result(5)

    assert volume.chain(VOLUME) == [f(S2), f(S1), BASE]
