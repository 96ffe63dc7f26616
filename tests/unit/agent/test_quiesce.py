# SPDX-License-Identifier: Apache-2.0
"""Whoever freezes a guest thaws it, whatever happens in between."""

from __future__ import annotations

import threading

import pytest

from nova_ext import exception
from nova_ext.agent import quiesce
from nova_ext.agent.quiesce import AUTO, NEVER, REQUIRED
from tests.unit.agent import fakes

FREEZE = [('freeze', 10)]
THAW = ('thaw', 10)


def _quiesced(guest: fakes.Guest, mode: str, limit: float = 10.0):  # type: ignore[no-untyped-def]
    return quiesce.quiesced(guest, guest.describe(), mode, limit)  # type: ignore[arg-type]


@pytest.mark.parametrize('mode', [AUTO, REQUIRED])
def test_a_guest_with_an_agent_is_frozen(mode: str) -> None:
    guest = fakes.Guest(agent='connected')
    with _quiesced(guest, mode):
        assert guest.calls == FREEZE
    assert guest.calls == [*FREEZE, THAW]


@pytest.mark.parametrize(
    ('mode', 'agent'),
    [(NEVER, 'connected'), (AUTO, 'disconnected'), (AUTO, None)],
)
def test_no_agent_is_asked_that_is_not_there_or_wanted(
    mode: str, agent: str | None
) -> None:
    guest = fakes.Guest(agent=agent)
    with _quiesced(guest, mode):
        pass
    assert guest.calls == []


def test_a_switch_that_fails_is_followed_by_a_thaw() -> None:
    guest = fakes.Guest(agent='connected')
    with pytest.raises(exception.HypervisorError, match='switch'):
        with _quiesced(guest, AUTO):
            raise fakes.refusal('switch')
    assert guest.calls == [*FREEZE, THAW]


def test_who_finds_it_frozen_leaves_it_so() -> None:
    # Nova freezes for an image of a server (W27).
    guest = fakes.Guest(agent='connected')
    guest.errors['freeze'] = fakes.refusal(
        'The command guest-fsfreeze-freeze has been disabled: '
        'the agent is in frozen state'
    )
    for mode in (AUTO, REQUIRED):
        guest.calls.clear()
        with _quiesced(guest, mode):
            pass
        assert guest.calls == FREEZE


def test_a_freeze_that_fails_is_thawed_and_done_without() -> None:
    guest = fakes.Guest(agent='connected')
    guest.errors['freeze'] = fakes.refusal('Guest agent is not responding')
    with _quiesced(guest, AUTO):
        # It may have been frozen without an answer.
        assert guest.calls == [*FREEZE, THAW]
    assert guest.calls == [*FREEZE, THAW]


def test_a_freeze_that_fails_forbids_what_requires_it() -> None:
    guest = fakes.Guest(agent='connected')
    guest.errors['freeze'] = fakes.refusal('Guest agent is not responding')
    with pytest.raises(exception.GuestAgentRequired, match='not responding'):
        with _quiesced(guest, REQUIRED):
            raise AssertionError('it must not be switched')
    assert guest.calls[-1] == THAW


def test_a_lost_libvirt_while_freezing_forbids_the_switch() -> None:
    guest = fakes.Guest(agent='connected')
    guest.errors['freeze'] = fakes.unreachable()
    with pytest.raises(exception.HypervisorUnavailable):
        with _quiesced(guest, AUTO):
            raise AssertionError('it must not be switched')


def test_a_thaw_that_fails_does_not_hide_the_switch() -> None:
    guest = fakes.Guest(agent='connected')
    guest.errors['thaw'] = fakes.unreachable()
    with _quiesced(guest, AUTO):
        pass
    assert guest.calls == [*FREEZE, THAW]


def test_a_guest_is_thawed_after_the_limit_come_what_may() -> None:
    thawed = threading.Event()

    class Watched(fakes.Guest):
        def thaw(self, seconds: int) -> None:
            super().thaw(seconds)
            thawed.set()

    guest = Watched(agent='connected')
    with _quiesced(guest, AUTO, limit=0.05):
        assert thawed.wait(10)
    # The limit of the agent is a whole number of seconds.
    assert guest.calls[0] == ('freeze', 1)


def test_no_thaw_comes_later_than_the_end() -> None:
    guest = fakes.Guest(agent='connected')
    with _quiesced(guest, AUTO, limit=0.05):
        pass
    threading.Event().wait(0.2)
    assert guest.calls == [('freeze', 1), ('thaw', 1)]


@pytest.mark.parametrize('mode', [AUTO, NEVER])
@pytest.mark.parametrize('agent', [None, 'disconnected', 'connected'])
@pytest.mark.parametrize('stored', [False, True])
def test_nothing_is_refused_where_it_is_not_required(
    mode: str, agent: str | None, stored: bool
) -> None:
    quiesce.check(mode, fakes.Guest(agent=agent).describe(), stored)


@pytest.mark.parametrize(
    ('agent', 'stored', 'words'),
    [
        (None, False, 'it has no channel'),
        ('disconnected', False, 'is not connected'),
        ('connected', False, None),
        # The file systems of a guest that is off are at rest.
        (None, True, None),
    ],
)
def test_what_is_required_is_refused_before_anything_starts(
    agent: str | None, stored: bool, words: str | None
) -> None:
    domain = fakes.Guest(agent=agent).describe()
    if words is None:
        quiesce.check(REQUIRED, domain, stored)
        return
    with pytest.raises(exception.GuestAgentRequired, match=words):
        quiesce.check(REQUIRED, domain, stored)


def test_without_a_thread_that_watches_it_is_thawed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    guest = fakes.Guest(agent='connected')
    monkeypatch.setattr(threading.Thread, 'start', start)
    with pytest.raises(RuntimeError), _quiesced(guest, AUTO):
        pytest.fail('it was frozen with nobody to watch')
    assert guest.calls == [*FREEZE, THAW]
