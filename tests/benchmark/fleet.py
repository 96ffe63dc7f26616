# SPDX-License-Identifier: Apache-2.0
"""A fleet to put a load on: API workers, a broker, agents with small guests.

Here: how they are started and ended. Not here: what a hypervisor is made of
(hypervisor.py), who asks, and what must hold afterwards (load.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import shutil
import sys
import threading
from collections.abc import Iterator

import libvirt

from tests.benchmark import hypervisor
from tests.benchmark.cinder_process import Prompt
from tests.fixtures.host import short_directory
from tests.fixtures.rabbitmq import RabbitMQ
from tests.fixtures.serve import write_config
from tests.fixtures.servers import (
    ServerFailed,
    ServerProcess,
    free_port,
    server_environment,
)

HOSTS = 2
# A thread of the API for each client of 64; that they are more than there are
# CPUs is no matter, since most of the time they wait for an agent.
WORKERS, THREADS = 8, 8
_START_SECONDS = 120.0


class Cinder(Prompt):
    """Cinder, of which many wait for what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self._done: dict[str, threading.Event] = {}

    def expect(self, snapshot_id: str) -> threading.Event:
        """Set when compute reports next that it is done with it."""
        self._done[snapshot_id] = threading.Event()
        return self._done[snapshot_id]

    def heed(self, snapshot_id: str) -> None:
        """See :class:`tests.benchmark.cinder_process.Prompt`."""
        super().heed(snapshot_id)
        self._done[snapshot_id].set()


def _workers(
    directory: pathlib.Path, broker: RabbitMQ, cinder: Cinder
) -> ServerProcess:
    """The API, under uWSGI as etc/nova_ext/uwsgi.ini has it."""
    uwsgi = shutil.which(
        'uwsgi', path=str(pathlib.Path(sys.executable).parent)
    )
    if uwsgi is None:
        raise ServerFailed('uwsgi is not installed; it is in the extra bench')
    config = write_config(
        directory / 'api.conf',
        {
            'DEFAULT': {
                'log_file': directory / 'api.log',
                'transport_url': broker.url,
            },
            'nova_ext': {'auth_strategy': 'noauth', 'compute_api': 'rpc'},
            'nova_ext_cinder': hypervisor.cinder_options(cinder),
        },
    )
    port = free_port()
    argv = [
        *(uwsgi, '--need-app', '--die-on-term', '--master', '--lazy-apps'),
        *('--processes', str(WORKERS), '--threads', str(THREADS)),
        *('--disable-logging', '--enable-threads'),
        *('--buffer-size', '65535', '--post-buffering', '8192'),
        *('--http-socket', f'127.0.0.1:{port}'),
        *('--home', sys.prefix),
        *('--module', 'nova_ext.cmd.wsgi:application'),
    ]
    return ServerProcess(
        argv,
        port=port,
        log=directory / 'uwsgi.log',
        env=server_environment(OS_NOVA_EXT_CONFIG_FILES=str(config)),
        start_timeout=_START_SECONDS,
    )


@dataclasses.dataclass
class Fleet:
    """What runs.

    :ivar port: where the API answers
    """

    cinder: Cinder
    hosts: list[hypervisor.Host]
    port: int


@contextlib.contextmanager
def running(snapshots: int) -> Iterator[Fleet]:
    """A fleet, until this context ends.

    :param snapshots: of each volume, for which Cinder's part is done
    :raises: :class:`tests.benchmark.rig.MeasuringFailed`, and what the parts
        raise
    """
    # libvirt would print each error on stderr beside raising it.
    libvirt.registerErrorHandler(lambda context, error: None, None)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(short_directory())
        broker = stack.enter_context(RabbitMQ(directory))
        cinder = stack.enter_context(Cinder())
        hosts = [
            stack.enter_context(
                hypervisor.running(f'host-{number}', broker, cinder, snapshots)
            )
            for number in range(HOSTS)
        ]
        workers = stack.enter_context(_workers(directory, broker, cinder))
        for host in hosts:
            hypervisor.wait_listening(host)
        try:
            yield Fleet(cinder, hosts, workers.port)
        except Exception:
            for host in hosts:
                print(host.log.read_text()[-4000:], file=sys.stderr)
            raise
