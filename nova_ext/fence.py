# SPDX-License-Identifier: Apache-2.0
"""The fence: Cinder is told that something begins, and must want to know.

It proves that our credentials are good and that Cinder still waits, and it
wipes out progress that an earlier attempt, or a backup of Cinder's, has left
(W2). It stands immediately before what it fences; nothing is retried.
"""

from __future__ import annotations

from nova_ext import cinder, exception

CREATING, DELETING = 'creating', 'deleting'
_CREDENTIALS = (401, 403)


def put_up(snapshots: cinder.Snapshots, snapshot_id: str, status: str) -> None:
    """Return if Cinder awaits this.

    :param status: ``CREATING`` or ``DELETING``
    :raises: :class:`nova_ext.exception.SnapshotNotAwaited`,
        :class:`nova_ext.exception.CinderUnavailable`
    """
    try:
        answer = snapshots.update_status(snapshot_id, status, '0%')
    except cinder.NoAnswer as error:
        raise exception.CinderUnavailable(
            snapshot_id=snapshot_id, reason=str(error)
        ) from None
    if answer.code == 202:
        return
    if answer.code in (400, 404):
        words = str(answer)
        if answer.code == 404:
            words += (
                ', which it also tells a user of [nova_ext_cinder] who lacks '
                'the role admin'
            )
        raise exception.SnapshotNotAwaited(
            snapshot_id=snapshot_id, answer=words
        )
    reason = f'it answered {answer}'
    if answer.code in _CREDENTIALS:
        reason += (
            '. The user of [nova_ext_cinder] must be one who may update the '
            "status of any project's snapshot: by default of Cinder the role "
            'admin'
        )
    raise exception.CinderUnavailable(snapshot_id=snapshot_id, reason=reason)
