# SPDX-License-Identifier: Apache-2.0
"""A private, unprivileged libvirtd, started and stopped by its user.

For ``nova-ext-serve``, the demo and the tests: it needs no configuration of
the machine and leaves nothing behind. Only processes and files live here;
whoever wants to talk to the daemon opens its URI.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import pwd
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import types
import urllib.parse

_START_TIMEOUT = 60.0
_SUN_PATH_MAX = 107
# The longest socket that libvirt makes in our tree; libvirt cuts a guest's
# name at 20 characters here.
_LONGEST_SOCKET = (
    'libvirt/qemu/channel/target/'
    'domain-9999-12345678901234567890/org.qemu.guest_agent.0'
)
# A plain user's PATH lacks libvirtd's place.
_SYSTEM_PATH = '/usr/sbin:/usr/bin:/sbin:/bin'
_PACKAGES = {
    'libvirtd': 'libvirt-daemon libvirt-daemon-driver-qemu',
    'qemu-system-x86_64': 'qemu-system-x86',
    'qemu-img': 'qemu-utils',
    'setpriv': 'util-linux',
    'unshare': 'util-linux',
}
# Any uid would do, but libvirt insists on one that has an account.
_NOBODY = 65534


class LibvirtdUnavailable(RuntimeError):
    """The private libvirtd can't be started; the message says why."""


class PrivateLibvirtd:
    """A libvirtd of our own; as a context, for the length of the context.

    Started by a plain user, daemon and guests run as that user. Started by
    root, they run without privileges all the same: within a user namespace
    where the kernel allows it, else as ``nobody``. Whoever it is must be able
    to read and write the guests' disk files and to search their directories:

    * the plain user itself;
    * in a user namespace root, but a root who obeys the modes of files like
      anybody else and can't enter another user's directory of mode 0700;
    * ``nobody``, or the given uid, who can't enter root's such directories.

    The files that the NFS driver of Cinder makes (mode 0666) suit all three.

    Guests live as long as this object lets them: they survive :meth:`kill`,
    and :meth:`start` takes them up again, but :meth:`stop`, and the end of
    the object or of the process by whatever cause, ends them.

    :param directory: made if missing; holds configuration, state, the log
        ``libvirtd.log`` and the sockets, hence its path must be short; other
        guest files may be kept in it too
    :param unprivileged_uid: the uid to use when started by root, instead of
        a user namespace
    :raises LibvirtdUnavailable: if the path is too long or the uid impossible
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        unprivileged_uid: int | None = None,
    ) -> None:
        self.directory = directory.absolute()
        longest = len(os.fsencode(self.directory / _LONGEST_SOCKET))
        if longest > _SUN_PATH_MAX:
            raise LibvirtdUnavailable(
                f'the path of {self.directory} is {longest - _SUN_PATH_MAX} '
                'bytes too long for the UNIX sockets below it'
            )
        euid = os.geteuid()
        if unprivileged_uid == 0 or (
            euid and unprivileged_uid not in (None, euid)
        ):
            raise LibvirtdUnavailable(
                f"uid {euid} can't start an unprivileged libvirtd as uid "
                f'{unprivileged_uid}'
            )
        self._uid = unprivileged_uid
        self._gid = -1
        self._socket = self.directory / 'run/libvirt/libvirt-sock'
        self._log = self.directory / 'libvirtd.log'
        self._keeper: subprocess.Popen[bytes] | None = None
        self._said = b''
        self._pid: int | None = None

    @property
    def uri(self) -> str:
        path = urllib.parse.quote(str(self._socket))
        return f'qemu+unix:///session?socket={path}'

    @property
    def pid(self) -> int | None:
        """The process id of libvirtd itself, None while it doesn't run."""
        self._listen(0)
        return self._pid

    def start(self, timeout: float = _START_TIMEOUT) -> None:
        """Start libvirtd, or start it again, and wait until it answers.

        :param timeout: in seconds
        :raises LibvirtdUnavailable: with the end of libvirtd's log
        """
        if self.pid is not None:
            return
        if self._answers():
            raise LibvirtdUnavailable(
                f'another libvirtd serves {self.directory} already'
            )
        if self._keeper is not None and self._keeper.poll() is not None:
            self.stop()
        if self._keeper is None:
            self._keeper = self._start_keeper()
        assert self._keeper.stdin is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):
            self._keeper.stdin.write(b'start\n')
        deadline = time.monotonic() + timeout
        while not (self._pid is not None and self._answers()):
            # Wakes when the keeper has something to say; only whether the
            # socket answers has to be tried.
            ended = 0 in self._listen(0.01)
            if ended or self._keeper.poll() is not None:
                self._fail('ended at once')
            if time.monotonic() > deadline:
                self._fail(f'did not answer within {timeout} s')

    def stop(self) -> None:
        """End libvirtd and every guest; returns when no process is left."""
        if self._keeper is None:
            return
        # A signal, not only the closed pipe: a child that somebody forked in
        # our process may hold the other copy of its end.
        self._keeper.terminate()
        self._keeper.communicate()
        self._keeper = self._pid = None
        self._said = b''

    def kill(self) -> None:
        """Kill libvirtd alone, as a crash would; its guests go on."""
        pid = self.pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            while self._pid is not None:
                self._listen(_START_TIMEOUT)

    def __enter__(self) -> PrivateLibvirtd:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.stop()

    def _start_keeper(self) -> subprocess.Popen[bytes]:
        path = f'{os.environ.get("PATH", os.defpath)}:{_SYSTEM_PATH}'
        for program, packages in _PACKAGES.items():
            if shutil.which(program, path=path) is None:
                raise LibvirtdUnavailable(
                    f'{program} is not installed; on Debian: '
                    f'apt-get install {packages}'
                )
        identity = self._identity(path)
        self._make_tree()
        # Nothing else of the caller's environment: no passwords for QEMU, no
        # sockets of systemd for libvirtd.
        environment = {
            'PATH': path,
            'LC_ALL': 'C.UTF-8',
            'HOME': str(self.directory),
            'XDG_RUNTIME_DIR': str(self.directory / 'run'),
            'XDG_CONFIG_HOME': str(self.directory),
            'XDG_CACHE_HOME': str(self.directory / 'cache'),
            'PYTHONPATH': str(pathlib.Path(__file__).parents[2]),
        }
        with self._log.open('ab') as log:
            # Its own session, lest Ctrl-C at the starter's terminal end it
            # before the starter has finished with it. subprocess passes on
            # no other descriptor than these three.
            keeper = [sys.executable, '-m', f'{__name__}_keeper']
            return subprocess.Popen(  # noqa: S603
                [*keeper, *identity, 'libvirtd'],
                env=environment,
                cwd='/',
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                start_new_session=True,
            )

    def _identity(self, path: str) -> list[str]:
        """Return the command prefix that gives up root's privileges."""
        # If the keeper itself is killed. It doesn't depend on a thread of the
        # starter's, as the same signal from the starter to the keeper would.
        setpriv = ['setpriv', '--pdeathsig', 'TERM']
        euid = os.geteuid()
        if euid and _account(euid):
            return setpriv
        if self._uid is None:
            unshare = [
                'unshare', '--user',
                f'--map-user={_NOBODY}', f'--map-group={_NOBODY}',
            ]  # fmt: skip
            probe = subprocess.run(  # noqa: S603
                [*unshare, 'true'], env={'PATH': path}, capture_output=True
            )
            if probe.returncode == 0:
                return [*unshare, *setpriv]
            self._uid = euid or _NOBODY
        account = _account(self._uid)
        if account is None:
            raise LibvirtdUnavailable(
                f'libvirt needs an account for uid {self._uid}: there is none'
            )
        self._gid = account.pw_gid
        # Groups of root's would be privileges too.
        return [
            *setpriv, f'--reuid={self._uid}', f'--regid={self._gid}',
            '--clear-groups',
        ]  # fmt: skip

    def _make_tree(self) -> None:
        self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name in ('run', 'cache', 'libvirt'):
            path = self.directory / name
            path.mkdir(mode=0o700, exist_ok=True)
            if self._uid is not None:
                os.chown(path, self._uid, self._gid)
        if self._uid is not None:
            mode = self.directory.stat().st_mode
            self.directory.chmod(stat.S_IMODE(mode) | 0o011)
        # Else libvirtd wants a virtlogd, which would be one more daemon.
        conf = self.directory / 'libvirt/qemu.conf'
        conf.write_text('stdio_handler = "file"\n')
        conf.chmod(0o644)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self._socket))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
        return True

    def _listen(self, timeout: float) -> list[int]:
        """Return what the keeper has said, waiting at most so long for it."""
        said: list[int] = []
        if self._keeper is None or self._keeper.stdout is None:
            return said
        # Not select(), which fails in a process with a thousand files.
        poll = select.poll()
        poll.register(self._keeper.stdout, select.POLLIN)
        while poll.poll(timeout * 1000):
            data = self._keeper.stdout.read(4096)
            *lines, self._said = (self._said + data).split(b'\n')
            said += [int(line) for line in lines]
            timeout = 0
            if not data:
                said.append(0)
                break
        if said:
            self._pid = said[-1] or None
        return said

    def _fail(self, how: str) -> None:
        self.stop()
        tail = self._log.read_text(errors='replace')[-2000:].strip()
        raise LibvirtdUnavailable(
            f'libvirtd {how}; {self._log} ends in:\n{tail}'
        )


def _account(uid: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None
