# SPDX-License-Identifier: Apache-2.0
"""This host's guests, as libvirt has them, and which has which volume.

The index from volume id to guests is kept fresh by libvirt's events, so that
a look-up costs the same with one guest and with a thousand. Events only wake
and invalidate; what is true is read when it is needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import threading
from collections.abc import Callable, Iterator
from xml.etree import ElementTree

import libvirt

from nova_ext import exception
from nova_ext.virt import chain, index
from nova_ext.virt import connection as virt_connection
from nova_ext.virt import guest as virt_guest

LOG = logging.getLogger(__name__)


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
        self.uri = uri
        self._on_event = on_event
        self._connection = virt_connection.Connection(
            uri, self._connected, self._happened
        )
        # NOTE: what reads for the index may hang, and in some releases of
        # libvirt (9.0) the other calls of its connection are late then, by
        # seconds each.
        self._reader = virt_connection.Connection(uri)
        self._index = index.Index(self._read_all, self._read_one)
        # NOTE: whatever else a handle holds, libvirt goes by the UUID in it,
        # so that it serves until there is no such guest any more.
        self._handles: dict[str, libvirt.virDomain] = {}
        self._turns: dict[str, threading.Lock] = {}

    def close(self) -> None:
        """End the connections. Guests are left as they are."""
        self._handles.clear()
        self._connection.close()
        self._reader.close()

    def connect(self) -> libvirt.virConnect:
        """The connection, opened again if it was lost.

        :raises: :class:`nova_ext.exception.HypervisorUnavailable`
        """
        return self._connection.get()

    def _connected(self) -> None:
        LOG.info('Connected to libvirt at %s', self.uri)
        self._handles.clear()
        self._index.outdate()

    def _happened(self, uuid: str) -> None:
        self._index.touch(uuid)
        self._on_event(uuid)

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
        with virt_connection.turn(
            turn, self.uri, f'an earlier look at instance {uuid}'
        ):
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
            virt_connection.call(
                self.uri, connection, connection.createXML, xml, flags
            ),
            self.uri,
        )

    def volumes(self) -> set[str]:
        """The serial of every disk of every guest; of a volume it is its id.

        :raises: :class:`nova_ext.exception.HypervisorUnavailable`
        """
        self.connect()
        # NOTE: not every change of a stored definition has an event.
        self._update(whole=True)
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
        for domain in virt_connection.call(
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
            # NOTE: as for all volumes.
            self._update(whole=True)
            found = self._read(connection, volume_id)
        return found

    def _update(self, whole: bool) -> None:
        if not self._index.update(whole):
            raise virt_connection.hung(
                self.uri, 'an earlier look at all guests'
            )

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
            return virt_connection.call(
                self.uri, connection, connection.lookupByUUIDString, uuid
            )
        except exception.HypervisorError as error:
            if error.kwargs['code'] == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    def _read_all(self) -> Iterator[tuple[str, frozenset[str]]]:
        reader = self._reader.get()
        for domain in virt_connection.call(
            self.uri, reader, reader.listAllDomains
        ):
            yield domain.UUIDString(), self._serials(domain)

    def _read_one(self, uuid: str) -> frozenset[str]:
        domain = self._domain(self._reader.get(), uuid)
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
