# SPDX-License-Identifier: Apache-2.0
"""Layers are merged away below a guest that is off, by a stand-in for it.

Afterwards the guest starts, and everything is where it was (contract W32).
"""

from __future__ import annotations

import itertools

import pytest

from tests.fixtures.host import Host
from tests.integration.test_delete import Share

pytest_plugins = ['tests.fixtures.host']


@pytest.fixture
def share(host: Host) -> Share:
    return Share(host)


def _domains(share: Share) -> set[str]:
    connection = share.host.guest.domain.connect()
    return {domain.name() for domain in connection.listAllDomains()}


@pytest.mark.parametrize('order', list(itertools.permutations((1, 2, 3))))
def test_three_snapshots_are_deleted_in_any_order(
    share: Share, order: tuple[int, ...]
) -> None:
    snapshots = [share.snapshot() for _ in order]
    share.host.guest.domain.destroy()
    domains = _domains(share)
    for number in order:
        share.delete(snapshots[number - 1])
        assert _domains(share) == domains
    assert len(share.files()) == 1
    share.host.guest.start()
    assert share.files() == set(share.host.chain())
    share.assert_nothing_lost()
