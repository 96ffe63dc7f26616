# SPDX-License-Identifier: Apache-2.0
"""Backends are found by the name of their entry point, and not before."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
from oslo_config import cfg

from nova_ext.agent import wire
from nova_ext.agent.manager import Manager
from nova_ext.compute import api, libvirt
from tests.fixtures.app import configured


def test_the_option_names_the_backend() -> None:
    with configured({'nova_ext.compute_api': 'libvirt'}) as conf:
        loaded = api.load(conf)
    assert isinstance(loaded, libvirt.ComputeAPI)
    assert loaded.conf is conf


def test_an_unknown_backend_is_said_to_be() -> None:
    with configured({'nova_ext.compute_api': 'abacus'}) as conf:
        with pytest.raises(cfg.Error, match='abacus, .* libvirt, nova, rpc'):
            api.load(conf)


@pytest.mark.parametrize(
    ('backend', 'module', 'mend'),
    [
        ('rpc', 'oslo_messaging', 'Install nova_ext[rpc].'),
        ('nova', 'nova', 'in the Python environment that has it'),
    ],
)
def test_a_backend_that_lacks_something_says_what_mends_it(
    backend: str, module: str, mend: str
) -> None:
    # None makes an import fail as where it is not installed.
    script = (
        f'import sys\nsys.modules[{module!r}] = None\n'
        'from oslo_config import cfg\n'
        'from nova_ext import conf\n'
        'from nova_ext.compute import api\n'
        'conf.register_opts(cfg.CONF)\n'
        f'cfg.CONF.set_override("compute_api", {backend!r}, "nova_ext")\n'
        'api.load(cfg.CONF)\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith('oslo_config.cfg.Error: [nova_ext] compute_api is ')
    assert mend in last


def test_a_backend_is_whole() -> None:
    with pytest.raises(TypeError):
        api.ComputeAPI(None)  # type: ignore[abstract, arg-type]
    for name in api.ComputeAPI.__abstractmethods__:
        assert inspect.signature(
            getattr(libvirt.ComputeAPI, name)
        ) == inspect.signature(getattr(api.ComputeAPI, name))


def test_what_the_backend_sends_is_what_the_manager_takes() -> None:
    crossing = {'not_after', 'request_id'}
    for name in set(wire.METHODS) & api.ComputeAPI.__abstractmethods__:
        asked = set(
            inspect.signature(getattr(api.ComputeAPI, name)).parameters
        )
        taken = set(inspect.signature(getattr(Manager, name)).parameters)
        assert asked - {'context'} | crossing == taken


def test_no_backend_is_imported_before_it_is_chosen() -> None:
    script = (
        'import sys\n'
        'import nova_ext.compute.api\n'
        'import nova_ext.api.app\n'
        'found = [m for m in sys.modules if m.startswith("nova_ext.")]\n'
        'print(*found, sep="\\n")\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', script],
        check=True,
        capture_output=True,
        text=True,
    )
    loaded = done.stdout.split()
    assert 'nova_ext.compute.api' in loaded
    assert not [
        name
        for name in loaded
        if name.startswith(('nova_ext.agent', 'nova_ext.virt'))
        or name == 'nova_ext.compute.libvirt'
    ]
