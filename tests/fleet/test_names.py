# SPDX-License-Identifier: Apache-2.0
"""Two agents of one name: one lives on, and the other says why it ends."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import sys
import threading
from collections.abc import Iterator

from tests.crash.rig import wait_for
from tests.fixtures.host import short_directory
from tests.fixtures.serve import write_config
from tests.fleet.rig import LISTENING, Attempt, Fleet, FleetHost

_SECONDS = 60


class Second:
    """Another agent of the name of a host, with a state of its own."""

    def __init__(self, host: FleetHost, directory: pathlib.Path) -> None:
        groups = host.configuration()
        self.log = directory / 'agent.log'
        groups['DEFAULT']['log_file'] = self.log
        groups['nova_ext_agent']['state_dir'] = directory
        config = write_config(directory / 'agent.conf', groups)
        self.process = subprocess.Popen(
            [
                *(sys.executable, '-m', 'nova_ext.cmd.agent'),
                *('--config-file', str(config)),
            ]
        )

    def listens(self) -> bool:
        """Whether it has taken the name for its own."""
        return self.log.exists() and LISTENING in self.log.read_text()

    def misses_the_broker(self) -> bool:
        """Whether it has looked for the broker in vain."""
        failed = 'Connection failed'
        return self.log.exists() and failed in self.log.read_text()

    def assert_refused(self) -> None:
        """It has ended, and says why."""
        assert self.process.wait(_SECONDS) == 1, self.log.read_text()
        said = self.log.read_text()
        assert 'another agent answers' in said
        assert '[nova_ext_agent] host' in said
        assert not self.listens()
        assert 'Accepted' not in said


@contextlib.contextmanager
def second(host: FleetHost) -> Iterator[Second]:
    """It is started here, and has ended afterwards."""
    with short_directory() as directory:
        agent = Second(host, directory)
        try:
            yield agent
        finally:
            agent.process.kill()
            agent.process.wait(_SECONDS)


def test_the_second_of_a_name_refuses(fault: Fleet) -> None:
    share, _ = fault.shares
    made = threading.Event()
    with second(share.host) as other:

        def go_on() -> None:
            # What is asked meanwhile is not taken by the second.
            while other.process.poll() is None:
                share.delete(share.create())
            made.set()

        asking = Attempt(go_on)
        other.assert_refused()
        asking.end()
    assert made.is_set()
    share.create()


def test_of_two_that_start_at_once_one_stays(fault: Fleet) -> None:
    share, _ = fault.shares
    share.host.stop_agent()
    # Neither can ask whether there is another.
    fault.bus.stop()
    try:
        with second(share.host) as one, second(share.host) as other:
            wait_for(
                lambda: one.misses_the_broker() and other.misses_the_broker(),
                'they do not look for the broker',
            )
            fault.bus.start()
            wait_for(
                lambda: one.listens() or other.listens(), 'neither listens'
            )
            stays, ends = (one, other) if one.listens() else (other, one)
            ends.assert_refused()
            # Whoever it is, it is the agent of the host now.
            share.delete(share.create())
            assert stays.process.poll() is None
            stays.process.terminate()
            assert stays.process.wait(_SECONDS) == 0
    finally:
        if not fault.bus.runs:
            fault.bus.start()
    share.host.start_agent()
