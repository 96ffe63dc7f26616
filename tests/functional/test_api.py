# SPDX-License-Identifier: Apache-2.0
"""Runs the gabbi files, each request in them as a test.

Those in gabbits/ can be run by gabbi-run against a deployment, too; those in
gabbits/local/ want our recording backend or one certain configuration. What
the requests are is in the files, who answers them in fixtures.
"""

from __future__ import annotations

import functools
import os
import pathlib
import unittest
from collections.abc import Iterator
from unittest import mock

import pytest
import yaml
from gabbi import case as gabbi_case
from gabbi import driver
from gabbi import suite as gabbi_suite

from tests.functional import fixtures

GABBITS = pathlib.Path(__file__).parent / 'gabbits'

# WebOb keeps a body of more than 10 KiB in a file that it leaves to the
# garbage collector.
pytestmark = pytest.mark.filterwarnings('ignore:unclosed file')


@functools.cache
def _suites() -> dict[str, gabbi_suite.GabbiSuite]:
    """Path of a file, relative and without suffix → its requests."""
    suites = {}
    # NOTE: a proxy in the environment would be asked before our application.
    with mock.patch.dict(os.environ, {'NO_PROXY': '*', 'no_proxy': '*'}):
        for directory in (GABBITS, GABBITS / 'local'):
            for suite in driver.build_tests(
                str(directory),
                unittest.TestLoader(),
                intercept=fixtures.application,
                test_loader_name=directory.name,
                fixture_module=fixtures,
            ):
                name = next(iter(suite)).test_base_name
                suites[str((directory / name).relative_to(GABBITS))] = suite
    return dict(sorted(suites.items()))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if 'case' not in metafunc.fixturenames:
        return
    # NOTE: by its name, since a suite that pytest can't tell from another
    # would be started anew for each request; hence the scope, too.
    pairs = [
        (name, case) for name, suite in _suites().items() for case in suite
    ]
    metafunc.parametrize(
        ('suite', 'case'),
        pairs,
        indirect=['suite'],
        scope='module',
        ids=[f'{name}: {case.test_data["name"]}' for name, case in pairs],
    )


@pytest.fixture(scope='module')
def suite(
    request: pytest.FixtureRequest,
) -> Iterator[gabbi_suite.GabbiSuite]:
    """The requests of a file, with the fixtures that the file names."""
    suite = _suites()[request.param]
    with mock.patch.dict(os.environ, fixtures.ENVIRONMENT):
        suite.start(unittest.TestResult())
        yield suite
        suite.stop()


def test_api(
    suite: gabbi_suite.GabbiSuite, case: gabbi_case.HTTPTestCase
) -> None:
    # Run before as another's prior, it would pass now without a request.
    assert not case.has_run
    result = unittest.TestResult()
    case.run(result)
    for _, text in (*result.errors, *result.failures):
        pytest.fail(text, pytrace=False)
    assert result.testsRun == 1
    assert not result.skipped
    assert not result.expectedFailures


@pytest.mark.parametrize(
    'path', sorted(GABBITS.rglob('*.*')), ids=lambda path: path.stem
)
def test_every_file_is_run_and_its_names_are_unlike(
    path: pathlib.Path,
) -> None:
    document = yaml.safe_load(path.read_text(encoding='utf-8'))
    names = [test['name'] for test in document['tests']]
    assert len(names) == len(set(names))
    suite = _suites()[str(path.relative_to(GABBITS).with_suffix(''))]
    assert [case.test_data['name'] for case in suite] == names
    for test in document['tests']:
        assert not {'skip', 'xfail'} & set(test)
