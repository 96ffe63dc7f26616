# SPDX-License-Identifier: Apache-2.0
"""The network to the broker is cut: nothing arrives, and nobody hangs up."""

from __future__ import annotations

import time

import pytest

from tests.crash.rig import wait_for
from tests.fixtures.cinder import Request
from tests.fleet.rig import REPLY_WAIT, Attempt, Fleet, StillMerge

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
    assert share.host.states()[len(jobs) :] == ['DONE']


@pytest.mark.parametrize('side', ['api', 'agent'])
def test_a_cut_that_heals_in_time_is_not_noticed(
    fault: Fleet, side: str
) -> None:
    share, _ = fault.shares
    cable = fault.cable if side == 'api' else share.host.cable
    with cable.cut():
        mine = Attempt(share.create)
        time.sleep(REPLY_WAIT / 3)
    mine.end()


@pytest.mark.parametrize('side', ['api', 'agent'])
def test_an_answer_that_is_cut_off_comes_when_the_cut_heals(
    fault: Fleet, side: str
) -> None:
    share, _ = fault.shares
    cable = fault.cable if side == 'api' else share.host.cable
    fences = len([r for r in fault.double.requests if _is_fence(r)])
    fault.double.delay(1.0, times=1, when=_is_fence)
    mine = Attempt(share.create)
    wait_for(
        lambda: (
            len([r for r in fault.double.requests if _is_fence(r)]) > fences
        ),
        'it does not reach Cinder',
    )
    with cable.cut():
        share.host.wait_for_last_state('CONFIRMING')
        time.sleep(0.5)
    mine.end()


def test_a_cut_during_a_merge_is_not_missed(fault: Fleet) -> None:
    share, _ = fault.shares
    merge = StillMerge(share)
    with share.host.cable.cut(), fault.cable.cut():
        merge.let_go()
        merge.cinder.end()
    share.create()
