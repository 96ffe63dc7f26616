# SPDX-License-Identifier: Apache-2.0
"""What our recording backend refuses requests with, by the volume's id.

One for each refusal that Nova's backend knows, and those that only ours do.
What they are answered as is said in gabbits/.
"""

from __future__ import annotations

from nova_ext import exception

INSTANCE_ID = '9e0f3a55-3c1d-4b0e-8a57-1a4b3c0f6d21'


class ThingNotFound(exception.NotFound):
    """What a backend may not find beside a volume; none of ours is it."""

    msg_fmt = 'The %(thing)s cannot be found.'


def _invalid_state(state: str, method: str) -> exception.InstanceInvalidState:
    return exception.InstanceInvalidState(
        instance_id=INSTANCE_ID, state=state, method=method
    )


def refusals() -> dict[str, Exception]:
    """Volume id → what the backend refuses it with."""
    unattached = 'ffffffff-ffff-4fff-bfff-ffffffffffff'
    return {
        unattached: exception.VolumeNotAttached(volume_id=unattached),
        'attached-twice': exception.VolumeIsMultiAttach(
            volume_id='attached-twice'
        ),
        'without-host': exception.InvalidInput(
            reason=f'Instance {INSTANCE_ID} is not ready'
        ),
        'resizing': _invalid_state(
            'in task_state resize_prep', 'do_volume_snapshot_create'
        ),
        'resizing-at-delete': _invalid_state(
            'in task_state resize_prep', 'do_volume_snapshot_delete'
        ),
        'never-launched': _invalid_state(
            'in launched_at None', 'do_volume_snapshot_create'
        ),
        'paused': _invalid_state(
            'in vm_state paused', 'volume_snapshot_delete'
        ),
        'invalid': exception.InvalidInput(
            reason='Invalid volume: it is of no use'
        ),
        'lost': ThingNotFound(thing='instance'),
        'agent-away': exception.HostUnavailable(
            host='compute-1', reason='connection refused'
        ),
        'qemu-failed': exception.SnapshotFailed(
            snapshot_id='421752a6', reason='No space left on device'
        ),
        'unexpected': RuntimeError('a secret of the backend'),
    }
