# SPDX-License-Identifier: Apache-2.0
"""Why nova-ext-serve does not start, said where whoever starts it looks."""

from __future__ import annotations

import pathlib

import pytest

from tests.fixtures import serve
from tests.fixtures.app import PASTE_FILE

SHIPPED = PASTE_FILE.read_text()


@pytest.mark.parametrize(
    ('paste', 'words'),
    [
        ('[app:other]\n', "'nova_ext'"),
        ('no section', 'no section'),
        (SHIPPED.replace('nova_ext.api.filters:fault', 'no:fault'), "'no'"),
        (SHIPPED.replace('keystone =', 'other ='), "'keystone'"),
    ],
)
@pytest.mark.parametrize('log_file', [True, False])
def test_a_paste_file_that_cannot_be_used_is_named(
    tmp_path: pathlib.Path, paste: str, words: str, log_file: bool
) -> None:
    file, config = tmp_path / 'api-paste.ini', tmp_path / 'nova_ext.conf'
    file.write_text(paste)
    log = f'log_file = {tmp_path}/log\n' if log_file else ''
    config.write_text(
        f'[DEFAULT]\n{log}[nova_ext]\nport = 0\napi_paste_config = {file}\n'
        '[keystone_authtoken]\nauth_type = none\n'
        f'[nova_ext_agent]\nstate_dir = {tmp_path}\n'
    )
    run = serve.start(config)
    assert run.returncode == 1
    # Without a file the log is there.
    said = run.stderr if log_file else run.stdout
    assert said.count('nova-ext-serve cannot start: ') == 1
    assert str(file) in said
    assert words in said
    assert 'Traceback' not in run.stdout + run.stderr


def test_a_policy_file_that_is_not_there_is_named(
    tmp_path: pathlib.Path,
) -> None:
    config = tmp_path / 'nova_ext.conf'
    config.write_text(
        '[nova_ext]\nport = 0\nauth_strategy = noauth\n'
        f'[nova_ext_agent]\nstate_dir = {tmp_path}\n'
        '[oslo_policy]\npolicy_file = nothere.yaml\n'
    )
    run = serve.start(config)
    assert run.returncode == 1
    assert '[oslo_policy] policy_file nothere.yaml' in run.stdout
    assert 'Traceback' not in run.stdout + run.stderr
