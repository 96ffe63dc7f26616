# SPDX-License-Identifier: Apache-2.0
"""A share of files in which QEMU's locks are as a test says."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from unittest import mock

import pytest

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
