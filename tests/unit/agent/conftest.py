# SPDX-License-Identifier: Apache-2.0
"""A share of files in which QEMU's locks are as a test says, and an engine
whose pauses are short.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator
from unittest import mock

import pytest

from nova_ext.agent import engine, gate, sweeper
from nova_ext.virt import image
from tests.unit.agent import fakes


@pytest.fixture
def share(tmp_path: pathlib.Path) -> Iterator[fakes.Share]:
    made = fakes.Share(tmp_path)

    def locks(path: str) -> image.Locks:
        os.stat(path)
        writable = made.opened.get(os.path.basename(path))
        return image.Locks(writable is not None, bool(writable))

    with mock.patch.object(image, 'locks', autospec=True, side_effect=locks):
        yield made


@pytest.fixture
def quick() -> Iterator[None]:
    """The pauses of the engine, a hundred times shorter."""
    with contextlib.ExitStack() as changes:
        for module, name, value in (
            (engine, 'SETTLE_SECONDS', 0.4),
            (engine, '_JOB_LOOK_SECONDS', 0.02),
            (gate, '_LOOK_SECONDS', 0.02),
            (engine, '_LOOK_SECONDS', (0.01, 0.02)),
            (engine, '_REPORT_SECONDS', (0.01, 0.02)),
            (engine, '_CONFIRM_SECONDS', (0.01, 0.02)),
            (engine, '_CONFIRM_GRACE', 0.2),
            (sweeper, '_RETRY_SECONDS', 0.05),
        ):
            assert hasattr(module, name)
            changes.enter_context(mock.patch.object(module, name, value))
        yield


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / 'journal.sqlite'
