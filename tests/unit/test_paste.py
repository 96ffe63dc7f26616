# SPDX-License-Identifier: Apache-2.0
"""What is said of an api-paste.ini of Nova, line by line."""

from __future__ import annotations

import json
import pathlib

import pytest

from nova_ext.cmd import manage, paste

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
        ('ova\n', 'ova\nmax_microversion = 2.90\nconfig_file = /x\n'),
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
        assert 'cannot be read' in capsys.readouterr().err
