# SPDX-License-Identifier: Apache-2.0
"""A fleet for each module, a verdict after each fault, and the last line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from tests.fixtures.host import short_directory
from tests.fixtures.rabbitmq import RabbitMQ
from tests.fleet.judge import Verdict, judge
from tests.fleet.rig import Fleet


@dataclasses.dataclass
class Count:
    """What the last line says."""

    faults: int = 0
    lost: int = 0
    doubled: int = 0

    def add(self, verdict: Verdict) -> None:
        self.lost += len(verdict.lost)
        self.doubled += len(verdict.doubled)

    def __str__(self) -> str:
        return (
            f'fleet: {self.faults} faults, {self.lost} lost, '
            f'{self.doubled} doubled'
        )


_count = pytest.StashKey[Count]()


@pytest.fixture(scope='session')
def count(pytestconfig: pytest.Config) -> Count:
    """The figures of this run."""
    return pytestconfig.stash.setdefault(_count, Count())


@pytest.fixture(scope='session')
def bus() -> Iterator[RabbitMQ]:
    """A broker, which runs before and after each test."""
    with short_directory() as directory, RabbitMQ(directory) as broker:
        yield broker


@pytest.fixture(scope='module')
def fleet(bus: RabbitMQ, count: Count) -> Iterator[Fleet]:
    """The fleet of a module."""
    with Fleet(bus) as fleet:
        yield fleet
        last_look(fleet, count)


@pytest.fixture
def fault(fleet: Fleet, count: Count) -> Iterator[Fleet]:
    """A fleet that a test has a fault in; after it all is judged."""
    count.faults += 1
    yield fleet
    _pronounce(judge(fleet), fleet, count)


def last_look(fleet: Fleet, count: Count) -> None:
    """All guests are started anew."""
    _pronounce(judge(fleet, end=True), fleet, count)


def _pronounce(verdict: Verdict, fleet: Fleet, count: Count) -> None:
    count.add(verdict)
    assert verdict == Verdict(), f'{verdict}\n{fleet.logs()}'


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show the logs of a fleet in which something failed."""
    report = (yield).get_result()
    fleet = getattr(item, 'funcargs', {}).get('fault')
    if report.failed and fleet is not None and report.when == 'call':
        report.sections.append(('logs of the fleet', fleet.logs()))


# Outside of all others: the root's prints a last line, too.
@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_unconfigure(config: pytest.Config) -> Iterator[None]:
    yield
    if count := config.stash.get(_count, None):
        print(count)
