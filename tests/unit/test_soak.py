# SPDX-License-Identifier: Apache-2.0
"""What the soak takes for growth."""

from __future__ import annotations

import os
import pathlib

import pytest

from nova_ext.agent.journal import Journal
from tests.soak import gauge
from tests.unit.agent import jobs


def _samples(memory: list[int], descriptors: list[int]) -> list[gauge.Sample]:
    return [
        gauge.Sample(*numbers, threads=6, jobs=12, pages=14)
        for numbers in zip(memory, descriptors, strict=True)
    ]


def test_what_is_not_given_back_is_growth() -> None:
    samples = _samples([*range(1000, 1400, 10)], [*range(10, 50)])
    found = gauge.growth(samples)
    assert found['memory'] == pytest.approx(100 * 200 / 1100)
    assert found['descriptors'] == pytest.approx(100 * (20 - 3) / 20)
    assert found['threads'] == 0


def test_what_a_process_loads_and_has_open_for_a_while_is_none() -> None:
    memory = [900, 950, *[1000, 1400] * 5]
    descriptors = [10, 11, *[12] * 6, *[15, 30] * 2]
    assert not any(gauge.growth(_samples(memory, descriptors)).values())


def test_too_few_samples_say_nothing() -> None:
    with pytest.raises(ValueError, match='too few'):
        gauge.growth(_samples([1, 1, 1], [1, 1, 1]))


def test_a_journal_that_forgets_nothing_grows(tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'journal.sqlite'
    journal = Journal(path)
    samples = []
    for number in range(60):
        for make in (jobs.create, jobs.delete):
            journal.add(make(snapshot_id=f'{number}'))
        samples.append(gauge.sample(os.getpid(), path))
    assert samples[-1].jobs == 120
    found = gauge.growth(samples)
    assert found['jobs'] == pytest.approx(100 * (92 - 32 - 20) / 32)
    assert found['pages'] > 0
