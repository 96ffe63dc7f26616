# SPDX-License-Identifier: Apache-2.0
"""What is said of an api-paste.ini of Nova, line by line."""

from __future__ import annotations

import json
import pathlib

import pytest

from nova_ext.cmd import manage, paste
from nova_ext.cmd.doctor import files

GOOD = """
[composite:osapi_compute]
use = call:nova.api.openstack.urlmap:urlmap_factory
/v2.1/+: v21

[composite:v21]
use = call:nova.api.auth:pipeline_factory_v21
keystone = cors authtoken keystonecontext ours the_app

[composite:v2]
use = call:nova.api.auth:pipeline_factory_v21
keystone = cors authtoken keystonecontext legacy ours the_app

[filter:ours]
use = egg:nova_ext#nova

[filter:keystonecontext]
paste.filter_factory = nova.api.auth:NovaKeystoneContext.factory

[app:the_app]
paste.app_factory = nova.api.openstack.compute:APIRouterV21.factory
"""


def test_nothing_is_said_of_what_is_right() -> None:
    assert paste.check(GOOD) == []


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        (
            'use = egg:nova_ext#nova',
            'paste.filter_factory = nova_ext.api.nova:filter_factory',
        ),
        ('ova\n', 'ova\nmax_microversion = 2.90\n'),
        ('ova\n', 'ova\nrefuse_suspended = false\n'),
        ('\n[composite', '[DEFAULT]\nany = thing\n[composite'),
    ],
)
def test_what_does_as_well_is_right(old: str, new: str) -> None:
    assert old in GOOD
    assert paste.check(GOOD.replace(old, new, 1)) == []


def test_without_a_filter_that_says_who_asks_none_can_be_named() -> None:
    findings = paste.check(GOOD.replace('NovaKeystoneContext', 'Other'))
    assert len(findings) == 2
    assert all('no filter has the factory' in f.problem for f in findings)


def test_a_pipeline_for_noauth2_may_stay_as_it_is() -> None:
    """Nova had one until 31, and uses it only in tests of its own."""
    older = GOOD.replace(
        '\nkeystone =', '\nnoauth2 = cors noauth2 the_app\nkeystone ='
    )
    assert paste.check(older) == []


def test_the_lines_that_are_missing_are_those_that_mend_it() -> None:
    plain = GOOD.replace(' ours ', ' ').replace('[filter:ours]', '[gone]')
    plain = plain.replace('use = egg:nova_ext#nova', '')
    findings = paste.check(plain)
    assert [finding.section for finding in findings] == [
        'filter:assisted_volume_snapshots',
        'composite:v21',
        'composite:v2',
    ]
    mended = plain
    for finding in findings:
        key = finding.line.partition('=')[0]
        head, section, rest = mended.partition(f'[{finding.section}]\n')
        lines = rest.splitlines()
        found = [n for n, line in enumerate(lines) if line.startswith(key)]
        if section and finding.section.startswith('composite'):
            lines[found[0]] = finding.line
            mended = head + section + '\n'.join(lines)
        else:
            mended += f'\n[{finding.section}]\n{finding.line}\n'
    assert paste.check(mended) == []


@pytest.mark.parametrize(
    ('old', 'new', 'section', 'problem'),
    [
        (
            'keystonecontext ours the_app',
            'keystonecontext ours ours the_app',
            'composite:v21',
            'twice',
        ),
        (
            'authtoken keystonecontext legacy ours',
            'ours authtoken keystonecontext legacy',
            'composite:v2',
            'behind the one',
        ),
        (
            'authtoken keystonecontext legacy',
            'authtoken legacy',
            'composite:v2',
            'keystonecontext is not in the pipeline',
        ),
        (
            'keystonecontext legacy ours the_app',
            'keystonecontext legacy the_app ours',
            'composite:v2',
            'right before the_app',
        ),
        # So that /v2 would have microversions.
        (
            'legacy ours the_app',
            'ours legacy the_app',
            'composite:v2',
            'right before the_app',
        ),
        # With which Nova does not start.
        ('ova\n', 'ova\nmax_version = 2.7\n', 'filter:ours', 'max_version'),
        ('ova\n', 'ova\nfence = no\n', 'filter:ours', 'fence = no'),
        (
            'ova\n',
            'ova\nmax_microversion = 3.1\n',
            'filter:ours',
            'max_microversion = 3.1',
        ),
        ('APIRouterV21', 'Other', 'composite:osapi_compute', 'supported'),
    ],
)
def test_what_is_wrong_is_said(old, new, section, problem) -> None:  # type: ignore
    assert old in GOOD
    (finding,) = paste.check(GOOD.replace(old, new, 1))
    assert finding.section == section
    assert problem in finding.problem


@pytest.mark.parametrize(
    ('content', 'problem'),
    [
        (None, 'find'),
        (b'no option', 'parse'),
        (b'[nova_ext]\nhost = \xff', 'UTF-8'),
        ('directory', 'read'),
        (b'[nova_ext]\nhost = ::1', ''),
    ],
)
def test_a_file_of_options_that_cannot_be_read_is_named(
    tmp_path: pathlib.Path, content: bytes | str | None, problem: str
) -> None:
    file = tmp_path / 'nova_ext.conf'
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content:
        file.mkdir()
    line = 'config_file = %(here)s/nova_ext.conf\nfence = never'
    text = GOOD.replace('ova\n', f'ova\n{line}\n', 1)
    findings = paste.check(text, str(tmp_path))
    assert bool(findings) is bool(problem)
    for finding in findings:
        assert finding.section == 'filter:ours'
        assert str(file) in finding.problem
        assert problem in finding.problem
        assert 'take the line out' in finding.mend
        assert '\n' not in str(finding)
        assert finding.mend in str(finding)
    # As one has it whom the command helps.
    paste_file = tmp_path / 'api-paste.ini'
    paste_file.write_text(text)
    assert manage.main(['paste', 'check', str(paste_file)]) == bool(problem)
    (found,) = files.check_paste(paste_file)
    assert found.state == ('wrong' if problem else 'ok')
    assert found.mend == ''.join(finding.mend for finding in findings)


def test_each_finding_has_a_mend() -> None:
    for old, new in (
        ('ova\n', 'ova\nfence = no\n'),
        ('APIRouterV21', 'Other'),
        ('NovaKeystoneContext', 'Other'),
        (' keystonecontext ', ' '),
        ('legacy ours', 'legacy'),
    ):
        findings = paste.check(GOOD.replace(old, new))
        assert findings
        assert all(bool(f.line) is not bool(f.mend) for f in findings)


def test_the_command_reads_and_writes_nothing(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / 'api-paste.ini'
    file.write_text(GOOD)
    assert manage.main(['paste', 'check', str(file)]) == 0
    assert 'as it should be' in capsys.readouterr().out
    bad = GOOD.replace('legacy ours', 'legacy')
    file.write_text(bad)
    assert manage.main(['paste', 'check', '--json', str(file)]) == 1
    (finding,) = json.loads(capsys.readouterr().out)
    assert finding['line'].endswith('keystonecontext legacy ours the_app')
    assert manage.main(['paste', 'check', str(file)]) == 1
    assert finding['line'] in capsys.readouterr().out
    assert file.read_text() == bad
    for content in (b'no section', b'\xff'):
        file.write_bytes(content)
        assert manage.main(['paste', 'check', str(file)]) == 1
        said = capsys.readouterr().err
        assert 'cannot be read' in said
        assert '/etc/nova/api-paste.ini' in said
