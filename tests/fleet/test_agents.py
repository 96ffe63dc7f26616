# SPDX-License-Identifier: Apache-2.0
"""The agent of a host is killed, stopped, or was never there."""

from __future__ import annotations

import pytest

from tests.fleet.rig import Attempt, Fleet


@pytest.mark.parametrize(
    'point',
    [
        'before request',
        'before journal PENDING',
        'after snapshot',
        'after deliver',
    ],
)
def test_an_agent_that_is_killed_in_a_creation_comes_back(
    fault: Fleet, point: str
) -> None:
    share, other = fault.shares
    share.host.die_at(point)
    mine, its = Attempt(share.create), Attempt(other.create)
    share.host.wait_killed()
    share.host.restart_agent()
    mine.end()
    its.end()
