# SPDX-License-Identifier: Apache-2.0
"""The records of the sample guest: what they are, and the check of a disk.

Pure but for reading image files. The program that writes the records is in
``sample_boot.S``, the guest around it in :mod:`nova_ext.virt.sample`.
"""

from __future__ import annotations

import array
import dataclasses
import errno
import functools
import os
import pathlib
import struct
import subprocess
import tempfile
from collections.abc import Iterator

BLOCK_SIZE = 4096
# 256 MiB: more than any run of a minute writes, and it fits in the smallest
# volume that Cinder makes.
RING_BLOCKS = 65536

_LETTERS = b'NOVAEXT1'
_HEADER = struct.Struct('<8sIII')
_WORDS = (BLOCK_SIZE - _HEADER.size) // 4
_SEED, _STEP, _SHIFT = 0x9E3779B9, 0x0019660D, 0x3C6EF35F
_MASK = (1 << 32) - 1


@functools.cache
def _payload_terms() -> tuple[int, int, int, int]:
    """Word k of record n is n * factor(k) + term(k), modulo 2**32.

    :returns: all factors as one integer with a lane of 64 bits for each, the
        terms likewise, and the sums of both
    """
    factor, term = _SEED, 0
    factors, terms = [], []
    for _ in range(_WORDS):
        factor = factor * _STEP & _MASK
        term = (term * _STEP + _SHIFT) & _MASK
        factors.append(factor)
        terms.append(term)
    lanes = struct.Struct(f'<{_WORDS}Q')
    return (
        int.from_bytes(lanes.pack(*factors), 'little'),
        int.from_bytes(lanes.pack(*terms), 'little'),
        sum(factors),
        sum(terms),
    )


def record(number: int, ring_blocks: int = RING_BLOCKS) -> bytes:
    """Return the record that the guest writes as its ``number``-th."""
    factors, terms, factor_sum, term_sum = _payload_terms()
    block = (number - 1) % ring_blocks
    total = number + block + number * factor_sum + term_sum
    # One multiplication of a long integer instead of a thousand short ones: a
    # lane can't overflow into the next, its low half is the word.
    lanes = (number * factors + terms).to_bytes(_WORDS * 8, 'little')
    words = array.array('I', lanes)[::2].tobytes()
    return _HEADER.pack(_LETTERS, number, block, -total & _MASK) + words


@dataclasses.dataclass(frozen=True)
class Records:
    """What a disk holds of the guest's records.

    :ivar count: records of the unbroken sequence that ends in the newest
    :ivar last: number of the newest record, 0 if there is none
    :ivar bad: blocks that hold anything else than the record that belongs
        there: torn, stale, missing below ``last``, or not a record at all
    """

    count: int
    last: int
    bad: int


def scan_records(
    raw_image: pathlib.Path, ring_blocks: int = RING_BLOCKS
) -> Records:
    """Check every block of the ring in a raw image.

    :param ring_blocks: the ring that the guest was started with
    :raises OSError: if the image can't be read
    """
    found: dict[int, int] = {}
    broken: set[int] = set()
    for block, data in _written_blocks(raw_image, ring_blocks):
        number = int.from_bytes(data[8:12], 'little')
        belongs_here = number > 0 and (number - 1) % ring_blocks == block
        if belongs_here and data == record(number, ring_blocks):
            found[block] = number
        else:
            broken.add(block)
    last = max(found.values(), default=0)
    oldest = max(last - ring_blocks, 0) + 1
    missing = [
        number
        for number in range(oldest, last + 1)
        if found.get((number - 1) % ring_blocks) != number
    ]
    count = last - max(missing, default=oldest - 1)
    bad = len(missing) + sum(block >= last for block in broken)
    return Records(count, last, bad)


def read_records(
    image: pathlib.Path, image_format: str, ring_blocks: int = RING_BLOCKS
) -> Records:
    """Check the records that are seen through an image and its backing chain.

    Suspend a guest that has the chain open first: while it writes, a qcow2
    image may be read between two writes that belong together.

    :param image_format: ``raw`` or ``qcow2``, of ``image`` itself
    :raises RuntimeError: with the words of qemu-img, if it can't read
    """
    with tempfile.TemporaryDirectory(prefix='nova-ext-') as directory:
        raw_image = pathlib.Path(directory, 'disk')
        qemu_img('convert', '-U', '-f', image_format, '-O', 'raw',
                  str(image), str(raw_image))  # fmt: skip
        return scan_records(raw_image, ring_blocks)


def _written_blocks(
    image: pathlib.Path, ring_blocks: int
) -> Iterator[tuple[int, bytes]]:
    """Yield (block, its bytes) for each block of the ring that isn't zero."""
    # Unbuffered: the holes are sought behind the back of a buffer.
    with image.open('rb', buffering=0) as disk:
        fd = disk.fileno()
        end = min(os.fstat(fd).st_size, ring_blocks * BLOCK_SIZE)
        block = 0
        while block * BLOCK_SIZE < end:
            try:
                start = os.lseek(fd, block * BLOCK_SIZE, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # a hole up to the end
                    return
                raise
            hole = min(os.lseek(fd, start, os.SEEK_HOLE), end)
            block = start // BLOCK_SIZE
            while block * BLOCK_SIZE < hole:
                data = os.pread(fd, BLOCK_SIZE, block * BLOCK_SIZE)
                if data.strip(b'\0'):
                    yield block, data
                block += 1


def qemu_img(*arguments: str) -> None:
    """Run qemu-img.

    :raises RuntimeError: with its words, if it fails
    """
    command = ['qemu-img', *arguments]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f'qemu-img {arguments[0]}: {done.stderr.strip()}')
