# SPDX-License-Identifier: Apache-2.0
"""Each input of the corpus comes to an allowed end, without a fuzzer."""

from __future__ import annotations

import pytest

from tests.fuzz import __main__ as fuzz
from tests.fuzz.targets import TARGETS


def test_each_target_has_a_corpus() -> None:
    assert set(fuzz.NAMES) == set(TARGETS)


@pytest.mark.parametrize('name', TARGETS)
def test_the_corpus_comes_to_allowed_ends(name: str) -> None:
    inputs = list((fuzz.CORPUS / name).iterdir())
    assert inputs
    with TARGETS[name]() as target:
        for path in inputs:
            data = path.read_bytes()
            for end in (len(data), len(data) // 2, 0):
                target(data[:end])
