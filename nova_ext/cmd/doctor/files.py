# SPDX-License-Identifier: Apache-2.0
"""Our policy, and of our neighbours api-paste.ini and cinder.conf."""

from __future__ import annotations

import configparser
import os
import pathlib
from collections.abc import Iterator

from oslo_config import cfg

from nova_ext import policies
from nova_ext.cmd import paste
from nova_ext.cmd.doctor.finding import Finding, ok, wrong

PASTE = pathlib.Path('/etc/nova/api-paste.ini')
CINDER = pathlib.Path('/etc/cinder/cinder.conf')
_NFS = 'NfsDriver'


def check_policy(conf: cfg.ConfigOpts) -> Finding:
    """Whether an API of ours could read its policy."""
    try:
        path = policies.load(conf).policy_path
    except cfg.Error as error:
        mend = 'mend that file; without it the API does not start'
        return wrong('policy', str(error), mend)
    how = f'{path} is used' if path else 'its rules are as they are by default'
    return ok('policy', how)


def check_paste(path: pathlib.Path) -> Iterator[Finding]:
    """Whether our filter is where it must be in Nova's pipeline."""
    subject = str(path)
    try:
        findings = paste.check(path.read_text(), os.path.abspath(path.parent))
    except (OSError, UnicodeError, configparser.Error) as error:
        yield _unread(path, error)
        return
    for found in findings:
        mend = found.mend or f'in [{found.section}]: {found.line}'
        yield wrong(subject, f'[{found.section}]: {found.problem}', mend)
    if not findings:
        yield ok(subject, 'the filter is where it must be')


def check_cinder(path: pathlib.Path) -> Iterator[Finding]:
    """Whether Cinder's NFS driver may make snapshots at all."""
    subject = str(path)
    # NOTE: for Cinder nothing in DEFAULT goes for the other sections.
    parser = configparser.RawConfigParser(
        strict=False, default_section='no such section'
    )
    try:
        parser.read_string(path.read_text())
    except (OSError, UnicodeError, configparser.Error) as error:
        yield _unread(path, error)
        return
    backends = [
        name
        for name in parser.sections()
        if parser[name].get('volume_driver', '').endswith(_NFS)
        and (name == 'DEFAULT' or name in _enabled(parser))
    ]
    right = True
    for name in backends:
        options = parser[name]
        support = options.get('nfs_snapshot_support', 'false')
        if support.lower() not in ('true', '1', 'yes', 'on'):
            right = False
            yield wrong(
                subject,
                f'[{name}] nfs_snapshot_support is {support}, so that Cinder '
                'makes no snapshots there',
                f'in [{name}]: nfs_snapshot_support = true',
            )
        secure = options.get('nas_secure_file_operations', 'auto')
        if secure.lower() != 'false':
            right = False
            yield wrong(
                subject,
                f'[{name}] nas_secure_file_operations is {secure}, with which '
                'the driver may not start, or refuse snapshots',
                f'in [{name}]: nas_secure_file_operations = false',
            )
    if right:
        yield ok(subject, f'{len(backends)} NFS backends, with snapshots')


def _enabled(parser: configparser.RawConfigParser) -> list[str]:
    text = parser.get('DEFAULT', 'enabled_backends', fallback='')
    return [name.strip() for name in text.split(',')]


def _unread(path: pathlib.Path, error: Exception) -> Finding:
    mend = 'name one that this user can read'
    return wrong(str(path), f'it cannot be read: {error}', mend)
