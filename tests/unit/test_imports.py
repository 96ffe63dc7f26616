# SPDX-License-Identifier: Apache-2.0
"""Imports go only downward, and third parties stay in their room.

The imports of each module are read from its text, so that nothing has to be
installed and what is imported inside a function counts as well.
"""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / 'nova_ext'

LEAVES = {
    *('exception', 'conf', 'config', 'context', 'enforcer', 'log'),
    *('patience', 'plain', 'policies'),
}

# Room → what its modules may import, besides each other: rooms or modules.
DOWNWARD = {
    'cmd': {
        *('api', 'compute', 'agent', 'virt', 'cinder', 'identity', 'leaves'),
    },
    'api': {'compute', 'leaves'},
    'compute': {'agent.wire', 'bus', 'cinder', 'fence', 'leaves'},
    'agent': {'virt', 'bus', 'cinder', 'fence', 'leaves'},
    'virt': {'exception'},
    'fence': {'cinder', 'exception'},
    'cinder': {'exception', 'identity'},
    'identity': set(),
    'bus': set(),
    'leaves': set(),
}

# Third party → the rooms or modules that may import it.
_LIBVIRT = {
    *('virt.connection', 'virt.host', 'virt.guest', 'virt.chain'),
    'virt.sample',
}
AT_HOME: dict[str, set[str]] = {
    **dict.fromkeys(
        (
            *('webob', 'routes', 'paste', 'jsonschema', 'keystonemiddleware'),
            *('oslo_middleware', 'microversion_parse'),
        ),
        {'api'},
    ),
    'oslo_messaging': {'bus'},
    'oslo_service': {'bus'},
    'libvirt': {*_LIBVIRT, 'virt.sample_chain'},
    'libvirt_qemu': {'virt.sample_chain'},
    'xml': {*_LIBVIRT, 'virt.stand_in'},
    'nova': {'compute.nova', 'agent.nova_bdm'},
    'oslo_db': {'compute.nova'},
    'keystoneauth1': {'cinder', 'identity'},
    'sqlite3': {'agent.journal'},
    'prometheus_client': {'agent.metrics'},
    **dict.fromkeys(('lxml', 'eventlet', 'greenlet'), set()),
}

NAMELESS = {'util', 'utils', 'common', 'helper', 'helpers', 'lib', 'misc'}


def _room(module: str) -> str:
    """The room of a module, which is named without the package."""
    first = module.partition('.')[0]
    return 'leaves' if first in LEAVES else first


def _imported(module: str, source: str, package: bool) -> Iterator[str]:
    """The full name of all that a module imports."""
    above = f'nova_ext.{module}'.rstrip('.').split('.')
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                up = len(above) - node.level + package
                base = '.'.join([*above[:up], *filter(None, [base])])
            yield from (f'{base}.{alias.name}' for alias in node.names)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.endswith(('import_module', '__import__')):
                name = node.args[0] if node.args else None
                known = isinstance(name, ast.Constant)
                yield str(name.value) if known else '<dynamic>'


def problems(module: str, source: str, package: bool = False) -> Iterator[str]:
    """What is wrong with the imports and the name of one module.

    :param module: its name without ``nova_ext.``
    :param package: whether it is the ``__init__`` of a package
    """
    if NAMELESS & set(module.split('.')):
        yield f'{module} is named after nothing'
    room = _room(module)
    if module and room not in DOWNWARD:
        yield f'{module} is in no room'
        return
    for name in _imported(module, source, package):
        first, _, rest = name.partition('.')
        if first == '<dynamic>':
            yield f'{module} imports what is not said'
        elif first == 'nova_ext':
            if rest and not _is_downward(room, rest):
                yield f'{module} imports {name}'
        elif first in AT_HOME:
            if not AT_HOME[first] & {room, module}:
                yield f'{module} imports {first}'


def _is_downward(room: str, name: str) -> bool:
    other = _room(name)
    if other == room:
        # Leaves do not lean on each other's rooms, and may on each other.
        return True
    allowed = DOWNWARD.get(room, set())
    names = name.split('.')
    starts = {'.'.join(names[:length]) for length in (1, 2)}
    return bool(allowed & {other, *starts})


def _modules() -> dict[str, pathlib.Path]:
    found = {}
    for path in sorted(PACKAGE.rglob('*.py')):
        parts = path.relative_to(PACKAGE).with_suffix('').parts
        found['.'.join(part for part in parts if part != '__init__')] = path
    return found


@pytest.mark.parametrize('module', _modules(), ids=lambda name: name or '.')
def test_a_module_imports_only_what_its_room_may(module: str) -> None:
    path = _modules()[module]
    package = path.name == '__init__.py'
    assert not [*problems(module, path.read_text('utf-8'), package)]


def test_all_rooms_are_there() -> None:
    assert {_room(module) for module in _modules() if module} == set(DOWNWARD)
    leaves = {path.stem for path in PACKAGE.glob('*.py')}
    assert leaves == LEAVES | {
        *('__init__', 'bus', 'cinder', 'fence', 'identity')
    }


@pytest.mark.parametrize(
    ('module', 'source'),
    [
        ('exception', 'from nova_ext import cinder'),
        ('conf', 'import nova_ext.api.wsgi'),
        ('virt.guest', 'from nova_ext import cinder'),
        ('virt.guest', 'from nova_ext import conf'),
        ('virt.guest', 'from nova_ext.agent import job'),
        ('cinder', 'from nova_ext.virt import chain'),
        ('agent.manager', 'from nova_ext.compute import api'),
        ('agent.manager', 'import nova_ext.api.wsgi'),
        ('compute.libvirt', 'from nova_ext.agent import manager'),
        ('compute.libvirt', 'from nova_ext.agent.manager import Manager'),
        ('compute.libvirt', 'from nova_ext import agent'),
        ('compute.libvirt', 'import nova_ext.agent'),
        ('compute.libvirt', 'from nova_ext.virt import host'),
        ('compute.api', 'from nova_ext.api import wsgi'),
        ('api.wsgi', 'from nova_ext.agent import wire'),
        ('api.wsgi', 'from nova_ext import cinder'),
        ('api.wsgi', 'from nova_ext.virt import image'),
        ('api.app', 'from nova_ext.cmd import serve'),
        ('agent.manager', 'import nova_ext.cmd.serve as serve'),
        ('agent.manager', 'from ..compute import api'),
        ('agent.manager', 'from .. import compute'),
        ('agent.manager', 'def f():\n    from nova_ext.api import app'),
        ('agent.manager', "importlib.import_module('nova_ext.api.app')"),
        ('agent.manager', "__import__('libvirt')"),
        ('compute.api', 'importlib.import_module(name)'),
        ('compute.api', 'import webob.exc'),
        ('compute.api', 'from routes import Mapper'),
        ('cmd.serve', 'from paste import deploy'),
        ('agent.wire', 'import jsonschema'),
        ('policies', 'import keystonemiddleware'),
        ('agent.manager', 'import oslo_messaging'),
        ('api.app', 'import oslo_messaging as messaging'),
        ('virt.image', 'import libvirt'),
        ('virt.image', 'if TYPE_CHECKING:\n    import libvirt'),
        ('agent.manager', 'from xml.etree import ElementTree'),
        ('virt.chain', 'import lxml.etree'),
        ('compute.libvirt', 'from nova import objects'),
        ('agent.reporter', 'from keystoneauth1 import exceptions'),
        ('agent.manager', 'import sqlite3'),
        ('agent.engine', 'import prometheus_client'),
        ('cmd.doctor.reports', 'import keystoneauth1'),
        ('cmd.serve', 'import eventlet'),
        ('agent.util', ''),
        ('common', ''),
        ('virt.lib.x', ''),
        ('storage', 'import os'),
    ],
)
def test_a_wrong_import_or_name_is_seen(module: str, source: str) -> None:
    assert len([*problems(module, source)]) >= 1


@pytest.mark.parametrize(
    ('module', 'source'),
    [
        ('context', 'from nova_ext import exception'),
        ('virt.guest', 'import libvirt\nfrom nova_ext.virt import chain'),
        ('agent.manager', 'from nova_ext.virt.host import Host'),
        ('agent.manager', 'from . import job\nfrom nova_ext import cinder'),
        ('compute.libvirt', 'from nova_ext.agent import wire'),
        ('compute.libvirt', 'from nova_ext.agent.wire import Malformed'),
        ('compute.nova', 'from nova import objects'),
        ('compute.rpc', 'from nova_ext import bus'),
        ('bus', 'import oslo_messaging'),
        ('api.wsgi', 'import webob.exc\nfrom nova_ext import exception'),
        ('cmd.serve', 'from nova_ext.api import app\nimport os'),
        ('cinder', 'import keystoneauth1.loading'),
        ('', 'import os'),
    ],
)
def test_a_right_import_is_let_pass(module: str, source: str) -> None:
    assert not [*problems(module, source)]


def test_a_package_may_import_its_own_modules() -> None:
    source = 'from . import job\nfrom .manager import Manager'
    assert not [*problems('agent', source, package=True)]
    source = 'from .. import compute'
    assert [*problems('agent', source, package=True)]


def test_the_logic_of_the_agent_does_without_libvirt(
    tmp_path: pathlib.Path,
) -> None:
    """So that its unit tests need nothing but pip."""
    process = {'service', 'rpc', 'metrics', 'nova_bdm'}
    names = sorted(
        path.stem
        for path in (PACKAGE / 'agent').glob('*.py')
        if path.stem not in process
    )
    lines = [f'import nova_ext.agent.{name}' for name in names]
    code = '\n'.join(["import sys; sys.modules['libvirt'] = None", *lines])
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True)
