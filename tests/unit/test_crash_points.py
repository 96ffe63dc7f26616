# SPDX-License-Identifier: Apache-2.0
"""The crash matrix leaves out no method, and no state of a job.

The matrix itself needs real guests: ``tox -e crash``.
"""

from __future__ import annotations

import ast
import pathlib

import pytest

from nova_ext import exception
from nova_ext.agent import job as agent_job
from nova_ext.agent import transition
from tests.crash import matrix, mends, operations, plan, points, result

ROOT = pathlib.Path(__file__).parents[2]


def _methods(name: str) -> set[str]:
    """The public methods of a class, from its text: libvirt isn't needed."""
    module, _, class_name = name.partition(':')
    path = ROOT / (module.replace('.', '/') + '.py')
    (found,) = (
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == class_name
    )
    return {
        node.name
        for node in found.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith('_')
    }


@pytest.mark.parametrize('name', points.POINTS)
def test_each_method_is_a_point_or_said_not_to_be(name: str) -> None:
    # A new one: is it a moment at which a crash may matter?
    assert points.unknown(name, _methods(name)) == set()


@pytest.mark.parametrize('name', points.READS)
def test_a_new_method_is_noticed(name: str) -> None:
    assert points.unknown(name, {*_methods(name), 'new'}) == {'new'}


def _dry(operation: operations.Operation) -> result.Result:
    """An undisturbed run that passes all that it must."""
    names = [
        'before request',
        *(
            f'{when} {name}'
            for name in (
                'journal PENDING',
                operation.start,
                *(
                    f'journal {state}'
                    for state in sorted(operation.states_passed())
                ),
                'deliver',
            )
            for when in ('before', 'after')
        ),
        'after request',
    ]
    passed = [plan.Passed(1, float(at), name) for at, name in enumerate(names)]
    word = 'failed' if operation.trouble else 'done'
    case = result.Case(operation, operations.RUNNING, plan.Plan())
    return result.Result(case, word, list(dict.fromkeys(passed)))


def _cases(dry: result.Result, short: bool) -> list[result.Case]:
    return matrix.cases(dry, short, matrix.durations([dry]))


@pytest.mark.parametrize('operation', operations.OPERATIONS)
def test_an_undisturbed_run_must_pass_its_states(
    operation: operations.Operation,
) -> None:
    dry = _dry(operation)
    matrix.check(dry)
    assert dry.fine
    for state in operation.states_passed():
        short = _dry(operation)
        short.passed = [
            passed for passed in short.passed if state not in passed.point
        ]
        matrix.check(short)
        assert short.wrong == [f'it passes no point after journal {state}']


def test_all_states_are_passed_by_some_operation() -> None:
    dries = [_dry(operation) for operation in operations.OPERATIONS]
    assert matrix.unseen(dries) == set()
    assert 'CONFIRMING' in matrix.unseen(dries[4:])


@pytest.mark.parametrize('short', [True, False])
def test_our_process_dies_after_every_write_of_the_journal(
    short: bool,
) -> None:
    for operation in operations.OPERATIONS[:4]:
        dry = _dry(operation)
        points = {
            case.plan.point
            for case in _cases(dry, short)
            if case.plan.victim == plan.AGENT
        }
        assert points >= {
            f'after journal {state}' for state in operation.states_passed()
        }
        assert {f'before {operation.start}', f'after {operation.start}'} < (
            points
        )


@pytest.mark.parametrize('short', [True, False])
@pytest.mark.parametrize('victim', [plan.LIBVIRTD, plan.QEMU])
def test_the_others_die_within_the_call(short: bool, victim: str) -> None:
    for operation in operations.OPERATIONS[:4]:
        assert any(
            case.plan.victim == victim
            and case.plan.point == f'before {operation.start}'
            and case.plan.delay
            for case in _cases(_dry(operation), short)
        )


def test_the_shortest_call_says_how_long_it_is() -> None:
    quick, slow = _dry(operations.CREATE), _dry(operations.CREATE)
    slow.passed = [
        plan.Passed(1, passed.time * 5, passed.point) for passed in slow.passed
    ]
    assert matrix.durations([slow, quick])['snapshot'] == 1.0


def _looked(chain: transition.Chain) -> str:
    """What the reason of a merge is after a look at its end."""
    job = agent_job.Job(
        snapshot_id='s',
        volume_id='v',
        operation=agent_job.Operation.DELETE,
        kind=agent_job.Kind.PULL,
        instance_id='i',
        target='vdb',
        before=('/share/top', '/share/doomed', '/share/base'),
        after=('/share/top', '/share/base'),
        accepted_at=0.0,
        deadline=1.0,
        state=agent_job.State.VERIFYING,
    )
    return transition.looked(job, chain, 2.0)[0].reason


def test_a_run_finds_in_our_messages_what_to_do() -> None:
    lost = _looked(transition.Chain.OTHER)
    unsafe = _looked(transition.Chain.UNSAFE)
    assert mends.of_definition(lost)
    assert mends.any_of(lost)
    assert mends.rebase(lost) is None
    # Nothing of libvirt's is to be mended there: its chain must be right.
    assert not mends.of_definition(unsafe)
    assert mends.rebase(unsafe) == ('doomed', 'top')


@pytest.mark.parametrize(
    'refusal, tells',
    [
        (
            exception.SnapshotMerged(
                snapshot_id='s', known='k', asked='a', volume_id='v',
                active='x', doomed='y',
            ),
            True,
        ),
        (exception.MergeFailed(snapshot_id='s', reason='r'), True),
        (exception.SnapshotFailed(snapshot_id='s', reason='r'), False),
    ],
)  # fmt: skip
def test_a_refusal_tells_what_to_do_or_not(
    refusal: exception.NovaExtException, tells: bool
) -> None:
    assert mends.any_of(str(refusal)) is tells
    assert not mends.of_definition(str(refusal))
    assert not mends.of_power(str(refusal))
