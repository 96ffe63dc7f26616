# SPDX-License-Identifier: Apache-2.0
"""What AppArmor or SELinux has kept QEMU from opening, as the kernel logs."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

from nova_ext.cmd.doctor.finding import Finding, ok, wrong

LOGS = ('/var/log/audit/audit.log', '/var/log/kern.log', '/var/log/syslog')
_KERNEL = '/dev/kmsg'
_TAIL = 4 << 20
_APPARMOR = re.compile(
    r'apparmor="DENIED".* profile="libvirt-[^"]*" name="(?P<name>[^"]*)"'
)
_SELINUX = re.compile(r'avc: +denied .* name="(?P<name>[^"]*)".*:svirt_')


def check(volumes: Iterable[str], logs: Sequence[str] = LOGS) -> list[Finding]:
    """Whether an image was denied to QEMU since the logs begin.

    :param volumes: ids, which the names of their files have
    """
    wanted = tuple(volumes)
    found: dict[str, str] = {}
    for line in _lines(logs):
        for pattern in (_APPARMOR, _SELINUX):
            match = pattern.search(line)
            if match and any(volume in match['name'] for volume in wanted):
                found[match['name']] = _mend(pattern, match['name'])
    if not found:
        return [ok('AppArmor, SELinux', 'no volume was denied to QEMU')]
    return [
        wrong('AppArmor, SELinux', f'{name} was denied to QEMU', mend)
        for name, mend in found.items()
    ]


def _mend(pattern: re.Pattern[str], name: str) -> str:
    if pattern is _SELINUX:
        return 'setsebool -P virt_use_nfs on'
    return (
        f'add "{os.path.dirname(name)}/** rwk," to /etc/apparmor.d/local/'
        'abstractions/libvirt-qemu'
    )


def _lines(logs: Sequence[str]) -> Iterator[str]:
    with contextlib.suppress(OSError):
        yield from _kernel_lines()
    for log in logs:
        with contextlib.suppress(OSError):
            path = pathlib.Path(log)
            with path.open('rb') as file:
                file.seek(max(path.stat().st_size - _TAIL, 0))
                for line in file:
                    yield line.decode(errors='replace')


def _kernel_lines() -> Iterator[str]:
    # Each read is one record, and there is an error when there is none.
    fd = os.open(_KERNEL, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            yield os.read(fd, 8192).decode(errors='replace')
    finally:
        os.close(fd)
