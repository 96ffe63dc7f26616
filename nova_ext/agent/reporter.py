# SPDX-License-Identifier: Apache-2.0
"""What Cinder is told of a job, and what its answers mean.

``90%`` is sent in one place only, for an outcome that was verified: it is
the string on which Cinder deletes files. Errors carry no progress, because
Cinder would keep it and take it for ours later (W2). How often something is
tried is the manager's business, HTTP is in nova_ext/cinder.py.
"""

from __future__ import annotations

import logging
import os

from nova_ext import cinder, exception, fence
from nova_ext.agent.job import Job, Operation
from nova_ext.agent.transition import Verdict

LOG = logging.getLogger(__name__)

_DOING = {
    Operation.CREATE: fence.CREATING,
    Operation.DELETE: fence.DELETING,
}
_FAILED = {Operation.CREATE: 'error', Operation.DELETE: 'error_deleting'}
_DONE = '90%'


class Reporter:
    """Reports to Cinder.

    :ivar trouble: why reports can't be delivered at present; empty if they
        can, as far as is known
    """

    def __init__(self, snapshots: cinder.Snapshots) -> None:
        self._snapshots = snapshots
        self.trouble = ''

    def fence(self, job: Job) -> None:
        """Make sure that Cinder awaits this, and forget older progress.

        :raises: :class:`nova_ext.exception.SnapshotNotAwaited`,
            :class:`nova_ext.exception.CinderUnavailable`
        """
        fence.put_up(self._snapshots, job.snapshot_id, _DOING[job.operation])

    def deliver(self, job: Job) -> Verdict:
        """Tell the outcome of a job."""
        try:
            if job.succeeded:
                answer = self._update(job, _DOING[job.operation], _DONE)
            else:
                answer = self._update(job, _FAILED[job.operation], None)
            return self._classify(job, answer)
        except cinder.NoAnswer as error:
            return self._retry(job, str(error))

    def progress(self, job: Job, percent: int) -> None:
        """Show how far a job is, from 1 to 89; a failure to is no matter."""
        try:
            self._update(job, _DOING[job.operation], f'{percent}%')
        except cinder.NoAnswer as error:
            LOG.info('Progress cannot be shown: %s', error)

    def confirm(self, job: Job) -> Verdict:
        """Ask whether Cinder acted on the report of a success."""
        try:
            row = self._show(job.snapshot_id)
        except cinder.NoAnswer as error:
            return self._retry(job, str(error))
        self.trouble = ''
        if row is not None and row.status == _DOING[job.operation]:
            # NOTE: what a report was not answered can still arrive, after
            # the one that counts.
            if row.progress not in (None, _DONE):
                return Verdict.OVERTAKEN
            # NOTE: a snapshot for a backup stays in creation as long as the
            # volume is copied, and is deleted then.
            if row.progress and job.operation is Operation.CREATE:
                return Verdict.HELD
            return Verdict.RETRY
        if job.operation is Operation.DELETE:
            return Verdict.CLAIMED if row is None else Verdict.GAVE_UP
        # NOTE: whatever else it is doing (deleting, backing-up), it has been
        # available before.
        gave_up = row is None or row.status == 'error'
        return Verdict.GAVE_UP if gave_up else Verdict.CLAIMED

    def compare(self, job: Job) -> None:
        """Warn where Cinder has attachments use another file than the guest.

        It writes that before the snapshot is ``available``. Nova asks for it
        wherever it starts an instance on another host (LP 1860913).
        """
        try:
            files = self._snapshots.attached_files(job.volume_id)
        except cinder.NoAnswer as error:
            LOG.info('Attachments in Cinder are not compared: %s', error)
            return
        active = os.path.basename(job.after[0])
        if strays := {*files} - {active}:
            LOG.warning(
                'Cinder has an attachment of volume %s use %s, and instance '
                '%s uses %s. Nova would start it from the former on another '
                'host: before it is migrated or shelved, run "nova-ext-manage '
                'doctor" here, which says what to do',
                job.volume_id,
                ', '.join(sorted(strays)),
                job.instance_id,
                active,
            )

    def witness(self, job: Job) -> tuple[str | None, tuple[str, ...]]:
        """What Cinder says of a snapshot, and of its volume's files.

        :returns: the snapshot's status, None if there is none; the name of
            the file that each of the volume's attachments is told to use
        :raises: :class:`nova_ext.exception.CinderUnavailable`
        """
        try:
            row = self._snapshots.show(job.snapshot_id)
            files = self._snapshots.attached_files(job.volume_id)
        except cinder.NoAnswer as error:
            raise exception.CinderUnavailable(
                snapshot_id=job.snapshot_id, reason=str(error)
            ) from None
        return row.status if row else None, files

    def is_gone(self, snapshot_id: str) -> bool:
        """Whether Cinder knows of no such snapshot.

        :raises: :class:`nova_ext.cinder.NoAnswer`
        """
        return self._show(snapshot_id) is None

    def _show(self, snapshot_id: str) -> cinder.Row | None:
        """What Cinder shows of a snapshot; None if it has none."""
        row = self._snapshots.show(snapshot_id)
        # NOTE: who lost that role meanwhile is shown none of others'.
        if row is None and not self._snapshots.is_administrator()[0]:
            raise cinder.NoAnswer(
                'it shows no snapshot, and its user is no administrator any '
                'more. Give the user of [nova_ext_cinder] the role admin'
            )
        return row

    def _update(
        self, job: Job, status: str, progress: str | None
    ) -> cinder.Answer:
        return self._snapshots.update_status(job.snapshot_id, status, progress)

    def _classify(self, job: Job, answer: cinder.Answer) -> Verdict:
        if answer.code == 202:
            self.trouble = ''
            return Verdict.DELIVERED
        if answer.code not in (400, 404):
            return self._retry(job, f'it answered {answer}')
        # NOTE: 400 and 404 are also what a report gets that was accepted
        # before and whose answer was lost: the row tells.
        verdict = self.confirm(job)
        if verdict in (Verdict.RETRY, Verdict.OVERTAKEN, Verdict.HELD):
            return self._retry(job, f'it answered {answer}')
        return verdict

    def _retry(self, job: Job, reason: str) -> Verdict:
        if not self.trouble:
            LOG.warning(
                'The state of snapshot %s cannot be told to Cinder: %s. It '
                'is tried until it can.',
                job.snapshot_id,
                reason,
            )
        self.trouble = f'Cinder cannot be told: {reason}'
        return Verdict.RETRY


class Silence:
    """Stands in for the reporter where reports go nowhere."""

    trouble = ''

    def fence(self, job: Job) -> None:
        """Everything is awaited."""

    def deliver(self, job: Job) -> Verdict:
        """Everything is claimed at once."""
        return Verdict.CLAIMED

    def progress(self, job: Job, percent: int) -> None:
        """Nobody looks."""

    def confirm(self, job: Job) -> Verdict:
        """Everything is claimed at once."""
        return Verdict.CLAIMED

    def compare(self, job: Job) -> None:
        """Nobody has attachments."""

    def witness(self, job: Job) -> tuple[str | None, tuple[str, ...]]:
        """:raises: :class:`nova_ext.exception.CinderUnavailable`"""
        raise exception.CinderUnavailable(
            snapshot_id=job.snapshot_id,
            reason='[nova_ext_agent] reports is "none"',
        )

    def is_gone(self, snapshot_id: str) -> bool:
        """Nobody says so."""
        return False
