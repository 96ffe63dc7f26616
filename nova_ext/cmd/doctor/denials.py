# SPDX-License-Identifier: Apache-2.0
"""What AppArmor or SELinux has kept QEMU from opening, as the kernel logs."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

from nova_ext.cmd.doctor.finding import Finding, ok, unknown, wrong

_KERNEL = '/dev/kmsg'
LOGS = (
    *(_KERNEL, '/var/log/audit/audit.log', '/var/log/kern.log'),
    '/var/log/syslog',
)
_TAIL = 4 << 20
_APPARMOR = re.compile(
    r'apparmor="DENIED".* profile="libvirt-[^"]*" name="(?P<name>[^"]*)"'
)
_SELINUX = re.compile(
    r'avc: +denied .* (?:name|path)="(?P<name>[^"]*)".*:svirt_'
)


def check(volumes: Iterable[str], logs: Sequence[str] = LOGS) -> list[Finding]:
    """Whether an image was denied to QEMU since the logs begin.

    :param volumes: ids, which the names of their files have
    """
    wanted, read = tuple(volumes), 0
    found: dict[str, str] = {}
    for log in logs:
        with contextlib.suppress(OSError):
            for line in _lines(log):
                found.update(_denied(line, wanted))
            read += 1
    if not read:
        return [
            unknown(
                'AppArmor, SELinux',
                'this user can read no log of the kernel',
                'run this as root',
            )
        ]
    if not found:
        return [ok('AppArmor, SELinux', 'no volume was denied to QEMU')]
    return [
        wrong('AppArmor, SELinux', f'{name} was denied to QEMU', mend)
        for name, mend in found.items()
    ]


def _denied(line: str, volumes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The file that a line says was denied, and what mends it."""
    for pattern in (_APPARMOR, _SELINUX):
        match = pattern.search(line)
        if match and any(volume in match['name'] for volume in volumes):
            yield match['name'], _mend(pattern, match['name'])


def _mend(pattern: re.Pattern[str], name: str) -> str:
    if pattern is _SELINUX:
        return 'setsebool -P virt_use_nfs on'
    return (
        f'add "{os.path.dirname(name)}/** rwk," to /etc/apparmor.d/local/'
        'abstractions/libvirt-qemu'
    )


def _lines(log: str) -> Iterator[str]:
    """:raises: OSError"""
    if log != _KERNEL:
        with pathlib.Path(log).open('rb') as file:
            file.seek(max(os.fstat(file.fileno()).st_size - _TAIL, 0))
            for line in file:
                yield line.decode(errors='replace')
        return
    fd = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    try:
        # Each read is one record, and there is an error when there is none.
        with contextlib.suppress(BlockingIOError):
            while True:
                yield os.read(fd, 8192).decode(errors='replace')
    finally:
        os.close(fd)
