# SPDX-License-Identifier: Apache-2.0
"""Who may work on a guest at the same time, and in which order."""

from __future__ import annotations

import pytest

from nova_ext.agent.job import Job, Kind
from nova_ext.agent.turns import Turns
from tests.unit.agent import jobs

OTHERS = (Kind.OVERLAY, Kind.COMMIT, Kind.ACTIVE)


def _job(identity: int, kind: Kind, **changes: object) -> Job:
    return jobs.delete(identity=identity, kind=kind, **changes)


@pytest.fixture
def ready() -> list[int]:
    return []


@pytest.fixture
def turns(ready: list[int]) -> Turns:
    return Turns(ready.append)


@pytest.mark.parametrize('one', OTHERS)
@pytest.mark.parametrize('other', OTHERS)
def test_what_is_no_pull_goes_side_by_side(
    turns: Turns, one: Kind, other: Kind
) -> None:
    assert turns.take(_job(1, one)) is None
    assert turns.take(_job(2, other)) is None


@pytest.mark.parametrize('other', Kind)
def test_a_pull_is_alone(turns: Turns, ready: list[int], other: Kind) -> None:
    for first, second in ((Kind.PULL, other), (other, Kind.PULL)):
        ready.clear()
        one, two = _job(1, first), _job(2, second)
        assert turns.take(one) is None
        assert turns.take(two) is one
        assert turns.take(two) is one
        turns.leave(one)
        assert ready == [2]
        assert turns.take(two) is None
        turns.leave(two)


def test_guests_and_stand_ins_do_not_wait_for_each_other(turns: Turns) -> None:
    assert turns.take(_job(1, Kind.PULL)) is None
    assert turns.take(_job(2, Kind.PULL, instance_id='other')) is None
    assert turns.take(_job(3, Kind.PULL, stored=True)) is None


def test_merges_keep_their_order(turns: Turns) -> None:
    first, pull, second = (
        _job(number, kind)
        for number, kind in enumerate((Kind.COMMIT, Kind.PULL, Kind.COMMIT))
    )
    assert turns.take(first) is None
    assert turns.take(pull) is first
    assert turns.take(second) is pull
    turns.leave(pull)
    assert turns.take(second) is None


def test_a_switch_overtakes_what_waits(turns: Turns) -> None:
    commit, pull, overlay = (
        _job(number, kind)
        for number, kind in enumerate((Kind.COMMIT, Kind.PULL, Kind.OVERLAY))
    )
    assert turns.take(commit) is None
    assert turns.take(pull) is commit
    assert turns.take(overlay) is None
    turns.leave(commit)
    assert turns.take(pull) is overlay


def test_a_pull_makes_way_for_switches_only(turns: Turns) -> None:
    pull, commit, overlay = (
        _job(number, kind)
        for number, kind in enumerate((Kind.PULL, Kind.COMMIT, Kind.OVERLAY))
    )
    assert turns.take(pull) is None
    assert turns.take(commit) is pull
    assert not turns.is_wanted(pull, 0.0)
    assert turns.take(overlay) is pull
    assert turns.is_wanted(pull, 0.0)
    assert not turns.is_wanted(pull, 60.0)
    assert not turns.is_wanted(commit, 0.0)


def test_what_was_begun_by_a_former_process_counts(turns: Turns) -> None:
    pull, waiting, found = (
        _job(number, Kind.PULL) for number in range(3)
    )  # fmt: skip
    assert turns.take(pull) is None
    assert turns.take(waiting) is pull
    turns.hold(found)
    turns.leave(pull)
    assert turns.take(waiting) is found


def test_to_leave_twice_is_no_matter(turns: Turns, ready: list[int]) -> None:
    one, two = _job(1, Kind.PULL), _job(2, Kind.PULL)
    turns.take(one)
    turns.take(two)
    for _ in range(2):
        turns.leave(one)
    assert ready == [2]
