# SPDX-License-Identifier: Apache-2.0
"""libvirt, and whether QEMU and the agent may open the files of shares."""

from __future__ import annotations

import importlib
import os
import pwd
import socket
import urllib.parse
from collections.abc import Iterator
from typing import Any

from oslo_config import cfg

from nova_ext import exception
from nova_ext.agent import peers
from nova_ext.cmd.doctor import access, attachments, denials
from nova_ext.cmd.doctor.finding import Finding, ok, unknown, wrong

# Of the hypervisor's own daemon, and of the one for all drivers.
_SOCKETS = ('/run/libvirt/virtqemud-sock', '/run/libvirt/libvirt-sock')


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
            qemu = (user := host.qemu_user()) and access.member(*user)
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
    agent = _agent(conf.nova_ext_agent.socket)
    if agent is not None and os.getuid() == 0 != agent.user:
        yield _check_user(agent, qemu)
        yield access.check_call(
            'libvirt, for the agent',
            lambda: virt.Host(uri).connect(),
            _socket(uri),
            agent,
        )
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
        yield access.check_files('share, for QEMU', files, qemu)
    if agent is not None:
        # It only looks at them.
        looks = dict.fromkeys(files, False)
        yield access.check_files('share, for the agent', looks, agent)


def _check_user(agent: access.Who, qemu: access.Who | None) -> Finding:
    subject = 'user of the agent'
    if qemu is None:
        return unknown(
            subject,
            f'{access.name(agent)}; libvirt does not say as which user QEMU '
            'runs, which must be another',
        )
    if agent.user == qemu.user:
        return wrong(
            subject,
            f'{access.name(agent)} is also the one that QEMU runs as, which '
            'can read the password for Cinder',
            'have the agent run as a user of its own (sysusers.conf)',
        )
    return ok(subject, f'{access.name(agent)}, and not the one of QEMU')


def _socket(uri: str) -> str:
    """The path of the socket that a URI leads to."""
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(uri).query)
    there = [path for path in _SOCKETS if os.path.exists(path)]
    return query.get('socket', [*there, _SOCKETS[0]])[0]


def _files(volumes: dict[str, Any]) -> dict[str, bool]:
    """The files of the chains: path → whether it is the active layer."""
    found: dict[str, bool] = {}
    for places in volumes.values():
        for attachment in places:
            for depth, layer in enumerate(attachment.disk.layers):
                if layer.path:
                    found[layer.path] = depth == 0
    return found


def _agent(path: str) -> access.Who | None:
    """The agent that listens, with the groups that it has; or whose it was."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            user, *groups = peers.credentials(connection)
            return access.Who(user, tuple(groups))
    except OSError:
        pass
    try:
        user = os.stat(path).st_uid
        return access.member(user, pwd.getpwuid(user).pw_gid)
    except (OSError, KeyError):
        return None
