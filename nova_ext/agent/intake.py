# SPDX-License-Identifier: Apache-2.0
"""The way in for jobs, whoever asks for them: one at a time for a volume.

Whether a job may start was decided before; what it does is the engine's.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nova_ext import exception
from nova_ext.agent import wire
from nova_ext.agent.job import Job, State, describe
from nova_ext.agent.sweeper import Run
from nova_ext.agent.transition import Action

if TYPE_CHECKING:
    from nova_ext.agent import journal as agent_journal
    from nova_ext.agent import sweeper as agent_sweeper

LOG = logging.getLogger(__name__)

# For a "no" to reach Cinder, which then writes it down.
_NO_SECONDS = 15.0


class Intake:
    """Where jobs of this host begin."""

    def __init__(
        self,
        journal: agent_journal.Journal,
        sweeper: agent_sweeper.Sweeper,
    ) -> None:
        self._journal = journal
        self._sweeper = sweeper
        self._volumes: dict[str, tuple[threading.Lock, int]] = {}
        self._volumes_lock = threading.Lock()

    @contextlib.contextmanager
    def volume(self, volume_id: str) -> Iterator[None]:
        """One request at a time for each volume."""
        with self._volumes_lock:
            lock, users = self._volumes.get(volume_id, (threading.Lock(), 0))
            self._volumes[volume_id] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with self._volumes_lock:
                lock, users = self._volumes[volume_id]
                self._volumes[volume_id] = lock, users - 1
                if users == 1:
                    del self._volumes[volume_id]

    def refuse_while_touched(self, volume_id: str) -> None:
        """:raises: :class:`nova_ext.exception.BlockJobExists`"""
        other = self._journal.touching(volume_id)
        if other is not None:
            raise exception.BlockJobExists(
                volume_id=volume_id,
                instance_id=other.instance_id,
                reason=f'the {other.operation.value} of snapshot '
                f'{other.snapshot_id} is {other.state.value}',
            )

    def accept(
        self,
        job: Job,
        not_after: float,
        request_id: str | None,
        reply_wait: float = 0.0,
    ) -> Run:
        """Journal a job, which is begun at once.

        :param not_after: wall-clock seconds after which nothing is started,
            unless it had to wait for another job
        :param reply_wait: seconds for which the API waits for an answer
        :raises: :class:`nova_ext.exception.Unavailable`
        """
        if self._sweeper.closing:
            raise exception.AgentBusy(reason='it is about to stop')
        if time.time() > not_after:
            raise exception.RequestExpired(snapshot_id=job.snapshot_id)
        job = self._journal.add(job.to(State.PENDING, request_id=request_id))
        LOG.info('Accepted %s, for %s', describe(job), request_id)
        run = Run(job, Action.FENCE)
        patience = wire.answer_wait(reply_wait) + _NO_SECONDS
        run.doubtful = (not_after, not_after + patience)
        run.begin_by = not_after + reply_wait + wire.CLOCK_ALLOWANCE
        self._sweeper.add(run)
        return run
