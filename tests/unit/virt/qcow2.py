# SPDX-License-Identifier: Apache-2.0
"""qcow2 headers made by hand, good ones and hostile ones.

Written from QEMU's docs/interop/qcow2, and not with what is under test.
"""

from __future__ import annotations

import pathlib
import struct

CLUSTER = 1 << 16
L1_OFFSET = 3 * CLUSTER
END, BACKING_FORMAT, FEATURE_NAMES = 0, 0xE2792ACA, 0x6803F857


def extension(kind: int, data: bytes, length: int | None = None) -> bytes:
    """One header extension; `length` is what it says of itself."""
    padding = -len(data) % 8
    said = len(data) if length is None else length
    return struct.pack('>II', kind, said) + data + bytes(padding)


def make(
    path: pathlib.Path,
    *,
    version: int = 3,
    size: int = 1 << 30,
    backing: bytes = b'base',
    backing_format: bytes | None = b'raw',
    extensions: bytes | None = None,
    backing_offset: int | None = None,
    backing_length: int | None = None,
    cluster_bits: int = 16,
    crypt_method: int = 0,
    l1: tuple[int, ...] = (0, 0),
    l1_entries: int | None = None,
    l1_offset: int = L1_OFFSET,
    snapshots: int = 0,
    features: int = 0,
    header_length: int | None = None,
    cut: int | None = None,
) -> pathlib.Path:
    """Write an image whose header says this; None says what is so.

    :param cut: bytes of the file to leave
    """
    if extensions is None:
        extensions = extension(END, b'')
        if backing_format is not None:
            extensions = extension(BACKING_FORMAT, backing_format) + extensions
    base_length = 104 if version >= 3 else 72
    name_at = base_length + len(extensions) if backing else 0
    head = struct.pack(
        '>4sIQIIQIIQQIIQ',
        b'QFI\xfb',
        version,
        name_at if backing_offset is None else backing_offset,
        len(backing) if backing_length is None else backing_length,
        cluster_bits,
        size,
        crypt_method,
        len(l1) if l1_entries is None else l1_entries,
        l1_offset,
        CLUSTER,
        1,
        snapshots,
        0,
    )
    if version >= 3:
        said = base_length if header_length is None else header_length
        head += struct.pack('>QQQII', features, 0, 0, 4, said)
    data = bytearray(L1_OFFSET + 8 * len(l1))
    data[: len(head + extensions + backing)] = head + extensions + backing
    struct.pack_into(f'>{len(l1)}Q', data, L1_OFFSET, *l1)
    path.write_bytes(data if cut is None else data[:cut])
    return path
