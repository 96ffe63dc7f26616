# SPDX-License-Identifier: Apache-2.0
"""Become systemd, as the first process of a machine that is none.

Run by ``python -m``, in namespaces of its own for mounts, processes and
control groups, with a directory in which are units, ``agent.conf``,
``api.conf`` and ``state``, and with the ids of the groups of libvirt and of
the share. Nothing of the host is changed: what is written to lies in memory,
but for ``state``.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pathlib
import shutil
import subprocess
import sys

from tests.fixtures import as_user

UNIT = 'nova-ext-agent.service'
SAMPLES = pathlib.Path(__file__).parents[2] / 'etc' / 'nova_ext'
# What a unit comes after, or wants; on a machine they are systemd's own.
_TARGETS = (
    *('sysinit', 'basic', 'shutdown', 'network-online', 'remote-fs'),
    'multi-user',
)
_SYSTEMD = '/lib/systemd/systemd'


def _run(*command: object) -> None:
    subprocess.run([*map(str, command)], check=True)


def _mounts() -> None:
    _run('mount', '--make-rprivate', '/')
    _run('mount', '-t', 'cgroup2', 'none', '/sys/fs/cgroup')
    for path in ('/run', '/var/lib', '/var/log'):
        _run('mount', '-t', 'tmpfs', '-o', 'mode=755', 'none', path)
    for name in ('etc', 'work'):
        os.mkdir(f'/run/{name}')
    layers = 'lowerdir=/etc,upperdir=/run/etc,workdir=/run/work'
    _run('mount', '-t', 'overlay', '-o', layers, 'none', '/etc')


def _accounts(groups: dict[str, str]) -> None:
    for name, number in groups.items():
        with contextlib.suppress(KeyError):
            grp.getgrnam(name)
            continue
        _run('groupadd', '--gid', number, name)
    _run('systemd-sysusers', SAMPLES / 'sysusers.conf')


def _files(directory: pathlib.Path) -> str:
    """Where the units are."""
    units = pathlib.Path('/run/units')
    (units / f'{UNIT}.d').mkdir(parents=True)
    for name in _TARGETS:
        text = f'[Unit]\nDescription={name}\nDefaultDependencies=no\n'
        (units / f'{name}.target').write_text(text)
    wanted = ''
    for unit in directory.glob('*.service'):
        shutil.copy(unit, units)
        wanted += f'Wants={unit.name}\n'
    # What an administrator adds, by "systemctl edit".
    added = '[Service]\nSupplementaryGroups=nx-share\n'
    (units / f'{UNIT}.d' / 'share.conf').write_text(added)
    text = f'[Unit]\nDefaultDependencies=no\n{wanted}'
    (units / 'ours.target').write_text(text)

    os.mkdir('/var/lib/nova_ext')
    _run('mount', '--bind', directory / 'state', '/var/lib/nova_ext')
    conf = pathlib.Path('/etc/nova_ext/nova_ext.conf')
    conf.parent.mkdir(exist_ok=True)
    shutil.copy(directory / 'agent.conf', conf)
    shutil.chown(conf, 'root', 'nova_ext')
    conf.chmod(0o640)
    conf = conf.with_name('api.conf')
    shutil.copy(directory / 'api.conf', conf)
    shutil.chown(conf, 'root', 'nova_ext_api')
    conf.chmod(0o640)
    return str(units)


def main() -> None:
    """Do not return."""
    os.umask(0o022)
    directory, libvirt, share = sys.argv[1:]
    _mounts()
    _accounts({'libvirt': libvirt, 'nx-share': share})
    units = _files(pathlib.Path(directory))
    as_user.show(as_user.needed())
    os.execve(
        _SYSTEMD,
        [_SYSTEMD, '--unit=ours.target'],
        {
            **{'container': 'nova-ext-test', 'SYSTEMD_UNIT_PATH': units},
            **{'SYSTEMD_LOG_TARGET': 'console', 'PATH': os.environ['PATH']},
        },
    )


if __name__ == '__main__':
    main()
