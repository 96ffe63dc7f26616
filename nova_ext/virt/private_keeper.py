# SPDX-License-Identifier: Apache-2.0
"""The process between :mod:`nova_ext.virt.private` and its libvirtd.

libvirt makes QEMU processes orphans and waits for a killed guest until its
process is reaped, and not every PID 1 is quick at that: this process adopts
and reaps them. It also sees to it that neither libvirtd nor a guest outlives
the starter. Run it by ``python -m``, with libvirtd's command as arguments.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import time

_PR_SET_CHILD_SUBREAPER = 36
# For a process to obey SIGTERM, in seconds; it takes a fraction of it.
_END_TIMEOUT = 5.0
# A process that hangs in a dead file system can't be waited for.
_END_ROUNDS = 3


def keep(command: list[str]) -> None:
    """Run libvirtd whenever stdin says so; at its end, end everything.

    Its end is a signal, or the end of stdin once the starter is gone. Neither
    ``libvirtd --timeout``, which waits for guests to go, nor a parent-death
    signal, which comes as soon as the *thread* is gone that started us, would
    do. Stdout tells the pid of libvirtd when it starts, and 0 when it ends.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), 'PR_SET_CHILD_SUBREAPER')
    # What the starter has blocked would stay blocked down to QEMU.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    waker, wakened = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakened)
    for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda signum, frame: None)
    libvirtd = 0
    while True:
        ready, _, _ = select.select([0, waker], [], [])
        if waker in ready:
            signals = os.read(waker, 64)
            if libvirtd in _reap():
                libvirtd = 0
                _say(0)
            if signals.strip(bytes([signal.SIGCHLD])):
                break
        if 0 in ready:
            if not os.read(0, 64):
                break
            if not libvirtd:
                daemon = subprocess.Popen(  # noqa: S603
                    command, stdin=subprocess.DEVNULL, stdout=2
                )
                libvirtd = daemon.pid
                _say(libvirtd)
    # What one round orphans is our child in the next.
    for _ in range(_END_ROUNDS):
        if not (children := _children()):
            # What libvirtd would take for guests that still run.
            shutil.rmtree(os.environ['XDG_RUNTIME_DIR'])
            break
        _end(children, waker)


def _say(pid: int) -> None:
    # When the starter is gone, stdin says so too.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, b'%d\n' % pid)


def _reap() -> set[int]:
    reaped = set()
    with contextlib.suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            reaped.add(pid)
    return reaped


def _children() -> set[int]:
    # /proc/self/task/*/children would be shorter, but not every kernel has it.
    children = set()
    for path in pathlib.Path('/proc').glob('[0-9]*/stat'):
        # A process that ends meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid, rest = path.read_text(errors='replace').split(' ', 1)
            if int(rest.rpartition(')')[2].split()[1]) == os.getpid():
                children.add(int(pid))
    return children


def _end(pids: set[int], waker: int) -> None:
    for signum in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            # Not reaped yet, hence nobody else's pid.
            os.kill(pid, signum)
        deadline = time.monotonic() + _END_TIMEOUT
        while (left := deadline - time.monotonic()) > 0:
            pids = pids - _reap()
            if not pids:
                return
            if select.select([waker], [], [], left)[0]:
                os.read(waker, 64)


if __name__ == '__main__':
    keep(sys.argv[1:])
