# SPDX-License-Identifier: Apache-2.0
"""Who has which volume: what is known, and who waits for what is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from unittest import mock

import pytest

from nova_ext.virt import index


class Guests:
    """Guests as they are, and how often all of them were asked."""

    def __init__(self) -> None:
        self.disks = {'g1': frozenset({'v1'}), 'g2': frozenset({'v1', 'v2'})}
        self.asked = 0
        self.answers = threading.Event()
        self.answers.set()
        self.error: Exception | None = None

    def all(self) -> Iterator[tuple[str, frozenset[str]]]:
        self.asked += 1
        assert self.answers.wait(30)
        if self.error is not None:
            raise self.error
        yield from self.disks.items()

    def one(self, uuid: str) -> frozenset[str]:
        assert self.answers.wait(30)
        return self.disks.get(uuid, frozenset())


@pytest.fixture
def guests() -> Iterator[Guests]:
    made = Guests()
    yield made
    made.answers.set()


@pytest.fixture
def known(guests: Guests) -> index.Index:
    made = index.Index(guests.all, guests.one)
    assert made.update()
    return made


def test_all_are_read_once_and_then_who_changed(
    guests: Guests, known: index.Index
) -> None:
    guests.disks['g3'] = frozenset({'v3'})
    assert known.update()
    assert known.serials() == {'v1', 'v2'}
    for uuid in guests.disks:
        known.touch(uuid)
    del guests.disks['g2']
    assert known.update()
    assert known.serials() == {'v1', 'v3'}
    assert known.holders('v1') == ['g1']
    assert guests.asked == 1


def test_after_a_loss_or_an_error_all_are_read_anew(
    guests: Guests, known: index.Index
) -> None:
    guests.error = OSError()
    guests.disks = {'g4': frozenset({'v4'})}
    with pytest.raises(OSError):
        known.update(whole=True)
    assert known.holders('v2') == ['g2']
    guests.error = None
    known.outdate()
    assert known.update()
    assert known.serials() == {'v4'}


def test_many_are_waited_for_as_long_as_they_answer(guests: Guests) -> None:
    names = [str(number) for number in range(8)]

    def slowly() -> Iterator[tuple[str, frozenset[str]]]:
        for name in names:
            # Each in time, and all together not.
            time.sleep(0.15)
            yield name, frozenset({name})

    made = index.Index(slowly, guests.one)
    with mock.patch.object(index, 'PATIENCE_SECONDS', 1.0):
        made.outdate()
        assert made.update()
    assert made.serials() == {*names}


def test_what_hangs_is_waited_for_once(
    guests: Guests, known: index.Index
) -> None:
    guests.answers.clear()
    known.touch('g1')
    with mock.patch.object(index, 'PATIENCE_SECONDS', 0.1):
        for whole in (False, True, False):
            assert not known.update(whole)
            assert known.holders('v2') == ['g2']
    assert guests.asked == 1
    guests.answers.set()
    deadline = time.monotonic() + 30
    while not known.update(whole=True):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert guests.asked == 2
