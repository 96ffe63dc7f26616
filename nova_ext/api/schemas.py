# SPDX-License-Identifier: Apache-2.0
"""What requests and answers of this resource look like, and the check of it.

Schemas are data; what accepts is compiled once, when this module is loaded,
and what words a refusal when there is one: jsonschema takes as long to load as
a tenth of all else. What a request means is the controller's business.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from nova_ext import exception, plain
from nova_ext.api import acceptor

if TYPE_CHECKING:
    import jsonschema

# NOTE: enough of a value to recognise it by; the body may be 112 KiB.
_SHOWN = 1024

_PLAIN_TEXT = (
    'is not plain text: control characters, those of line breaks and text '
    'direction among them, and lone surrogates are not allowed'
)
_FILE_NAME = (
    'is not a plain file name: one path component of at most 255 bytes, '
    'without "/" and control characters, and neither "." nor ".."'
)


def is_plain_text(value: object) -> bool:
    """Whether a string can be stored, logged and sent anywhere as it is."""
    return not isinstance(value, str) or plain.is_plain(value)


def is_file_name(value: object) -> bool:
    """Whether a string is one plain path component (W12)."""
    if not isinstance(value, str):
        return True
    return (
        is_plain_text(value)
        and '/' not in value
        and value not in ('.', '..')
        and len(value.encode()) <= 255
    )


_FORMATS = {'plain-text': is_plain_text, 'file-name': is_file_name}

# NOTE: the order of keys decides which of several errors is reported; it is
# Nova's, for the sake of equal messages.
_TEXT = {'type': 'string', 'minLength': 1, 'format': 'plain-text'}
_NAME = {'type': 'string', 'minLength': 1, 'format': 'file-name'}

CREATE: dict[str, Any] = {
    '$schema': 'https://json-schema.org/draft/2020-12/schema',
    'type': 'object',
    'properties': {
        'snapshot': {
            'type': 'object',
            'properties': {
                'volume_id': _TEXT,
                'create_info': {
                    'type': 'object',
                    'properties': {
                        'snapshot_id': _TEXT,
                        'type': {'type': 'string', 'enum': ['qcow2']},
                        'new_file': _NAME,
                        'id': _TEXT,
                    },
                    'required': ['snapshot_id', 'type', 'new_file'],
                    'additionalProperties': False,
                },
            },
            'required': ['volume_id', 'create_info'],
            'additionalProperties': False,
        },
    },
    'required': ['snapshot'],
    'additionalProperties': False,
}

CREATE_RESPONSE: dict[str, Any] = {
    '$schema': 'https://json-schema.org/draft/2020-12/schema',
    'type': 'object',
    'properties': {
        'snapshot': {
            'type': 'object',
            'properties': {'id': _TEXT, 'volumeId': _TEXT},
            'required': ['id', 'volumeId'],
            'additionalProperties': False,
        },
    },
    'required': ['snapshot'],
    'additionalProperties': False,
}

# NOTE: other keys are no error, as for Nova, and go no further: what is nested
# in them may be too deep for the way to an agent.
DELETE_INFO: dict[str, Any] = {
    '$schema': 'https://json-schema.org/draft/2020-12/schema',
    'type': 'object',
    'properties': {
        'volume_id': _TEXT,
        'type': {'type': 'string', 'enum': ['qcow2']},
        'file_to_merge': {**_NAME, 'type': ['string', 'null']},
        'merge_target_file': {**_NAME, 'type': ['string', 'null']},
    },
    'required': ['volume_id'],
}

# NOTE: delete_info is not required here but asked for later, after the
# policy, because that is the order of Nova's checks.
DELETE_QUERY: dict[str, Any] = {
    '$schema': 'https://json-schema.org/draft/2020-12/schema',
    'type': 'object',
    'properties': {
        'delete_info': {'type': 'array', 'items': {'type': 'string'}},
    },
    'additionalProperties': False,
}

FAULT: dict[str, Any] = {
    '$schema': 'https://json-schema.org/draft/2020-12/schema',
    'type': 'object',
    'minProperties': 1,
    'maxProperties': 1,
    'additionalProperties': {
        'type': 'object',
        'properties': {
            'code': {'type': 'integer', 'minimum': 400, 'maximum': 599},
            'message': {'type': 'string'},
            'retryAfter': {'type': ['string', 'integer']},
        },
        'required': ['code', 'message'],
        'additionalProperties': False,
    },
}


def _relaxed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema for the legacy /v2 mount, where unknown keys are dropped."""
    relaxed = copy.deepcopy(schema)

    def relax(part: dict[str, Any]) -> None:
        part.pop('additionalProperties', None)
        for child in part.get('properties', {}).values():
            relax(child)

    relax(relaxed)
    return relaxed


@functools.cache
def format_checker() -> jsonschema.FormatChecker:
    """The formats that the schemas name, for jsonschema."""
    import jsonschema

    formats = jsonschema.FormatChecker(formats=())
    for name, check in _FORMATS.items():
        formats.checks(name)(check)
    return formats


class Validator:
    """A schema, compiled, with those of its properties.

    :ivar accept: see :mod:`nova_ext.api.acceptor`
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self.accept = acceptor.acceptor(schema, _FORMATS)
        self._fields = {
            name: Validator(part)
            for name, part in schema.get('properties', {}).items()
        }
        # NOTE: the properties are looked at one by one, before what else the
        # schema says of an object.
        mine = {**schema, 'properties': dict.fromkeys(self._fields, True)}
        self._own = mine if self._fields else schema

    @functools.cached_property
    def _errors(
        self,
    ) -> Callable[[object], Iterator[jsonschema.ValidationError]]:
        import jsonschema

        return jsonschema.Draft202012Validator(
            self._own, format_checker=format_checker()
        ).iter_errors

    def error(
        self, value: object, name: str | int | None = None
    ) -> tuple[jsonschema.ValidationError, str | int | None] | None:
        """The first error in a value, and the name of what has it.

        It is the one that jsonschema finds first, found without a look at
        what is accepted.
        """
        fields = self._fields if isinstance(value, dict) else {}
        for key, field in fields.items():
            if key in value and not field.accept(value[key]):  # type: ignore[operator,index]
                found = field.error(value[key], key)  # type: ignore[index]
                if found:
                    return found
        error = next(self._errors(value), None)
        if error is None:
            return None
        return error, error.path[-1] if error.path else name


CREATE_VALIDATOR = Validator(CREATE)
LEGACY_VALIDATOR = Validator(_relaxed(CREATE))
DELETE_INFO_VALIDATOR = Validator(DELETE_INFO)
_delete_query = Validator(DELETE_QUERY)


def _message(error: jsonschema.ValidationError, name: str | int | None) -> str:
    message = error.message
    if error.validator == 'format':
        reason = {'plain-text': _PLAIN_TEXT, 'file-name': _FILE_NAME}
        message = f'{error.instance!r} {reason[error.validator_value]}'
    if len(message) > _SHOWN:
        message = f'{message[: _SHOWN // 2]} [...] {message[-_SHOWN // 2 :]}'
    if name is None:
        return message
    value = str(error.instance)
    if len(value) > _SHOWN:
        value = f'{value[:_SHOWN]}[...]'
    return (
        f'Invalid input for field/attribute {name}. Value: {value}. {message}'
    )


def _check(
    validator: Validator,
    instance: object,
    refusal: type[exception.InvalidInput] = exception.InvalidInput,
) -> None:
    if validator.accept(instance):
        return
    try:
        found = validator.error(instance)
        message = _message(*found) if found else None
        if found and found[0].validator_value == 'file-name':
            refusal = exception.InvalidFileName
    except RecursionError:
        message = 'Malformed request body: it is nested too deeply'
    if message:
        raise refusal(reason=message)


def create(body: object, legacy: bool = False) -> dict[str, Any]:
    """The checked ``snapshot`` of a POST body.

    :param legacy: let unknown keys pass, and drop them
    :raises: :class:`nova_ext.exception.InvalidInput`
    """
    _check(LEGACY_VALIDATOR if legacy else CREATE_VALIDATOR, body)
    snapshot = body['snapshot']  # type: ignore[index]
    known = CREATE['properties']['snapshot']['properties']['create_info']
    info = snapshot['create_info']
    return {
        'volume_id': snapshot['volume_id'],
        'create_info': {
            key: info[key] for key in known['properties'] if key in info
        },
    }


def delete_query(query: dict[str, list[str]], strict: bool) -> str | None:
    """The last ``delete_info`` of a query string, undecoded; None if absent.

    :param strict: refuse other keys (microversion 2.75 and later)
    :raises: :class:`nova_ext.exception.InvalidInput`
    """
    if strict:
        _check(_delete_query, query)
    values = query.get('delete_info')
    return values[-1] if values else None


def check_id(identity: str) -> None:
    """Refuse an id of a path that is not plain text, or a way elsewhere.

    :raises: :class:`nova_ext.exception.InvalidInput`
    """
    if identity in ('.', '..'):
        raise exception.InvalidInput(
            reason=f'{identity!r} is no snapshot id, but a way to another path'
        )
    if not is_plain_text(identity):
        raise exception.InvalidInput(
            reason=f'The snapshot id {identity[:_SHOWN]!r} {_PLAIN_TEXT}'
        )


def delete_info(text: str | None) -> dict[str, Any]:
    """The decoded and checked ``delete_info``, without unknown keys.

    :raises: :class:`nova_ext.exception.InvalidDeleteInfo`,
        :class:`nova_ext.exception.InvalidFileName`
    """
    if text is None:
        raise exception.InvalidDeleteInfo(
            reason="'delete_info' is a required query parameter: the JSON "
            "text of an object that holds 'volume_id'"
        )
    try:
        info = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise exception.InvalidDeleteInfo(
            reason=f'{error}: delete_info is not JSON text'
        ) from None
    _check(DELETE_INFO_VALIDATOR, info, exception.InvalidDeleteInfo)
    return {key: info[key] for key in DELETE_INFO['properties'] if key in info}
