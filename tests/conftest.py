# SPDX-License-Identifier: Apache-2.0
"""One last line for all runs; a test that is skipped fails the run."""

from __future__ import annotations

import pytest

pytest_plugins = ['tests.fixtures.agent_user']


def _counts(config: pytest.Config) -> dict[str, int]:
    stats = config.pluginmanager.get_plugin('terminalreporter').stats
    return {
        'passed': len(stats.get('passed', ())),
        'failed': len(stats.get('failed', ())) + len(stats.get('error', ())),
        'skipped': sum(
            len(stats.get(kind, ())) for kind in ('skipped', 'xfailed')
        ),
    }


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if (
        exitstatus == pytest.ExitCode.OK
        and (_counts(session.config)['skipped'])
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    if not config.option.collectonly:
        counts = _counts(config)
        print(', '.join(f'{n} {kind}' for kind, n in counts.items()))
