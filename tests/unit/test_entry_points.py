# SPDX-License-Identifier: Apache-2.0
"""Each entry point leads to what it promises, and to no more than that."""

from __future__ import annotations

import configparser
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

# What only the agent, the rpc backend or a real Nova needs.
HEAVY = (
    *('libvirt', 'libvirt_qemu', 'oslo_messaging', 'sqlalchemy', 'sqlite3'),
    'prometheus_client',
    *('nova', 'eventlet'),
)

# That of the last release for Python 3.10 loads eventlet, which warns of it.
_LOG = 'import sys\nimport nova_ext.cmd, oslo_log.log\n'

# Resolves what it reads, with a stand-in for a binding that is not here.
_RESOLVE = """
import importlib, importlib.util, json, sys
from unittest import mock
for name in (
    *('libvirt', 'libvirt_qemu', 'nova', 'nova.api', 'nova.api.openstack'),
    *('nova.compute', 'oslo_db'),
):
    if name.partition('.')[0] in sys.modules or (
        importlib.util.find_spec(name) is None
    ):
        sys.modules[name] = mock.MagicMock()
found = {}
for target in json.load(sys.stdin):
    module, _, attributes = target.partition(':')
    thing = importlib.import_module(module)
    for attribute in attributes.split('.'):
        thing = getattr(thing, attribute)
    kind = thing.__mro__ if isinstance(thing, type) else [type(thing)]
    names = [f'{base.__module__}.{base.__qualname__}' for base in kind]
    found[target] = [callable(thing), names]
json.dump(found, sys.stdout)
"""


def _entry_points() -> dict[str, dict[str, str]]:
    """Group → name → target, as setup.cfg has them."""
    parser = configparser.ConfigParser(delimiters='=')
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(ROOT / 'setup.cfg', encoding='utf-8')
    groups = {}
    for group, text in parser['options.entry_points'].items():
        lines = [line.partition('=') for line in text.split('\n') if line]
        groups[group] = {
            name.strip(): target.strip() for name, _, target in lines
        }
    return groups


def _python(
    code: str, directory: pathlib.Path, text: str = ''
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, '-c', code],
        cwd=directory,
        input=text,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope='module')
def resolved(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[bool, list[str]]]:
    """Target → whether it can be called, and the names of its classes."""
    targets = [
        target
        for group in _entry_points().values()
        for target in group.values()
    ]
    run = _python(
        _RESOLVE, tmp_path_factory.mktemp('anywhere'), json.dumps(targets)
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_all_groups_are_there() -> None:
    assert set(_entry_points()) == {
        'console_scripts',
        'paste.app_factory',
        'paste.composite_factory',
        'paste.filter_factory',
        'nova_ext.compute',
        'oslo.config.opts',
        'oslo.config.opts.defaults',
        'oslo.policy.policies',
        'oslo.policy.enforcer',
        'oslo.middleware.healthcheck',
    }


@pytest.mark.parametrize(
    'target',
    [f'{g}:{n}' for g, names in _entry_points().items() for n in names],
)
def test_each_resolves_to_something_that_can_be_called(
    target: str, resolved: dict[str, tuple[bool, list[str]]]
) -> None:
    group, _, name = target.partition(':')
    assert resolved[_entry_points()[group][name]][0]


@pytest.mark.parametrize('name', _entry_points()['nova_ext.compute'])
def test_each_backend_is_a_compute_api(
    name: str, resolved: dict[str, tuple[bool, list[str]]]
) -> None:
    target = _entry_points()['nova_ext.compute'][name]
    assert 'nova_ext.compute.api.ComputeAPI' in resolved[target][1]


def test_the_plugin_loads_nothing_that_only_others_need(
    tmp_path: pathlib.Path,
) -> None:
    run = _python(
        f'{_LOG}before = set(sys.modules)\nimport nova_ext.api.app\n'
        f'print(sorted({set(HEAVY)!r} & set(sys.modules) - before))\n',
        tmp_path,
    )
    assert (run.stdout, run.stderr) == ('[]\n', '')


def test_what_words_a_refusal_is_loaded_with_the_first(
    tmp_path: pathlib.Path,
) -> None:
    run = _python(
        f'{_LOG}from nova_ext import exception\n'
        'from nova_ext.api import app, schemas\n'
        "info = {'snapshot_id': 's', 'type': 'qcow2', 'new_file': 'v.s'}\n"
        "snapshot = {'volume_id': 'v', 'create_info': info}\n"
        "schemas.create({'snapshot': snapshot})\n"
        "print('jsonschema' in sys.modules)\n"
        'try:\n'
        "    schemas.create({'snapshot': {}})\n"
        'except exception.InvalidInput:\n'
        "    print('jsonschema' in sys.modules)\n",
        tmp_path,
    )
    assert (run.stdout, run.stderr) == ('False\nTrue\n', '')


def test_the_plugin_and_its_backend_work_without_what_others_need(
    tmp_path: pathlib.Path,
) -> None:
    # As where it is not installed: None makes an import fail.
    run = _python(
        f'import sys\nsys.modules.update(dict.fromkeys({HEAVY!r}))\n'
        'from oslo_config import cfg\n'
        'from nova_ext import conf\n'
        'from nova_ext.api import app\n'
        "cfg.CONF([], project='nova_ext', default_config_files=[])\n"
        'conf.register_opts(cfg.CONF)\n'
        "cfg.CONF.set_override('auth_strategy', 'noauth', 'nova_ext')\n"
        'print(type(app.load(cfg.CONF)).__name__)\n',
        tmp_path,
    )
    assert run.stdout == 'Mount\n', run.stderr


def test_the_agent_does_not(tmp_path: pathlib.Path) -> None:
    run = _python(
        f'import sys\nsys.modules.update(dict.fromkeys({HEAVY!r}))\n'
        'from nova_ext.cmd import agent\nagent.main()\n',
        tmp_path,
    )
    assert run.stderr.startswith('nova-ext-agent cannot start: ')
    assert run.stderr.endswith(' Install nova_ext[libvirt].\n')
    assert run.stderr.count('\n') == 1
