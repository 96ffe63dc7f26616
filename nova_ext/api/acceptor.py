# SPDX-License-Identifier: Apache-2.0
"""A fast yes to what a JSON schema allows.

jsonschema finds the words for a refusal, and takes its time for a yes, which
nearly each request gets. A schema is compiled into a function here that says
yes only where jsonschema would; else jsonschema has the last word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Accept = Callable[[object], bool]

_KNOWN = {
    *('$schema', 'type', 'properties', 'required', 'additionalProperties'),
    *('minLength', 'enum', 'format'),
}


def acceptor(
    schema: Mapping[str, Any], formats: Mapping[str, Accept]
) -> Accept:
    """A function that is true of valid values, though not of all of them.

    :param schema: of whose keywords those in ``_KNOWN`` are understood; where
        there are others, nothing is accepted
    :param formats: name of a format → whether a string has it
    """
    types = schema.get('type')
    if types == 'object' and schema.keys() <= _KNOWN:
        return _object(schema, formats)
    if types in ('string', ['string', 'null']) and schema.keys() <= _KNOWN:
        return _string(schema, formats)
    return lambda value: False


def _object(
    schema: Mapping[str, Any], formats: Mapping[str, Accept]
) -> Accept:
    fields = {
        name: acceptor(part, formats)
        for name, part in schema.get('properties', {}).items()
    }
    required = frozenset(schema.get('required', ()))
    # NOTE: a schema for other keys is never met here.
    is_open = schema.get('additionalProperties', True) is True

    def accept(value: object) -> bool:
        if type(value) is not dict or not value.keys() >= required:
            return False
        for name, part in value.items():
            field = fields.get(name)
            if not (is_open if field is None else field(part)):
                return False
        return 'enum' not in schema

    return accept


def _string(
    schema: Mapping[str, Any], formats: Mapping[str, Accept]
) -> Accept:
    nullable = schema['type'] != 'string' and 'enum' not in schema
    least = schema.get('minLength', 0)
    enum = schema.get('enum')
    has_format = formats[schema['format']] if 'format' in schema else None

    def accept(value: object) -> bool:
        if type(value) is not str:
            return value is None and nullable
        return (
            len(value) >= least
            and (enum is None or value in enum)
            and (has_format is None or has_format(value))
        )

    return accept
