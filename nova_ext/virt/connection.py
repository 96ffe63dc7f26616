# SPDX-License-Identifier: Apache-2.0
"""A connection to this host's libvirt: its events, its errors, its loss.

What is asked over it, and what an event is good for, is not known here.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import libvirt

from nova_ext import exception
from nova_ext.virt import index

LOG = logging.getLogger(__name__)

T = TypeVar('T')

_EVENT_PAUSE_SECONDS = 0.1
_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT = 5, 3

_start_lock = threading.Lock()
_started = False


def start_events() -> None:
    """Run libvirt's event loop; it must exist before a connection does."""
    global _started  # noqa: PLW0603 (libvirt has one loop per process)
    with _start_lock:
        if _started:
            return
        # NOTE: libvirt would print each error on stderr beside raising it.
        libvirt.registerErrorHandler(lambda context, error: None, None)
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(
            target=run_events, name='libvirt-events', daemon=True
        ).start()
        _started = True


def run_events(
    run: Callable[[], object] = libvirt.virEventRunDefaultImpl,
) -> None:
    while True:
        try:
            run()
        except libvirt.libvirtError as error:
            # NOTE: without this thread a lost connection is never noticed.
            LOG.error('An event of libvirt could not be handled: %s', error)
            # The next may fail at once, and so on.
            time.sleep(_EVENT_PAUSE_SECONDS)


def _keep_alive(connection: libvirt.virConnect) -> None:
    try:
        connection.setKeepAlive(_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT)
    except libvirt.libvirtError as error:
        # Drivers within this process have no connection to keep alive.
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise


def check_local(uri: str) -> None:
    """Refuse a URI of another machine: all files would be the wrong ones.

    :raises: :class:`nova_ext.exception.HypervisorUnavailable`
    """
    name = urllib.parse.urlsplit(uri).hostname
    if name and name not in ('localhost', '127.0.0.1', socket.gethostname()):
        raise exception.HypervisorUnavailable(
            uri=uri,
            reason=f'{name} is not this machine, whose files the agent looks '
            'at. Run an agent there and set [nova_ext_agent] libvirt_uri to '
            'a local one',
        )


def call(
    uri: str,
    connection: libvirt.virConnect,
    function: Callable[..., T],
    *args: Any,
) -> T:
    """``function(*args)`` with libvirt's errors made ours.

    :param uri: for the message
    :raises: :class:`nova_ext.exception.HypervisorUnavailable` if the
        connection is lost, so that nothing can be known;
        :class:`nova_ext.exception.HypervisorError` otherwise
    """
    try:
        return function(*args)
    except libvirt.libvirtError as error:
        reason = error.get_error_message() or str(error)
        if not is_alive(connection):
            raise exception.HypervisorUnavailable(
                uri=uri, reason=reason
            ) from error
        # NOTE: libvirtd was killed in an earlier call, and QEMU still has
        # what it had prepared for it.
        if 'Duplicate nodes' in reason:
            reason += '. Power the instance off and on, then try again'
        raise exception.HypervisorError(
            code=error.get_error_code(), reason=reason
        ) from error


def is_alive(connection: libvirt.virConnect) -> bool:
    """Whether a connection, which others may have closed, still is one."""
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False


def hung(uri: str, what: str) -> exception.HypervisorUnavailable:
    """The error of whoever waited for something that does not end."""
    return exception.HypervisorUnavailable(
        uri=uri,
        reason=f'{what} has not come back for {index.PATIENCE_SECONDS:g} s. '
        'An instance whose start waits for a file server that does not '
        'answer holds libvirt up; "virsh list" hangs then, too',
    )


@contextlib.contextmanager
def turn(lock: threading.Lock, uri: str, what: str) -> Iterator[None]:
    """One at a time; whoever hangs is not waited for without end.

    :param what: the lock is for
    :raises: :class:`nova_ext.exception.HypervisorUnavailable`
    """
    # NOTE: libvirtd works on few calls of one connection at a time (5,
    # max_client_requests): those that hang must not be all of them.
    if not lock.acquire(timeout=index.PATIENCE_SECONDS):
        raise hung(uri, what)
    try:
        yield
    finally:
        lock.release()


class Connection:
    """One connection, opened when it is wanted, and again if it was lost.

    :param uri: of the local libvirt
    :param on_open: called before one that was opened is used
    :param on_event: called with the UUID of a guest of which something
        happened, on libvirt's thread, so it must only take note; None for
        a connection without events
    :raises: :class:`nova_ext.exception.HypervisorUnavailable`
    """

    def __init__(
        self,
        uri: str,
        on_open: Callable[[], None] = lambda: None,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        check_local(uri)
        self.uri = uri
        self._on_open = on_open
        self._on_event = on_event
        self._opening = threading.Lock()
        self._connection: libvirt.virConnect | None = None
        self._events: list[int] = []
        start_events()

    def get(self) -> libvirt.virConnect:
        """What libvirt is called by.

        :raises: :class:`nova_ext.exception.HypervisorUnavailable`
        """
        connection = self._connection
        if connection is not None and is_alive(connection):
            return connection
        with self._turn():
            if self._connection is not None:
                if is_alive(self._connection):
                    return self._connection
                self._leave()
            connection = self._open()
            self._on_open()
            self._connection = connection
        return connection

    def close(self) -> None:
        """End it, unless it hangs. Guests are left as they are."""
        with (
            contextlib.suppress(exception.HypervisorUnavailable),
            self._turn(),
        ):
            self._leave()

    def _turn(self) -> contextlib.AbstractContextManager[None]:
        return turn(self._opening, self.uri, 'an attempt to connect')

    def _leave(self) -> None:
        """Let the connection go, and what libvirt holds for it."""
        if self._connection is None:
            return
        # NOTE: events hold a connection, and it a descriptor and a thread's
        # memory; a lost one says that it is lost, and forgets them all the
        # same.
        for event in self._events:
            with contextlib.suppress(libvirt.libvirtError):
                self._connection.domainEventDeregisterAny(event)
        self._events.clear()
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.close()
        self._connection = None

    def _open(self) -> libvirt.virConnect:
        try:
            connection = libvirt.open(self.uri)
            _keep_alive(connection)
            if self._on_event is not None:
                self._watch(connection, self._on_event)
        except libvirt.libvirtError as error:
            raise exception.HypervisorUnavailable(
                uri=self.uri, reason=str(error)
            ) from error
        return connection

    def _watch(
        self, connection: libvirt.virConnect, on_event: Callable[[str], None]
    ) -> None:
        def happened(
            connection: libvirt.virConnect,
            domain: libvirt.virDomain,
            *details: Any,
        ) -> None:
            on_event(domain.UUIDString())

        # Those of a connection that was given up.
        self._events.clear()
        for event in (
            libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
            libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
        ):
            self._events.append(
                connection.domainEventRegisterAny(None, event, happened, None)
            )
