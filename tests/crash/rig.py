# SPDX-License-Identifier: Apache-2.0
"""What a run is made on: a libvirtd, a guest, an agent that can be killed.

Here is how they are started, killed and started again, and nothing of what
must hold afterwards (judge.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree

from nova_ext import exception
from nova_ext.agent.job import FINAL
from nova_ext.compute import agents
from nova_ext.compute import libvirt as backend
from nova_ext.virt import chain
from nova_ext.virt.private import PrivateLibvirtd
from tests.crash import plan as crash_plan
from tests.crash.agent import Process
from tests.crash.plan import Passed, Plan
from tests.fixtures.host import Host, short_directory
from tests.fixtures.serve import write_config

# Generous, for slow machines: nobody waits for them but who is stuck.
_PATIENCE = 60.0
_FINAL = {state.value for state in FINAL}


class Stuck(Exception):
    """Something did not end; says what."""


def wait_for(
    condition: Callable[[], object], what: str, timeout: float = _PATIENCE
) -> None:
    """Wait until a condition holds. :raises: :class:`Stuck`"""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise Stuck(what)
        time.sleep(0.01)


class OneTry(backend.ComputeAPI):
    """A compute API whose caller goes away with the connection."""

    def ask(self, *args: Any, **kwargs: Any) -> Any:
        """See :class:`nova_ext.compute.agents.ComputeAPI`."""
        try:
            return super().ask(*args, **kwargs)
        except agents.AnswerLost as error:
            raise exception.HostUnavailable(**error.kwargs) from None


class CrashHost(Host):
    """A host whose agent notes its points and dies at one of them.

    :param once: whether a request whose answer is lost is not repeated
    :param settle: see the manager of the agent
    """

    def __init__(
        self,
        directory: pathlib.Path,
        libvirtd: PrivateLibvirtd,
        once: bool = False,
        settle: float = 2.0,
        **options: Any,
    ) -> None:
        super().__init__(directory, libvirtd, {'burst': 16}, **options)
        self.post = crash_plan.Post(directory)
        self._once = once
        self._settle = settle
        self._noted = 0
        self._process: Process | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[CrashHost]:
        """As of a host; in the end no QEMU is left, known or not."""
        try:
            with super().running():
                if self._once:
                    self.api = OneTry(self.api.conf)
                yield self
        finally:
            for pid in crash_plan.qemu_pids(self.directory):
                os.kill(pid, signal.SIGKILL)

    def start_agent(self, wait: bool = True) -> None:
        """Start the agent, and wait until it answers."""
        groups = self.configuration()
        groups['nova_ext_cinder']['timeout'] = 5
        config = write_config(self.directory / 'agent.conf', groups)
        self._process = Process(self.directory, config, self._settle)
        if wait:
            wait_for(self._answers, 'the agent does not start')

    def stop_agent(self) -> None:
        """Be done with the agent; that it stops well is tested elsewhere."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_PATIENCE)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise Stuck(f'the agent ended: {self.log()[-2000:]}')
        with contextlib.suppress(exception.HostUnavailable):
            with contextlib.suppress(exception.AgentBusy):
                self.api.check()
            return True
        return False

    def arm(self, plan: Plan) -> None:
        """Let a plan hold from now on."""
        self._noted = len(self.post.records())
        self.post.arm(plan)

    def passed(self) -> list[Passed]:
        """The points passed since the plan holds."""
        return self.post.records()[self._noted :]

    def killed(self) -> bool:
        """Whether the plan was carried out."""
        return any(
            passed.point.startswith(crash_plan.KILLED)
            for passed in self.passed()
        )

    def repair(self, plan: Plan) -> None:
        """Start again who was killed; a guest stays as it is."""
        self.post.disarm()
        if plan.victim == crash_plan.AGENT:
            assert self._process is not None
            self._process.wait(_PATIENCE)
            self.start_agent()
        elif plan.victim == crash_plan.LIBVIRTD:
            wait_for(lambda: self.libvirtd.pid is None, 'libvirtd lives')
            self.libvirtd.start()
        else:
            wait_for(lambda: not self.is_active(), 'libvirt sees QEMU alive')

    def is_active(self) -> bool:
        """Whether libvirt says that the guest has a process."""
        return bool(self.guest.domain.isActive())

    def pull_the_plug(self) -> None:
        """Kill the guest's QEMU, as a power cut would."""
        for pid in crash_plan.qemu_pids(self.directory):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self.is_active(), 'libvirt sees QEMU alive')

    def defined(self) -> list[str]:
        """Names of the layers by libvirt, active layer first."""
        for disk in chain.parse(self.guest.domain.XMLDesc()).disks:
            if disk.serial == self.volume_id:
                return [pathlib.Path(layer.path).name for layer in disk.layers]
        return []

    def mend(self, active: str) -> None:
        """Have a guest that is off start from this file and its headers."""
        root = ElementTree.fromstring(self.guest.domain.XMLDesc())
        for disk in root.iterfind('devices/disk'):
            source = disk.find('source')
            if disk.findtext('serial') != self.volume_id or source is None:
                continue
            source.set('file', str(self.directory / active))
            for store in disk.findall('backingStore'):
                disk.remove(store)
            driver = disk.find('driver')
            assert driver is not None
            qcow2 = active != self.volume.name
            driver.set('type', 'qcow2' if qcow2 else self.format)
        text = ElementTree.tostring(root, encoding='unicode')
        self.guest.domain.connect().defineXML(text)

    def reason(self) -> str:
        """What the newest job says of itself."""
        with contextlib.closing(
            sqlite3.connect(self.directory / 'journal.sqlite')
        ) as journal:
            query = 'SELECT document FROM jobs ORDER BY id DESC LIMIT 1'
            ((document,),) = journal.execute(query)
        return json.loads(document)['reason']

    def wait_final(self, timeout: float = _PATIENCE) -> None:
        """Wait until no job is under way. :raises: :class:`Stuck`"""
        wait_for(
            lambda: set(self.states()) <= _FINAL,
            'jobs do not end',
            timeout,
        )


class Rig:
    """One libvirtd for many runs, one after the other."""

    def __enter__(self) -> Rig:
        self._stack = contextlib.ExitStack()
        self._libvirtd: PrivateLibvirtd | None = None
        return self

    def __exit__(self, *args: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def host(self, **options: Any) -> Iterator[CrashHost]:
        """A running guest of its own, with its agent."""
        if self._libvirtd is None:
            directory = self._stack.enter_context(short_directory())
            self._libvirtd = PrivateLibvirtd(directory)
            self._stack.enter_context(self._libvirtd)
        self._libvirtd.start()
        with short_directory() as directory:
            host = CrashHost(directory, self._libvirtd, **options)
            with host.running():
                host.guest.wait_reported(1)
                yield host
