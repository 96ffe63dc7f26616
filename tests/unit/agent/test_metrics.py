# SPDX-License-Identifier: Apache-2.0
"""What is counted of a job: each end once, and the bytes of each merge."""

from __future__ import annotations

import pathlib
import re
from typing import Any
from unittest import mock

from nova_ext import conf, exception
from nova_ext.agent import metrics, wire
from nova_ext.agent.job import Job, Kind, State
from nova_ext.agent.manager import Manager
from tests.unit.agent import jobs


def _value(counted: metrics.Metrics, name: str, **labels: str) -> float | None:
    return counted.collected.get_sample_value(name, labels)


def _look(path: str, function: Any, *arguments: Any) -> int:
    if path == '/hung':
        raise OSError('it does not answer')
    return 4096


def _ends(counted: metrics.Metrics, job: Job, state: State) -> float | None:
    return _value(
        counted,
        'nova_ext_job_seconds_count',
        operation=job.operation.value,
        kind=job.kind.value,
        state=state.value,
    )


def _pull(*doomed: str) -> Job:
    return jobs.delete(
        kind=Kind.PULL, before=('/active', *doomed), after=('/active',)
    )


def test_an_end_is_counted_once(tmp_path: pathlib.Path) -> None:
    counted = metrics.Metrics()
    journal = counted.journal(tmp_path / 'j', _look)
    job = journal.add(jobs.create())
    assert _value(counted, 'nova_ext_jobs', state='PENDING') == 1
    for state in (State.RUNNING, State.VERIFYING, State.REPORTING):
        journal.update(job.to(state, succeeded=True))
    journal.update(job.to(State.ORPHANED, succeeded=True))
    assert _ends(counted, job, State.ORPHANED) == 1
    # An operator rolls it back.
    journal.update(job.to(State.FAILED, succeeded=False))
    assert _ends(counted, job, State.FAILED) is None
    assert _value(counted, 'nova_ext_jobs', state='FAILED') == 1
    # It had no bytes to merge.
    assert _value(counted, 'nova_ext_merged_bytes_total', kind='pull') is None


def test_the_bytes_of_a_merge(tmp_path: pathlib.Path) -> None:
    counted = metrics.Metrics()
    journal = counted.journal(tmp_path / 'j', _look)
    job = journal.add(_pull('/one', '/hung', '/two'))
    # What Cinder was told first can reach it last, and is told again.
    for state in (State.REPORTING, State.CONFIRMING) * 2:
        journal.update(job.to(state, succeeded=True))
    journal.update(job.to(State.REPORTING, succeeded=True))
    failed = journal.add(_pull('/one'))
    journal.update(failed.to(State.REPORTING, succeeded=False))
    name = 'nova_ext_merged_bytes_total'
    assert _value(counted, name, kind='pull') == 2 * 4096
    journal.close()
    # The next process is told of it again, which counts for nothing.
    counted = metrics.Metrics()
    journal = counted.journal(tmp_path / 'j', _look)
    journal.update_all(journal.unfinished())
    for state in (State.CONFIRMING, State.UNCLAIMED):
        journal.update(job.to(state, succeeded=True))
    # An operator has Cinder told again.
    for state in (State.VERIFYING, State.REPORTING, State.DONE):
        journal.update(job.to(state, succeeded=True))
    assert _value(counted, name, kind='pull') is None
    assert _ends(counted, job, State.UNCLAIMED) == 1
    assert _ends(counted, job, State.DONE) is None


def test_each_refusal_is_counted_once() -> None:
    counted = metrics.Metrics()
    busy = exception.AgentBusy(reason='busy')
    manager = mock.create_autospec(Manager, instance=True)
    manager.status.side_effect = busy
    dispatcher = counted.dispatcher(manager)
    for reply in (
        dispatcher.reply('status', {}),
        dispatcher.reply('status', {'unknown': 1}),
        dispatcher.error(busy, 'status'),
        dispatcher.refuse(wire.Malformed('no')),
    ):
        assert reply['error'] == 'AgentBusy'
    for method, number in (('status', 3), ('', 1)):
        name = 'nova_ext_refused_requests_total'
        labels = {'method': method, 'reason': 'AgentBusy'}
        assert _value(counted, name, **labels) == number


def test_each_is_documented(tmp_path: pathlib.Path) -> None:
    counted = metrics.Metrics()
    counted.journal(tmp_path / 'j', _look)
    page = pathlib.Path(__file__).parents[3] / 'api-ref/source/follow.rst'
    documented = set(
        re.findall(r'^``(nova_ext_\w+)``', page.read_text(), re.M)
    )
    shown = {family.name for family in counted.collected.collect()}
    assert documented == shown


def test_numbers_are_for_this_machine_and_name_nobody(
    tmp_path: pathlib.Path,
) -> None:
    (address,) = (o for o in conf.agent_opts if o.name == 'metrics_address')
    assert address.default == '127.0.0.1'
    counted = metrics.Metrics()
    journal = counted.journal(tmp_path / 'j', _look)
    job = journal.add(jobs.create())
    journal.update(job.to(State.DONE, succeeded=True))
    labels = {
        label
        for family in counted.collected.collect()
        for sample in family.samples
        for label in sample.labels
    }
    page = pathlib.Path(__file__).parents[3] / 'api-ref/source/follow.rst'
    named = {*re.findall(r'``(\w+)``', page.read_text('utf-8')), 'le'}
    assert labels <= named
    assert not {name for name in labels if name.endswith(('id', 'host'))}
