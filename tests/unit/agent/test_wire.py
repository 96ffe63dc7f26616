# SPDX-License-Identifier: Apache-2.0
"""Messages: what goes in comes out, and nothing else is taken."""

from __future__ import annotations

import inspect
import json
import pathlib
import re
from unittest import mock

import pytest

from nova_ext import exception
from nova_ext.agent import dispatch, manager, wire

GOLDEN = json.loads(
    pathlib.Path(__file__)
    .parents[2]
    .joinpath('fixtures', 'wire-1.0.json')
    .read_text()
)

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
    info = {'snapshot_id': 's', 'type': 'qcow2', 'new_file': '\u2603"'}
    arguments = {'volume_id': '\u2603"', 'create_info': info}
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
        json.dumps({'version': '1.1', 'method': 'status', 'args': {}}),
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


def test_the_manager_has_every_method() -> None:
    for method in wire.METHODS:
        assert callable(getattr(manager.Manager, method))


# The messages of 1.0 as they are in files: what was sent once is understood
# for ever, and what we send is what was.


@pytest.mark.parametrize('method', wire.METHODS)
def test_a_request_of_the_first_version_is_what_it_was(method: str) -> None:
    golden = GOLDEN['requests'][method]
    assert wire.parse_request(golden, wire.METHODS) == (method, golden['args'])
    assert wire.request(method, golden['args']) == golden


@pytest.mark.parametrize('method', wire.METHODS)
def test_a_manager_takes_the_arguments_of_the_first_version(
    method: str,
) -> None:
    arguments = GOLDEN['requests'][method]['args']
    signature = inspect.signature(getattr(manager.Manager, method))
    signature.bind(None, **arguments)
    needed = {
        name
        for name, parameter in signature.parameters.items()
        if parameter.default is parameter.empty
    }
    # A new one that an old API leaves out has a default.
    assert needed - {'self'} <= set(arguments)


def _reply(name: str) -> dict[str, object]:
    signs = ('agent', 'understands')
    return {
        key: value
        for key, value in GOLDEN['replies'][name].items()
        if key not in signs
    }


def test_a_reply_of_the_first_version_is_what_it_was() -> None:
    status = GOLDEN['replies']['status']
    assert wire.result(None) == _reply('done')
    assert wire.result(status['result']) == _reply('status')
    assert wire.parse_reply(GOLDEN['replies']['done']) is None
    assert wire.parse_reply(status) == status['result']
    assert wire.version_of(status) == '1.0'
    error = exception.VolumeIsMultiAttach(volume_id='volume-id')
    assert wire.error(error) == _reply('error')
    with pytest.raises(exception.VolumeIsMultiAttach) as raised:
        wire.parse_reply(GOLDEN['replies']['error'])
    assert str(raised.value) == GOLDEN['replies']['error']['message']


def test_a_dispatcher_signs_each_reply() -> None:
    asked = mock.create_autospec(manager.Manager, instance=True)
    asked.status.return_value = GOLDEN['replies']['status']['result']
    dispatcher = dispatch.Dispatcher(asked)
    golden = GOLDEN['replies']['status'] | {'agent': dispatcher.identity}
    assert dispatcher.reply('status', {}) == golden
    refusal = dispatcher.refuse(wire.Malformed('no'))
    assert set(refusal) == set(GOLDEN['replies']['error'])


@pytest.mark.parametrize(
    ('peer', 'version', 'expected'),
    [
        ('1.0', '1.0', True),
        ('1.10', '1.9', True),
        ('1.9', '1.10', False),
        ('2.0', '1.0', False),
        ('1.0', '2.0', False),
        (None, '1.0', False),
        ('1.0', 1.0, False),
        # Python 3.12 looks for the slice among its keys.
        ('1.0', {'major': 1}, False),
        ('1.0', '1', False),
        ('1.0', '1.0.0', False),
        ('1.0', '1.' + '9' * 5000, False),
    ],
)
def test_a_version_is_understood(
    peer: object, version: object, expected: bool
) -> None:
    assert wire.understands(peer, version) is expected


@pytest.mark.parametrize(
    'reply', [None, [], {}, {'understands': 'x'}, {'understands': '2.0'}]
)
def test_who_does_not_say_its_version_is_of_the_first(reply: object) -> None:
    assert wire.version_of(reply) == wire.FIRST
