# SPDX-License-Identifier: Apache-2.0
"""The network to the broker is cut: nothing arrives, and nobody hangs up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.crash.rig import wait_for
from tests.fixtures.cinder import Request
from tests.fleet.rig import LONG, REPLY_WAIT, Attempt, Call, Fleet, StillMerge
from tests.integration.test_manage import manage

# Seconds until who asks has an answer, whatever happens.
_LIMIT = 60.0


def _is_fence(request: Request) -> bool:
    return (request.update or {}).get('progress') == '0%'


@pytest.mark.parametrize('side', ['api', 'agent'])
def test_a_request_into_a_cut_network_is_never_begun(
    fault: Fleet, side: str
) -> None:
    share, other = fault.shares
    cable = fault.cable if side == 'api' else share.host.cable
    jobs = share.host.states()
    with cable.cut():
        began = time.monotonic()
        mine = Attempt(share.create)
        if side == 'agent':
            # Nobody else's is cut.
            other.create()
        refusal = mine.refusal()
        assert refusal.status == 503
        assert time.monotonic() - began < _LIMIT
    # What was sent into it arrives now.
    share.create()
    share.host.wait_final()
    assert share.host.states()[len(jobs) :] == ['DONE']


@pytest.mark.parametrize('side', ['agent', *(['api'] if LONG else [])])
def test_a_cut_that_heals_in_time_is_not_noticed(
    fault: Fleet, side: str
) -> None:
    share, _ = fault.shares
    cable = fault.cable if side == 'api' else share.host.cable
    with cable.cut():
        mine = Attempt(share.create)
        time.sleep(REPLY_WAIT / 3)
    mine.end()


def _fenced(fault: Fleet, function: Callable[..., Any], *args: Any) -> Attempt:
    """Something that Cinder does, and that has come as far as the fence."""

    def fences() -> int:
        return len([r for r in fault.double.requests if _is_fence(r)])

    before = fences()
    fault.double.delay(1.0, times=1, when=_is_fence)
    attempt = Attempt(function, *args)
    wait_for(lambda: fences() > before, 'it does not reach Cinder')
    return attempt


@pytest.mark.parametrize('side', ['api', *(['agent'] if LONG else [])])
def test_an_answer_that_is_cut_off_comes_when_the_cut_heals(
    fault: Fleet, side: str
) -> None:
    share, _ = fault.shares
    cable = fault.cable if side == 'api' else share.host.cable
    mine = _fenced(fault, share.create)
    with cable.cut():
        share.host.wait_for_last_state('CONFIRMING')
        time.sleep(0.5)
    mine.end()


def test_an_answer_that_never_comes_leaves_what_can_be_mended(
    fault: Fleet,
) -> None:
    share, other = fault.shares
    its_id = other.create()
    # What is below another is asked for in the same words again.
    other.create()
    mine = _fenced(fault, share.create)
    its = _fenced(fault, other.delete, its_id)
    with fault.cable.cut():
        for attempt in (mine, its):
            assert attempt.refusal().status == 503
        # It was done before it was said not to be.
        share.host.wait_for_last_state('ORPHANED')
        other.host.wait_for_last_state('UNCLAIMED')
    # Nothing is built on it, and an operator undoes it.
    error = Attempt(share.create).refusal()
    assert error.status == 400
    number = len(share.host.states())
    asked = Call('rollback', '', time.monotonic(), status=0)
    share.front.calls.append(asked)
    shown, _ = manage(share.host, 'rollback', number, '--yes')
    assert 'DONE rollback' in shown
    share.create()
    # And Cinder is told once more.
    other.reset(its_id)
    other.delete(its_id)


def test_a_cut_during_a_merge_is_not_missed(fault: Fleet) -> None:
    share, _ = fault.shares
    merge = StillMerge(share)
    with share.host.cable.cut(), fault.cable.cut():
        merge.let_go()
        merge.cinder.end()
    share.create()
