# SPDX-License-Identifier: Apache-2.0
"""What a module imports is declared by what the module is installed with.

That others of our requirements happen to bring it is not enough: they may
stop. How each extra works alone is tried in tests/package/test_extras.py.
"""

from __future__ import annotations

import configparser
import re
import sys

import pytest

from tests.unit import test_imports

SETUP = configparser.ConfigParser(delimiters='=')
SETUP.read(test_imports.PACKAGE.parent / 'setup.cfg')

# Who is imported only by what an extra is for → that extra. All else is
# imported by the plugin, too, and may be by any module.
OF_AN_EXTRA = {
    'bcrypt': 'libvirt',
    'libvirt': 'libvirt',
    'libvirt_qemu': 'libvirt',
    'oslo_messaging': 'rpc',
    'oslo_service': 'rpc',
    'prometheus_client': 'metrics',
}
# Where the modules are that import those; the plugin alone loads none.
OF_EXTRAS = re.compile(r'(agent|bus|cmd|compute\.rpc|virt)\b')
# Who comes with nova-api, or nova-compute, that loads the module.
OF_NOVA = {'nova', 'oslo_db'}
_NAMES = {'libvirt': 'libvirt-python', 'libvirt_qemu': 'libvirt-python'} | {
    'paste': 'pastedeploy'
}


def _declared(text: str) -> set[str]:
    names = re.findall(r'^[A-Za-z][\w.-]*', text, re.MULTILINE)
    return {name.lower().replace('.', '-').replace('_', '-') for name in names}


def _third_parties(module: str) -> set[str]:
    """The top names of what a module imports that isn't ours or Python's."""
    path = test_imports._modules()[module]
    found = test_imports._imported(
        module, path.read_text('utf-8'), path.name == '__init__.py'
    )
    known = {*sys.stdlib_module_names, 'nova_ext', '__future__'}
    return {name.partition('.')[0] for name in found} - known


@pytest.mark.parametrize(
    'module', test_imports._modules(), ids=lambda name: name or '.'
)
def test_what_a_module_imports_is_declared(module: str) -> None:
    for name in _third_parties(module) - OF_NOVA:
        extra = OF_AN_EXTRA.get(name)
        assert extra is None or OF_EXTRAS.match(module), name
        text = SETUP['options']['install_requires']
        if extra:
            text = SETUP['options.extras_require'][extra]
        distribution = _NAMES.get(name, name).lower().replace('_', '-')
        assert distribution in _declared(text), f'{name}: in [{extra}]'


def test_what_is_declared_is_imported() -> None:
    imported = set().union(*map(_third_parties, test_imports._modules()))
    for name in OF_AN_EXTRA:
        assert name in imported, name
    assert OF_NOVA <= imported
