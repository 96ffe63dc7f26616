# SPDX-License-Identifier: Apache-2.0
"""This host's libvirt: the connection, its events, and who has which volume.

The index from volume id to guests is kept fresh by libvirt's events, so that
a look-up costs the same with one guest and with a thousand. Events only wake
and invalidate; what is true is read when it is needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree

import libvirt

from nova_ext import exception
from nova_ext.virt import chain, index
from nova_ext.virt import guest as virt_guest

LOG = logging.getLogger(__name__)

_EVENT_PAUSE_SECONDS = 0.1
_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT = 5, 3

_start_lock = threading.Lock()
_started = False


def _start_events() -> None:
    """Run libvirt's event loop; it must exist before a connection does."""
    global _started  # noqa: PLW0603 (libvirt has one loop per process)
    with _start_lock:
        if _started:
            return
        # NOTE: libvirt would print each error on stderr beside raising it.
        libvirt.registerErrorHandler(lambda context, error: None, None)
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(
            target=_run_events, name='libvirt-events', daemon=True
        ).start()
        _started = True


def _run_events(
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


@dataclasses.dataclass(frozen=True)
class Attachment:
    """A volume as a disk of a guest."""

    guest: virt_guest.Guest
    domain: chain.Domain
    disk: chain.Disk


class Host:
    """The guests of this host.

    :param uri: of the local libvirt
    :param on_event: called with the UUID of a guest of which something
        happened, on libvirt's thread, so it must only take note
    :raises: :class:`nova_ext.exception.HypervisorUnavailable`
    """

    def __init__(
        self, uri: str, on_event: Callable[[str], None] = lambda uuid: None
    ) -> None:
        check_local(uri)
        self.uri = uri
        self._on_event = on_event
        self._opening = threading.Lock()
        self._connection: libvirt.virConnect | None = None
        self._reader: libvirt.virConnect | None = None
        self._events: list[int] = []
        self._index = index.Index(self._read_all, self._read_one)
        # NOTE: whatever else a handle holds, libvirt goes by the UUID in it,
        # so that it serves until there is no such guest any more.
        self._handles: dict[str, libvirt.virDomain] = {}
        self._turns: dict[str, threading.Lock] = {}
        _start_events()

    def close(self) -> None:
        """End the connection. Guests are left as they are."""
        with self._opening:
            self._leave()
            self._close_reader()

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
        self._handles.clear()
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.close()
        self._connection = None

    def connect(self) -> libvirt.virConnect:
        """The connection, opened again if it was lost.

        :raises: :class:`nova_ext.exception.HypervisorUnavailable`
        """
        connection = self._connection
        if connection is not None and virt_guest.is_alive(connection):
            return connection
        with self._turn(self._opening, 'an attempt to connect'):
            if self._connection is not None:
                if virt_guest.is_alive(self._connection):
                    return self._connection
                self._leave()
            connection = self._open(self._watch)
            LOG.info('Connected to libvirt at %s', self.uri)
            self._connection = connection
        self._index.outdate()
        return connection

    def _open(
        self, prepare: Callable[[libvirt.virConnect], None]
    ) -> libvirt.virConnect:
        try:
            connection = libvirt.open(self.uri)
            _keep_alive(connection)
            prepare(connection)
        except libvirt.libvirtError as error:
            raise exception.HypervisorUnavailable(
                uri=self.uri, reason=str(error)
            ) from error
        return connection

    def _connect_reader(self) -> libvirt.virConnect:
        """The connection of the one thread that reads for the index."""
        # NOTE: it may hang, and in some releases of libvirt (9.0) the other
        # calls of its connection are late then, by seconds each.
        if self._reader is None or not virt_guest.is_alive(self._reader):
            self._close_reader()
            self._reader = self._open(lambda connection: None)
        return self._reader

    def _close_reader(self) -> None:
        if self._reader is not None:
            with contextlib.suppress(libvirt.libvirtError):
                self._reader.close()
            self._reader = None

    @contextlib.contextmanager
    def _turn(self, lock: threading.Lock, what: str) -> Iterator[None]:
        """One at a time; whoever hangs is not waited for without end."""
        # NOTE: libvirtd works on few calls of one connection at a time (5,
        # max_client_requests): those that hang must not be all of them.
        if not lock.acquire(timeout=index.PATIENCE_SECONDS):
            raise self._hung(what)
        try:
            yield
        finally:
            lock.release()

    def _hung(self, what: str) -> exception.HypervisorUnavailable:
        return exception.HypervisorUnavailable(
            uri=self.uri,
            reason=f'{what} has not come back for '
            f'{index.PATIENCE_SECONDS:g} s. An instance whose start waits '
            'for a file server that does not answer holds libvirt up; '
            '"virsh list" hangs then, too',
        )

    def guest(self, uuid: str) -> virt_guest.Guest | None:
        """The guest with this UUID; None if libvirt knows of none.

        :raises: :class:`nova_ext.exception.HypervisorUnavailable`
        """
        domain = self._domain(self.connect(), uuid)
        return None if domain is None else virt_guest.Guest(domain, self.uri)

    def described(
        self, uuid: str
    ) -> tuple[virt_guest.Guest, chain.Domain] | None:
        """The same, and its definition as it is now.

        :raises: :class:`nova_ext.exception.HypervisorUnavailable`,
            :class:`nova_ext.exception.HypervisorError`
        """
        return self._described(self.connect(), uuid)

    def _described(
        self, connection: libvirt.virConnect, uuid: str
    ) -> tuple[virt_guest.Guest, chain.Domain] | None:
        turn = self._turns.setdefault(uuid, threading.Lock())
        with self._turn(turn, f'an earlier look at instance {uuid}'):
            domain = self._handle(connection, uuid)
            if domain is None:
                return None
            guest = virt_guest.Guest(domain, self.uri)
            try:
                return guest, guest.describe()
            except exception.NovaExtException as error:
                self._forget(uuid)
                if error.kwargs.get('code') == libvirt.VIR_ERR_NO_DOMAIN:
                    return None
                raise

    def _handle(
        self, connection: libvirt.virConnect, uuid: str
    ) -> libvirt.virDomain | None:
        domain = self._handles.get(uuid)
        if domain is None:
            domain = self._domain(connection, uuid)
            if domain is None:
                self._forget(uuid)
            else:
                self._handles[uuid] = domain
        return domain

    def _forget(self, uuid: str) -> None:
        self._handles.pop(uuid, None)
        self._turns.pop(uuid, None)

    def start_paused(self, xml: str) -> virt_guest.Guest:
        """Start a guest that has no stored definition; it does not run.

        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        connection = self.connect()
        flags = libvirt.VIR_DOMAIN_START_PAUSED
        return virt_guest.Guest(
            virt_guest.call(
                self.uri, connection, connection.createXML, xml, flags
            ),
            self.uri,
        )

    def volumes(self) -> set[str]:
        """The serial of every disk of every guest; of a volume it is its id.

        :raises: :class:`nova_ext.exception.HypervisorUnavailable`
        """
        self.connect()
        self._update(whole=False)
        return self._index.serials()

    def qemu_user(self) -> tuple[int, int] | None:
        """User and group id with which guests are started; None if unsaid.

        :raises: :class:`nova_ext.exception.HypervisorUnavailable`
        """
        text = self.connect().getCapabilities()
        labels = [
            model.findtext("baselabel[@type='qemu']", '')
            for model in ElementTree.fromstring(text).iter('secmodel')  # noqa: S314 (libvirt's)
            if model.findtext('model') == 'dac'
        ]
        match = re.fullmatch(r'\+(\d+):\+(\d+)', labels[0] if labels else '')
        return (int(match[1]), int(match[2])) if match else None

    def of_nova(self) -> list[str]:
        """The UUIDs of the guests that Nova has defined.

        :raises: :class:`nova_ext.exception.HypervisorUnavailable`
        """
        connection = self.connect()
        found = []
        for domain in virt_guest.call(
            self.uri, connection, connection.listAllDomains
        ):
            # One may go away between the two calls.
            with contextlib.suppress(exception.HypervisorError):
                described = virt_guest.Guest(domain, self.uri).describe()
                found += [described.uuid] if described.of_nova else []
        return found

    def attachments(self, volume_id: str) -> list[Attachment]:
        """Every disk of every guest whose serial is `volume_id`.

        :raises: :class:`nova_ext.exception.HypervisorUnavailable`
        """
        connection = self.connect()
        # NOTE: of a guest that hangs it is not known which volumes it gets,
        # but those of the others are theirs.
        with contextlib.suppress(exception.NovaExtException):
            self._index.update()
        found = self._read(connection, volume_id)
        if not found:
            # NOTE: not every change of a stored definition has an event.
            self._update(whole=True)
            found = self._read(connection, volume_id)
        return found

    def _update(self, whole: bool) -> None:
        if not self._index.update(whole):
            raise self._hung('an earlier look at all guests')

    def _read(
        self, connection: libvirt.virConnect, volume_id: str
    ) -> list[Attachment]:
        found = []
        for uuid in self._index.holders(volume_id):
            known = self._described(connection, uuid)
            if known is None:
                continue
            guest, described = known
            found += [
                Attachment(guest, described, disk)
                for disk in described.disks
                if disk.serial == volume_id
            ]
        return found

    def _domain(
        self, connection: libvirt.virConnect, uuid: str
    ) -> libvirt.virDomain | None:
        try:
            return virt_guest.call(
                self.uri, connection, connection.lookupByUUIDString, uuid
            )
        except exception.HypervisorError as error:
            if error.kwargs['code'] == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    def _read_all(self) -> Iterator[tuple[str, frozenset[str]]]:
        reader = self._connect_reader()
        for domain in virt_guest.call(self.uri, reader, reader.listAllDomains):
            yield domain.UUIDString(), self._serials(domain)

    def _read_one(self, uuid: str) -> frozenset[str]:
        domain = self._domain(self._connect_reader(), uuid)
        if domain is None:
            self._forget(uuid)
            return frozenset()
        return self._serials(domain)

    def _serials(self, domain: libvirt.virDomain) -> frozenset[str]:
        try:
            described = virt_guest.Guest(domain, self.uri).describe()
        except exception.HypervisorError:
            # It went away between the two calls.
            self._forget(domain.UUIDString())
            return frozenset()
        return frozenset(
            disk.serial for disk in described.disks if disk.serial
        )

    def _watch(self, connection: libvirt.virConnect) -> None:
        # Those of a connection that was given up.
        self._events.clear()
        for event in (
            libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
            libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
        ):
            self._events.append(
                connection.domainEventRegisterAny(
                    None, event, self._event, None
                )
            )

    def _event(
        self,
        connection: libvirt.virConnect,
        domain: libvirt.virDomain,
        *details: Any,
    ) -> None:
        uuid = domain.UUIDString()
        self._index.touch(uuid)
        self._on_event(uuid)
