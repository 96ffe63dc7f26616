# SPDX-License-Identifier: Apache-2.0
"""The figures that the last line of a run has, our filter in Nova, and a Nova
with a hypervisor and our agent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.fixtures.host import short_directory
from tests.fixtures.libvirt import PrivateLibvirtd
from tests.fixtures.nova_plugin import paste_with, plugin_virtualenv
from tests.nova.agents import (
    ADMIN,
    DATA,
    REPLY_WAIT,
    Agent,
    cinder_options,
)
from tests.nova.client import Client
from tests.nova.parity import Count

if TYPE_CHECKING:
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.nova import Nova, NovaAPI
    from tests.fixtures.nova_cloud import Cloud, Server
    from tests.fixtures.nova_moves import MovingCloud
    from tests.fixtures.rabbitmq import RabbitMQ

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


@pytest.fixture(scope='session')
def cloud(nova: Nova, rabbitmq: RabbitMQ) -> Iterator[Cloud]:
    """A Nova with a hypervisor."""
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.nova_cloud import Cloud

    with (
        short_directory() as directory,
        short_directory() as sockets,
        PrivateLibvirtd(sockets) as libvirtd,
        Cloud(directory, nova, libvirtd, rabbitmq.url).running() as running,
    ):
        yield running


@pytest.fixture(scope='session')
def moving_cloud(nova: Nova, rabbitmq: RabbitMQ) -> Iterator[MovingCloud]:
    """A Nova with two hypervisors."""
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.nova_moves import MovingCloud, other_libvirtd

    bus = rabbitmq.separate('moves')
    with (
        short_directory() as directory,
        short_directory() as sockets,
        short_directory() as other_sockets,
        PrivateLibvirtd(sockets) as libvirtd,
        other_libvirtd(other_sockets) as other,
        MovingCloud(directory, nova, libvirtd, other, bus).running() as (
            running
        ),
    ):
        yield running


@pytest.fixture(scope='session')
def api(cloud: Cloud, paste: Path, plugin: Path) -> Iterator[Client]:
    """An administrator at nova-api, where our filter asks agents."""
    with _serving(cloud, paste, plugin) as client:
        yield client


@pytest.fixture(scope='session')
def moving_api(
    moving_cloud: MovingCloud, paste: Path, plugin: Path
) -> Iterator[Client]:
    """The same, of the Nova with two hypervisors."""
    options = {**moving_cloud.services, 'nova_ext_agent.reply_wait': 3}
    with _serving(moving_cloud, paste, plugin, **options) as client:
        yield client


@contextlib.contextmanager
def _serving(
    cloud: Cloud, paste: Path, plugin: Path, **more: Any
) -> Iterator[Client]:
    options = {
        'nova_ext.compute_api': 'rpc',
        'nova_ext_agent.reply_wait': REPLY_WAIT,
        **{
            f'nova_ext_cinder.{k}': v for k, v in cinder_options(cloud).items()
        },
        **more,
    }
    tokens = cloud.nova.tokens()
    with cloud.nova.serving(paste, options, tokens, plugin) as served:
        yield Client(served.url, ADMIN)


@pytest.fixture(scope='session')
def agent(cloud: Cloud, plugin: Path) -> Iterator[Agent]:
    """The agent of the hypervisor."""
    with (
        short_directory() as directory,
        Agent(cloud, plugin, directory) as agent,
    ):
        yield agent


@pytest.fixture(scope='session')
def moving_agent(moving_cloud: MovingCloud, plugin: Path) -> Iterator[Agent]:
    """The agent of the first of two hypervisors."""
    with (
        short_directory() as directory,
        Agent(moving_cloud, plugin, directory, reply_wait=3) as agent,
    ):
        yield agent


@pytest.fixture
def server(cloud: Cloud, agent: Agent, api: Client) -> Server:
    """An instance that Nova started, from its volume."""
    server = cloud.create_server()
    server.act(api, 'active', os_start=None)
    assert server.chain() == [server.volume.name]
    return server


@pytest.fixture
def full(cloud: Cloud, agent: Agent, api: Client) -> Server:
    """An instance whose volume takes a while to be merged."""
    server = cloud.create_server(DATA)
    server.act(api, 'active', os_start=None)
    return server


# Outside of all others: the root's prints a last line, too.
@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_unconfigure(config: pytest.Config) -> Iterator[None]:
    yield
    if count := config.stash.get(_count, None):
        print(count)
