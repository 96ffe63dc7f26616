# SPDX-License-Identifier: Apache-2.0
"""Image files as they are on a share: identity, qcow2 headers, QEMU's locks.

Everything is read here in a few system calls: a qemu-img process costs more
than the whole snapshot. Whether what is found allows something is decided in
agent/; libvirt is not known here. A share may hang, so callers go through
:class:`Files`, which gives up after a time and does not let a hung share eat
the process.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import stat
import struct
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar('T')

_MAGIC = b'QFI\xfb'
_BASE = struct.Struct('>4sIQIIQIIQQIIQ')
_VERSION_3 = struct.Struct('>QQQII')
_EXTENSION = struct.Struct('>II')
_END, _BACKING_FORMAT = 0, 0xE2792ACA

# NOTE: QEMU's own bounds (docs/interop/qcow2, block/qcow2.c): a forged header
# can't make us read without end, nor see what QEMU would not see.
_MAX_BACKING_NAME = 1023
_MAX_FORMAT_NAME = 15
_MAX_L1_BYTES = 32 << 20
_MAX_OFFSET = (1 << 63) - 1
_MAX_EXTENSIONS = 64

# Incompatible feature bits (docs/interop/qcow2).
DIRTY, CORRUPT, DATA_FILE, COMPRESSION, EXTENDED_L2 = 1, 2, 4, 8, 16

# QEMU's lock bytes (block/file-posix.c): 100 + n is held for a permission in
# use, 200 + n for one that is not shared. Permission 1 is WRITE.
_LOCK_FIRST, _LOCK_LENGTH, _LOCK_WRITE = 100, 200, 101
_FLOCK = struct.Struct('@hhqqi')


class NotAnImage(ValueError):
    """A file that is not what it should be; says why, for the caller."""


class NotOnDisk(Exception):
    """What was written is perhaps lost; asked again, the kernel would not say
    so any more.
    """


class ShareHung(OSError):
    """A look at a file did not come back in time."""


@dataclasses.dataclass(frozen=True)
class Image:
    """What the header of a qcow2 file says.

    :ivar identity: device and inode
    :ivar virtual_size: bytes
    :ivar features: the incompatible feature bits
    :ivar snapshots: how many internal ones it has
    :ivar holds_data: whether any cluster of its own is mapped; None if that
        was not asked
    """

    identity: tuple[int, int]
    virtual_size: int
    backing_file: str | None
    backing_format: str | None
    encrypted: bool
    features: int
    snapshots: int
    holds_data: bool | None


@dataclasses.dataclass(frozen=True)
class Locks:
    """What QEMU processes of this file system have a file open for."""

    opened: bool
    writable: bool


def identity(path: str) -> tuple[int, int]:
    """Device and inode of what `path` leads to. :raises: OSError"""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def read_qcow2(path: str, *, link: bool = False, data: bool = True) -> Image:
    """The header of the regular file at `path`.

    :param link: follow a symbolic link, and accept further names
    :param data: look whether it holds data, in a table of up to 32 MiB
    :raises: :class:`NotAnImage`, OSError
    """
    fd = _open(path, link)
    try:
        status = os.fstat(fd)
        if status.st_nlink > 1 and not link:
            raise NotAnImage('it has another name (a hard link) elsewhere')
        return _parse(fd, (status.st_dev, status.st_ino), data)
    except struct.error:
        raise NotAnImage('its qcow2 header is cut short') from None
    finally:
        os.close(fd)


def sync(path: str) -> None:
    """Have what was written to the file at `path`, by whomever, on disk.

    :raises: :class:`NotOnDisk`, :class:`NotAnImage`, OSError
    """
    fd = _open(path)
    try:
        os.fsync(fd)
    except OSError as error:
        raise NotOnDisk(f'{error.strerror} ({path})') from None
    finally:
        os.close(fd)


def raw_size(path: str) -> int:
    """Bytes of a raw image, whose content is never looked at.

    :raises: OSError
    """
    return os.stat(path).st_size


def _open(path: str, link: bool = True) -> int:
    """A descriptor to read the regular file at `path`.

    :param link: follow a symbolic link
    :raises: :class:`NotAnImage`, OSError
    """
    # NOTE: whatever else has that name is not opened at all, not even for a
    # moment: opening a pipe or a device can do something.
    flags = os.O_PATH | os.O_CLOEXEC
    place = os.open(path, flags if link else flags | os.O_NOFOLLOW)
    try:
        mode = os.fstat(place).st_mode
        if stat.S_ISLNK(mode):
            raise NotAnImage('it is a symbolic link')
        if not stat.S_ISREG(mode):
            raise NotAnImage('it is not a regular file')
        try:
            return os.open(
                f'/proc/self/fd/{place}', os.O_RDONLY | os.O_CLOEXEC
            )
        except OSError as error:
            error.filename = path
            raise
    finally:
        os.close(place)


def read_notes(path: str, limit: int, *, link: bool = False) -> bytes:
    """What is in the regular file at `path`, which is no image.

    :param limit: bytes that it may have
    :param link: follow a symbolic link
    :raises: :class:`NotAnImage`, OSError
    """
    fd = _open(path, link)
    try:
        if os.fstat(fd).st_size > limit:
            raise NotAnImage(f'it has more than {limit} bytes')
        return os.pread(fd, limit, 0)
    finally:
        os.close(fd)


def locks(path: str) -> Locks:
    """What QEMU has the file open for, by its image locks.

    Nothing is locked or changed. No lock proves something only where the
    same look has found one before: file systems without locks and other
    mounts look alike.

    :raises: :class:`NotAnImage`, OSError
    """
    fd = _open(path)
    try:
        return Locks(
            opened=_locked(fd, _LOCK_FIRST, _LOCK_LENGTH),
            writable=_locked(fd, _LOCK_WRITE, 1),
        )
    finally:
        os.close(fd)


def _locked(fd: int, start: int, length: int) -> bool:
    query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, query)
    return _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK


def _parse(fd: int, file_identity: tuple[int, int], data: bool) -> Image:
    head = os.pread(fd, 4096, 0)
    if not head.startswith(_MAGIC):
        raise NotAnImage('Image is not in qcow2 format')
    (
        _,
        version,
        backing_offset,
        backing_length,
        cluster_bits,
        virtual_size,
        crypt_method,
        l1_entries,
        l1_offset,
        _,
        _,
        snapshots,
        _,
    ) = _BASE.unpack_from(head)
    features, header_length = 0, _BASE.size
    if version == 3:
        features, _, _, _, header_length = _VERSION_3.unpack_from(
            head, _BASE.size
        )
    elif version != 2:
        raise NotAnImage(f'its qcow2 version is {version}, not 2 or 3')
    _check(
        9 <= cluster_bits <= 21
        and header_length >= _BASE.size + _VERSION_3.size * (version - 2)
    )
    cluster = 1 << cluster_bits
    # What is behind a backing file's name is no header any more.
    end = backing_offset or cluster
    _check(header_length <= end <= cluster)
    backing_file = None
    if backing_offset:
        _check(backing_length <= min(_MAX_BACKING_NAME, cluster - end))
        name = os.pread(fd, backing_length, backing_offset)
        backing_file = os.fsdecode(name)
    l1_bytes = l1_entries * 8
    entry_bits = 4 if features & EXTENDED_L2 else 3
    _check(
        l1_bytes <= _MAX_L1_BYTES
        and l1_offset % cluster == 0
        and l1_offset <= _MAX_OFFSET - l1_bytes
        and l1_entries << (2 * cluster_bits - entry_bits) >= virtual_size
    )
    holds_data = None
    if data:
        l1_table = os.pread(fd, l1_bytes, l1_offset)
        if len(l1_table) < l1_bytes:
            raise NotAnImage('its qcow2 header is cut short')
        holds_data = snapshots > 0 or bool(l1_table.strip(b'\0'))
    return Image(
        identity=file_identity,
        virtual_size=virtual_size,
        backing_file=backing_file,
        backing_format=_backing_format(fd, header_length, end),
        encrypted=crypt_method != 0,
        features=features,
        snapshots=snapshots,
        holds_data=holds_data,
    )


def _check(within: bool) -> None:
    if not within:
        raise NotAnImage('its qcow2 header is out of bounds')


def _backing_format(fd: int, offset: int, end: int) -> str | None:
    found = None
    for _ in range(_MAX_EXTENSIONS):
        if offset >= end:
            return found
        kind, length = _EXTENSION.unpack(os.pread(fd, _EXTENSION.size, offset))
        offset += _EXTENSION.size
        _check(length <= end - offset)
        if kind == _END:
            return found
        if kind == _BACKING_FORMAT:
            _check(length <= _MAX_FORMAT_NAME)
            found = os.pread(fd, length, offset).decode('ascii', 'replace')
        offset += (length + 7) // 8 * 8
    raise NotAnImage('its qcow2 header has too many extensions')


class Files:
    """Looks at files of shares that may hang.

    :param timeout: seconds that one look may take; may change
    :param limit: looks that may be under way, hung ones included
    """

    def __init__(self, timeout: float, limit: int = 32) -> None:
        self.timeout = timeout
        self._limit = limit
        self._lock = threading.Lock()
        self._under_way = 0
        self._hung: dict[str, int] = {}
        # What came of a look when nobody waited for it any more.
        self._lost: dict[str, NotOnDisk] = {}

    def look(self, path: str, function: Callable[..., T], *args: Any) -> T:
        """``function(*args)``, which looks at the directory of `path`.

        :raises: :class:`ShareHung`, and whatever `function` raises
        """
        directory = os.path.dirname(path)
        with self._lock:
            if directory in self._hung:
                raise ShareHung(
                    f'an earlier look at {directory} has not come back; the '
                    'file server does not answer. If it was mounted anew '
                    'since, restart the agent'
                )
            if directory in self._lost:
                raise self._lost.pop(directory)
            if self._under_way >= self._limit:
                raise ShareHung('too many looks at files are under way')
            self._under_way += 1
        look = _Look(function, args)
        # NOTE: a thread and not a pool, since a call that hangs in the
        # kernel can't be taken back, and daemonic, so that it can't keep
        # the process from ending.
        thread = threading.Thread(
            target=self._run, args=(look, directory), daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            with self._lock:
                self._under_way -= 1
            raise ShareHung(str(error)) from None
        if not look.done.wait(self.timeout):
            with self._lock:
                if not look.done.is_set():
                    look.given_up = True
                    self._hung[directory] = self._hung.get(directory, 0) + 1
            if look.given_up:
                raise ShareHung(
                    f'a look at {directory} took longer than '
                    f'{self.timeout} s; the file server does not answer'
                )
        if look.error is not None:
            raise look.error
        return look.value

    def _run(self, look: _Look, directory: str) -> None:
        try:
            look.value = look.function(*look.args)
        except Exception as error:
            look.error = error
        with self._lock:
            self._under_way -= 1
            look.done.set()
            if look.given_up:
                self._hung[directory] -= 1
                if not self._hung[directory]:
                    del self._hung[directory]
                if isinstance(look.error, NotOnDisk):
                    self._lost[directory] = look.error


class _Look:
    """One call under way in a thread of its own."""

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        self.function = function
        self.args = args
        self.done = threading.Event()
        self.given_up = False
        self.value: Any = None
        self.error: Exception | None = None
