# SPDX-License-Identifier: Apache-2.0
"""May this request start? Every refusal is made here, before anything is.

What is found is turned into a job: the chain as it is and the chain as it
shall be. Nothing is started, journalled or reported here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from nova_ext import exception
from nova_ext.agent import overlay, quiesce
from nova_ext.agent.job import Job, Kind, Operation
from nova_ext.virt import chain, image

if TYPE_CHECKING:
    from nova_ext.virt import host


class Admission:
    """The checks of design §3 and §4.

    :param create_limit: seconds from acceptance until a create must be over
    :param delete_limit: the same for a delete
    :param quiesce_mode: see :mod:`nova_ext.agent.quiesce`
    """

    def __init__(
        self,
        virt_host: host.Host,
        files: image.Files,
        create_limit: float,
        delete_limit: float,
        quiesce_mode: str,
    ) -> None:
        self._host = virt_host
        self._files = files
        self._create_limit = create_limit
        self._delete_limit = delete_limit
        self._quiesce_mode = quiesce_mode

    def create(
        self, volume_id: str, create_info: dict[str, Any], now: float
    ) -> Job:
        """The job of a POST.

        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        attachment = self._find(volume_id)
        stored = self._check_state(
            volume_id, attachment, 'volume_snapshot_create'
        )
        quiesce.check(self._quiesce_mode, attachment.domain, stored)
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
            try:
                seen, reason = self._files.look(
                    new_path, overlay.look, disk, new_path
                )
            except (image.NotAnImage, OSError) as error:
                raise self._unusable(volume_id, active.path, error) from None
            self._check_view(volume_id, active, seen, stored)
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
            deadline=now + self._create_limit,
            stored=stored,
        )

    def delete(
        self,
        volume_id: str,
        snapshot_id: str,
        delete_info: dict[str, Any],
        now: float,
    ) -> Job:
        """The job of a DELETE.

        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        attachment = self._find(volume_id)
        stored = self._check_state(
            volume_id, attachment, 'volume_snapshot_delete'
        )
        if stored:
            raise exception.InstanceInvalidState(
                instance_id=attachment.guest.uuid,
                state='is shut off',
                method='volume_snapshot_delete',
            )
        active = attachment.disk.layers[0]
        try:
            seen = self._files.look(
                active.path, chain.observe, attachment.disk
            )
        except (image.NotAnImage, OSError) as error:
            raise self._unusable(volume_id, active.path, error) from None
        self._check_view(volume_id, active, seen, stored)
        # NOTE: libvirt is asked by its own names, where a file has two.
        after = _merged(volume_id, seen.domain, delete_info)
        return Job(
            snapshot_id=snapshot_id,
            volume_id=volume_id,
            operation=Operation.DELETE,
            kind=(
                Kind.PULL
                if delete_info.get('merge_target_file') is None
                else Kind.COMMIT
            ),
            instance_id=attachment.guest.uuid,
            target=attachment.disk.target,
            before=seen.domain,
            after=after,
            accepted_at=now,
            deadline=now + self._delete_limit,
        )

    def _find(self, volume_id: str) -> host.Attachment:
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
        guest = attachment.guest
        state = guest.state()
        if state not in ('running', 'paused', 'shut off'):
            raise exception.InstanceInvalidState(
                instance_id=guest.uuid, state=f'is {state}', method=method
            )
        if guest.has_managed_save():
            raise exception.InstanceInvalidState(
                instance_id=guest.uuid,
                state='has a saved memory image, which names the old files '
                '(suspended)',
                method=method,
            )
        if not guest.has_process():
            return True
        busy = None
        if guest.has_job():
            busy = 'the instance is being migrated, saved or backed up'
        elif attachment.disk.busy or guest.block_job(attachment.disk.target):
            busy = 'a block job is under way on the disk'
        if busy:
            raise exception.BlockJobExists(
                volume_id=volume_id, instance_id=guest.uuid, reason=busy
            )
        return False

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
                'same mount namespace, on a file system with working locks',
            )
        # NOTE: of a guest that is off libvirt may know the first file only.
        if not seen.agree and not (stored and len(seen.domain) == 1):
            raise exception.JobStateUnknown(
                volume_id=volume_id,
                reason='libvirt names the backing chain '
                f'{_names(seen.domain)}, and the headers of the files name '
                f'{_names(seen.headers)}. Make them agree first',
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


def _merged(
    volume_id: str, paths: tuple[str, ...], delete_info: dict[str, Any]
) -> tuple[str, ...]:
    """The chain as a DELETE wants it; exactly one layer disappears.

    :raises: :class:`nova_ext.exception.SnapshotNotInChain`
    """
    for key in ('file_to_merge', 'merge_target_file'):
        # NOTE: null is an order to merge everything, absence is none.
        if key not in delete_info:
            raise exception.SnapshotNotInChain(
                volume_id=volume_id,
                reason=f'delete_info does not say {key}, not even as null',
            )
    names = [os.path.basename(path) for path in paths]
    file_to_merge = delete_info.get('file_to_merge')
    target = delete_info.get('merge_target_file')

    def position(name: str) -> int:
        if names.count(name) != 1:
            raise exception.SnapshotNotInChain(
                volume_id=volume_id,
                reason=f'{name} is not in it once; it is {_names(paths)}',
            )
        return names.index(name)

    if target is None:
        # A pull: what is between the active layer and the base disappears.
        end = len(paths) if file_to_merge is None else position(file_to_merge)
        first, last = 1, end
    else:
        # A commit: the top disappears, its content goes to the next layer.
        if file_to_merge is None:
            raise exception.SnapshotNotInChain(
                volume_id=volume_id,
                reason='a merge_target_file needs a file_to_merge',
            )
        first, last = position(file_to_merge), position(target)
        if first == 0:
            raise exception.SnapshotNotInChain(
                volume_id=volume_id,
                reason=f'{file_to_merge} is the active layer',
            )
    if last - first != 1:
        raise exception.SnapshotNotInChain(
            volume_id=volume_id,
            reason='exactly one layer must disappear; the chain is '
            f'{_names(paths)}',
        )
    return paths[:first] + paths[last:]


def _names(paths: tuple[str, ...]) -> str:
    return ' <- '.join(os.path.basename(path) for path in reversed(paths))
