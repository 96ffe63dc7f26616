# SPDX-License-Identifier: Apache-2.0
"""Runs the gabbi files against a nova-api and says what it answers otherwise.

Here lives how they are run and how the list of differences is read. What is
asked is in tests/functional/gabbits, what differs in differences.yaml.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import os
import pathlib
import re
import sys
import unittest
import urllib.parse
from collections.abc import Mapping
from typing import NamedTuple
from unittest import mock

import yaml
from gabbi import case as gabbi_case
from gabbi import driver, fixture
from gabbi import suite as gabbi_suite

from tests.functional.test_api import GABBITS

LISTS = pathlib.Path(__file__).with_name('differences.yaml')
# A proxy that the environment names cannot reach our loopback.
_NO_PROXY = {'NO_PROXY': '*', 'no_proxy': '*'}
FILES = sorted(path.stem for path in GABBITS.glob('*.yaml'))


class Keystone(fixture.GabbiFixture):
    """What the files name; the server runs already."""


class Difference(NamedTuple):
    """What is answered instead, as the list has it."""

    status: int
    says: str


class Answer(NamedTuple):
    """What is answered instead, and what the file says of it."""

    status: int
    body: str
    failure: str

    def is_listed_as(self, difference: Difference) -> bool:
        """Whether this is the answer that the list has."""
        return (
            self.status == difference.status
            and re.search(difference.says, self.body, re.DOTALL) is not None
        )


@dataclasses.dataclass
class Count:
    """The figures of the last line."""

    requests: int = 0
    listed: int = 0
    unlisted: int = 0

    def __str__(self) -> str:
        return (
            f'nova parity: {self.requests} requests, {self.listed} listed '
            f'differences, {self.unlisted} unlisted'
        )


@functools.cache
def listed(release: int, *lists: str) -> dict[str, dict[str, Difference]]:
    """File → request → its difference in a release of Nova.

    :raises ValueError: a request is listed twice.
    """
    by_file: dict[str, dict[str, Difference]] = collections.defaultdict(dict)
    groups = yaml.safe_load(LISTS.read_text(encoding='utf-8'))
    for group in itertools.chain(*(groups[name] for name in lists)):
        if not group.get('from', 0) <= release < group.get('before', 99):
            continue
        difference = Difference(group['status'], group['says'])
        for file, names in group['requests'].items():
            for name in names:
                if name in by_file[file]:
                    raise ValueError(f'{file}: {name} is listed twice')
                by_file[file][name] = difference
    return by_file


def run(
    file: str, url: str, environment: Mapping[str, str]
) -> dict[str, Answer | None]:
    """Send the requests of a file, in their order.

    :param environment: what the files want to be told of a deployment.
    :return: request → what is not as the file wants it, or None.
    """
    suite = _suites(url)[file]
    with mock.patch.dict(os.environ, {**environment, **_NO_PROXY}):
        return {case.test_data['name']: _run(case) for case in suite}


@functools.cache
def _suites(url: str) -> dict[str, gabbi_suite.GabbiSuite]:
    with mock.patch.dict(os.environ, _NO_PROXY):
        suites = driver.build_tests(
            str(GABBITS),
            unittest.TestLoader(),
            host='127.0.0.1',
            port=urllib.parse.urlsplit(url).port,
            test_loader_name='nova',
            fixture_module=sys.modules[__name__],
        )
    return {next(iter(one)).test_base_name: one for one in suites}


def _run(case: gabbi_case.HTTPTestCase) -> Answer | None:
    result = unittest.TestResult()
    case.run(result)
    assert not result.skipped
    for _, text in (*result.errors, *result.failures):
        if not case.response:
            raise AssertionError(text)
        return Answer(int(case.response['status']), case.output or '', text)
    return None
