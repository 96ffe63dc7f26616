# SPDX-License-Identifier: Apache-2.0
"""May this request start? Every refusal is made here, before anything is.

What is found is turned into a job: the chain as it is and the chain as it
shall be. Nothing is started, journalled or reported here.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from nova_ext import exception
from nova_ext.agent import merge, overlay, quiesce
from nova_ext.agent.job import Job, Kind, Operation, State
from nova_ext.virt import chain, image

if TYPE_CHECKING:
    from nova_ext.virt import host

T = TypeVar('T')


class Admission:
    """What must hold before a snapshot or a merge begins.

    The parameters that are no objects may change while it works.

    :param create_limit: seconds from acceptance until a create must be over
    :param delete_limit: the same for a delete
    :param cancel_late: whether a delete is cancelled after its limit
    :param quiesce_mode: see :mod:`nova_ext.agent.quiesce`
    :param nova: whether Nova can be told of another active layer
    """

    def __init__(
        self,
        virt_host: host.Host,
        files: image.Files,
        create_limit: float,
        delete_limit: float,
        cancel_late: bool,
        quiesce_mode: str,
        nova: bool = False,
    ) -> None:
        self._host = virt_host
        self._files = files
        self.create_limit = create_limit
        self.delete_limit = delete_limit
        self.cancel_late = cancel_late
        self.quiesce_mode = quiesce_mode
        self._nova = nova

    def create(
        self, volume_id: str, create_info: dict[str, Any], now: float
    ) -> Job:
        """The job of a POST.

        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        attachment = self.find(volume_id)
        self._check_nova(attachment)
        stored = self._check_state(
            volume_id, attachment, 'volume_snapshot_create'
        )
        quiesce.check(self.quiesce_mode, attachment.domain, stored)
        disk = attachment.disk
        new_file = create_info['new_file']
        active = disk.layers[0]
        new_path = os.path.join(os.path.dirname(active.path), new_file)
        reason = None
        # NOTE: the API has checked it; this is where it would do harm.
        if new_file in ('', '.', '..') or {'/', '\0'} & set(new_file):
            reason = 'it is not a plain file name'
        elif new_path == active.path:
            reason = 'it already is the active layer'
        else:
            seen, reason = self._look(volume_id, disk, overlay.look, new_path)
            self._check_view(volume_id, active, seen, stored)
            self._check_unused(volume_id, attachment, seen, stored)
        if reason:
            raise exception.InvalidOverlay(
                new_file=new_file, volume_id=volume_id, reason=reason
            )
        before = seen.headers
        return Job(
            snapshot_id=create_info['snapshot_id'],
            volume_id=volume_id,
            operation=Operation.CREATE,
            kind=Kind.OVERLAY,
            instance_id=attachment.guest.uuid,
            target=disk.target,
            before=before,
            after=(new_path, *before),
            accepted_at=now,
            deadline=now + self.create_limit,
            of_nova=attachment.domain.of_nova,
            stored=stored,
        )

    def delete(
        self,
        volume_id: str,
        snapshot_id: str,
        request: merge.Request,
        now: float,
    ) -> Job:
        """The job of a DELETE.

        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        attachment, stored = self._find_for_delete(volume_id)
        seen, notes = self._look(
            volume_id, attachment.disk, merge.look, volume_id
        )
        self._check_view(volume_id, attachment.disk.layers[0], seen, stored)
        self._check_unused(volume_id, attachment, seen, stored)
        # NOTE: libvirt is asked by its own names, where a file has two; of a
        # guest that is off it may know the first file only.
        before = seen.headers if stored else seen.domain
        merge.check_notes(volume_id, before, notes, request)
        job = Job(
            snapshot_id=snapshot_id,
            volume_id=volume_id,
            operation=Operation.DELETE,
            kind=request.kind,
            base=request.base,
            top=request.top,
            instance_id=attachment.guest.uuid,
            target=attachment.disk.target,
            before=before,
            after=merge.wanted(volume_id, before, request),
            accepted_at=now,
            deadline=now + self.delete_limit,
            patient=not self.cancel_late,
            stored=stored,
            process=attachment.domain.process,
        )
        self._check_holding(job, seen)
        return job

    def repeat(self, known: Job, now: float) -> Job | None:
        """The job of a DELETE for what was merged before.

        Nothing is started; Cinder is told once more, after another look.
        None if what had been merged away is in the chain again.

        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        attachment, stored = self._find_for_delete(known.volume_id)
        seen = self._look(known.volume_id, attachment.disk, chain.observe)
        self._check_view(
            known.volume_id, attachment.disk.layers[0], seen, stored
        )
        if {*known.doomed} & {*seen.headers, *seen.domain}:
            return None
        return dataclasses.replace(
            known,
            instance_id=attachment.guest.uuid,
            target=attachment.disk.target,
            after=seen.headers if stored else seen.domain,
            accepted_at=now,
            deadline=now + self.delete_limit,
            stored=stored,
            merged=True,
            flushed=True,
            released=True,
            cancelled=False,
            state=State.PENDING,
            succeeded=None,
            reason='',
        )

    def rollback(self, orphan: Job, now: float) -> tuple[Job, dict[str, str]]:
        """The job that undoes a create, and Cinder's notes on the volume.

        :returns: the notes as of :func:`nova_ext.agent.merge.look`
        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        volume_id = orphan.volume_id
        attachment, stored = self._find_for_delete(volume_id)
        self._check_nova(attachment)
        if stored:
            raise exception.InstanceInvalidState(
                instance_id=attachment.guest.uuid,
                state='is shut off; start it first, it may stay paused',
                method='rollback',
            )
        seen, notes = self._look(
            volume_id, attachment.disk, merge.look, volume_id
        )
        self._check_view(volume_id, attachment.disk.layers[0], seen, stored)
        return dataclasses.replace(
            orphan,
            operation=Operation.ROLLBACK,
            kind=Kind.ACTIVE,
            instance_id=attachment.guest.uuid,
            target=attachment.disk.target,
            before=seen.domain,
            after=seen.domain[1:],
            format=attachment.disk.layers[1].format,
            of_nova=attachment.domain.of_nova,
            outcome=None,
            accepted_at=now,
            deadline=now + self.delete_limit,
            stored=False,
            process=attachment.domain.process,
            state=State.PENDING,
            succeeded=None,
            reason='',
        ), notes

    def _find_for_delete(self, volume_id: str) -> tuple[host.Attachment, bool]:
        attachment = self.find(volume_id)
        return attachment, self._check_state(
            volume_id, attachment, 'volume_snapshot_delete'
        )

    def _look(
        self,
        volume_id: str,
        disk: chain.Disk,
        function: Callable[..., T],
        *args: Any,
    ) -> T:
        """A bounded look at the files of a disk."""
        path = disk.layers[0].path
        try:
            return self._files.look(path, function, disk, *args)
        except (image.NotAnImage, OSError) as error:
            raise self._unusable(volume_id, path, error) from None

    def _check_nova(self, attachment: host.Attachment) -> None:
        if attachment.domain.of_nova and not self._nova:
            raise exception.NovaNotConfigured(
                instance_id=attachment.guest.uuid
            )

    def find(self, volume_id: str) -> host.Attachment:
        """The disk of a volume, of a kind that has snapshots.

        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        attachments = self._host.attachments(volume_id)
        if not attachments:
            raise exception.VolumeNotAttached(volume_id=volume_id)
        if len(attachments) > 1:
            raise exception.VolumeIsMultiAttach(volume_id=volume_id)
        (attachment,) = attachments
        disk = attachment.disk
        reason = None
        if not disk.layers:
            reason = f'its disk is of type {disk.type}, not made of files'
        elif disk.encrypted:
            reason = 'it is encrypted'
        elif disk.readonly:
            reason = 'it is attached read-only'
        else:
            reason = disk.special
        if reason:
            raise exception.UnsupportedDisk(
                volume_id=volume_id,
                instance_id=attachment.guest.uuid,
                reason=reason,
            )
        return attachment

    def _check_state(
        self, volume_id: str, attachment: host.Attachment, method: str
    ) -> bool:
        """Whether the guest is off; refuses states that forbid a change."""
        found = attachment.guest
        state = found.state()
        stored = attachment.domain.number is None
        trouble = None
        if state not in ('running', 'paused', 'shut off'):
            trouble = f'is {state}'
        elif stored != (state == 'shut off'):
            trouble = 'is being started or stopped'
        elif stored and found.has_managed_save():
            trouble = (
                'has a saved memory image, which names the old files '
                '(suspended)'
            )
        elif attachment.domain.rescued:
            # NOTE: also where it is off, as Nova ends a rescue from there.
            trouble = (
                'is rescued, and Nova has written down its old files, to go '
                'back to'
            )
        if trouble:
            raise exception.InstanceInvalidState(
                instance_id=found.uuid, state=trouble, method=method
            )
        if stored:
            return True
        busy = None
        if found.has_job():
            busy = 'the instance is being migrated, saved or backed up'
        elif attachment.disk.busy or found.block_job(attachment.disk.target):
            busy = 'a block job is under way on the disk'
        if busy:
            raise exception.BlockJobExists(
                volume_id=volume_id, instance_id=found.uuid, reason=busy
            )
        return False

    def _check_holding(self, job: Job, seen: chain.Seen) -> None:
        holding = {seen.files[path] for path in seen.holding}
        for path in job.doomed:
            if seen.files[path] in holding:
                raise exception.SnapshotNotInChain(
                    volume_id=job.volume_id,
                    reason=f'{os.path.basename(path)} has snapshots inside, '
                    'which would be lost. With the instance off, remove them '
                    'by "qemu-img snapshot -d NAME FILE"; "-l" shows them',
                )

    def _check_unused(
        self,
        volume_id: str,
        attachment: host.Attachment,
        seen: chain.Seen,
        stored: bool,
    ) -> None:
        if stored and any(locks.opened for locks in seen.open.values()):
            raise exception.BlockJobExists(
                volume_id=volume_id,
                instance_id=attachment.guest.uuid,
                reason='it is off, and another process has its files open',
            )

    def _check_view(
        self,
        volume_id: str,
        active: chain.Layer,
        seen: chain.Seen,
        stored: bool,
    ) -> None:
        """Refuse where we don't see what QEMU has open, or not clearly."""
        if not stored and not seen.open[active.path].writable:
            raise self._unusable(
                volume_id,
                active.path,
                'QEMU has no lock on the active layer at this path. The '
                'agent must see the file that QEMU has open: run it in the '
                'same mount namespace, on a file system with working locks. '
                'If other volumes work, libvirt has lost track of this one: '
                'see which file QEMU writes to, and make the definition name '
                'it by "virsh edit" before the instance is started again',
            )
        if stored and seen.vague:
            raise self._unusable(
                volume_id,
                active.path,
                'the header of a layer does not say the format of the one '
                'below, and a guess would trust what a guest wrote there. '
                'Write it down by "qemu-img rebase -u -F FORMAT -b FILE"',
            )
        # NOTE: of a guest that is off libvirt may know the first file only.
        if not seen.agree and not (stored and len(seen.domain) == 1):
            raise exception.JobStateUnknown(
                volume_id=volume_id,
                reason='libvirt names the backing chain '
                f'{merge.show(seen.domain)}, and the headers of the files '
                f'name {merge.show(seen.headers)}. Make them agree first: '
                'what is wrong in a definition is mended by "virsh edit" '
                "without the disk's <backingStore>",
            )

    def _unusable(
        self, volume_id: str, path: str, reason: object
    ) -> exception.ShareUnavailable:
        if isinstance(reason, OSError) and reason.strerror:
            reason = f'{reason.strerror} ({reason.filename})'
        return exception.ShareUnavailable(
            directory=os.path.dirname(path),
            volume_id=volume_id,
            reason=str(reason),
        )
