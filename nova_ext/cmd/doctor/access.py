# SPDX-License-Identifier: Apache-2.0
"""What QEMU's user and the agent's may open, asked of the kernel as they are.

Also which group, or which mode, would let them. Which files and which socket
matter is said by the caller.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pathlib
import pwd
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

from nova_ext.cmd.doctor.finding import Finding, ok, unknown, wrong

_TIMEOUT_SECONDS = 5
_SHOWN = 3
_BITS = {os.R_OK: stat.S_IRGRP, os.W_OK: stat.S_IWGRP, os.X_OK: stat.S_IXGRP}
# NOTE: who is in root's group may use whatever root has for it.
_ROOT = 0
# Which take the place of root's.
_SHARE_GROUP, _LIBVIRT_GROUP = 'nova_ext_share', 'libvirt'
_LETTERS = {os.R_OK: 'r', os.W_OK: 'w', os.X_OK: 'x'}


class Who(NamedTuple):
    """A user, and all its groups."""

    user: int
    groups: tuple[int, ...]


def member(uid: int, gid: int) -> Who:
    """A user as the machine knows it, whose own group may be another."""
    try:
        groups = os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        groups = [gid]
    return Who(uid, (gid, *groups))


def check_files(subject: str, files: dict[str, bool], who: Who) -> Finding:
    """Whether a user can open files.

    :param files: path → whether it is written to
    """
    if os.getuid() not in (0, who.user):
        return unknown(
            subject,
            f'only root can see whether {name(who)} can open its files',
            'run this as root',
        )
    refused = []
    for path, write in files.items():
        try:
            if not may(path, write, who):
                refused.append(path)
        except subprocess.TimeoutExpired:
            return wrong(
                subject,
                f'a look at {path} does not come back',
                'look at its file server, and at the mount',
            )
    if not refused:
        return ok(subject, f'{name(who)} can open its {len(files)} files')
    more = len(refused) - _SHOWN
    words = ', '.join(refused[:_SHOWN]) + (f' and {more} more' * (more > 0))
    mends = dict.fromkeys(_mends(refused[0], files[refused[0]], who)) or [
        'look at access lists, and at what the file server lets it do'
    ]
    return wrong(subject, f'{name(who)} cannot open {words}', '; '.join(mends))


def may(path: str, write: bool, who: Who) -> bool:
    """Whether a user may read a file, and write to it.

    :raises: subprocess.TimeoutExpired
    """
    command = ['/usr/bin/test', '-r', path]
    command += ['-a', '-w', path] if write else []
    change: dict[str, Any] = {}
    if os.getuid() == 0:
        change = {'user': who.user, 'group': who.groups[0]}
        change['extra_groups'] = who.groups
    done = subprocess.run(  # noqa: S603 (no shell, and fixed words)
        command, timeout=_TIMEOUT_SECONDS, check=False, **change
    )
    return done.returncode == 0


def check_call(
    subject: str, call: Callable[[], object], socket: str, who: Who
) -> Finding:
    """Whether a call by a UNIX socket is answered to a user; root asks, or
    that user.

    :param call: made as that user in a process of its own
    """
    said = _as_user(call, who)
    if said is None:
        return unknown(subject, f'{name(who)} has no answer in time')
    if not said:
        return ok(subject, f'{name(who)} may use it')
    mends = list(_mends(socket, True, who))
    if not mends:
        with contextlib.suppress(OSError):
            group, regrouped = _regrouped(socket, os.stat(socket))
            mends = [*regrouped, _join(group, who)]
    return wrong(
        subject,
        f'{name(who)} may not use it: {said}',
        '; '.join([*mends, 'then restart the agent']),
    )


def _as_user(call: Callable[[], object], who: Who) -> str | None:
    """What a user is told; nothing if all is well, None if there is no end."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        _be(call, who, write)
    os.close(write)
    with os.fdopen(read, errors='replace') as answer:
        said = answer.read().strip()
    _, status = os.waitpid(child, 0)
    return said if os.WIFEXITED(status) else None


def _be(call: Callable[[], object], who: Who, answer: int) -> NoReturn:
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_TIMEOUT_SECONDS)
        if os.getuid() == 0:
            os.setgroups(who.groups)
            os.setgid(who.groups[0])
            os.setuid(who.user)
        call()
    except Exception as error:
        # NOTE: whatever it is, it must not unwind into the parent's program.
        os.write(answer, (str(error) or repr(error)).encode())
    finally:
        os._exit(0)


def _mends(path: str, write: bool, who: Who) -> Iterator[str]:
    """What would let a user open a path, as far as modes decide it."""
    wanted = {os.R_OK, os.W_OK} if write else {os.R_OK}
    above = [str(one) for one in pathlib.Path(path).parents]
    for one, bits in [*((one, {os.X_OK}) for one in above[::-1])] + [
        (path, wanted)
    ]:
        try:
            status = os.stat(one)
        except OSError as error:
            yield f'look at it: {error}'
            return
        lacking = {bit for bit in bits if not _lets(status, bit, who)}
        if not lacking:
            continue
        whose = 'u' if status.st_uid == who.user else 'g'
        barred = lacking
        joins = whose == 'g' and status.st_gid not in who.groups
        if joins:
            group, regrouped = _regrouped(one, status)
            yield from regrouped
        if whose == 'g':
            barred = {b for b in lacking if not status.st_mode & _BITS[b]}
        if barred:
            letters = ''.join(sorted(_LETTERS[bit] for bit in barred))
            yield f'chmod {whose}+{letters} {one}'
        if joins:
            yield _join(group, who)


def _regrouped(path: str, status: os.stat_result) -> tuple[str, list[str]]:
    """The group that lets users in, and what gives a path of root's to it."""
    if status.st_gid != _ROOT:
        return _group(status.st_gid), []
    if stat.S_ISSOCK(status.st_mode):
        return _LIBVIRT_GROUP, [
            f'have {path} be of the group {_LIBVIRT_GROUP} (unix_sock_group '
            'in libvirtd.conf or virtqemud.conf; SocketGroup where systemd '
            'makes the socket)'
        ]
    if stat.S_ISDIR(status.st_mode):
        return _SHARE_GROUP, [
            f'groupadd -rf {_SHARE_GROUP}',
            f'chgrp {_SHARE_GROUP} {path}',
        ]
    # What is made there later has the same group.
    above = os.path.dirname(path)
    group, regrouped = _regrouped(above, os.stat(above))
    return group, [
        *regrouped[:-1],
        f'chgrp {group} {above} {path}',
        f'chmod g+s {above}',
    ]


def _lets(status: os.stat_result, bit: int, who: Who) -> bool:
    """Whether the mode of a file lets a user do one of three things."""
    if who.user == 0:
        return True
    mode = status.st_mode
    if status.st_uid == who.user:
        return bool(mode & _BITS[bit] << 3)
    if status.st_gid in who.groups:
        return bool(mode & _BITS[bit])
    return bool(mode & _BITS[bit] >> 3)


def _join(group: str, who: Who) -> str:
    user = name(who).removeprefix('user ')
    return f'usermod -aG {group} {user}'


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def name(who: Who) -> str:
    """A user, in words."""
    try:
        return f'user {pwd.getpwuid(who.user).pw_name}'
    except KeyError:
        return f'user {who.user}'
