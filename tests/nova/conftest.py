# SPDX-License-Identifier: Apache-2.0
"""The figures that the last line of a run has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.nova.parity import Count

_count = pytest.StashKey[Count]()


@pytest.fixture(scope='session')
def parity(pytestconfig: pytest.Config) -> Count:
    """What the last line says."""
    return pytestconfig.stash.setdefault(_count, Count())


# Outside of all others: the root's prints a last line, too.
@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_unconfigure(config: pytest.Config) -> Iterator[None]:
    yield
    if count := config.stash.get(_count, None):
        print(count)
