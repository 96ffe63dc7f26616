# SPDX-License-Identifier: Apache-2.0
"""What crosses a process border to an agent: methods, arguments, errors.

A message is an object of JSON; where lines are sent, one line of it. Over
which transport is not said here, and the only thing imported is the errors
that may cross.
"""

from __future__ import annotations

import inspect
import json
from typing import Any

from nova_ext import exception

VERSION = '1.0'
METHODS = ('volume_snapshot_create', 'volume_snapshot_delete', 'status')
# What operators ask; never offered to another host.
JOB_METHODS = (
    'job_list',
    'job_show',
    'job_cancel',
    'job_limit',
    'job_retry',
    'job_rollback',
    'job_abandon',
)

# NOTE: larger than the largest request body that the API lets pass.
LIMIT = 1 << 20

_ERRORS = {
    name: error
    for name, error in inspect.getmembers(exception, inspect.isclass)
    if issubclass(error, exception.NovaExtException)
}


class Malformed(ValueError):
    """A message that is not of this protocol; says why."""


def request(method: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The message that asks for `method`."""
    return {'version': VERSION, 'method': method, 'args': arguments}


def parse_request(message: Any) -> tuple[str, dict[str, Any]]:
    """The method and the arguments of a message.

    :raises: :class:`Malformed`
    """
    message = _object(message)
    version = message.get('version')
    if not isinstance(version, str) or version.split('.')[0] != '1':
        raise Malformed(f'version {version!r} is not 1.x')
    method, arguments = message.get('method'), message.get('args')
    if method not in METHODS + JOB_METHODS:
        raise Malformed(f'there is no method {method!r}')
    if not isinstance(arguments, dict):
        raise Malformed('its args are not an object')
    return method, arguments


def result(value: Any) -> dict[str, Any]:
    """The message that hands a result back."""
    return {'result': value}


def error(cause: exception.NovaExtException) -> dict[str, Any]:
    """The message that hands an error back, to be raised there."""
    return {'error': type(cause).__name__, 'kwargs': cause.kwargs}


def parse_reply(message: Any) -> Any:
    """The result that a message hands back.

    :raises: :class:`nova_ext.exception.NovaExtException` the error it hands
        back instead, :class:`Malformed`
    """
    message = _object(message)
    if 'error' not in message:
        return message.get('result')
    try:
        raised = _ERRORS[message['error']](**message['kwargs'])
    except (KeyError, TypeError) as cause:
        raise Malformed(f'unknown error: {cause}') from None
    raise raised


def encode(message: dict[str, Any]) -> bytes:
    """The line of a message."""
    return json.dumps(message).encode() + b'\n'


def decode(line: bytes) -> Any:
    """The message of a line.

    :raises: :class:`Malformed`
    """
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise Malformed('it is not one line of JSON') from None


def _object(message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise Malformed('it is not an object of JSON')
    return message
