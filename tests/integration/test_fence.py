# SPDX-License-Identifier: Apache-2.0
"""Nothing is started unless Cinder says, just before, that it awaits it."""

from __future__ import annotations

import pytest

from nova_ext import exception
from nova_ext.api import wsgi
from tests.fixtures.host import Host

pytest_plugins = ['tests.fixtures.host']

ANSWERS = {
    **dict.fromkeys((400, 404), 400),
    **dict.fromkeys(
        (200, 204, 300, 401, 403, 409, 413, 429, 500, 502, 503, 504), 503
    ),
}


def _refused(host: Host, snapshot_id: str) -> exception.NovaExtException:
    with pytest.raises(exception.NovaExtException) as refusal:
        host.create(snapshot_id, host.overlay().name)
    host.assert_untouched()
    assert set(host.states()) == {'FAILED'}
    return refusal.value


def test_whatever_cinder_answers_but_202_starts_nothing(host: Host) -> None:
    for code, status in ANSWERS.items():
        host.double.answer_with(code)
        snapshot_id = host.snapshot()
        error = _refused(host, snapshot_id)
        host.double.clear_faults()
        assert wsgi.status_of(error) == status, code
        assert f'it answered {code}' in str(error)
        assert 'nothing was started' in str(error)
        assert host.double.history(snapshot_id) == [('creating', '0%')]


def test_credentials_that_cinder_refuses_are_named(host: Host) -> None:
    for code in (401, 403):
        host.double.answer_with(code)
        error = _refused(host, host.snapshot())
        assert 'The user of [nova_ext_cinder] must be one' in str(error)
        host.double.clear_faults()


def test_no_answer_starts_nothing(host: Host) -> None:
    host.double.drop()
    error = _refused(host, host.snapshot())
    assert isinstance(error, exception.CinderUnavailable)
    host.double.stop_listening()
    error = _refused(host, host.snapshot())
    assert isinstance(error, exception.CinderUnavailable)
    host.double.listen_again()
    # Longer than the time-out of the agent's session.
    host.double.delay(5)
    error = _refused(host, host.snapshot())
    assert isinstance(error, exception.CinderUnavailable)


def test_a_snapshot_that_is_not_being_created_starts_nothing(
    host: Host,
) -> None:
    for status in ('available', 'error', 'deleting', 'error_deleting'):
        error = _refused(host, host.snapshot(status))
        assert isinstance(error, exception.SnapshotNotAwaited)
        assert f'Snapshot status {status} not allowed' in str(error) or (
            'not allowed for snapshot with status' in str(error)
        )


def test_a_snapshot_that_cinder_does_not_know_starts_nothing(
    host: Host,
) -> None:
    for snapshot_id in ('11111111', '..', '../volumes', 'a/b', 'a?b=c'):
        error = _refused(host, snapshot_id)
        assert isinstance(error, exception.SnapshotNotAwaited)
        assert 'lacks the role admin' in str(error)


def test_after_a_refusal_the_same_snapshot_can_be_asked_for_again(
    host: Host,
) -> None:
    snapshot_id = host.snapshot()
    host.double.answer_with(503)
    _refused(host, snapshot_id)
    host.double.clear_faults()
    overlay = host.overlay()
    host.create(snapshot_id, overlay.name)
    assert host.chain() == [overlay.name, host.volume.name]
