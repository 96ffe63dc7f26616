# SPDX-License-Identifier: Apache-2.0
"""One guest: what is asked of it and done to it, by libvirt's domain calls.

The wrapping is thin: flags are named, errors become ours, and "no job" is
None. Whether something should be done, and what its end means, is decided in
agent/; in particular nothing here ever guesses success.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar
from xml.etree import ElementTree  # noqa: S405 (only written here)

import libvirt

from nova_ext import exception
from nova_ext.virt import chain, stand_in
from nova_ext.virt import connection as virt_connection

T = TypeVar('T')

STATES = {
    libvirt.VIR_DOMAIN_RUNNING: 'running',
    libvirt.VIR_DOMAIN_BLOCKED: 'running',
    libvirt.VIR_DOMAIN_PAUSED: 'paused',
    libvirt.VIR_DOMAIN_SHUTDOWN: 'shutting down',
    libvirt.VIR_DOMAIN_SHUTOFF: 'shut off',
    libvirt.VIR_DOMAIN_CRASHED: 'crashed',
    libvirt.VIR_DOMAIN_PMSUSPENDED: 'suspended to memory',
}

_SNAPSHOT = (
    libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
)


@dataclasses.dataclass(frozen=True)
class BlockJob:
    """A block job under way; `cur` of `end` bytes are done."""

    cur: int
    end: int


def snapshot_xml(target: str, new_path: str, others: Iterable[str]) -> str:
    """What libvirt is asked to do to each disk of a guest.

    :param others: target devs of the other disks. Each is named, since an
        unnamed writable disk would be switched to a stray overlay.
    """
    root = ElementTree.Element('domainsnapshot')
    disks = ElementTree.SubElement(root, 'disks')
    disk = ElementTree.SubElement(
        disks, 'disk', name=target, snapshot='external', type='file'
    )
    ElementTree.SubElement(disk, 'driver', type='qcow2')
    ElementTree.SubElement(disk, 'source', file=new_path)
    for other in others:
        ElementTree.SubElement(disks, 'disk', name=other, snapshot='no')
    return ElementTree.tostring(root, encoding='unicode')


class Guest:
    """A guest of this host.

    :param uri: of the connection, for messages
    """

    def __init__(self, domain: libvirt.virDomain, uri: str) -> None:
        self._domain = domain
        self._uri = uri
        self.uuid: str = domain.UUIDString()
        self._agent = threading.Lock()

    def _call(self, function: Callable[..., T], *args: Any) -> T:
        return virt_connection.call(
            self._uri, self._domain.connect(), function, *args
        )

    def describe(self) -> chain.Domain:
        """The live definition; of a guest that is off the stored one."""
        return self._parse(self._call(self._domain.XMLDesc, 0))

    def stored(self) -> chain.Domain:
        """The definition of its next start; the live one if it has none."""
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE
        return self._parse(self._call(self._domain.XMLDesc, flags))

    def _parse(self, xml: str) -> chain.Domain:
        try:
            return chain.parse(xml)
        except ValueError as error:
            raise exception.HypervisorError(
                code=libvirt.VIR_ERR_XML_ERROR,
                reason=f'the definition of instance {self.uuid}: {error}',
            ) from None

    def state(self) -> str:
        """One of the values of ``STATES``, or ``in no state``."""
        number = self._call(self._domain.state)[0]
        return STATES.get(number, 'in no state')

    def has_managed_save(self) -> bool:
        """Whether its memory is saved in a file that names its disks."""
        return bool(self._call(self._domain.hasManagedSaveImage))

    def has_job(self) -> bool:
        """Whether it is being migrated, saved or dumped."""
        job = self._call(self._domain.jobInfo)[0]
        return job != libvirt.VIR_DOMAIN_JOB_NONE

    def is_occupied(self) -> bool:
        """Whether libvirt is in the middle of a call on it."""
        control = self._call(self._domain.controlInfo)[0]
        return control != libvirt.VIR_DOMAIN_CONTROL_OK

    def block_job(self, target: str) -> BlockJob | None:
        """The block job of a disk; None if there is none.

        None is not success: a job that failed leaves nothing either.
        """
        info = self._call(self._domain.blockJobInfo, target, 0)
        return BlockJob(info['cur'], info['end']) if info else None

    def snapshot(
        self, target: str, new_path: str, others: Iterable[str]
    ) -> None:
        """Make the file at `new_path`, which exists, the active layer."""
        xml = snapshot_xml(target, new_path, others)
        self._call(self._domain.snapshotCreateXML, xml, _SNAPSHOT)

    def pull(self, target: str, base: str | None, bandwidth: int = 0) -> None:
        """Begin to pull what is above `base` into the active layer.

        :param base: path of the layer that stays below; None for none
        :param bandwidth: MiB/s; 0 for no limit
        """
        # NOTE: without a base there is no name to keep relative, and libvirt
        # refuses the flag (LP 1475202).
        flags = libvirt.VIR_DOMAIN_BLOCK_REBASE_RELATIVE if base else 0
        self._call(self._domain.blockRebase, target, base, bandwidth, flags)

    def commit(
        self, target: str, base: str, top: str | None, bandwidth: int = 0
    ) -> None:
        """Begin to commit the layer `top` into the layer `base`.

        :param top: None for the active layer, which ends with :meth:`pivot`
        :param bandwidth: MiB/s; 0 for no limit
        """
        flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_RELATIVE
        if top is None:
            flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE
        self._call(
            self._domain.blockCommit, target, base, top, bandwidth, flags
        )

    def flush(self, target: str) -> None:
        """Have QEMU write what it holds in memory of a disk's active layer.

        A pull ends without that: which clusters it filled is on disk only
        when the guest flushes, and lost if QEMU is killed before.
        """
        # NOTE: libvirt has no call for it. A resize to the size that it has
        # changes nothing, and QEMU writes out its caches of an image to make
        # new ones (since 3.1); the guest need not run, and is not stopped.
        # A resize of somebody else between the two calls would be undone.
        size = self._call(self._domain.blockInfo, target, 0)[0]
        flags = libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES
        self._call(self._domain.blockResize, target, size, flags)

    def limit(self, target: str, bandwidth: int) -> None:
        """Let the block job of a disk do `bandwidth` MiB/s; 0 for all."""
        self._call(self._domain.blockJobSetSpeed, target, bandwidth, 0)

    def pivot(self, target: str) -> None:
        """Go on in the layer that the active one was committed into."""
        flags = libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT
        self._call(self._domain.blockJobAbort, target, flags)

    def cancel(self, target: str) -> None:
        """End the block job of a disk; the chain stays as it was."""
        self._call(self._domain.blockJobAbort, target, 0)

    def forget_backing(self, target: str) -> str:
        """Let the stored definition say nothing of a disk's backing chain.

        A merge makes it wrong (W32); at its next start libvirt reads the
        chain from the headers. Guests of Nova are left alone: it writes
        their definitions anew.

        :returns: the XML that was stored before
        """
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE
        xml = self._call(self._domain.XMLDesc, flags)
        disk = stand_in.without_backing(xml, target)
        if disk is not None and not self._parse(xml).of_nova:
            flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG
            self._call(self._domain.updateDeviceFlags, disk, flags)
        return xml

    def end(self) -> None:
        """End the process of a stand-in; it closes its files in order."""
        flags = libvirt.VIR_DOMAIN_DESTROY_GRACEFUL
        self._call(self._domain.destroyFlags, flags)

    def freeze(self, seconds: int) -> None:
        """Freeze the guest's file systems, by its agent.

        :param seconds: for which an answer of the agent is waited for
        """
        with self._agent_limited(seconds):
            self._call(self._domain.fsFreeze)

    def thaw(self, seconds: int) -> None:
        """Thaw the guest's file systems; harmless if none is frozen.

        :param seconds: for which an answer of the agent is waited for
        """
        with self._agent_limited(seconds):
            self._call(self._domain.fsThaw)

    @contextlib.contextmanager
    def _agent_limited(self, seconds: int) -> Iterator[None]:
        # NOTE: the limit is the guest's, and would hold for what Nova asks,
        # too; and two may thaw at a time, of whom neither is to take it away
        # from the other.
        with self._agent:
            self._call(self._domain.agentSetResponseTimeout, seconds, 0)
            try:
                yield
            finally:
                with contextlib.suppress(exception.NovaExtException):
                    self._call(
                        self._domain.agentSetResponseTimeout,
                        libvirt.VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK,
                        0,
                    )
