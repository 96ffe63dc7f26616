# SPDX-License-Identifier: Apache-2.0
"""The shipped application, in a process whose clock a test may set wrong."""

from __future__ import annotations

import os
import pathlib

from tests.fixtures.clock import Clock

Clock(pathlib.Path(os.environ['NOVA_EXT_TEST_CLOCK'])).obey()

from nova_ext.cmd.wsgi import application  # noqa: E402

__all__ = ['application']
