# SPDX-License-Identifier: Apache-2.0
"""What Cinder is told, and what each of its answers means."""

from __future__ import annotations

from unittest import mock

import pytest

from nova_ext import cinder, exception
from nova_ext.agent.job import Operation
from nova_ext.agent.reporter import Reporter
from nova_ext.agent.transition import Verdict
from tests.unit.agent import jobs

NONE = cinder.NoAnswer('nobody there')


def _reporter(
    answer: int | Exception,
    status: str | None | Exception = None,
    progress: str | None = '90%',
) -> tuple[Reporter, mock.Mock]:
    snapshots = mock.create_autospec(cinder.Cinder, instance=True)
    if isinstance(answer, Exception):
        snapshots.update_status.side_effect = answer
    else:
        snapshots.update_status.return_value = cinder.Answer(answer, 'words')
    row = cinder.Row(status, progress) if isinstance(status, str) else status
    snapshots.show.side_effect = [row]
    snapshots.is_administrator.return_value = True, None
    return Reporter(snapshots), snapshots


@pytest.mark.parametrize(
    ('job', 'sent'),
    [
        (jobs.create(succeeded=True), ('creating', '90%')),
        (jobs.create(succeeded=False), ('error', None)),
        (jobs.delete(succeeded=True), ('deleting', '90%')),
        (jobs.delete(succeeded=False), ('error_deleting', None)),
    ],
)
def test_errors_carry_no_progress(job, sent) -> None:  # type: ignore
    reporter, snapshots = _reporter(202)
    assert reporter.deliver(job) is Verdict.DELIVERED
    snapshots.update_status.assert_called_once_with('snapshot', *sent)


@pytest.mark.parametrize(
    ('job', 'status'),
    [(jobs.create(), 'creating'), (jobs.delete(), 'deleting')],
)
def test_the_fence_forgets_older_progress(job, status) -> None:  # type: ignore
    reporter, snapshots = _reporter(202)
    reporter.fence(job)
    snapshots.update_status.assert_called_once_with('snapshot', status, '0%')


@pytest.mark.parametrize('answer', [200, 204, 401, 403, 409, 500, 503, NONE])
def test_a_fence_without_202_means_unavailable(
    answer: int | Exception,
) -> None:
    with pytest.raises(exception.CinderUnavailable):
        _reporter(answer)[0].fence(jobs.create())


@pytest.mark.parametrize('answer', [400, 404])
def test_a_fence_that_cinder_refuses_means_not_awaited(answer: int) -> None:
    with pytest.raises(exception.SnapshotNotAwaited, match=str(answer)):
        _reporter(answer)[0].fence(jobs.create())


# operation, answer to the report, status then read → verdict
DELIVERIES = [
    *(
        (operation, code, None, Verdict.RETRY)
        for operation in Operation
        for code in (200, 204, 401, 403, 409, 429, 500, 503, NONE)
    ),
    (Operation.CREATE, 400, 'available', Verdict.CLAIMED),
    (Operation.CREATE, 400, 'error', Verdict.GAVE_UP),
    (Operation.CREATE, 400, 'creating', Verdict.RETRY),
    (Operation.CREATE, 400, None, Verdict.GAVE_UP),
    (Operation.CREATE, 404, None, Verdict.GAVE_UP),
    (Operation.CREATE, 404, 'creating', Verdict.RETRY),
    (Operation.CREATE, 400, NONE, Verdict.RETRY),
    (Operation.DELETE, 400, 'error_deleting', Verdict.GAVE_UP),
    (Operation.DELETE, 400, 'available', Verdict.GAVE_UP),
    (Operation.DELETE, 400, 'deleting', Verdict.RETRY),
    (Operation.DELETE, 404, None, Verdict.CLAIMED),
    (Operation.DELETE, 404, NONE, Verdict.RETRY),
]


@pytest.mark.parametrize(
    ('operation', 'answer', 'status', 'verdict'), DELIVERIES
)
def test_what_an_answer_means(operation, answer, status, verdict) -> None:  # type: ignore
    make = jobs.create if operation is Operation.CREATE else jobs.delete
    reporter, _ = _reporter(answer, status)
    assert reporter.deliver(make(succeeded=True)) is verdict
    assert bool(reporter.trouble) is (verdict is Verdict.RETRY)


@pytest.mark.parametrize(
    ('make', 'status', 'verdict'),
    [
        (jobs.create, 'available', Verdict.CLAIMED),
        *(
            (jobs.create, status, Verdict.CLAIMED)
            for status in (
                *('deleting', 'error_deleting', 'backing-up', 'restoring'),
                *('updating', 'unmanaging'),
            )
        ),
        (jobs.create, 'creating', Verdict.HELD),
        (jobs.create, 'error', Verdict.GAVE_UP),
        (jobs.create, None, Verdict.GAVE_UP),
        (jobs.delete, None, Verdict.CLAIMED),
        (jobs.delete, 'deleting', Verdict.RETRY),
        (jobs.delete, 'error_deleting', Verdict.GAVE_UP),
        (jobs.delete, 'available', Verdict.GAVE_UP),
    ],
)
def test_whether_cinder_acted(make, status, verdict) -> None:  # type: ignore
    reporter, _ = _reporter(202, status)
    assert reporter.confirm(make(succeeded=True)) is verdict
    assert reporter.trouble == ''


@pytest.mark.parametrize(
    ('make', 'status'), [(jobs.create, 'creating'), (jobs.delete, 'deleting')]
)
def test_an_earlier_report_may_arrive_late(make, status) -> None:  # type: ignore
    job = make(succeeded=True)
    created = job.operation is Operation.CREATE
    for progress, verdict in (
        # What was made for a backup is in creation while that is copied.
        ('90%', Verdict.HELD if created else Verdict.RETRY),
        ('0%', Verdict.OVERTAKEN),
        ('45%', Verdict.OVERTAKEN),
        # Cinder hides it from some users; then nothing can be told from it.
        (None, Verdict.RETRY),
    ):
        reporter, _ = _reporter(202, status, progress)
        assert reporter.confirm(job) is verdict
    reporter, _ = _reporter(400, status, '45%')
    assert reporter.deliver(job) is Verdict.RETRY


def test_progress_is_shown_and_a_failure_to_is_no_matter() -> None:
    reporter, snapshots = _reporter(202)
    reporter.progress(jobs.delete(), 45)
    snapshots.update_status.assert_called_once_with(
        'snapshot', 'deleting', '45%'
    )
    for answer in (400, 404, 500, NONE):
        reporter, _ = _reporter(answer)
        reporter.progress(jobs.delete(), 45)
        assert reporter.trouble == ''


@pytest.mark.parametrize('make', [jobs.create, jobs.delete])
@pytest.mark.parametrize('said', [(False, None), NONE])
def test_who_may_not_see_a_snapshot_does_not_know(make, said) -> None:  # type: ignore
    """A role can be lost meanwhile; a 404 says nothing then."""
    reporter, snapshots = _reporter(404)
    snapshots.is_administrator.side_effect = [said]
    assert reporter.deliver(make(succeeded=True)) is Verdict.RETRY
    assert reporter.trouble
    # And nobody asks for it again where there is something to see.
    reporter, snapshots = _reporter(202, 'error')
    reporter.confirm(make(succeeded=True))
    snapshots.is_administrator.assert_not_called()


def test_it_is_gone_where_cinder_says_so_to_an_administrator() -> None:
    for status in ('available', 'deleting', 'error'):
        reporter, snapshots = _reporter(202, status)
        assert not reporter.is_gone('snapshot')
        snapshots.is_administrator.assert_not_called()
    reporter, _ = _reporter(404)
    assert reporter.is_gone('snapshot')
    for shown, said in ((None, (False, None)), (None, NONE), (NONE, None)):
        reporter, snapshots = _reporter(404, shown)
        snapshots.is_administrator.side_effect = [said]
        with pytest.raises(cinder.NoAnswer):
            reporter.is_gone('snapshot')
        # It is no trouble of jobs.
        assert reporter.trouble == ''
