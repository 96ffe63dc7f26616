# SPDX-License-Identifier: Apache-2.0
"""Messages: what goes in comes out, and nothing else is taken."""

from __future__ import annotations

import inspect
import json
import re

import pytest

from nova_ext import exception
from nova_ext.agent import manager, wire

ERRORS = [
    error
    for _, error in inspect.getmembers(exception, inspect.isclass)
    if issubclass(error, exception.NovaExtException)
]


@pytest.mark.parametrize('error', ERRORS)
def test_an_error_is_the_same_on_the_other_side(
    error: type[exception.NovaExtException],
) -> None:
    arguments = re.findall(r'%\((\w+)\)', error.msg_fmt)
    raised = error(**{name: f'a {name} \n\u2603' for name in arguments})
    line = wire.encode(wire.error(raised))
    assert line.endswith(b'\n') and line.count(b'\n') == 1
    with pytest.raises(error) as received:
        wire.parse_reply(wire.decode(line))
    assert type(received.value) is error
    assert str(received.value) == str(raised)


def test_a_request_and_its_result_cross() -> None:
    arguments = {'volume_id': '\ud800"\n', 'create_info': {'new_file': 'f'}}
    line = wire.encode(wire.request('volume_snapshot_create', arguments))
    assert wire.parse_request(wire.decode(line)) == (
        'volume_snapshot_create',
        arguments,
    )
    assert wire.parse_reply(wire.result({'a': [1]})) == {'a': [1]}


@pytest.mark.parametrize(
    'line',
    [
        b'',
        b'\n',
        b'\xff\n',
        b'[]\n',
        b'{}\n',
        b'[' * 100_000,
        json.dumps({'version': '2.0', 'method': 'status', 'args': {}}),
        json.dumps({'version': 1, 'method': 'status', 'args': {}}),
        json.dumps({'version': '1.0', 'method': 'stop', 'args': {}}),
        json.dumps({'version': '1.0', 'method': '__init__', 'args': {}}),
        json.dumps({'version': '1.0', 'method': ['status'], 'args': {}}),
        json.dumps({'version': '1.0', 'method': 'status', 'args': []}),
    ],
)
def test_what_is_no_request_is_malformed(line: bytes | str) -> None:
    with pytest.raises(wire.Malformed):
        wire.parse_request(
            wire.decode(line if isinstance(line, bytes) else line.encode())
        )


@pytest.mark.parametrize(
    'reply',
    [
        {'error': 'SystemExit', 'kwargs': {}},
        {'error': 'VolumeNotAttached', 'kwargs': {}},
        {'error': 'VolumeNotAttached', 'kwargs': None},
        {'error': 'VolumeNotAttached'},
    ],
)
def test_an_unknown_error_is_malformed(reply: dict[str, object]) -> None:
    with pytest.raises(wire.Malformed):
        wire.parse_reply(reply)


def test_a_later_minor_version_is_understood() -> None:
    message = {'version': '1.7', 'method': 'status', 'args': {}}
    assert wire.parse_request(message) == ('status', {})


def test_the_manager_has_every_method() -> None:
    for method in wire.METHODS:
        assert callable(getattr(manager.Manager, method))
