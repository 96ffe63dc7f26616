# SPDX-License-Identifier: Apache-2.0
"""The journal: every job on disk before it is acted on, in one SQLite file.

No decisions, no tokens, and no times of a clock that a restart sets back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence

from nova_ext.agent import job as agent_job

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    snapshot_id TEXT NOT NULL,
    volume_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    state TEXT NOT NULL,
    updated_at REAL NOT NULL,
    document TEXT NOT NULL
) STRICT;
CREATE INDEX jobs_by_snapshot ON jobs (snapshot_id, operation);
CREATE INDEX jobs_by_volume ON jobs (volume_id, state);
CREATE INDEX jobs_by_state ON jobs (state);
"""

_MERGED = (agent_job.State.DONE, agent_job.State.UNCLAIMED)
_NEEDY = (agent_job.State.ORPHANED, agent_job.State.UNCLAIMED)
_UNFINISHED = tuple(
    state for state in agent_job.State if state not in agent_job.FINAL
)
_OPEN = json.dumps([*_UNFINISHED, agent_job.State.ORPHANED])
_READ = 'id, snapshot_id, volume_id, operation, state, document'
_UPDATE = (
    'UPDATE jobs SET snapshot_id = ?, volume_id = ?, operation = ?, state = ?,'
    ' updated_at = ?, document = ? WHERE id = ?'
)
_COLUMNS = ('identity', 'snapshot_id', 'volume_id', 'operation', 'state')
_DOCUMENT = tuple(
    field.name
    for field in dataclasses.fields(agent_job.Job)
    if field.name not in _COLUMNS
)


_LATER = (
    'SELECT 1 FROM jobs AS later WHERE later.snapshot_id = {0}.snapshot_id'
    ' AND later.operation = {0}.operation AND later.id > {0}.id'
)
# Why a job of a snapshot is not forgotten, nor the others of it: it is too
# young; or it merged the snapshot away, and Cinder took no note; or it, or an
# earlier one of the volume, is not over or needs an operator, who must know
# what came after it. What was asked for again is seen there instead.
# NOTE: by the plus sign all that are done are not read for each.
_KEPT = f"""
SELECT 1 FROM jobs AS own WHERE own.snapshot_id = jobs.snapshot_id AND (
    own.updated_at >= :before
    OR (
        own.state = '{agent_job.State.UNCLAIMED.value}' AND NOT EXISTS (
            {_LATER.format('own')}
            AND +later.state = '{agent_job.State.DONE.value}'
        )
    )
    OR EXISTS (
        SELECT 1 FROM jobs AS earlier
        WHERE earlier.volume_id = own.volume_id AND earlier.id <= own.id
        AND earlier.state IN (SELECT value FROM json_each(:open))
        AND NOT (
            earlier.state = '{agent_job.State.ORPHANED.value}'
            AND EXISTS ({_LATER.format('earlier')})
        )
    )
)
"""  # noqa: S608 (constants of ours)


class NewerJournal(RuntimeError):
    """The file was written by a later release, which alone can read it."""


# What `Journal` raises.
UNUSABLE = (NewerJournal, sqlite3.Error)


class Journal:
    """The jobs of one agent. Its methods may be called by many threads.

    :param path: of the SQLite file, made if it is not there
    :raises: UNUSABLE
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._lock = threading.Lock()
        _keep_private(path)
        self._database = sqlite3.connect(
            path, check_same_thread=False, isolation_level=None
        )
        self._database.execute('PRAGMA journal_mode = WAL')
        # NOTE: FULL, so that what is answered "accepted" survives a power
        # cut; a commit costs a quarter of a millisecond.
        self._database.execute('PRAGMA synchronous = FULL')
        (version,) = self._database.execute('PRAGMA user_version').fetchone()
        if version > SCHEMA_VERSION:
            raise NewerJournal(
                f'{path} has schema {version}; this release knows '
                f'{SCHEMA_VERSION}. Run the release that wrote it.'
            )
        if version == 0:
            self._database.executescript(
                f'BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; '
                'COMMIT;'
            )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def add(self, job: agent_job.Job) -> agent_job.Job:
        """Write a new job; the same with its identity."""
        with self._lock:
            cursor = self._database.execute(
                'INSERT INTO jobs (snapshot_id, volume_id, operation, state,'
                ' updated_at, document) VALUES (?, ?, ?, ?, ?, ?)',
                _row(job),
            )
        return dataclasses.replace(job, identity=cursor.lastrowid)

    def update(self, job: agent_job.Job, durable: bool = True) -> None:
        """Write what has become of a job.

        :param durable: return when it survives a power cut; else it survives
            the end of this process, and a power cut with the next that does
        """
        with self._lock:
            if not durable:
                self._database.execute('PRAGMA synchronous = NORMAL')
            try:
                self._database.execute(_UPDATE, (*_row(job), job.identity))
            finally:
                if not durable:
                    self._database.execute('PRAGMA synchronous = FULL')

    def update_all(self, jobs: Sequence[agent_job.Job]) -> None:
        """Write what has become of jobs: of all of them, or of none."""
        rows = [(*_row(job), job.identity) for job in jobs]
        with self._lock, self._database:
            self._database.execute('BEGIN IMMEDIATE')
            self._database.executemany(_UPDATE, rows)

    def latest(
        self, snapshot_id: str, operation: agent_job.Operation
    ) -> agent_job.Job | None:
        """The last job of a snapshot; None if there was none."""
        jobs = self._select(
            'snapshot_id = ? AND operation = ? ORDER BY id DESC LIMIT 1',
            (snapshot_id, operation.value),
        )
        return jobs[0] if jobs else None

    def get(self, identity: int) -> agent_job.Job | None:
        """The job with this database id; None if there is none."""
        jobs = self._select('id = ?', (identity,))
        return jobs[0] if jobs else None

    def jobs(self, everything: bool) -> list[agent_job.Job]:
        """Every job, or those that are not over or need an operator.

        The oldest first. What was asked for again is seen there instead.
        """
        if everything:
            return self._select('1 ORDER BY id', ())
        states = (*_UNFINISHED, *_NEEDY)
        return self._select(
            f'state IN {_in(states)} AND (state NOT IN {_in(_NEEDY)}'
            f' OR NOT EXISTS ({_LATER.format("jobs")})) ORDER BY id',
            tuple(state.value for state in (*states, *_NEEDY)),
        )

    def merged(self, snapshot_id: str) -> agent_job.Job | None:
        """The last job that merged a snapshot away; None if none did."""
        jobs = self._select(
            f'snapshot_id = ? AND operation = ? AND state IN {_in(_MERGED)}'
            ' ORDER BY id DESC LIMIT 1',
            (
                snapshot_id,
                agent_job.Operation.DELETE.value,
                *(state.value for state in _MERGED),
            ),
        )
        return jobs[0] if jobs else None

    def touching(self, volume_id: str) -> agent_job.Job | None:
        """The job under which a volume's chain may change now, if any."""
        jobs = self._select(
            f'volume_id = ? AND state IN {_in(agent_job.TOUCHING)} LIMIT 1',
            (volume_id, *(state.value for state in agent_job.TOUCHING)),
        )
        return jobs[0] if jobs else None

    def later(self, job: agent_job.Job) -> list[agent_job.Job]:
        """The later jobs that may have changed the same volume, in order."""
        return self._select(
            'volume_id = ? AND id > ? AND state != ? ORDER BY id',
            (job.volume_id, job.identity, agent_job.State.FAILED.value),
        )

    def unfinished(self) -> list[agent_job.Job]:
        """Every job that is not over, the oldest first."""
        return self._select(
            # NOTE: sorted by hand, or all that are over would be read, too.
            f'state IN {_in(_UNFINISHED)} ORDER BY +id',
            tuple(state.value for state in _UNFINISHED),
        )

    def forget(self, volumes: set[str], before: float) -> int:
        """Delete jobs that are over; how many there were.

        :param volumes: ids of those of which this forgets nothing
        :param before: wall-clock seconds; later ones stay
        """
        states = tuple(state.value for state in agent_job.FINAL)
        with self._lock:
            return self._database.execute(
                f'DELETE FROM jobs WHERE state IN {_in(agent_job.FINAL)}'  # noqa: S608
                ' AND updated_at < ? AND volume_id NOT IN'
                ' (SELECT value FROM json_each(?))',
                (*states, before, json.dumps([*volumes])),
            ).rowcount

    def old_snapshot(
        self, after: int, before: float
    ) -> tuple[int, str] | None:
        """The next snapshot whose jobs nobody needs once Cinder has it not.

        :param after: the database id of its first job is above this
        :param before: wall-clock seconds; it has no later ones
        :returns: that id, and the snapshot's
        """
        with self._lock:
            return self._database.execute(
                'SELECT id, snapshot_id FROM jobs WHERE id > :after'  # noqa: S608
                ' AND updated_at < :before AND NOT EXISTS (SELECT 1 FROM jobs'
                ' AS first WHERE first.snapshot_id = jobs.snapshot_id AND'
                f' first.id < jobs.id) AND NOT EXISTS ({_KEPT})'
                ' ORDER BY id LIMIT 1',
                {'after': after, 'before': before, 'open': _OPEN},
            ).fetchone()

    def forget_snapshot(self, snapshot_id: str, before: float) -> int:
        """Delete the jobs of a snapshot that Cinder has not any more.

        :param before: as in :meth:`old_snapshot`, which is seen to again
        :returns: how many there were
        """
        with self._lock:
            return self._database.execute(
                'DELETE FROM jobs WHERE snapshot_id = :snapshot_id'  # noqa: S608
                f' AND NOT EXISTS ({_KEPT})',
                {
                    'snapshot_id': snapshot_id,
                    'before': before,
                    'open': _OPEN,
                },
            ).rowcount

    def count(self, state: agent_job.State) -> int:
        """How many jobs are in a state."""
        with self._lock:
            (number,) = self._database.execute(
                'SELECT count(*) FROM jobs WHERE state = ?', (state.value,)
            ).fetchone()
        return number

    def _select(
        self, where: str, arguments: tuple[str | int, ...]
    ) -> list[agent_job.Job]:
        # NOTE: `where` is made of constants of this module only.
        with self._lock:
            rows = self._database.execute(
                f'SELECT {_READ} FROM jobs WHERE {where}',  # noqa: S608
                arguments,
            ).fetchall()
        return [_job(*row) for row in rows]


def _keep_private(path: pathlib.Path) -> None:
    """Let nobody else read the file, nor those that SQLite puts beside it."""
    # NOTE: one that is there is not opened: to close it again would give up
    # the locks of whoever else in this process has it open.
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    # What keeps it from being used is raised by SQLite, in its own words.
    with contextlib.suppress(OSError):
        try:
            os.close(os.open(path, flags, 0o600))
        except FileExistsError:
            path.chmod(0o600)


def _in(states: Iterable[agent_job.State]) -> str:
    return f'({", ".join("?" for _ in states)})'


def _row(job: agent_job.Job) -> tuple[str, str, str, str, float, str]:
    document = {name: getattr(job, name) for name in _DOCUMENT}
    return (
        job.snapshot_id,
        job.volume_id,
        job.operation.value,
        job.state.value,
        time.time(),
        json.dumps(document),
    )


def _job(
    identity: int,
    snapshot_id: str,
    volume_id: str,
    operation: str,
    state: str,
    document: str,
) -> agent_job.Job:
    fields = json.loads(document)
    fields['kind'] = agent_job.Kind(fields['kind'])
    outcome = fields.get('outcome')
    fields['outcome'] = outcome and agent_job.State(outcome)
    fields['before'] = tuple(fields['before'])
    fields['after'] = tuple(fields['after'])
    return agent_job.Job(
        identity=identity,
        snapshot_id=snapshot_id,
        volume_id=volume_id,
        operation=agent_job.Operation(operation),
        state=agent_job.State(state),
        **fields,
    )
