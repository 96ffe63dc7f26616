# SPDX-License-Identifier: Apache-2.0
"""What crosses a process border to an agent: methods, arguments, errors.

A message is an object of JSON; where lines are sent, one line of it. Over
which transport is not said here, and only leaves are imported, such as the
errors that may cross.

Versions, so that neither an API nor an agent must be upgraded first. Within a
major version nothing is taken away, and what an argument means never changes.
A request bears the version that brought the youngest of its arguments, not
that of its sender; an agent refuses one that is younger than itself, since an
argument that it leaves out could be the one that matters. Each reply says
which version its agent understands. Until an API has had a reply it sends what
FIRST has, and after that it leaves out what is younger than the agent. What is
unknown in a reply is ignored; an error whose class is unknown keeps its text
and its base, which is all that its HTTP answer depends on.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Container
from typing import Any

from nova_ext import exception, plain

# What this side understands, and what every other does.
VERSION, FIRST = '1.0', '1.0'
# Argument → the version that brought it, unless that is FIRST. It must be one
# that can be left out.
LATER: dict[str, str] = {}

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

# Seconds by which the clocks of an API process and an agent may differ.
CLOCK_ALLOWANCE = 2.0

# Of a request. NOTE: larger than the largest body that the API lets pass.
LIMIT = 1 << 20

_NULL = type(None)
_TYPES: dict[str, type | tuple[type, ...]] = {
    'volume_id': str,
    'snapshot_id': str,
    'create_info': dict,
    'delete_info': dict,
    'not_after': (int, float),
    'request_id': (str, _NULL),
    'type': str,
    'new_file': str,
    'file_to_merge': (str, _NULL),
    'merge_target_file': (str, _NULL),
}
_REQUIRED = {
    'create_info': ('snapshot_id', 'type', 'new_file'),
    'delete_info': ('volume_id',),
}

_ERRORS = {
    name: error
    for name, error in inspect.getmembers(exception, inspect.isclass)
    if issubclass(error, exception.NovaExtException)
}
_BASES = {
    name: error
    for name, error in _ERRORS.items()
    if error.__base__ in (Exception, exception.NovaExtException)
}


class Malformed(ValueError):
    """A message that is not of this protocol; says why."""


def request(
    method: str, arguments: dict[str, Any], peer: str = FIRST
) -> dict[str, Any]:
    """The message that asks for `method`.

    :param peer: the version that its receiver understands; what is younger
        is left out
    """
    known = {
        name: value
        for name, value in arguments.items()
        if understands(peer, LATER.get(name, FIRST))
    }
    versions = [FIRST, *(LATER[name] for name in known if name in LATER)]
    version = max(versions, key=_numbers)
    return {'version': version, 'method': method, 'args': known}


def understands(peer: Any, version: Any) -> bool:
    """Whether one of version `peer` can be asked in that of a message."""
    if not (isinstance(version, str) and isinstance(peer, str)):
        return False
    try:
        (major, minor), (own, newest) = _numbers(version), _numbers(peer)
    except ValueError:
        return False
    return major == own and minor <= newest


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version[:20].split('.')
    return int(major), int(minor)


def parse_request(
    message: Any, methods: Container[str] = METHODS + JOB_METHODS
) -> tuple[str, dict[str, Any]]:
    """The method and the arguments of a message.

    :param methods: those that may be asked for
    :raises: :class:`Malformed`
    """
    message = _object(message)
    version = message.get('version')
    if not understands(VERSION, version):
        raise Malformed(
            f'its version is {_shown(version)}, and at most {VERSION} is '
            'understood'
        )
    method, arguments = message.get('method'), message.get('args')
    if not isinstance(method, str) or method not in methods:
        raise Malformed(f'there is no method {_shown(method)}')
    if not isinstance(arguments, dict):
        raise Malformed('its args are not an object')
    _check(method, arguments)
    return method, arguments


def _check(where: str, values: dict[str, Any]) -> None:
    """:raises: Malformed for a value that no peer of ours sends"""
    for name in _REQUIRED.get(where, ()):
        if name not in values:
            raise Malformed(f'{where} has no {name}')
    for name, value in values.items():
        types = _TYPES.get(name)
        if types is None:
            continue
        if not isinstance(value, types):
            raise Malformed(f'{where} has a {name} of another type')
        if isinstance(value, float) and not math.isfinite(value):
            # NOTE: what expires at "not a number" never expires.
            raise Malformed(f'{where} has a {name} that is no number')
        # NOTE: lines of logs, a journal and paths are made of them.
        if isinstance(value, str) and not plain.is_plain(value):
            raise Malformed(f'{where} has a {name} that is not plain text')
        if isinstance(value, dict):
            _check(name, value)


def result(value: Any) -> dict[str, Any]:
    """The message that hands a result back."""
    return {'result': value}


def error(cause: exception.NovaExtException) -> dict[str, Any]:
    """The message that hands an error back, to be raised there."""
    names = [one.__name__ for one in type(cause).__mro__]
    return {
        'error': names[0],
        'kwargs': cause.kwargs,
        'base': next(name for name in names if name in _BASES),
        'message': str(cause),
    }


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
    except (KeyError, TypeError):
        raised = _unknown(message)
    raise raised


def _unknown(message: dict[str, Any]) -> exception.NovaExtException:
    """An error of a later version: what its HTTP answer needs of it."""
    base, text = message.get('base'), message.get('message')
    if not isinstance(text, str) or base not in [*_BASES]:
        raise Malformed(f'unknown error {_shown(message["error"])}')
    known = _BASES[base]
    raised = type(known.__name__, (known,), {'msg_fmt': '%(message)s'})
    return raised(message=text)


def answer_wait(reply_wait: float) -> float:
    """Seconds that an API process waits for an answer of an agent."""
    # Both the admission and the job may take up to `reply_wait`.
    return 2 * reply_wait + 5.0


def version_of(reply: Any) -> str:
    """The version that the sender of a reply says it understands."""
    said = reply.get('understands') if isinstance(reply, dict) else None
    return said if understands(said, FIRST) else FIRST


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


def _shown(value: Any) -> str:
    """A value of somebody else, so that it can stand in a line of a log."""
    return repr(value)[:80]


def _object(message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise Malformed('it is not an object of JSON')
    return message
