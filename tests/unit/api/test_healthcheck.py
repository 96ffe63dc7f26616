# SPDX-License-Identifier: Apache-2.0
"""The part of /healthcheck that is ours, with a backend that can hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from unittest import mock

import pytest

from nova_ext import exception
from nova_ext.api import healthcheck
from nova_ext.compute import api as compute
from tests.fixtures.app import RecordingAPI, configured


class HangingAPI(RecordingAPI):
    """A backend whose checks wait until they are let go."""

    go_on = threading.Event()
    begun: list[float] = []
    error: exception.NovaExtException | None = None

    def check(self) -> str:
        self.begun.append(time.time())
        self.go_on.wait(30)
        if self.error:
            raise self.error
        return 'well'


@pytest.fixture
def check() -> Iterator[healthcheck.ComputeCheck]:
    HangingAPI.go_on.clear()
    HangingAPI.begun.clear()
    HangingAPI.error = None
    with (
        configured({}) as conf,
        mock.patch.object(compute, 'load', autospec=True) as load,
        mock.patch.object(healthcheck, '_TIMEOUT_SECONDS', 0.2),
    ):
        load.side_effect = HangingAPI
        yield healthcheck.ComputeCheck(conf, {})
        HangingAPI.go_on.set()


def test_one_that_hangs_is_said_to_be_and_asked_once(
    check: healthcheck.ComputeCheck,
) -> None:
    for _ in range(3):
        result = check.healthcheck(80)
        assert not result.available
        assert 'no answer' in result.reason
    assert len(HangingAPI.begun) == 1
    HangingAPI.go_on.set()
    assert check.healthcheck(80).available
    assert check.healthcheck(80).reason == 'well'
    assert len(HangingAPI.begun) >= 2


def test_an_error_is_shown_in_its_own_words(
    check: healthcheck.ComputeCheck,
) -> None:
    HangingAPI.error = exception.AgentBusy(reason='a reason')
    HangingAPI.go_on.set()
    result = check.healthcheck(80)
    assert not result.available
    assert 'a reason' in result.reason
