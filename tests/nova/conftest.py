# SPDX-License-Identifier: Apache-2.0
"""The figures that the last line of a run has, and our filter in Nova."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.nova_plugin import paste_with, plugin_virtualenv
from tests.nova.parity import Count

if TYPE_CHECKING:
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.nova import Nova, NovaAPI

# As README.rst has them.
NAME, FILTER = 'assisted_volume_snapshots', 'use = egg:nova_ext#nova'

_count = pytest.StashKey[Count]()


@pytest.fixture(scope='session')
def parity(pytestconfig: pytest.Config) -> Count:
    """What the last line says."""
    return pytestconfig.stash.setdefault(_count, Count())


@pytest.fixture(scope='session')
def plugin(nova: Nova, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of a virtualenv with both."""
    return plugin_virtualenv(nova.bin, tmp_path_factory.mktemp('plugin'))


@pytest.fixture(scope='session')
def paste(nova: Nova, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nova's, and our filter in it."""
    path = tmp_path_factory.mktemp('paste') / 'api-paste.ini'
    return paste_with(nova.shipped_paste, path, {NAME: FILTER})


@pytest.fixture(scope='session')
def mounted(plugin: Path, paste: Path, nova: Nova) -> Iterator[NovaAPI]:
    """Nova's API with our filter, whose options are as by default."""
    with nova.serving(paste, tokens=nova.tokens(), bin=plugin) as api:
        yield api


# Outside of all others: the root's prints a last line, too.
@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_unconfigure(config: pytest.Config) -> Iterator[None]:
    yield
    if count := config.stash.get(_count, None):
        print(count)
