# SPDX-License-Identifier: Apache-2.0
"""/healthcheck where agents are asked by a message bus."""

from __future__ import annotations

import contextlib
import pathlib
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from oslo_config import cfg

from nova_ext.api import healthcheck
from tests.fixtures.cinder import CinderDouble
from tests.fixtures.serve import write_config

if TYPE_CHECKING:
    from tests.fixtures.rabbitmq import RabbitMQ

pytest_plugins = ['tests.fixtures.rabbitmq']


@contextlib.contextmanager
def _check(
    directory: pathlib.Path, url: str, double: CinderDouble, auth: str = 'none'
) -> Iterator[healthcheck.ComputeCheck]:
    path = write_config(
        directory / 'api.conf',
        {
            'DEFAULT': {'transport_url': url},
            'nova_ext': {'compute_api': 'rpc'},
            'nova_ext_cinder': {
                'auth_type': auth,
                'endpoint': double.endpoint,
                'username': 'nova_ext',
                'password': 'secret',
                'timeout': 10,
            },
        },
    )
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(path)])
    yield healthcheck.ComputeCheck(conf, {})


def test_broker_and_cinder(rabbitmq: RabbitMQ, tmp_path: pathlib.Path) -> None:
    with (
        CinderDouble() as double,
        _check(tmp_path, rabbitmq.url, double) as check,
    ):
        result = check.healthcheck(80)
        assert (result.available, 'Cinder' in result.reason) == (True, True)
        double.answer_with(503, method='GET')
        result = check.healthcheck(80)
        assert (result.available, '503' in result.reason) == (False, True)
        double.answer_with(403, method='GET')
        result = check.healthcheck(80)
        assert (result.available, 'role' in result.reason) == (False, True)
        double.stop_listening()
        result = check.healthcheck(80)
        assert not result.available
        assert 'Cinder cannot be asked' in result.reason
        double.listen_again()
        assert check.healthcheck(80).available


@pytest.mark.parametrize('listens', [True, False])
def test_a_broker_that_is_down_or_hangs(
    tmp_path: pathlib.Path, listens: bool
) -> None:
    with socket.socket() as broker, CinderDouble() as double:
        broker.bind(('127.0.0.1', 0))
        if listens:
            broker.listen()
        port = broker.getsockname()[1]
        url = f'rabbit://someone:secret-word@127.0.0.1:{port}/'
        with _check(tmp_path, url, double) as check:
            begun = time.monotonic()
            result = check.healthcheck(80)
            assert time.monotonic() - begun < 15
            assert not result.available
            assert 'secret-word' not in result.reason
