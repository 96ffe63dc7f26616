# SPDX-License-Identifier: Apache-2.0
"""Our options: where they are read from, and what their defaults keep to."""

from __future__ import annotations

import errno
import os
import pathlib
import subprocess
import sys
from unittest import mock

import pytest
from oslo_config import cfg

from nova_ext import cinder, config
from nova_ext import conf as nova_ext_conf


def test_two_configurations_share_nothing() -> None:
    one, other = cfg.ConfigOpts(), cfg.ConfigOpts()
    for conf in (one, other):
        nova_ext_conf.register_opts(conf)
        cinder.register_opts(conf)
    one.set_default('compute_api', 'nova', group='nova_ext')
    one.register_opt(cfg.StrOpt('auth-url'), group='nova_ext_cinder')
    for conf in (one, other):
        conf([], project='nova_ext', default_config_files=[])
    assert other.nova_ext.compute_api == 'libvirt'
    assert 'auth_url' not in other.nova_ext_cinder


def test_the_agent_ends_before_cinder_gives_up() -> None:
    """Whose limits are 600 s and 7200 s."""
    conf = cfg.ConfigOpts()
    nova_ext_conf.register_opts(conf)
    conf([], project='nova_ext', default_config_files=[])
    assert conf.nova_ext_agent.create_deadline < 600
    assert conf.nova_ext_agent.delete_deadline < 7200
    assert conf.nova_ext_agent.cancel_late


@pytest.mark.parametrize(
    ('option', 'text'),
    [
        *(
            ('max_microversion', text)
            for text in ('12.10', '2.5x', '2.0', '2.05', '3.1', '2.', '2.1.1')
        ),
        # By then Cinder has given up.
        ('create_deadline', '600'),
        ('delete_deadline', '7200'),
    ],
)
def test_a_value_that_promises_too_much_is_refused(
    tmp_path: pathlib.Path, option: str, text: str
) -> None:
    group = 'nova_ext_agent' if 'deadline' in option else 'nova_ext'
    (tmp_path / 'one').write_text(f'[{group}]\n{option} = {text}\n')
    conf = cfg.ConfigOpts()
    nova_ext_conf.register_opts(conf)
    conf([], default_config_files=[str(tmp_path / 'one')])
    with pytest.raises(cfg.Error, match=option):
        conf[group][option]


def test_a_file_that_may_not_be_read_is_named_with_what_mends_it(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / 'nova_ext.conf'
    path.touch()
    # As for a user whom its mode keeps out, which root is not.
    denied = PermissionError(errno.EACCES, 'Permission denied')
    with (
        mock.patch('builtins.open', side_effect=denied),
        pytest.raises(cfg.Error, match=f'{path}. Let one of its groups'),
    ):
        config.read(cfg.ConfigOpts(), [], [str(path)])


def test_the_files_of_the_environment_variable_are_read(
    tmp_path: pathlib.Path,
) -> None:
    """Each of them, and of an option that both have the last."""
    for name, lines in (
        ('one', 'auth_strategy = noauth\nmax_microversion = 2.7\n'),
        ('two', 'max_microversion = 2.8\n'),
    ):
        (tmp_path / name).write_text(f'[nova_ext]\n{lines}')
    run = subprocess.run(
        [
            *(sys.executable, '-c'),
            'from nova_ext.cmd import wsgi\n'
            'conf = wsgi.cfg.CONF.nova_ext\n'
            'print(conf.auth_strategy, conf.max_microversion)',
        ],
        env={
            **os.environ,
            'OS_NOVA_EXT_CONFIG_FILES': f'{tmp_path}/one;{tmp_path}/two',
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    assert run.stdout.splitlines()[-1] == 'noauth 2.8'
