# SPDX-License-Identifier: Apache-2.0
"""What the agent offers on the message bus, to whoever is on it."""

from __future__ import annotations

import inspect
from unittest import mock

import pytest

from nova_ext.agent import dispatch, rpc, wire


@pytest.mark.parametrize('name', wire.JOB_METHODS + ('stop', 'control', 'x'))
def test_no_method_of_operators_is_offered(name: str) -> None:
    manager = mock.Mock()
    endpoint = rpc.Endpoint(dispatch.Dispatcher(manager))
    reply = getattr(endpoint, name)({})
    assert 'there is no method' in reply['kwargs']['reason']
    assert manager.mock_calls == []


def test_nothing_but_messages_is_offered() -> None:
    endpoint = rpc.Endpoint(dispatch.Dispatcher(mock.Mock()))
    for name, _ in inspect.getmembers(endpoint):
        assert not rpc._NothingOfTheClass().is_allowed(endpoint, name)
    for name in wire.METHODS:
        assert rpc._NothingOfTheClass().is_allowed(endpoint, name)
