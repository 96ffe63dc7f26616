# SPDX-License-Identifier: Apache-2.0
"""The backend ``rpc`` in WSGI servers that fork what they have loaded.

Real servers with several workers before a real RabbitMQ; the agent's manager
does as a test says.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import json
import os
import pathlib
import signal
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

import pytest

from tests.fixtures.bus import (
    CREATE_INFO,
    DELETE_INFO,
    VOLUME,
    BusAgent,
    attach,
)
from tests.fixtures.cinder import CinderDouble
from tests.fixtures.rabbitmq import RabbitMQ
from tests.fixtures.serve import write_config
from tests.fixtures.servers import (
    ServerProcess,
    free_port,
    server_virtualenv,
)

pytest_plugins = ['tests.fixtures.rabbitmq']

_WORKERS, _REQUESTS = 3, 60
_APPLICATION = 'nova_ext.cmd.wsgi:application'


_GUNICORN = [
    *('-m', 'gunicorn', '--preload', '--no-control-socket'),
    *('--bind', '{address}', '--workers', f'{_WORKERS}', '--threads', '4'),
    _APPLICATION,
]
_UWSGI = [
    *('-c', 'import pyuwsgi; pyuwsgi.run()', '--master', '--die-on-term'),
    *('--http-socket', '{address}', '--processes', f'{_WORKERS}'),
    *('--threads', '4', '--enable-threads', '--module', _APPLICATION),
]
# Requirement → what Python is to run. Both load before they fork.
_SERVERS = {'gunicorn>=22': _GUNICORN, 'pyuwsgi>=2.0.28': _UWSGI}


@pytest.fixture(scope='module')
def double() -> Iterator[CinderDouble]:
    with CinderDouble() as running:
        attach(running)
        yield running


@pytest.fixture(scope='module')
def agent(rabbitmq: RabbitMQ) -> Iterator[BusAgent]:
    with BusAgent(rabbitmq.url) as running:
        yield running


@pytest.fixture(scope='module', params=_SERVERS)
def server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    rabbitmq: RabbitMQ,
    double: CinderDouble,
    agent: BusAgent,
) -> Iterator[ServerProcess]:
    """A server whose workers are forked after the application is loaded."""
    directory = tmp_path_factory.mktemp('workers')
    config = write_config(
        directory / 'nova_ext.conf',
        {
            'DEFAULT': {'transport_url': rabbitmq.url},
            'nova_ext': {'auth_strategy': 'noauth', 'compute_api': 'rpc'},
            'nova_ext_cinder': {
                'auth_type': 'none',
                'endpoint': double.endpoint,
            },
        },
    )
    port = free_port()
    # Our environment, and beside it the server.
    home = server_virtualenv('wsgi-server', [request.param]).parent
    (packages,) = home.glob('lib/python3*/site-packages')
    words = [
        word.format(address=f'127.0.0.1:{port}')
        for word in _SERVERS[request.param]
    ]
    yield from _running(
        ServerProcess(
            [sys.executable, *words],
            port=port,
            log=directory / 'server.log',
            env={
                **os.environ,
                'OS_NOVA_EXT_CONFIG_FILES': str(config),
                'PYTHONPATH': str(packages),
            },
        )
    )


def _running(server: ServerProcess) -> Iterator[ServerProcess]:
    with server:
        yield server
        log = server.log.read_text()
    # What oslo.messaging says where a connection outlived a fork.
    assert 'forked after connection' not in log
    assert 'Traceback' not in log


def _ask(server: ServerProcess, number: int) -> int:
    """The status of a request, every other of which is a DELETE."""
    path = f'http://127.0.0.1:{server.port}/v2.1/os-assisted-volume-snapshots'
    body = None
    if number % 2:
        info = urllib.parse.urlencode({'delete_info': json.dumps(DELETE_INFO)})
        path, method = f'{path}/s{number}?{info}', 'DELETE'
    else:
        info = {**CREATE_INFO, 'snapshot_id': f's{number}'}
        snapshot = {'volume_id': VOLUME, 'create_info': info}
        body, method = json.dumps({'snapshot': snapshot}).encode(), 'POST'
    request = urllib.request.Request(
        path, body, {'Content-Type': 'application/json'}, method=method
    )
    with contextlib.closing(urllib.request.urlopen(request, None, 60)) as got:
        return got.status


def _ask_many(server: ServerProcess) -> collections.Counter[int]:
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        return collections.Counter(
            pool.map(lambda number: _ask(server, number), range(_REQUESTS))
        )


def _children(pid: int) -> set[int]:
    words = pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text()
    return {int(word) for word in words.split()}


def _connected(rabbitmq: RabbitMQ) -> set[int]:
    """Processes that have a connection, by the name that it has."""
    lines = rabbitmq.control(
        *('-q', 'list_connections', '--no-table-headers', 'client_properties')
    )
    found = set()
    for word in lines.split('"'):
        parts = word.split(':')
        if len(parts) == 3 and parts[1].isdigit():
            found.add(int(parts[1]))
    return found


def test_all_workers_answer_each_request_once(
    server: ServerProcess, agent: BusAgent, rabbitmq: RabbitMQ
) -> None:
    agent.manager.calls.clear()
    # So that one worker is not quick enough for all.
    agent.manager.work = lambda: time.sleep(0.05)
    half = _REQUESTS // 2
    assert _ask_many(server) == {200: half, 204: half}
    assert len(agent.manager.calls) == _REQUESTS
    workers = _children(server.pid)
    assert len(workers) >= _WORKERS
    assert len(workers & _connected(rabbitmq)) > 1
    # The one that has loaded it for them has none.
    assert server.pid not in _connected(rabbitmq)


def test_a_worker_that_is_replaced_is_as_good(
    server: ServerProcess, agent: BusAgent
) -> None:
    agent.manager.work = lambda: None
    before = _children(server.pid)
    for worker in before:
        os.kill(worker, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while len(_children(server.pid) - before) < _WORKERS:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    half = _REQUESTS // 2
    assert _ask_many(server) == {200: half, 204: half}
