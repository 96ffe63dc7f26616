# SPDX-License-Identifier: Apache-2.0
"""Which jobs are forgotten, and that nobody waits for that."""

from __future__ import annotations

import logging
import pathlib
import threading
import time
from collections.abc import Iterator
from unittest import mock

import pytest

from nova_ext import cinder
from nova_ext.agent import forgetting
from nova_ext.agent.forgetting import Forgetting
from nova_ext.agent.hypervisor import Hypervisor
from nova_ext.agent.job import State
from nova_ext.agent.journal import Journal
from nova_ext.agent.reporter import Reporter, Silence
from tests.unit.agent import fakes, jobs

TIMEOUT = 10.0


class World:
    """A journal with old jobs of a volume that is here, and a Cinder.

    :ivar gone: the snapshots that it does not know any more
    :ivar silent: those of which it does not answer
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.journal = Journal(path)
        self.hypervisor = mock.create_autospec(Hypervisor, instance=True)
        self.hypervisor.volumes.return_value = {'volume'}
        self.reports = mock.create_autospec(Reporter, instance=True)
        self.reports.is_gone.side_effect = self._is_gone
        self.gone: set[str] = set()
        self.silent: set[str] = set()
        self.asked: list[str] = []
        self.forgetting = self.start()

    def start(self, history: float = 0.0) -> Forgetting:
        return Forgetting(self.hypervisor, self.journal, self.reports, history)

    def fill(self, *names: str) -> None:
        """Two jobs for each snapshot, long over."""
        for make in (jobs.create, jobs.delete):
            for name in names:
                job = make(snapshot_id=name, state=State.DONE)
                self.journal.add(job)

    def run(self) -> list[str]:
        """Of which snapshots Cinder was asked."""
        self.asked = []
        self.forgetting.begin()
        self.forgetting._under_way.result(TIMEOUT)  # type: ignore
        return self.asked

    def left(self) -> set[str]:
        return {job.snapshot_id for job in self.journal.jobs(everything=True)}

    def _is_gone(self, snapshot_id: str) -> bool:
        self.asked.append(snapshot_id)
        if snapshot_id in self.silent:
            raise cinder.NoAnswer('nobody there')
        return snapshot_id in self.gone


@pytest.fixture
def world(
    path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> Iterator[World]:
    caplog.set_level(logging.INFO)
    world = World(path)
    yield world
    world.journal.close()


def test_what_cinder_has_not_any_more_is_forgotten(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.fill('1', '2', '3')
    world.gone = {'1', '3'}
    assert world.run() == ['1', '2', '3']
    assert world.left() == {'2'}
    assert 'Forgot 4 jobs of snapshots' in caplog.text
    # What it has now may be gone another time.
    world.gone = {'2'}
    assert world.run() == ['2']
    assert world.left() == set()


def test_what_is_young_is_not_asked_about(world: World) -> None:
    world.fill('1')
    world.gone = {'1'}
    world.forgetting = world.start(history=3600.0)
    assert world.run() == []
    assert world.left() == {'1'}


def test_of_what_cinder_does_not_say_nothing_is_forgotten(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.fill('1', '2', '3')
    world.gone, world.silent = {'1', '2', '3'}, {'2'}
    assert world.run() == ['1', '2']
    assert world.left() == {'2', '3'}
    assert 'No more jobs are forgotten for now: nobody' in caplog.text
    # It does not keep the others for ever.
    assert world.run() == ['3']
    assert world.run() == ['2']
    world.silent = set()
    assert [world.run(), world.run()] == [[], ['2']]
    assert world.left() == set()


def test_without_libvirt_nothing_is_forgotten(world: World) -> None:
    world.fill('1')
    world.gone = {'1'}
    world.hypervisor.volumes.side_effect = fakes.unreachable()
    assert world.run() == []
    assert world.left() == {'1'}


def test_without_reports_nobody_says_that_it_is_gone(world: World) -> None:
    world.fill('1')
    world.reports = Silence()
    world.forgetting = world.start()
    world.run()
    assert world.left() == {'1'}


def test_cinder_is_asked_so_much_and_then_of_the_others(world: World) -> None:
    world.fill(*'12345')
    with mock.patch.object(forgetting, '_SNAPSHOTS', 2):
        assert [world.run() for _ in range(4)] == [
            *(['1', '2'], ['3', '4'], ['5'], ['1', '2'])
        ]


def test_it_is_once_in_a_while(world: World) -> None:
    world.forgetting = world.start(history=0.5)
    world.fill('1')
    world.run()
    began = time.monotonic()
    while not world.run():
        assert time.monotonic() < began + TIMEOUT
    assert time.monotonic() > began + 0.4
    days = world.start(history=30 * 86400.0)
    assert days._pause == 86400.0


def test_who_hangs_is_not_waited_for(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def hang(snapshot_id: str) -> bool:
        asked.set()
        assert go_on.wait(TIMEOUT)
        return True

    world.reports.is_gone.side_effect = hang
    world.fill('1')
    world.forgetting.begin()
    assert asked.wait(TIMEOUT)
    # Nobody else begins meanwhile, and the journal is free.
    asked.clear()
    world.forgetting.begin()
    world.fill('2')
    world.forgetting.stop()
    go_on.set()
    world.forgetting._under_way.result(TIMEOUT)  # type: ignore
    assert not asked.is_set()
    assert world.left() == {'1', '2'}
    # Nor does it begin again.
    world.run()
    assert not asked.is_set()
    assert 'error' not in caplog.text
