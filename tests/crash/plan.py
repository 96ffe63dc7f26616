# SPDX-License-Identifier: Apache-2.0
"""Who is to die, and where: what a run and its agent tell each other.

The run writes a plan, the agent (agent.py) obeys it and records the points
that it passes. Nothing here knows of jobs, guests or Cinder.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

AGENT, LIBVIRTD, QEMU = 'agent', 'libvirtd', 'qemu'
KILLED = 'killed'


@dataclasses.dataclass(frozen=True)
class Plan:
    """One death; with an empty point none, and everything is recorded.

    :ivar point: such as ``after journal RUNNING``
    :ivar victim: AGENT, LIBVIRTD or QEMU
    :ivar delay: seconds from the point to the death; the agent goes on
    :ivar hold: seconds for which the agent stands still at the point first
    :ivar bandwidth: bytes per second of a merge; 0 for all it can
    :ivar pid: of libvirtd, where that is the victim
    """

    point: str = ''
    victim: str = AGENT
    delay: float = 0.0
    hold: float = 0.0
    bandwidth: int = 0
    pid: int = 0

    def __str__(self) -> str:
        if not self.point:
            return 'nobody dies'
        text = f'{self.victim} dies {self.point}'
        if self.delay:
            text += f' +{self.delay * 1000:.0f} ms'
        return text + (', slow' if self.bandwidth else '')


@dataclasses.dataclass(frozen=True)
class Passed:
    """A point that a process passed, at a time.monotonic()."""

    pid: int
    time: float
    point: str


class Post:
    """Where plan and records lie, for both sides."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._plan = directory / 'crash.plan'
        self._records = directory / 'crash.records'

    def arm(self, plan: Plan) -> None:
        """Let this plan hold from now on."""
        new = self._plan.with_suffix('.new')
        new.write_text(json.dumps(dataclasses.asdict(plan)))
        new.rename(self._plan)

    def disarm(self) -> None:
        """Let nobody die any more; records go on."""
        self._plan.unlink(missing_ok=True)

    def plan(self) -> Plan | None:
        """The plan that holds, if one does."""
        try:
            return Plan(**json.loads(self._plan.read_text()))
        except FileNotFoundError:
            return None

    def record(self, point: str, now: float) -> None:
        """Note that this process passes a point."""
        line = f'{os.getpid()} {now:.6f} {point}\n'
        with self._records.open('a') as records:
            records.write(line)

    def records(self) -> list[Passed]:
        """What was noted so far."""
        if not self._records.exists():
            return []
        found = []
        for line in self._records.read_text().splitlines():
            pid, now, point = line.split(' ', 2)
            found.append(Passed(int(pid), float(now), point))
        return found


def qemu_pids(directory: pathlib.Path) -> list[int]:
    """The QEMU processes that were given a file of this directory."""
    found = []
    for path in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
        try:
            command = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        program = command.split(b'\0', 1)[0]
        if b'qemu-system' in program and bytes(directory) + b'/' in command:
            found.append(int(path.parent.name))
    return found
