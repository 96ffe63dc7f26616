# SPDX-License-Identifier: Apache-2.0
"""libvirt, and whether QEMU and the agent may open the files of shares."""

from __future__ import annotations

import importlib
import os
import pwd
import subprocess
from collections.abc import Iterator
from typing import Any

from oslo_config import cfg

from nova_ext import exception
from nova_ext.cmd.doctor import attachments, denials
from nova_ext.cmd.doctor.finding import Finding, ok, unknown, wrong

_TIMEOUT_SECONDS = 5.0
_SHOWN = 3
_GROUPS = (
    'add it to the group of the files, or have Cinder make them for all '
    '(nas_secure_file_permissions = false)'
)


def check_libvirt(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Whether libvirt can be reached, and its guests' volumes be opened."""
    uri = conf.nova_ext_agent.libvirt_uri
    try:
        virt = importlib.import_module('nova_ext.virt.host')
    except ImportError as error:
        yield wrong('libvirt', str(error), "pip install 'nova_ext[libvirt]'")
        return
    try:
        host = virt.Host(uri)
        try:
            volumes = {
                volume: host.attachments(volume) for volume in host.volumes()
            }
            qemu = host.qemu_user()
        finally:
            host.close()
    except exception.NovaExtException as error:
        yield wrong(
            'libvirt',
            str(error),
            'look at whether libvirtd or virtqemud runs, at [nova_ext_agent] '
            'libvirt_uri, and at whether this user is in the group libvirt',
        )
        return
    yield ok('libvirt', f'{uri} answers, and has {len(volumes)} volumes')
    yield from denials.check(volumes)
    if conf.nova_ext_agent.reports == 'cinder':
        yield from attachments.check(conf, volumes)
    files = _files(volumes)
    if not files:
        return
    if qemu is None:
        yield unknown(
            'share, for QEMU', 'libvirt does not say as which user QEMU runs'
        )
    else:
        yield check_files('share, for QEMU', files, qemu)
    agent = _owner(conf.nova_ext_agent.socket)
    if agent is not None:
        # It only looks at them.
        looks = dict.fromkeys(files, False)
        yield check_files('share, for the agent', looks, agent)


def check_files(
    subject: str, files: dict[str, bool], who: tuple[int, int]
) -> Finding:
    """Whether a user can open files, asked of the kernel as that user.

    :param files: path → whether it is written to
    :param who: user and group id
    """
    if os.getuid() not in (0, who[0]):
        return unknown(
            subject,
            f'only root can see whether {_name(who[0])} can open its files',
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
        return ok(subject, f'{_name(who[0])} can open its {len(files)} files')
    more = len(refused) - _SHOWN
    words = ', '.join(refused[:_SHOWN]) + (f' and {more} more' * (more > 0))
    return wrong(subject, f'{_name(who[0])} cannot open {words}', _GROUPS)


def may(path: str, write: bool, who: tuple[int, int]) -> bool:
    """Whether a user may read a file, and write to it.

    :raises: subprocess.TimeoutExpired
    """
    command = ['/usr/bin/test', '-r', path]
    command += ['-a', '-w', path] if write else []
    change: dict[str, Any] = {}
    if os.getuid() == 0:
        uid, gid = who
        change = {'user': uid, 'group': gid, 'extra_groups': _groups(uid, gid)}
    done = subprocess.run(  # noqa: S603 (no shell, and fixed words)
        command, timeout=_TIMEOUT_SECONDS, check=False, **change
    )
    return done.returncode == 0


def _files(volumes: dict[str, Any]) -> dict[str, bool]:
    """The files of the chains: path → whether it is the active layer."""
    found: dict[str, bool] = {}
    for places in volumes.values():
        for attachment in places:
            for depth, layer in enumerate(attachment.disk.layers):
                if layer.path:
                    found[layer.path] = depth == 0
    return found


def _owner(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_uid, status.st_gid


def _name(uid: int) -> str:
    try:
        return f'user {pwd.getpwuid(uid).pw_name}'
    except KeyError:
        return f'user {uid}'


def _groups(uid: int, gid: int) -> list[int]:
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return [gid]
