# SPDX-License-Identifier: Apache-2.0
"""nova-ext-agent, but for the points at which somebody is killed.

What it does is what the agent does: every method that writes the journal,
changes a guest or talks to Cinder is wrapped, and the wrapper notes the
point, and kills there whom the plan says.
"""

from __future__ import annotations

import collections
import functools
import multiprocessing
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import libvirt

from nova_ext.agent import engine
from nova_ext.cmd import agent
from tests.crash import plan as crash_plan
from tests.crash import points


class Executioner:
    """Notes the points, and kills at the one that the plan names."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._post = crash_plan.Post(directory)
        self._lock = threading.Lock()
        self._plan: crash_plan.Plan | None = None
        self._passed: collections.Counter[str] = collections.Counter()

    def passes(self, point: str) -> None:
        """The agent is at a point."""
        with self._lock:
            plan = self._post.plan()
            if plan != self._plan:
                self._plan = plan
                self._passed.clear()
            self._passed[point] += 1
            if self._passed[point] > 1:
                point += f' #{self._passed[point]}'
            self._post.record(point, time.monotonic())
            if plan is None or point != plan.point:
                return
        time.sleep(plan.hold)
        if plan.delay:
            timer = threading.Timer(plan.delay, self._kill, [plan])
            timer.daemon = True
            timer.start()
        else:
            self._kill(plan)

    def bandwidth(self) -> int:
        """Bytes per second that a merge may do now."""
        plan = self._post.plan()
        return plan.bandwidth if plan else 0

    def _kill(self, plan: crash_plan.Plan) -> None:
        pids = {
            crash_plan.AGENT: [os.getpid()],
            crash_plan.LIBVIRTD: [plan.pid],
        }.get(plan.victim)
        if pids is None:
            pids = crash_plan.qemu_pids(self._directory)
        self._post.record(
            f'{crash_plan.KILLED} {" ".join(map(str, pids))}', time.monotonic()
        )
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            while os.path.exists(f'/proc/{pid}/exe'):
                time.sleep(0.001)


def wrap(
    owner: type,
    method: str,
    label: str | Callable[..., str],
    passes: Callable[[str], None],
) -> None:
    """Make the beginning and the end of a method points."""
    original = getattr(owner, method)

    @functools.wraps(original)
    def around(*args: Any, **kwargs: Any) -> Any:
        name = label if isinstance(label, str) else label(*args)
        passes(f'before {name}')
        try:
            result = original(*args, **kwargs)
        except Exception:
            passes(f'failed {name}')
            raise
        passes(f'after {name}')
        return result

    setattr(owner, method, around)


def _slow_merges(executioner: Executioner) -> None:
    """Have merges last, where the plan wants to kill in their midst."""
    for name, where, flag in (
        ('blockRebase', 3, libvirt.VIR_DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES),
        ('blockCommit', 4, libvirt.VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES),
    ):
        original = getattr(libvirt.virDomain, name)

        def slow(
            *args: Any,
            original: Any = original,
            where: int = where,
            flag: int = flag,
        ) -> Any:
            bandwidth = executioner.bandwidth()
            if bandwidth:
                changed = list(args)
                changed[where] = bandwidth
                changed[where + 1] |= flag
                args = tuple(changed)
            return original(*args)

        setattr(libvirt.virDomain, name, slow)


def run(directory: pathlib.Path, config: pathlib.Path, settle: float) -> None:
    """Wrap, shorten what would only be waited for, and be the agent.

    The process is for nothing else, and ends here.

    :param settle: see the engine of the agent
    """
    executioner = Executioner(directory)
    for name, labels in points.POINTS.items():
        if unknown := points.unknown(name, points.methods(name)):
            raise SystemExit(f'{name}: is it a point of points.py? {unknown}')
        owner = points.owner(name)
        for method, label in labels.items():
            if hasattr(owner, method):
                wrap(owner, method, label, executioner.passes)
    _slow_merges(executioner)
    # NOTE: nothing of a dead agent waits in libvirtd for long here, and a
    # thousand runs would each wait for it in vain.
    engine.SETTLE_SECONDS = settle
    engine._CONFIRM_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
    sys.argv = ['nova-ext-agent', '--config-file', str(config)]
    sys.exit(agent.main())


class Process:
    """An agent of its own process, forked where all is imported already.

    Importing takes most of a start, and there are hundreds of starts.
    """

    def __init__(
        self, directory: pathlib.Path, config: pathlib.Path, settle: float
    ) -> None:
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload([__name__])
        self._process = context.Process(
            target=run, args=(directory, config, settle)
        )
        self._process.start()

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float) -> None:
        """Wait for its end. :raises: TimeoutError"""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f'process {self._process.pid} does not end')
