# SPDX-License-Identifier: Apache-2.0
"""Secrets in the options: who may read them, and what never repeats them."""

from __future__ import annotations

import logging
import pathlib

import oslo_messaging
import pytest
from oslo_config import cfg

from nova_ext import bus, config
from nova_ext.api import nova
from tests.fixtures import written

WITH_PASSWORD = [
    'password = x',
    'password: x',
    'memcache_secret_key = x\npassword=y',
    'transport_url = rabbit://nova:x@broker:5672/',
    'client_secret = x',
]
WITHOUT = [
    'username = x',
    'password =',
    '# password = x',
    'endpoint = http://localhost:8776/v3',
    'transport_url = rabbit://broker:5672/',
    'http_basic_auth_user_file = /etc/nova_ext/htpasswd',
]


@pytest.fixture
def root_level() -> object:
    """The log as it was; oslo.log sets the level of all of it."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.mark.parametrize('mode', [0o640, 0o644])
@pytest.mark.parametrize('line', WITH_PASSWORD + WITHOUT)
def test_a_file_with_a_password_is_named(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    root_level: object,
    mode: int,
    line: str,
) -> None:
    path = tmp_path / 'nova_ext.conf'
    path.write_text(f'[nova_ext_cinder]\n{line}\n')
    path.chmod(mode)
    conf = cfg.ConfigOpts()
    config.setup(conf, [], [str(path)])
    exposed = bool(mode & 0o004) and line in WITH_PASSWORD
    assert config.exposed_files(conf) == [str(path)] * exposed
    said = ''.join(capsys.readouterr())
    assert ('everybody on this host' in said) is exposed


def test_a_file_of_a_directory_of_files_counts(tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'conf.d' / '10-cinder.conf'
    path.parent.mkdir()
    path.write_text('[nova_ext_cinder]\npassword = x\n')
    path.chmod(0o644)
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[], default_config_dirs=[str(path.parent)])
    assert config.exposed_files(conf) == [str(path)]


def test_what_a_run_of_tests_has_written_is_searched(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(written, '_secrets', set())
    log = tmp_path / 'state' / 'agent.log.1'
    log.parent.mkdir()
    log.write_text('what a word: S3CRET')
    written.search(tmp_path)
    assert written.remember('S3CRET') == 'S3CRET'
    with pytest.raises(written.Leaked, match='agent.log.1') as told:
        written.search(tmp_path)
    assert 'S3CRET' not in str(told.value)
    with pytest.raises(written.Leaked, match='in an answer'):
        written.search_in(b'"S3CRET"', 'an answer')


def test_in_nova_api_it_is_named_too(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / 'nova_ext.conf'
    path.write_text('[nova_ext_cinder]\npassword = x\n')
    path.chmod(0o644)
    nova._configure(cfg.ConfigOpts(), str(path), compute_api='libvirt')
    assert f'{path} has a password in it' in caplog.text


@pytest.mark.parametrize(
    'url',
    [
        'rabbit://nova:S3CRET/more@broker:5672/',
        'rabbit://nova:S3CRET@[broker/',
        'rabbit://nova:S3CRET@broker:S3CRET/',
        'S3CRET',
        '://nova:S3CRET@broker/',
    ],
)
def test_no_part_of_the_url_of_the_bus_is_told(url: str) -> None:
    conf = cfg.ConfigOpts()
    conf([])
    conf.register_opts(oslo_messaging.transport._transport_opts)
    conf.set_override('transport_url', url)
    with pytest.raises(bus.UNUSABLE) as error:
        bus.transport(conf)
    assert 'S3CRET' not in str(error.value)
    assert 'S3CRET' not in repr(error.value.__cause__)
    assert error.value.__suppress_context__
