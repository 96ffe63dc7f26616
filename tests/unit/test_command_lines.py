# SPDX-License-Identifier: Apache-2.0
"""What the commands say of themselves, to who asks and who mistypes."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
from importlib import metadata

import pytest

COMMANDS = ('agent', 'demo', 'manage', 'serve')
# An agent is only asked what it is, and does not need libvirt for that.
WITHOUT_LIBVIRT = (
    'import runpy, sys\n'
    'from unittest import mock\n'
    "for name in ('libvirt', 'libvirt_qemu'):\n"
    '    try:\n'
    '        __import__(name)\n'
    '    except ModuleNotFoundError:\n'
    '        sys.modules[name] = mock.MagicMock()\n'
    "runpy.run_module(f'nova_ext.cmd.{sys.argv.pop(1)}', "
    "run_name='__main__')\n"
)


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, '-c', WITHOUT_LIBVIRT, *words],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize('command', COMMANDS)
def test_each_says_its_version(command: str) -> None:
    run = _run(command, '--version')
    assert (run.returncode, run.stderr) == (0, '')
    assert metadata.version('nova_ext') in run.stdout.split()


def test_a_library_that_finds_eventlet_says_nothing_to_the_caller() -> None:
    run = subprocess.run(
        [sys.executable, '-c', 'import nova_ext.cmd, eventlet'],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (run.returncode, run.stderr) == (0, '')


def _groups() -> list[tuple[str, ...]]:
    verbs = 'list show watch cancel limit retry rollback abandon'.split()
    return [
        *((command,) for command in COMMANDS),
        ('manage', 'doctor'),
        ('manage', 'paste'),
        ('manage', 'paste', 'check'),
        ('manage', 'job'),
        *(('manage', 'job', verb) for verb in verbs),
    ]


@pytest.mark.parametrize('words', _groups(), ids=' '.join)
def test_each_says_what_it_is_for_and_what_it_takes(
    words: tuple[str, ...],
) -> None:
    run = _run(*words, '--help')
    assert (run.returncode, run.stderr) == (0, '')
    usage, what, *rest = run.stdout.split('\n\n')
    assert usage.startswith('usage: ')
    assert re.match('[A-Z]', what), 'a sentence says what it is for'
    # oslo.config's own texts have more markup than is ours to mend.
    assert '``' not in what and ':mod:' not in what
    if words[0] in ('manage', 'demo'):
        for line in '\n\n'.join(rest).splitlines():
            # A name and no text: the text is in the next line, or missing.
            if re.fullmatch(r'  (--?\w|\w)\S*( \S+)?', line):
                after = run.stdout.partition(line + '\n')[2]
                assert re.match(' {4,}\\S', after), line


def test_what_is_not_read_to_its_end_is_no_error() -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, '-m', 'nova_ext.cmd.manage'),
            *('--config-file', os.devnull, 'doctor', '--json'),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    process.stdout.close()
    _, said = process.communicate(timeout=60)
    assert said == ''


def test_a_doctor_says_nothing_but_findings(tmp_path: pathlib.Path) -> None:
    config = tmp_path / 'nova_ext.conf'
    user = 'auth_type = password\nauth_url = http://127.0.0.1:9\n'
    config.write_text(
        f'[keystone_authtoken]\n{user}\n[nova_ext_cinder]\n{user}\n'
        '[nova_ext_agent]\nreports = cinder\n'
    )
    run = subprocess.run(
        [
            *(sys.executable, '-m', 'nova_ext.cmd.manage'),
            *(f'--config-file={config}', 'doctor', '--json'),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (run.returncode, run.stderr) == (1, '')
    assert json.loads(run.stdout)


@pytest.mark.parametrize(
    ('written', 'said'),
    [
        (b'\xff\xfe', 'a configuration file is no text in UTF-8: '),
        (None, 'a configuration file cannot be read: '),
        (b'nonsense', 'Failed to parse '),
        (b'[nova_ext_agent]\nsocket = $x', '[nova_ext_agent] socket cannot '),
        (b'[nova_ext_agent]\nreply_wait = 1s', 'reply_wait cannot be used: '),
        (b'[DEFAULT]\nlog_file = /proc/x/y', 'the log cannot be kept'),
        (b'[DEFAULT]\nlog_config_append = /proc/x', 'the log cannot be kept'),
        (b'[DEFAULT]\ndefault_log_levels = x', 'the log cannot be kept'),
    ],
)
@pytest.mark.parametrize(
    'words', [('agent',), ('serve',), ('manage', 'job', 'list')], ids=' '.join
)
def test_a_configuration_that_cannot_be_used_is_said_to_be(
    written: bytes | None,
    said: str,
    words: tuple[str, ...],
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / 'nova_ext.conf'
    if written is None:
        path.mkdir()
    else:
        path.write_bytes(written + b'\n')
    run = _run(words[0], f'--config-file={path}', *words[1:])
    assert run.returncode == 1
    shown = run.stdout + run.stderr
    assert 'Traceback' not in shown
    # nova-ext-manage keeps no log.
    asks = b'DEFAULT' in (written or b'') and words[0] == 'manage'
    assert ('The agent of host' if asks else said) in shown


# Interrupts a command where it waits longest.
INTERRUPTED = (
    'import sys\n'
    'from unittest import mock\n'
    "for name in ('libvirt', 'libvirt_qemu'):\n"
    '    sys.modules[name] = mock.MagicMock()\n'
    'from nova_ext.cmd import {command}\n'
    'sys.argv[1:] = {argv}\n'
    'with mock.patch.object({place}, side_effect=KeyboardInterrupt):\n'
    '    sys.exit({command}.main())\n'
)


@pytest.mark.parametrize(
    ('command', 'argv', 'place', 'said'),
    [
        ('demo', [], 'demo._Service, "running"', 'interrupted'),
        (
            'manage',
            ['--config-file', os.devnull, 'job', 'watch', '1'],
            'manage.agent, "ComputeAPI"',
            '',
        ),
    ],
)
def test_ctrl_c_is_no_error_of_the_program(
    command: str, argv: list[str], place: str, said: str
) -> None:
    script = INTERRUPTED.format(command=command, argv=argv, place=place)
    run = subprocess.run(
        [sys.executable, '-c', script],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 130
    assert run.stderr == (f'nova-ext-{command}: {said}\n' if said else '')
