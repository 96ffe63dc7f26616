# SPDX-License-Identifier: Apache-2.0
"""What nova-ext-manage says of a job by its exit status."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from nova_ext.cmd import manage

FINAL = ('DONE', 'FAILED', 'ORPHANED', 'UNCLAIMED', 'ABANDONED')
JOB = {
    'id': 1,
    'operation': 'delete',
    'snapshot_id': 's',
    'volume_id': 'v',
    'reason': '',
    'done': 1,
    'total': 2,
}

# Not the one of this machine.
NO_FILE = ('--config-file', os.devnull)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[mock.Mock]:
    """What an agent is asked, which answers with states one by one."""
    monkeypatch.setattr(manage, '_WATCH_SECONDS', 0.0)
    with mock.patch.object(manage.agent, 'ComputeAPI', autospec=True) as api:
        yield api.return_value.ask


def _states(*states: str) -> list[dict[str, Any]]:
    return [{**JOB, 'state': state} for state in states]


@pytest.mark.parametrize('final', FINAL)
def test_a_watch_is_over_when_the_job_is(
    asked: mock.Mock, final: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked.side_effect = _states(
        *('PENDING', 'RUNNING', 'VERIFYING', 'REFRESHING', 'REPORTING'),
        *('CONFIRMING', final),
    )
    status = manage.main([*NO_FILE, 'job', 'watch', '--json', '1'])
    assert status == (0 if final == 'DONE' else 1)
    assert json.loads(capsys.readouterr().out)['state'] == final


def test_to_show_a_job_that_failed_is_no_failure(asked: mock.Mock) -> None:
    asked.side_effect = _states('FAILED')
    assert manage.main([*NO_FILE, 'job', 'show', '1']) == 0


@pytest.mark.parametrize('number', ['9' * 23, str(2**63), '0', '-1', 'x'])
def test_what_can_be_no_job_is_not_asked_for(
    asked: mock.Mock, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        manage.main(['job', 'show', '--', number])
    assert raised.value.code == 2
    assert 'a number of the list' in capsys.readouterr().err
    assert not asked.called
