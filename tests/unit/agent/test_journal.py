# SPDX-License-Identifier: Apache-2.0
"""The journal: what is written is there after it is opened again."""

from __future__ import annotations

import os
import pathlib
import sqlite3
import time
import uuid

import pytest

from nova_ext.agent.job import FINAL, TOUCHING, Kind, Operation, State
from nova_ext.agent.journal import UNUSABLE, Journal, NewerJournal
from tests.unit.agent import jobs


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / 'journal.sqlite'


def test_a_job_is_the_same_after_a_restart(path: pathlib.Path) -> None:
    journal = Journal(path)
    job = journal.add(jobs.create(request_id='req-1', stored=True))
    assert job.identity
    changed = job.to(State.REPORTING, succeeded=True, reason='"\' \u2603')
    journal.update(changed)
    journal.close()
    assert Journal(path).latest('snapshot', Operation.CREATE) == changed


@pytest.mark.parametrize('before', [None, 0o664])
def test_nobody_else_can_read_it(
    path: pathlib.Path, before: int | None
) -> None:
    if before is not None:
        path.touch()
        path.chmod(before)
    mask = os.umask(0)
    try:
        journal = Journal(path)
        journal.add(jobs.create())
    finally:
        os.umask(mask)
    found = {
        file.name: oct(file.stat().st_mode & 0o777)
        for file in path.parent.iterdir()
    }
    assert set(found.values()) == {'0o600'}, found
    assert len(found) == 3


def test_the_latest_job_of_a_snapshot_counts(path: pathlib.Path) -> None:
    journal = Journal(path)
    assert journal.latest('snapshot', Operation.CREATE) is None
    journal.add(jobs.create(state=State.FAILED))
    second = journal.add(jobs.create())
    journal.add(jobs.delete())
    assert journal.latest('snapshot', Operation.CREATE) == second


@pytest.mark.parametrize('state', State)
def test_states_say_who_may_touch_and_what_is_over(
    path: pathlib.Path, state: State
) -> None:
    journal = Journal(path)
    job = journal.add(jobs.create(state=state))
    assert journal.touching('volume') == (job if state in TOUCHING else None)
    assert journal.touching('other') is None
    assert journal.unfinished() == ([] if state in FINAL else [job])
    assert journal.count(state) == 1


def test_what_an_operator_must_see_is_listed(path: pathlib.Path) -> None:
    journal = Journal(path)
    orphan = journal.add(jobs.create(state=State.ORPHANED))
    journal.add(jobs.delete(state=State.UNCLAIMED))
    again = journal.add(jobs.delete())
    journal.add(jobs.create(snapshot_id='other', state=State.DONE))
    assert journal.jobs(everything=False) == [orphan, again]
    assert len(journal.jobs(everything=True)) == 4


def test_many_are_written_together_or_not_at_all(path: pathlib.Path) -> None:
    journal = Journal(path)
    before = [journal.add(jobs.create()), journal.add(jobs.delete())]
    after = [job.to(State.REPORTING, succeeded=True) for job in before]
    with pytest.raises(sqlite3.IntegrityError):
        # None is no text, and the first is written by then.
        journal.update_all([after[0], after[1].to(State.DONE, volume_id=None)])
    assert Journal(path).unfinished() == before
    journal.update_all(after)
    assert Journal(path).unfinished() == after
    journal.update_all([])


def test_it_is_durable_and_has_a_version(path: pathlib.Path) -> None:
    journal = Journal(path)
    pragma = journal._database.execute
    assert pragma('PRAGMA journal_mode').fetchone() == ('wal',)
    assert pragma('PRAGMA synchronous').fetchone() == (2,)
    assert pragma('PRAGMA user_version').fetchone() == (1,)


def test_what_need_not_be_durable_is_written_all_the_same(
    path: pathlib.Path,
) -> None:
    journal = Journal(path)
    job = journal.add(jobs.create())
    said: list[str] = []
    journal._database.set_trace_callback(said.append)
    journal.update(job.to(State.RUNNING))
    journal.update(job.to(State.VERIFYING), durable=False)
    names = [
        words.partition(' snapshot_id')[0]
        for words in said
        if words.startswith(('PRAGMA', 'UPDATE'))
    ]
    full, normal = (f'PRAGMA synchronous = {n}' for n in ('FULL', 'NORMAL'))
    write = 'UPDATE jobs SET'
    assert names == [write, normal, write, full]
    assert Journal(path).unfinished() == [job.to(State.VERIFYING)]


def test_a_later_releases_journal_is_left_alone(path: pathlib.Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute('PRAGMA user_version = 2')
    assert NewerJournal in UNUSABLE
    with pytest.raises(NewerJournal, match='Run the release that wrote it'):
        Journal(path)


def test_what_is_over_is_forgotten_where_the_volume_is_not(
    path: pathlib.Path,
) -> None:
    journal = Journal(path)
    for state in State:
        journal.add(jobs.create(state=state))
    here = journal.add(jobs.create(volume_id='here', state=State.DONE))
    assert journal.forget({'here'}, before=time.time() - 60) == 0
    assert journal.forget({'here'}, before=time.time() + 1) == len(FINAL)
    left = journal.jobs(everything=True)
    assert {job.state for job in left} == {*State} - FINAL | {State.DONE}
    assert journal.get(here.identity) == here


def _forget_all(journal: Journal, before: float) -> list[str]:
    """The snapshots that Cinder would be asked about, and none is known."""
    asked, after = [], 0
    while found := journal.old_snapshot(after, before):
        after, snapshot_id = found
        asked.append(snapshot_id)
        journal.forget_snapshot(snapshot_id, before)
    return asked


@pytest.mark.parametrize('state', State)
def test_of_a_snapshot_all_is_forgotten_or_nothing(
    path: pathlib.Path, state: State
) -> None:
    journal = Journal(path)
    jobs_of_it = [
        journal.add(jobs.create(state=State.DONE)),
        journal.add(jobs.delete(state=State.FAILED)),
        journal.add(jobs.delete(state=state)),
        journal.add(jobs.create(snapshot_id='other', state=State.DONE)),
    ]
    assert _forget_all(journal, before=time.time() - 60) == []
    open_ = state not in FINAL or state in (State.ORPHANED, State.UNCLAIMED)
    asked = _forget_all(journal, before=time.time() + 1)
    # A merge that Cinder did not note does not depend on what came later.
    if state is State.UNCLAIMED:
        assert asked == ['other']
        assert journal.jobs(everything=True) == jobs_of_it[:3]
    else:
        assert asked == ([] if open_ else ['snapshot', 'other'])
        left = journal.jobs(everything=True)
        assert left == (jobs_of_it if open_ else [])


def test_what_came_after_an_orphan_stays_until_an_operator_has_ended_it(
    path: pathlib.Path,
) -> None:
    journal = Journal(path)
    earlier = journal.add(jobs.create(snapshot_id='1', state=State.DONE))
    orphan = journal.add(jobs.create(state=State.ORPHANED))
    later = journal.add(jobs.create(snapshot_id='2', state=State.DONE))
    journal.add(jobs.delete(snapshot_id='1', state=State.DONE))
    elsewhere = jobs.create(snapshot_id='3', volume_id='v', state=State.DONE)
    journal.add(elsewhere)
    soon = time.time() + 1
    assert _forget_all(journal, soon) == ['3']
    assert journal.get(earlier.identity) == earlier
    assert journal.later(orphan)[0] == later
    journal.update(orphan.to(State.ABANDONED))
    assert _forget_all(journal, soon) == ['1', 'snapshot', '2']
    assert journal.jobs(everything=True) == []


@pytest.mark.parametrize('state', [State.ORPHANED, State.UNCLAIMED])
def test_what_was_asked_for_again_is_an_operators_no_more(
    path: pathlib.Path, state: State
) -> None:
    journal = Journal(path)
    journal.add(jobs.delete(state=state))
    again = journal.add(jobs.delete(state=State.RUNNING))
    soon = time.time() + 1
    assert _forget_all(journal, soon) == []
    # That it is merged was not heard of this time either.
    journal.update(again.to(State.FAILED))
    unheard = state is State.UNCLAIMED
    assert _forget_all(journal, soon) == ([] if unheard else ['snapshot'])
    if unheard:
        journal.update(again.to(State.DONE))
        assert _forget_all(journal, soon) == ['snapshot']


def test_what_became_young_meanwhile_is_not_forgotten(
    path: pathlib.Path,
) -> None:
    journal = Journal(path)
    journal.add(jobs.create(state=State.DONE))
    before = time.time() + 0.2
    assert journal.old_snapshot(0, before) == (1, 'snapshot')
    asked_again = journal.add(jobs.delete(state=State.FAILED))
    journal._database.execute(
        'UPDATE jobs SET updated_at = ? WHERE id = ?',
        (before, asked_again.identity),
    )
    assert journal.forget_snapshot('snapshot', before) == 0
    assert journal.forget_snapshot('snapshot', before + 1) == 2


def test_a_job_of_five_files_takes_two_kib(path: pathlib.Path) -> None:
    journal = Journal(path)
    share = '/var/lib/nova/mnt/' + 'f' * 32
    journal._database.execute('BEGIN')
    for _ in range(1000):
        volume_id, snapshot_id = str(uuid.uuid4()), str(uuid.uuid4())
        files = [f'{share}/volume-{volume_id}.{uuid.uuid4()}' for _ in '1234']
        after = (*files, f'{share}/volume-{volume_id}')
        journal.add(
            jobs.create(
                snapshot_id=snapshot_id,
                volume_id=volume_id,
                instance_id=str(uuid.uuid4()),
                request_id=f'req-{uuid.uuid4()}',
                before=after[1:],
                after=after,
            )
        )
    journal._database.execute('COMMIT')
    journal.close()
    assert 1.8 < path.stat().st_size / 1000 / 1024 < 2.2


def test_the_journal_of_the_first_version_is_read(path: pathlib.Path) -> None:
    written = sqlite3.connect(path)
    written.executescript(
        pathlib.Path(__file__).with_name('journal-1.sql').read_text('utf-8')
    )
    written.close()
    journal = Journal(path)
    found = journal.jobs(everything=True)
    assert [
        (job.operation, job.snapshot_id, job.kind, job.state) for job in found
    ] == [
        (Operation.CREATE, 's1', Kind.OVERLAY, State.DONE),
        (Operation.CREATE, 's2', Kind.OVERLAY, State.REPORTING),
        (Operation.DELETE, 's1', Kind.COMMIT, State.UNCLAIMED),
        (Operation.DELETE, 's2', Kind.PULL, State.VERIFYING),
        (Operation.ROLLBACK, 's1', Kind.ACTIVE, State.ABANDONED),
    ]
    share = '/var/lib/nova/mnt/volume-521752a6'
    created, reporting, merged, merging, _ = found
    assert created.overlay == f'{share}.s1'
    assert (created.succeeded, created.merged) == (True, False)
    assert (merged.base, merged.top, merged.patient, merged.flushed) == (
        *('volume-521752a6', 'volume-521752a6.s1'),
        *(True, True),
    )
    assert merging.before == (f'{share}.s2', share)
    assert (merging.stored, merging.lent) == (True, True)
    # What it was in the middle of goes on.
    assert journal.unfinished() == [reporting, merging]
    assert journal.touching(merging.volume_id) == merging
    assert journal.merged('s1') == merged
    # What is done to it is written so that it is read again.
    done = merging.to(State.DONE, succeeded=True)
    journal.update(done)
    journal.close()
    assert Journal(path).jobs(everything=True)[3] == done
