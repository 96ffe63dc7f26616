# SPDX-License-Identifier: Apache-2.0
"""What the check of records sees, and what it must not be blind to."""

from __future__ import annotations

import pathlib
import struct

import pytest

from nova_ext.virt import sample
from nova_ext.virt.sample import Records, SampleGuest, scan_records
from nova_ext.virt.sample_records import BLOCK_SIZE, record

RING = 16


def write_disk(
    path: pathlib.Path, blocks: dict[int, bytes], size: int = RING
) -> pathlib.Path:
    with path.open('wb') as disk:
        disk.truncate(size * BLOCK_SIZE)
        for block, data in blocks.items():
            disk.seek(block * BLOCK_SIZE)
            disk.write(data)
    return path


def written(last: int, first: int = 1) -> dict[int, bytes]:
    return {
        (number - 1) % RING: record(number, RING)
        for number in range(first, last + 1)
    }


@pytest.fixture
def disk(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / 'disk'


@pytest.mark.parametrize('number', [1, 2, 16, 17, 65537, 2**32 - 1])
def test_record_is_what_the_guest_computes_word_by_word(number):
    word, words = number * 0x9E3779B9 & 0xFFFFFFFF, []
    for _ in range(1019):
        word = (word * 0x0019660D + 0x3C6EF35F) & 0xFFFFFFFF
        words.append(word)
    data = record(number, RING)
    assert len(data) == BLOCK_SIZE
    assert data[:8] == b'NOVAEXT1'
    assert struct.unpack_from('<II', data, 8) == (number, (number - 1) % RING)
    assert struct.unpack_from('<1019I', data, 20) == tuple(words)
    assert sum(struct.unpack_from('<1022I', data, 8)) % 2**32 == 0


def test_records_differ_in_every_word_of_the_payload():
    one, two = (struct.unpack_from('<1019I', record(n), 20) for n in (7, 8))
    assert all(a != b for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(
    ('blocks', 'expected'),
    [
        pytest.param({}, Records(0, 0, 0), id='empty'),
        pytest.param(written(1), Records(1, 1, 0), id='one'),
        pytest.param(written(5), Records(5, 5, 0), id='five'),
        pytest.param(written(RING), Records(RING, RING, 0), id='full'),
        pytest.param(
            written(RING + 5), Records(RING, RING + 5, 0), id='wrapped'
        ),
        pytest.param(
            written(5) | {2: bytes(BLOCK_SIZE)}, Records(2, 5, 1), id='lost'
        ),
        pytest.param(
            written(9) | {2: bytes(BLOCK_SIZE), 5: b'?'},
            Records(3, 9, 2),
            id='two-lost',
        ),
        pytest.param(
            written(RING + 5) | {2: record(3, RING)},
            Records(2, RING + 5, 1),
            id='stale',
        ),
        pytest.param(
            written(5) | {2: record(4, RING)}, Records(2, 5, 1), id='misplaced'
        ),
        pytest.param(
            written(5) | {5: record(6, RING)[:2048]},
            Records(5, 5, 1),
            id='torn-newest',
        ),
        pytest.param(
            written(5) | {9: b'not a record'}, Records(5, 5, 1), id='junk'
        ),
        pytest.param(
            written(5) | {9: record(8, RING)},
            Records(5, 5, 1),
            id='misplaced-newest',
        ),
        pytest.param({15: record(0, RING)}, Records(0, 0, 1), id='zeroth'),
        pytest.param(
            {3: b'\1' * BLOCK_SIZE}, Records(0, 0, 1), id='only-junk'
        ),
    ],
)
def test_scan(disk, blocks, expected):
    assert scan_records(write_disk(disk, blocks), RING) == expected


@pytest.mark.parametrize('offset', [0, 7, 8, 11, 12, 16, 19, 20, 2048, 4095])
def test_scan_sees_any_changed_byte(disk, offset):
    damaged = bytearray(record(3, RING))
    damaged[offset] ^= 0x40
    write_disk(disk, written(5) | {2: bytes(damaged)})
    assert scan_records(disk, RING) == Records(2, 5, 1)


def test_scan_ignores_what_lies_behind_the_ring(disk):
    blocks = written(5) | {RING: b'somebody else', RING + 2: record(99)}
    write_disk(disk, blocks, size=RING + 4)
    assert scan_records(disk, RING) == Records(5, 5, 0)


def test_scan_of_a_disk_smaller_than_the_ring(disk):
    assert scan_records(write_disk(disk, written(4), size=4), RING) == (
        Records(4, 4, 0)
    )


def test_scan_does_not_depend_on_holes(disk, tmp_path):
    write_disk(disk, written(3) | {12: b'junk'})
    dense = tmp_path / 'dense'
    dense.write_bytes(disk.read_bytes())
    assert scan_records(dense, RING) == scan_records(disk, RING)


def test_boot_sector_is_one_that_the_bios_boots():
    assert len(sample.BOOT_SECTOR) == 512
    assert sample.BOOT_SECTOR[510:] == b'\x55\xaa'


@pytest.fixture
def guest(tmp_path: pathlib.Path) -> SampleGuest:
    return SampleGuest(
        'test:///default',
        tmp_path,
        volume_path=tmp_path / 'volume-1',
        volume_id='1',
        name='g',
    )


@pytest.mark.parametrize(
    ('log', 'number'),
    [
        (b'', 0),
        (b'+0000000', 0),
        (b'+00000001\n', 1),
        (b'+00000001\n+0000002a\n+0000', 42),
        (b'+0000002a\n!0000002b\n', 42),
        (b'!00000001\n', 0),
        (b'+00000007\n' + b'!00000008\n' * 1000, 7),
        (b''.join(b'+%08x\n' % n for n in range(1, 2000)), 1999),
    ],
)
def test_reported_is_the_last_whole_report(guest, tmp_path, log, number):
    (tmp_path / 'g.serial').write_bytes(log)
    assert guest.reported() == number


def test_nothing_is_reported_before_the_start(guest):
    assert guest.reported() == 0


def test_wait_reported_says_how_far_it_came(guest, tmp_path):
    (tmp_path / 'g.serial').write_bytes(b'+00000003\n!00000004\n')
    assert guest.wait_reported(3, timeout=0) == 3
    with pytest.raises(TimeoutError, match=r'3 of 4 .*!00000004'):
        guest.wait_reported(4, timeout=0)
