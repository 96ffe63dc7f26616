# SPDX-License-Identifier: Apache-2.0
"""nova-ext-serve: the whole service of one host as one process to start.

It serves HTTP itself and has the agent as its child, and on demand a private
libvirtd. For more than one host, for more load than a thread per connection
takes, or for clients that send chunked bodies, run nova-ext-agent and a WSGI
server instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import logging
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

from oslo_config import cfg

from nova_ext import config, exception, log
from nova_ext.api import app
from nova_ext.cmd import http
from nova_ext.compute import api as compute
from nova_ext.virt import private

LOG = logging.getLogger(__name__)

_DESCRIPTION = (
    'The whole service of one host: the API, and the agent as its child, '
    'until SIGTERM or Ctrl-C.'
)
_AGENT_START_SECONDS = 60.0
_AGENT_STOP_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1

_cli_opts = [
    cfg.BoolOpt(
        'private-libvirtd',
        default=False,
        help='Start an unprivileged libvirtd of our own, and end it and its '
        'guests with us. For demos and tests: nothing of the machine is '
        'configured or touched.',
    ),
]


class CannotServe(RuntimeError):
    """The service can't be started; says what mends it."""


def _check_host(conf: cfg.ConfigOpts) -> None:
    options = conf.nova_ext
    if options.auth_strategy != 'noauth' or options.host == 'localhost':
        return
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(options.host).is_loopback:
            return
    raise CannotServe(
        f'[nova_ext] auth_strategy is noauth and host is {options.host}: '
        'without authentication only a loopback address may be listened on. '
        'Set auth_strategy to keystone or http_basic, or host to 127.0.0.1.'
    )


@contextlib.contextmanager
def _private_libvirtd(conf: cfg.ConfigOpts) -> Iterator[str]:
    """The URI of the agent's libvirt, which lives as long as this does."""
    if not conf.private_libvirtd:
        yield conf.nova_ext_agent.libvirt_uri
        return
    # NOTE: the sockets below it need a short path.
    with (
        tempfile.TemporaryDirectory(prefix='nx-', dir='/tmp') as directory,  # noqa: S108
        private.PrivateLibvirtd(pathlib.Path(directory)) as libvirtd,
    ):
        yield libvirtd.uri


def _die_with_parent() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def _agent(
    arguments: list[str], libvirt_uri: str
) -> Iterator[subprocess.Popen[bytes]]:
    """The agent as a child, which is ended with this context."""
    # NOTE: by oslo.config's own environment driver, so that the child reads
    # the same files and only this differs.
    environment = {
        **os.environ,
        'OS_NOVA_EXT_AGENT__LIBVIRT_URI': libvirt_uri,
    }
    child = subprocess.Popen(  # noqa: S603 (our own module)
        [sys.executable, '-m', 'nova_ext.cmd.agent', *arguments],
        env=environment,
        preexec_fn=_die_with_parent,
    )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(_AGENT_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_for_agent(
    conf: cfg.ConfigOpts, child: subprocess.Popen[bytes]
) -> None:
    backend = compute.load(conf)
    deadline = time.monotonic() + _AGENT_START_SECONDS
    while True:
        try:
            backend.check()
            return
        except exception.Unavailable as error:
            if child.poll() is not None:
                raise CannotServe(
                    f'the agent ended with status {child.returncode}; its '
                    'log says why'
                ) from None
            if time.monotonic() > deadline:
                raise CannotServe(str(error)) from None
        time.sleep(0.05)


def _end_with(
    child: subprocess.Popen[bytes],
    stopping: threading.Event,
    shutdown: Callable[[], None],
) -> None:
    child.wait()
    if not stopping.is_set():
        LOG.error('The agent ended with status %s', child.returncode)
    shutdown()


def _listen(conf: cfg.ConfigOpts) -> http.Server:
    options = conf.nova_ext
    try:
        application = app.load(conf)
    except cfg.Error:
        raise
    # NOTE: what the file names may raise anything.
    except Exception as error:
        raise CannotServe(
            f'{config.find_paste_file(conf)}, or what it names, cannot '
            f'be loaded: {type(error).__name__}: {error}'
        ) from error
    try:
        return http.Server(
            (options.host, options.port),
            application,
            http.Limits(
                options.request_timeout,
                options.max_header_bytes,
                options.max_connections,
            ),
        )
    except OSError as error:
        raise CannotServe(
            f'[nova_ext] host {options.host} and port {options.port} cannot '
            f'be listened on: {error}'
        ) from None


def _serve(conf: cfg.ConfigOpts, arguments: list[str]) -> int:
    _check_host(conf)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(conf))
        stopping = threading.Event()

        def stop(*_: object) -> None:
            stopping.set()
            # NOTE: shutdown() waits for the loop that this may interrupt.
            threading.Thread(target=server.shutdown, daemon=True).start()

        signals = [signal.SIGTERM, signal.SIGINT]
        # A closed terminal, unless nohup has it outlive that.
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signals.append(signal.SIGHUP)
        for number in signals:
            signal.signal(number, stop)
        uri = stack.enter_context(_private_libvirtd(conf))
        child = stack.enter_context(_agent(arguments, uri))
        _wait_for_agent(conf, child)
        threading.Thread(
            target=_end_with,
            args=(child, stopping, server.shutdown),
            daemon=True,
        ).start()
        host, port = server.server_address[:2]
        if ':' in host:
            host = f'[{host}]'
        print(f'Serving http://{host}:{port}/v2.1 for {uri}', flush=True)
        if not stopping.is_set():
            server.serve_forever()
    return 0 if stopping.is_set() else 1


def main() -> int:
    """Serve until SIGTERM or Ctrl-C; exit status 1 if that is not why."""
    cfg.CONF.register_cli_opts(_cli_opts)
    arguments = [
        argument
        for argument in sys.argv[1:]
        if argument != '--private-libvirtd'
    ]
    try:
        conf = config.setup(cfg.CONF, sys.argv[1:], description=_DESCRIPTION)
        return _serve(conf, arguments)
    except (
        cfg.Error,
        CannotServe,
        OSError,
        exception.NovaExtException,
        private.LibvirtdUnavailable,
    ) as error:
        failure = str(error)
    # NOTE: where an exception is handled, oslo.log says once more what it is.
    log.failure(f'nova-ext-serve cannot start: {failure}')
    return 1


if __name__ == '__main__':
    sys.exit(main())
