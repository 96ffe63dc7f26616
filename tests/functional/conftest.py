# SPDX-License-Identifier: Apache-2.0
"""Pytest fixtures for more than one module of the functional tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite('tests.functional.promises')

from tests.functional.doors import Door, opened  # noqa: E402


@pytest.fixture(scope='module')
def doors() -> Iterator[dict[str, Door]]:
    """The application with each of its pipelines."""
    with opened() as doors:
        yield doors
