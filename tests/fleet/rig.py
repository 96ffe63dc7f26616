# SPDX-License-Identifier: Apache-2.0
"""A fleet on one machine: two hosts, API workers, a broker, and the cables.

Here is how they are started, cut off, killed and started again, and what is
asked of them by whom; nothing of what must hold afterwards (judge.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import requests

from nova_ext import context as nova_ext_context
from nova_ext.virt.private import PrivateLibvirtd
from tests.crash import plan as crash_plan
from tests.crash.rig import CrashHost, Stuck, wait_for
from tests.crash.share import CrashShare
from tests.fixtures.cable import Cable
from tests.fixtures.cinder import Attachment, CinderDouble, Request
from tests.fixtures.clock import Clock
from tests.fixtures.host import short_directory
from tests.fixtures.rabbitmq import RabbitMQ
from tests.fixtures.serve import write_config
from tests.fleet.processes import Agent, Workers

# Whether there is time for what is much like something else, too.
LONG = bool(os.environ.get('NOVA_EXT_FLEET_LONG'))
# Short, for the sake of the time that the tests take; in seconds.
REPLY_WAIT, SILENCE = 6.0, 2
# As the short form of the crash matrix has it.
_SETTLE = 2.0
_PATIENCE = 90.0
# Else a broker that was away for long is not tried for half a minute.
_RECONNECT = {'rabbit_interval_max': 2}
NAMES = ('host-a', 'host-b')
LISTENING = 'Listening on the message bus'


class Refused(Exception):
    """An answer of 400 or more."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f'{status}: {message}')
        self.status = status
        self.message = message


@dataclasses.dataclass
class Call:
    """What was asked of the API, and answered; times of time.monotonic().

    :ivar status: None while there is no answer
    """

    operation: str
    snapshot_id: str
    began: float
    ended: float = float('inf')
    status: int | None = None
    message: str = ''


class Front:
    """What Cinder has of us: a URL, and what it was answered there.

    :ivar token: None for none
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.calls: list[Call] = []
        self.token: str | None = None

    def volume_snapshot_create(
        self,
        context: nova_ext_context.RequestContext,
        volume_id: str,
        create_info: dict[str, Any],
    ) -> None:
        """POST. :raises: Refused"""
        snapshot = {'volume_id': volume_id, 'create_info': create_info}
        self._ask(
            Call('create', create_info['snapshot_id'], time.monotonic()),
            'POST',
            self.url,
            json={'snapshot': snapshot},
        )

    def volume_snapshot_delete(
        self,
        context: nova_ext_context.RequestContext,
        volume_id: str,
        snapshot_id: str,
        delete_info: dict[str, Any],
    ) -> None:
        """DELETE. :raises: Refused"""
        self._ask(
            Call('delete', snapshot_id, time.monotonic()),
            'DELETE',
            f'{self.url}/{snapshot_id}',
            params={'delete_info': json.dumps(delete_info)},
        )

    def _ask(self, call: Call, method: str, url: str, **options: Any) -> None:
        self.calls.append(call)
        headers = {'X-Auth-Token': self.token} if self.token else {}
        with requests.Session() as session:
            session.trust_env = False
            answer = session.request(
                method, url, headers=headers, timeout=120, **options
            )
        call.ended = time.monotonic()
        call.status = answer.status_code
        if answer.status_code >= 400:
            call.message = answer.text
            with contextlib.suppress(ValueError, AttributeError, KeyError):
                ((_, fault),) = answer.json().items()
                call.message = fault['message']
            raise Refused(answer.status_code, call.message)


class Attempt(threading.Thread):
    """Something that Cinder does, in a thread of its own.

    :ivar error: what it ended with
    """

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self._function, self._args = function, args
        self.error: Exception | None = None
        self.result: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._function(*self._args)
        except Exception as error:
            self.error = error

    def wait(self) -> None:
        """Wait for the end."""
        self.join(_PATIENCE)
        assert not self.is_alive(), 'Cinder waits for ever'

    def end(self) -> Any:
        """Wait for the end, which must be a success; its result."""
        self.wait()
        if self.error is not None:
            raise self.error
        return self.result

    def refusal(self) -> Refused:
        """Wait for the end, which must be a refusal of ours."""
        self.wait()
        assert isinstance(self.error, Refused), self.error
        return self.error

    def failure(self) -> Exception:
        """Wait for the end, which must be a failure of any kind."""
        self.wait()
        assert self.error is not None
        return self.error


class FleetHost(CrashHost):
    """A host of the fleet, whose agent can be killed at any point.

    :param bus: of the broker
    :ivar cable: between the agent and the broker
    """

    def __init__(
        self,
        directory: pathlib.Path,
        libvirtd: PrivateLibvirtd,
        name: str,
        bus: RabbitMQ,
        double: CinderDouble,
        **options: Any,
    ) -> None:
        options = {'rpc': True, 'host': name, **options}
        super().__init__(
            directory,
            libvirtd,
            settle=_SETTLE,
            **options,
        )
        self.name = name
        self.double = double
        self.bus = bus
        self.cable = Cable(bus.port)
        self.clock = Clock(directory / 'clock')
        self.credentials: dict[str, Any] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator[FleetHost]:
        """Guest and agent, as long as this context lasts."""
        try:
            with self.cable, self.guest:
                self.guest.wait_reported(1)
                self.start_agent()
                yield self
        finally:
            self.stop_agent()
            for pid in crash_plan.qemu_pids(self.directory):
                os.kill(pid, 9)

    def configuration(self) -> dict[str, dict[str, Any]]:
        """See :class:`tests.fixtures.host.Host`."""
        groups = super().configuration()
        groups['DEFAULT']['transport_url'] = self.bus.url_by(self.cable.port)
        groups['oslo_messaging_rabbit'] = _RECONNECT
        groups['nova_ext_cinder'] |= {'timeout': 5, **self.credentials}
        return groups

    def start_agent(self, wait: bool = True) -> None:
        """Start the agent, and wait until it listens on the bus."""
        before = self._listened()
        config = write_config(
            self.directory / 'agent.conf', self.configuration()
        )
        self._process = Agent(self.directory, config, self._settle)
        if wait:
            self.wait_listening(before)

    def restart_agent(self) -> None:
        """Start the agent anew after it was killed; nobody dies any more."""
        self.post.disarm()
        assert self._process is not None
        self._process.wait(_PATIENCE)
        self.start_agent()

    def terminate_agent(self) -> None:
        """SIGTERM, and wait for the end."""
        assert isinstance(self._process, Agent)
        self._process.terminate()
        self._process.wait(_PATIENCE)

    def wait_listening(self, before: int) -> None:
        """Wait until it has begun to listen more often than so."""

        def listens() -> bool:
            assert self._process is not None
            if self._process.poll() is not None:
                raise Stuck(f'the agent ended: {self.log()[-2000:]}')
            return self._listened() > before

        wait_for(listens, f'{self.name} does not listen on the bus')

    def _listened(self) -> int:
        path = self.directory / 'agent.log'
        return path.read_text().count(LISTENING) if path.exists() else 0

    def log(self) -> str:
        """See :class:`tests.fixtures.host.Host`."""
        path = self.directory / 'agent.log'
        return path.read_text() if path.exists() else ''

    def wait_passed(self, point: str, timeout: float = 60.0) -> None:
        """Wait until the agent has passed a point since the plan holds."""
        wait_for(
            lambda: any(p.point.startswith(point) for p in self.passed()),
            f'{self.name} does not pass "{point}": {self.passed()}',
            timeout,
        )

    def die_at(self, point: str, **plan: Any) -> None:
        """Have the agent die the next time it passes a point."""
        self.arm(crash_plan.Plan(point, **plan))

    def wait_killed(self) -> None:
        """Wait until the agent is dead."""
        wait_for(self.killed, f'{self.name} is not killed: {self.passed()}')


class FleetShare(CrashShare):
    """The volume of a host, at a Cinder that others have, too."""

    host: FleetHost

    def __init__(self, host: FleetHost, limit: float) -> None:
        super().__init__(host, limit)
        host.double.add_volume(
            self.volume_id, Attachment(host.guest.uuid, host.name)
        )

    def watch(self, request: Request) -> bool:
        """Judge a report, if it is of this volume."""
        row = self.host.double.snapshots.get(request.snapshot_id or '')
        if row is not None and row.volume_id == self.volume_id:
            self._judge(request)
        return False

    @property
    def front(self) -> Front:
        """Whom Cinder asks."""
        return self.host.api

    @property
    def last_call(self) -> Call:
        """What Cinder asked last for this volume."""
        return self.front.calls[-1]


class StillMerge:
    """The deletion of the newest snapshot, whose merge stands still.

    :ivar cinder: what waits for it
    """

    def __init__(self, share: FleetShare) -> None:
        self._share = share
        guest = share.host.guest
        # More than a merge moves at once.
        guest.wait_reported(guest.reported() + 300)
        self.snapshot_id = share.create()
        share.host.arm(crash_plan.Plan(bandwidth=1))
        self.cinder = Attempt(share.delete, self.snapshot_id)
        share.host.wait_passed('after pull')
        # Else the answer may be on its way yet.
        asked = share.front.calls[-1]
        wait_for(lambda: asked.status is not None, 'the answer to a DELETE')
        share.host.post.disarm()
        assert guest.domain.blockJobInfo(guest.target)

    def let_go(self) -> None:
        """It goes on now."""
        guest = self._share.host.guest
        guest.domain.blockJobSetSpeed(guest.target, 0)


class Fleet:
    """It runs inside the `with` block.

    :param cinder_auth: of Cinder
    :param reply_wait: seconds, of the API and of the agents
    :ivar cable: between the API workers and the broker
    """

    def __init__(
        self,
        bus: RabbitMQ,
        cinder_auth: str = 'http_basic',
        reply_wait: float = REPLY_WAIT,
    ) -> None:
        self.bus = bus
        # Of agents and workers, and of workers alone.
        self.credentials: dict[str, Any] = {}
        self.door: dict[str, dict[str, Any]] = {
            'nova_ext': {'auth_strategy': 'noauth'}
        }
        self._reply_wait = reply_wait
        self.double = CinderDouble(cinder_auth)
        self.shares: list[FleetShare] = []

    def __enter__(self) -> Fleet:
        self._stack = contextlib.ExitStack()
        try:
            self._enter()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _enter(self) -> None:
        enter = self._stack.enter_context
        enter(self.double)
        self.cable = enter(Cable(self.bus.port))
        self._directory = enter(short_directory())
        self.workers = enter(self.new_workers('api'))
        for name in NAMES:
            libvirtd = enter(PrivateLibvirtd(enter(short_directory())))
            host = FleetHost(
                enter(short_directory()),
                libvirtd,
                name,
                self.bus,
                self.double,
                reply_wait=self._reply_wait,
            )
            host.credentials = self.credentials
            enter(host.running())
            host.api = Front(self.workers.url)
            self.shares.append(FleetShare(host, limit=120.0))
        self.double.clear_faults()
        for share in self.shares:
            self.double.answer_with(500, times=None, when=share.watch)
        self.first_tokens()
        for share in self.shares:
            # Each has something below, that must not change any more.
            share.create()

    def first_tokens(self) -> None:
        """Have Cinder say who it is, where that is asked."""

    def new_workers(
        self,
        name: str,
        cable: Cable | None = None,
        number: int = 2,
        **groups: dict[str, Any],
    ) -> Workers:
        """API workers, which are not started yet.

        :param number: of processes
        :param groups: group → options, beside those set here
        """
        port = (cable or self.cable).port
        options = {
            'DEFAULT': {'transport_url': self.bus.url_by(port)},
            'oslo_messaging_rabbit': _RECONNECT,
            'nova_ext': {'compute_api': 'rpc'},
            'nova_ext_agent': {'reply_wait': self._reply_wait},
            'nova_ext_rpc': {'silence': SILENCE},
            'nova_ext_cinder': {
                **self.double.credentials,
                'endpoint': self.double.endpoint,
                'timeout': 5,
                **self.credentials,
            },
        }
        for more in (self.door, groups):
            for group, values in more.items():
                options[group] = {**options.get(group, {}), **values}
        return Workers(self._directory / name, options, number)

    @contextlib.contextmanager
    def asked_by(self, url: str) -> Iterator[None]:
        """Cinder asks at another URL, as long as this context lasts."""
        urls = [share.front.url for share in self.shares]
        for share in self.shares:
            share.front.url = url
        try:
            yield
        finally:
            for share, before in zip(self.shares, urls, strict=True):
                share.front.url = before

    def logs(self) -> str:
        """The ends of all logs, for who has to find a mistake."""
        paths = [
            *(share.host.directory / 'agent.log' for share in self.shares),
            *self._directory.glob('*/*.log'),
        ]
        return '\n'.join(
            f'== {path}\n{path.read_text()[-6000:]}'
            for path in paths
            if path.exists()
        )
