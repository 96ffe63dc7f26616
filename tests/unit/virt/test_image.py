# SPDX-License-Identifier: Apache-2.0
"""Headers, locks and looks at files: good ones, hostile ones, hung ones."""

from __future__ import annotations

import errno
import os
import pathlib
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import hypothesis
import pytest
from hypothesis import strategies

from nova_ext.virt import image
from tests.unit.virt import qcow2

# Takes locks as QEMU does: of a file description, and in another process.
_LOCKER = """
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDWR)
for byte in sys.argv[2:]:
    lock = struct.pack('@hhqqi', fcntl.F_RDLCK, os.SEEK_SET, int(byte), 1, 0)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
print('ready', flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / 'overlay'


@pytest.fixture
def locked(
    path: pathlib.Path,
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    holders = []

    def lock(*offsets: int) -> subprocess.Popen[str]:
        command = [sys.executable, '-c', _LOCKER, str(path)]
        holder = subprocess.Popen(
            [*command, *map(str, offsets)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        holders.append(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == 'ready\n'
        return holder

    yield lock
    for holder in holders:
        holder.communicate()


def test_a_new_overlay_is_read_as_it_is(path: pathlib.Path) -> None:
    qcow2.make(path, backing=b'volume-1', backing_format=b'qcow2')
    status = path.stat()
    assert image.read_qcow2(str(path)) == image.Image(
        identity=(status.st_dev, status.st_ino),
        virtual_size=1 << 30,
        backing_file='volume-1',
        backing_format='qcow2',
        encrypted=False,
        features=0,
        snapshots=0,
        holds_data=False,
    )


@pytest.mark.parametrize(
    ('header', 'expected'),
    [
        ({'version': 2}, {'backing_file': 'base', 'backing_format': 'raw'}),
        ({'backing': b''}, {'backing_file': None, 'backing_format': 'raw'}),
        ({'backing_format': None}, {'backing_format': None}),
        (
            {
                'extensions': qcow2.extension(qcow2.FEATURE_NAMES, bytes(48))
                + qcow2.extension(7, b'unknown')
                + qcow2.extension(qcow2.BACKING_FORMAT, b'qcow2')
                + qcow2.extension(qcow2.END, b'')
            },
            {'backing_format': 'qcow2'},
        ),
        ({'size': 5 << 40, 'l1': (0,) * 10240}, {'virtual_size': 5 << 40}),
        ({'crypt_method': 2}, {'encrypted': True}),
        ({'crypt_method': 1, 'version': 2}, {'encrypted': True}),
        ({'features': 0b1111}, {'features': 0b1111}),
        ({'features': 0b10000, 'l1': (0,) * 4}, {'features': 0b10000}),
        ({'features': 1 << 63}, {'features': 1 << 63}),
        ({'l1': (0, 1 << 63)}, {'holds_data': True}),
        ({'l1': (1, 0)}, {'holds_data': True}),
        ({'snapshots': 1}, {'holds_data': True}),
        ({'backing': b'\xff\xfe'}, {'backing_file': '\udcff\udcfe'}),
    ],
)
def test_what_a_header_says_is_seen(
    path: pathlib.Path, header: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = image.read_qcow2(str(qcow2.make(path, **header)))
    assert {name: getattr(found, name) for name in expected} == expected


def test_what_is_behind_the_name_of_the_backing_file_is_no_extension(
    path: pathlib.Path,
) -> None:
    # QEMU ends its search at the name; what it sees no format of, it probes.
    qcow2.make(path, backing_offset=104, backing_length=11)
    found = image.read_qcow2(str(path))
    assert found.backing_file is not None
    assert found.backing_file.endswith('raw')
    assert found.backing_format is None


def test_of_two_backing_formats_the_last_counts(path: pathlib.Path) -> None:
    # As it does for QEMU.
    qcow2.make(
        path,
        extensions=qcow2.extension(qcow2.BACKING_FORMAT, b'raw')
        + qcow2.extension(qcow2.BACKING_FORMAT, b'qcow2')
        + qcow2.extension(qcow2.END, b''),
    )
    assert image.read_qcow2(str(path)).backing_format == 'qcow2'


def test_an_old_image_without_extensions_is_read(path: pathlib.Path) -> None:
    qcow2.make(path, version=2, extensions=b'', backing=b'volume-0123456789')
    found = image.read_qcow2(str(path))
    assert found.backing_file == 'volume-0123456789'
    assert found.backing_format is None


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({'cut': 0}, 'not in qcow2 format'),
    ({'cut': 3}, 'not in qcow2 format'),
    ({'cut': 4}, 'cut short'),
    ({'cut': 71}, 'cut short'),
    ({'cut': 103}, 'cut short'),
    ({'cut': 104}, 'cut short'),
    ({'cut': 111}, 'cut short'),
    ({'cut': qcow2.L1_OFFSET}, 'cut short'),
    ({'cut': qcow2.L1_OFFSET + 15}, 'cut short'),
    ({'version': 1}, 'version is 1'),
    ({'version': 4}, 'version is 4'),
    ({'version': 2**32 - 1}, 'version is'),
    ({'cluster_bits': 8}, 'out of bounds'),
    ({'cluster_bits': 22}, 'out of bounds'),
    ({'cluster_bits': 2**32 - 1}, 'out of bounds'),
    ({'l1_entries': 2**32 - 1}, 'out of bounds'),
    ({'l1_entries': (32 << 20) // 8 + 1}, 'out of bounds'),
    ({'l1_entries': (32 << 20) // 8}, 'cut short'),
    ({'l1_offset': 2**64 - 1}, 'out of bounds'),
    ({'l1_offset': qcow2.L1_OFFSET + 8}, 'out of bounds'),
    ({'l1_offset': 2**63 - qcow2.CLUSTER}, 'cut short'),
    ({'l1_offset': 2**63}, 'out of bounds'),
    ({'features': 16}, 'out of bounds'),
    ({'l1_offset': 1 << 40}, 'cut short'),
    ({'l1_entries': 0}, 'out of bounds'),
    ({'l1': (0,)}, 'out of bounds'),
    ({'l1': (0, 0), 'size': (1 << 30) + 512}, 'out of bounds'),
    ({'size': 2**64 - 1}, 'out of bounds'),
    ({'header_length': 0}, 'out of bounds'),
    ({'header_length': 103}, 'out of bounds'),
    ({'header_length': 2**32 - 1}, 'out of bounds'),
    ({'backing_offset': 2**64 - 1}, 'out of bounds'),
    ({'backing_offset': 80}, 'out of bounds'),
    ({'cluster_bits': 9, 'backing': b'x' * 400}, 'out of bounds'),
    ({'backing_offset': qcow2.CLUSTER}, 'out of bounds'),
    ({'backing_length': 1024}, 'out of bounds'),
    ({'backing_length': 2**32 - 1}, 'out of bounds'),
    (
        {'backing': b'', 'extensions': qcow2.extension(7, b'') * 8000},
        'too many extensions',
    ),
    (
        {'extensions': qcow2.extension(7, b'', length=2**32 - 1)},
        'out of bounds',
    ),
    (
        {
            'backing': b'',
            'extensions': qcow2.extension(
                qcow2.BACKING_FORMAT, b'raw', length=1 << 20
            ),
        },
        'out of bounds',
    ),
    ({'backing_format': b'x' * 16}, 'out of bounds'),
]


@pytest.mark.parametrize(('header', 'words'), HOSTILE)
def test_a_header_out_of_bounds_is_no_image(
    path: pathlib.Path, header: dict[str, Any], words: str
) -> None:
    qcow2.make(path, **header)
    with pytest.raises(image.NotAnImage, match=words):
        image.read_qcow2(str(path))


def _write(path: pathlib.Path, data: bytes) -> pathlib.Path:
    path.write_bytes(data)
    return path


@hypothesis.settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.too_slow,
    ],
)
@hypothesis.given(
    changes=strategies.lists(
        strategies.tuples(
            strategies.integers(0, 160),
            strategies.sampled_from([1, 4, 8]),
            strategies.one_of(
                strategies.integers(0, 2**64 - 1),
                strategies.sampled_from(
                    [0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]
                ),
            ),
        ),
        max_size=6,
    ),
    version=strategies.sampled_from([2, 3]),
    cut=strategies.one_of(
        strategies.none(), strategies.integers(0, qcow2.L1_OFFSET + 16)
    ),
)
def test_no_header_does_more_than_be_refused(
    path: pathlib.Path,
    changes: list[tuple[int, int, int]],
    version: int,
    cut: int | None,
) -> None:
    data = bytearray(qcow2.make(path, version=version).read_bytes())
    for offset, width, value in changes:
        data[offset : offset + width] = (value % 256**width).to_bytes(
            width, 'big'
        )
    _write(path, bytes(data[:cut]))
    try:
        found = image.read_qcow2(str(path))
    except (image.NotAnImage, OSError):
        return
    assert isinstance(found, image.Image)


def test_what_is_no_plain_file_is_no_image(
    tmp_path: pathlib.Path, path: pathlib.Path
) -> None:
    qcow2.make(tmp_path / 'good')
    path.symlink_to('good')
    with pytest.raises(image.NotAnImage, match='symbolic link'):
        image.read_qcow2(str(path))
    path.unlink()
    path.symlink_to('nowhere')
    with pytest.raises(image.NotAnImage, match='symbolic link'):
        image.read_qcow2(str(path))
    with pytest.raises(image.NotAnImage, match='not a regular file'):
        image.read_qcow2(str(tmp_path))
    os.mkfifo(tmp_path / 'fifo')
    with pytest.raises(image.NotAnImage, match='not a regular file'):
        image.read_qcow2(str(tmp_path / 'fifo'))
    with pytest.raises(image.NotAnImage, match='not a regular file'):
        image.read_qcow2('/dev/null')
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / 'socket'))
        with pytest.raises(image.NotAnImage, match='not a regular file'):
            image.read_qcow2(str(tmp_path / 'socket'))
    with pytest.raises(FileNotFoundError):
        image.read_qcow2(str(tmp_path / 'missing'))


def test_a_file_of_two_names_is_no_overlay(
    tmp_path: pathlib.Path, path: pathlib.Path
) -> None:
    os.link(qcow2.make(tmp_path / 'good'), path)
    with pytest.raises(image.NotAnImage, match='hard link'):
        image.read_qcow2(str(path))


def test_a_layer_below_may_be_a_link(
    tmp_path: pathlib.Path, path: pathlib.Path
) -> None:
    qcow2.make(tmp_path / 'good', backing=b'other')
    path.symlink_to('good')
    os.link(tmp_path / 'good', tmp_path / 'twice')
    found = image.read_qcow2(str(path), link=True)
    assert found.backing_file == 'other'
    assert found.identity == image.identity(str(tmp_path / 'good'))


def test_no_descriptor_is_left_open(
    tmp_path: pathlib.Path, path: pathlib.Path
) -> None:
    qcow2.make(path)
    before = len(os.listdir('/proc/self/fd'))
    image.read_qcow2(str(path))
    image.locks(str(path))
    for bad in (qcow2.make(tmp_path / 'bad', version=9), tmp_path):
        with pytest.raises(image.NotAnImage):
            image.read_qcow2(str(bad))
    assert len(os.listdir('/proc/self/fd')) == before


def test_a_raw_image_is_as_large_as_its_file(path: pathlib.Path) -> None:
    qcow2.make(path, size=5 << 40, l1=(0,) * 10240)
    assert image.raw_size(str(path)) == path.stat().st_size


# The bytes that QEMU locks; 101 is the permission to write.
ACTIVE, BELOW = (100, 101, 103, 201, 203), (100, 201, 203)


def test_locks_tell_the_active_layer_from_one_below(
    path: pathlib.Path, locked: Callable[..., subprocess.Popen[str]]
) -> None:
    path.touch()
    assert image.locks(str(path)) == image.Locks(False, False)
    active = locked(*ACTIVE)
    assert image.locks(str(path)) == image.Locks(True, True)
    active.communicate()
    below = locked(*BELOW)
    assert image.locks(str(path)) == image.Locks(True, False)
    below.communicate()
    assert image.locks(str(path)) == image.Locks(False, False)


@pytest.mark.parametrize(
    ('offset', 'expected'),
    [
        (99, image.Locks(False, False)),
        (100, image.Locks(True, False)),
        (101, image.Locks(True, True)),
        (102, image.Locks(True, False)),
        (201, image.Locks(True, False)),
        (299, image.Locks(True, False)),
        (300, image.Locks(False, False)),
    ],
)
def test_only_the_bytes_of_qemu_count(
    path: pathlib.Path,
    locked: Callable[..., subprocess.Popen[str]],
    offset: int,
    expected: image.Locks,
) -> None:
    path.touch()
    locked(offset)
    assert image.locks(str(path)) == expected


def test_a_look_at_locks_leaves_none(
    path: pathlib.Path, locked: Callable[..., subprocess.Popen[str]]
) -> None:
    path.touch()
    assert not image.locks(str(path)).opened
    # As QEMU does at its start: it would fail if we held one.
    import fcntl

    fd = os.open(path, os.O_RDWR)
    try:
        lock = struct.pack('@hhqqi', fcntl.F_WRLCK, os.SEEK_SET, 100, 200, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
        assert image.locks(str(path)).opened
    finally:
        os.close(fd)


def test_locks_of_what_is_missing_cannot_be_seen(path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        image.locks(str(path))


class Share:
    """Looks that hang until they are released."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.back = threading.Event()
        self.ended = threading.Semaphore(0)

    def hang(self, value: object = None) -> object:
        self.begun.release()
        self.back.wait(30)
        self.ended.release()
        return value


@pytest.fixture
def share() -> Iterator[Share]:
    made = Share()
    yield made
    made.back.set()


def _answers(files: image.Files, path: str) -> bool:
    try:
        return files.look(path, lambda: True)
    except image.ShareHung:
        return False


def _eventually(condition: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(1000):
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError('it never came')


def test_a_look_gives_the_value_back() -> None:
    files = image.Files(5.0)
    assert files.look('/share/a', lambda a, b: (b, a), 1, 2) == (2, 1)


def test_a_look_raises_what_its_function_raises() -> None:
    files = image.Files(5.0)

    def fail() -> None:
        raise image.NotAnImage('words')

    with pytest.raises(image.NotAnImage, match='words'):
        files.look('/share/a', fail)


def test_a_hung_share_is_given_up_and_its_directory_set_aside(
    share: Share,
) -> None:
    files = image.Files(0.05)
    with pytest.raises(image.ShareHung, match='longer than 0.05 s'):
        files.look('/hung/a', share.hang)
    # Not even tried, and at once.
    with pytest.raises(image.ShareHung, match='earlier look at /hung'):
        files.look('/hung/b', pytest.fail)
    assert files.look('/other/a', lambda: 'fine') == 'fine'
    share.back.set()
    _eventually(lambda: _answers(files, '/hung/b'))


def test_a_directory_is_taken_up_when_all_its_looks_came_back() -> None:
    files = image.Files(0.05)
    shares = [Share(), Share()]
    # Both begin before the first is given up.
    callers = [
        threading.Thread(
            target=lambda made=made: pytest.raises(
                image.ShareHung, files.look, '/hung/a', made.hang
            )
        )
        for made in shares
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    shares[0].back.set()
    assert shares[0].ended.acquire(timeout=10)
    assert not _answers(files, '/hung/b')
    shares[1].back.set()
    _eventually(lambda: _answers(files, '/hung/b'))


def test_hung_looks_do_not_eat_the_process(share: Share) -> None:
    files = image.Files(0.02, limit=3)
    before = threading.active_count()
    for number in range(3):
        with pytest.raises(image.ShareHung, match='took longer'):
            files.look(f'/hung-{number}/a', share.hang)
    for _ in range(5):
        with pytest.raises(image.ShareHung, match='too many looks'):
            files.look('/fine/a', pytest.fail)
    assert threading.active_count() == before + 3
    share.back.set()
    _eventually(lambda: _answers(files, '/fine/a'))
    _eventually(lambda: threading.active_count() == before)


def test_a_look_without_a_thread_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    files = image.Files(1.0, limit=2)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, 'start', start)
        for _ in range(3):
            with pytest.raises(image.ShareHung, match="can't start new"):
                files.look('/share/a', pytest.fail)
    assert files.look('/share/a', lambda: 'fine') == 'fine'


def test_a_hung_look_does_not_keep_the_process_alive() -> None:
    script = (
        'import threading\n'
        'from nova_ext.virt import image\n'
        'try:\n'
        '    image.Files(0.01).look("/hung/a", threading.Event().wait)\n'
        'except image.ShareHung:\n'
        '    print("hung")\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', script],
        timeout=30,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == 'hung\n'


def test_what_the_kernel_cannot_write_out_is_said(tmp_path) -> None:  # type: ignore
    path = tmp_path / 'volume'
    path.write_bytes(b'data')
    image.sync(str(path))
    error = OSError(errno.ENOSPC, 'No space left on device')
    with mock.patch.object(os, 'fsync', side_effect=error):
        with pytest.raises(image.NotOnDisk, match='No space left'):
            image.sync(str(path))


def test_what_could_not_be_written_out_is_said_however_long_it_took() -> None:
    go_on, ended = threading.Event(), threading.Event()

    def fail() -> None:
        assert go_on.wait(10)
        ended.set()
        raise image.NotOnDisk('no space')

    files = image.Files(0.05)
    with pytest.raises(image.ShareHung):
        files.look('/share/volume/', fail)
    go_on.set()
    assert ended.wait(10)
    said: list[Exception] = []
    while not said or isinstance(said[-1], image.ShareHung):
        try:
            files.look('/share/volume/', list)
        except (image.ShareHung, image.NotOnDisk) as error:
            said.append(error)
    assert isinstance(said[-1], image.NotOnDisk)
    assert files.look('/share/volume/', list) == []
