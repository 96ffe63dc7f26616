# SPDX-License-Identifier: Apache-2.0
"""Who may ask the agent what, by the credentials that the kernel tells."""

from __future__ import annotations

import grp
import os
import socket
from collections.abc import Iterator

import pytest

from nova_ext.agent import peers, wire

OTHERS = [os.geteuid() + 1]
MINE = grp.getgrgid(os.getegid()).gr_name


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    """The end of the agent; at the other one is this process."""
    ours, others = socket.socketpair()
    with ours, others:
        yield ours


def test_its_own_user_may_ask_for_everything(
    connection: socket.socket,
) -> None:
    for method in wire.METHODS + wire.JOB_METHODS:
        assert peers.Peers(None).refusal(connection, method) == ''


@pytest.mark.parametrize('method', wire.METHODS + wire.JOB_METHODS)
def test_another_user_may_ask_for_nothing(
    connection: socket.socket, method: str
) -> None:
    refusal = peers.Peers(None, OTHERS).refusal(connection, method)
    assert f'user id {os.geteuid()} may not ask it' in refusal
    assert 'socket_group' in refusal


def test_a_group_may_ask_for_what_the_api_needs(
    connection: socket.socket,
) -> None:
    allowed = peers.Peers(MINE, OTHERS)
    for method in wire.METHODS:
        assert allowed.refusal(connection, method) == ''
    for method in wire.JOB_METHODS:
        assert 'for operators' in allowed.refusal(connection, method)


def test_all_groups_of_a_process_count(connection: socket.socket) -> None:
    user, group, *groups = peers.credentials(connection)
    assert (user, group) == (os.geteuid(), os.getegid())
    assert set(groups) == set(os.getgroups())


def test_a_group_that_is_none_is_an_error() -> None:
    with pytest.raises(LookupError):
        peers.Peers('no-such-group')
