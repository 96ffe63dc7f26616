# SPDX-License-Identifier: Apache-2.0
"""The processes of a fleet: agents that note their points, API workers.

Both are as they are shipped, but for a clock that a test may set wrong, and
for what tests/crash/agent.py adds to an agent.
"""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import signal
import sys
from collections.abc import Mapping
from typing import Any

import nova_ext.agent.rpc  # noqa: F401 (most of the time of a start)
from tests.crash import agent as crash_agent
from tests.fixtures.clock import Clock
from tests.fixtures.serve import write_config
from tests.fixtures.servers import (
    ServerProcess,
    free_port,
    server_environment,
)

_REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
CLOCK = 'NOVA_EXT_TEST_CLOCK'


def _run(directory: pathlib.Path, config: pathlib.Path, settle: float) -> None:
    Clock(directory / 'clock').obey()
    crash_agent.run(directory, config, settle)


class Agent(crash_agent.Process):
    """An agent, whose clock is the file ``clock`` beside its journal."""

    def __init__(
        self, directory: pathlib.Path, config: pathlib.Path, settle: float
    ) -> None:
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload([__name__])
        self._process = context.Process(
            target=_run, args=(directory, config, settle)
        )
        self._process.start()

    def terminate(self) -> None:
        """SIGTERM, as an operator does."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGTERM)


class Workers(ServerProcess):
    """API workers under gunicorn, as ``nova_ext.cmd.wsgi`` is made for.

    :param directory: for their configuration, clock and logs
    :param options: group → option → value
    :param number: of worker processes
    """

    def __init__(
        self,
        directory: pathlib.Path,
        options: Mapping[str, Mapping[str, Any]],
        number: int = 2,
    ) -> None:
        directory.mkdir()
        self.clock = Clock(directory / 'clock')
        groups = dict(options)
        groups['DEFAULT'] = {
            'log_file': directory / 'api.log',
            **options['DEFAULT'],
        }
        config = write_config(directory / 'api.conf', groups)
        port = free_port()
        super().__init__(
            [
                *(sys.executable, '-m', 'gunicorn', '--no-control-socket'),
                *('--workers', str(number), '--threads', '8'),
                *('--timeout', '300', '--graceful-timeout', '1'),
                *('--bind', f'127.0.0.1:{port}', 'tests.fleet.wsgi'),
            ],
            port=port,
            log=directory / 'gunicorn.log',
            env=server_environment(
                OS_NOVA_EXT_CONFIG_FILES=str(config),
                **{CLOCK: str(directory / 'clock')},
            ),
            cwd=_REPOSITORY,
        )
        self.url = f'http://127.0.0.1:{port}/v2.1/os-assisted-volume-snapshots'
