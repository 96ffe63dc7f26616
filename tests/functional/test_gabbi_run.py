# SPDX-License-Identifier: Apache-2.0
"""The gabbi files pass when a user runs them, and fail when they must."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nova_ext.api.router import Application
from tests.fixtures.gabbi_run import FILES, gabbi_run
from tests.fixtures.listening import listening
from tests.functional import fixtures

# WebOb leaves the files of large bodies to the garbage collector.
pytestmark = pytest.mark.filterwarnings('ignore:unclosed file')


def _mounted(app: Application, prefix: str) -> Application:
    """`app` as a front end hands requests below `prefix` to it."""

    def call(environ: dict[str, Any], start_response: Callable) -> Any:
        path = environ['PATH_INFO']
        assert path.startswith(prefix)
        environ['SCRIPT_NAME'] = prefix
        environ['PATH_INFO'] = path[len(prefix) :]
        return app(environ, start_response)

    return call


def test_the_files_pass_against_a_server_behind_a_front_end() -> None:
    with fixtures.Keystone().running() as app:
        with listening(_mounted(app, '/compute')) as url:
            run = gabbi_run(url + '/compute', FILES, fixtures.ENVIRONMENT)
    assert run.returncode == 0, run.stdout
    assert run.stdout.count('✓') > 200
    assert 'skipped' not in run.stdout


def test_a_wrong_answer_fails_the_run() -> None:
    def wrong(environ: dict[str, Any], start_response: Callable) -> Any:
        start_response('200 OK', [('Content-Type', 'application/json')])
        return [b'{}']

    with listening(wrong) as url:
        run = gabbi_run(url, FILES[:1], fixtures.ENVIRONMENT)
    assert run.returncode == 1
    assert '✗' in run.stdout
