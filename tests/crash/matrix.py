# SPDX-License-Identifier: Apache-2.0
"""Which cases there are: made from what an undisturbed run really passes."""

from __future__ import annotations

import dataclasses

from nova_ext.agent import job as agent_job
from tests.crash.operations import CREATE, OPERATIONS, PAUSED, RUNNING, STOPPED
from tests.crash.plan import LIBVIRTD, QEMU, Plan
from tests.crash.result import ANSWERED, CUT, REPEATED, Case, Result

# Longer than the time after which a request is answered, when it is short.
_HOLD = 1.4
# What libvirt is asked for.
_CALLS = ('snapshot', 'pull', 'commit', 'flush')
_STAND_IN = (
    *('snapshot', 'forget_backing', 'start_paused', 'pull', 'commit', 'end'),
    *('journal VERIFYING flushed', 'journal VERIFYING flushed released'),
)
_CUT = ('after journal RUNNING', 'after snapshot', 'after deliver')
_INSIDE = (0.2, 0.4, 0.6, 0.8)


def undisturbed(short: bool) -> list[Case]:
    """The runs from which the others are made."""
    return [
        Case(operation, state, Plan(bandwidth=operation.slow))
        for state in states(short)
        for operation in OPERATIONS
        if state == RUNNING or not operation.trouble
    ]


def states(short: bool) -> tuple[str, ...]:
    """The states of a guest that are tried."""
    # NOTE: an agent that has no stand-ins refuses to merge below a guest
    # that is off.
    merges_stopped = hasattr(agent_job.Job, 'worker_id')
    found = (RUNNING, STOPPED) if merges_stopped else (RUNNING,)
    return found if short else (*found, PAUSED)


def check(dry: Result) -> None:
    """Add to what is wrong with a dry run what it should have passed."""
    operation = dry.case.operation
    if (dry.word == 'done') is bool(operation.trouble):
        dry.wrong.append('it does not end as it should where nobody dies')
    names = {passed.point for passed in dry.passed}
    wanted = {f'after journal {state}' for state in operation.states_passed()}
    wanted |= {f'before {operation.start}', 'after deliver'}
    dry.wrong += [
        f'it passes no point {name}'
        for name in sorted(wanted)
        if not any(found.startswith(name) for found in names)
    ]


def unseen(dries: list[Result]) -> set[str]:
    """The states of the transition table that no operation passes."""
    passed = {passed.point for dry in dries for passed in dry.passed}
    # Which only an operator's word, or a guest of Nova's, leads to; for the
    # latter see tests/nova/test_agent.py.
    states = {*agent_job.State} - {
        agent_job.State.ABANDONED,
        agent_job.State.REFRESHING,
    }
    return {
        state.value
        for state in states
        if not any(f' journal {state.value}' in point for point in passed)
    }


def durations(dries: list[Result]) -> dict[str, float]:
    """Seconds that each call takes where nothing holds it up."""
    found: dict[str, float] = {}
    for dry in dries:
        times = _points(dry)
        for point, time in times.items():
            when, name = point.split(' ', 1)
            if when == 'after' and f'before {name}' in times:
                length = time - times[f'before {name}']
                found[name] = min(length, found.get(name, length))
    return found


def cases(dry: Result, short: bool, lengths: dict[str, float]) -> list[Case]:
    """All that is tried with the operation and guest of a dry run.

    :param lengths: of the calls, in seconds
    """
    if not dry.fine:
        return []
    if dry.case.operation.trouble:
        return _troubled(dry, short)
    return [
        *_agent(dry, short, lengths),
        *_others(dry, LIBVIRTD, short, lengths),
        *_others(dry, QEMU, short, lengths),
    ]


def _agent(dry: Result, short: bool, lengths: dict[str, float]) -> list[Case]:
    """The death of our process, at every point."""
    operation, state = dry.case.operation, dry.case.state
    answered = _time(dry, 'after request')
    start = f'before {operation.start}', f'after {operation.start}'
    found = []
    for point, time in _points(dry).items():
        if short and not _is_kept(point, state):
            continue
        slow = operation.slow if '#2' in point else 0
        plan = Plan(point, bandwidth=slow)
        found.append(Case(operation, state, plan, REPEATED))
        if time > answered:
            continue
        if operation == CREATE and (not short or point in _CUT):
            found.append(Case(operation, state, plan, CUT))
        if not short or point == start[1]:
            held = dataclasses.replace(plan, hold=_HOLD)
            found.append(Case(operation, state, held, ANSWERED))
    for part in _INSIDE[1:2] if short else _INSIDE:
        plan = Plan(start[0], delay=part * lengths[operation.start])
        found.append(Case(operation, state, plan))
    return found


def _is_kept(point: str, state: str) -> bool:
    """Whether a point is in the short form, too."""
    when, name = point.split(' ', 1)
    if state == STOPPED:
        # The rest is as with a guest that runs.
        return name in _STAND_IN or (when, name) == ('after', 'flush')
    return when == 'after' or name in _CALLS


def _troubled(dry: Result, short: bool) -> list[Case]:
    """The death of our process, where the operation goes another way."""
    times = _points(dry)
    begin = times['before deliver']
    return [
        Case(dry.case.operation, dry.case.state, Plan(point))
        for point, time in times.items()
        if time >= begin or point == 'after journal VERIFYING'
        if not short or _is_kept(point, RUNNING)
    ]


def _others(
    dry: Result, victim: str, short: bool, lengths: dict[str, float]
) -> list[Case]:
    """The death of libvirtd or QEMU, before, in and after libvirt's calls."""
    operation, state = dry.case.operation, dry.case.state
    off = state == STOPPED and operation == CREATE
    if victim == QEMU and off:
        return []
    before, after = f'before {operation.start}', f'after {operation.start}'
    length = lengths[operation.start]
    # libvirt loses most where it has QEMU's answer and writes it down.
    parts = (0.6, 0.95) if short else (*_INSIDE, 0.95, 1.1, 1.4, 2.0)
    plans = [Plan(before, victim, part * length) for part in parts]
    plans.append(Plan(after, victim))
    if not short and not (victim == QEMU and state == STOPPED):
        plans.append(Plan(before, victim))
    if operation != CREATE:
        plans.append(Plan(after, victim, 0.1, bandwidth=operation.slow))
        # Where a job ends by itself.
        parts = (0.002,) if short else (0.001, 0.002, 0.004, 0.006, 0.009)
        plans += [Plan(after, victim, part) for part in parts]
    for name in ('flush', 'start_paused', 'end'):
        begin, end = f'before {name}', f'after {name}'
        if not any(passed.point == begin for passed in dry.passed):
            continue
        plans.append(Plan(begin, victim, lengths[name] / 2))
        if not short:
            plans += [Plan(begin, victim), Plan(end, victim)]
    return [Case(operation, state, plan) for plan in plans]


def _points(dry: Result) -> dict[str, float]:
    """Name → time, of those that every run passes."""
    found: dict[str, float] = {}
    for passed in dry.passed:
        name, number = (*passed.point.split(' #'), '')[:2]
        # How often Cinder is asked whether it heard depends on Cinder.
        if number and (number != '2' or ' journal ' not in name):
            continue
        found.setdefault(passed.point, passed.time)
    return found


def _time(dry: Result, point: str) -> float:
    return _points(dry)[point]
