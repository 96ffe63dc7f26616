# SPDX-License-Identifier: Apache-2.0
"""The fast yes against jsonschema, which has the last word."""

from __future__ import annotations

import copy
import itertools
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nova_ext.api import acceptor, schemas

NAMES = ('volume_id', 'create_info', 'snapshot_id', 'type', 'new_file', 'id')
MERGES = ('file_to_merge', 'merge_target_file')
VALUES: tuple[Any, ...] = (
    *('x', '', 'qcow2', 'QCOW2', 'a/b', '.', '..', 'a\nb', '\ud800', 'é'),
    *('x' * 255, 'x' * 256, 'é' * 128, None, True, False, 0, 1, 1.0),
    *([], ['x'], {}, {'x': 'y'}),
)
BODY = {
    'snapshot': {
        'volume_id': 'v',
        'create_info': {'snapshot_id': 's', 'type': 'qcow2', 'new_file': 'f'},
    }
}
INFO = {
    'volume_id': 'v',
    'type': 'qcow2',
    'file_to_merge': None,
    'merge_target_file': 'f',
}
VALIDATORS = {
    'create': schemas.CREATE_VALIDATOR,
    'legacy': schemas.LEGACY_VALIDATOR,
    'delete_info': schemas.DELETE_INFO_VALIDATOR,
}


_TURNS = {'LRE', 'RLE', 'PDF', 'LRO', 'RLO', 'LRI', 'RLI', 'FSI', 'PDI'}


def _open(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without what it says of unknown keys."""
    return {
        name: {key: _open(part) for key, part in value.items()}
        if name == 'properties'
        else value
        for name, value in schema.items()
        if name != 'additionalProperties'
    }


SLOWLY = {
    name: jsonschema.Draft202012Validator(
        schema,
        format_checker=schemas.format_checker(),
    )
    for name, schema in {
        'create': schemas.CREATE,
        'legacy': _open(schemas.CREATE),
        'delete_info': schemas.DELETE_INFO,
    }.items()
}


def _changed(value: Any) -> Iterator[Any]:
    """Values that differ from this one in one place."""
    yield from VALUES
    if isinstance(value, dict):
        for name in (*value, *NAMES, *MERGES, 'unknown', 1):
            rest = {key: part for key, part in value.items() if key != name}
            yield rest
            for part in _changed(value.get(name)):
                yield {**rest, name: part}


def _compare(name: str, value: object) -> bool:
    """Whether a value is valid, after all agreed on it."""
    expected = next(SLOWLY[name].iter_errors(value), None)
    # All that is JSON is accepted at once if it is valid at all.
    assert VALIDATORS[name].accept(value) is (expected is None), value
    found = VALIDATORS[name].error(value)
    if expected is None:
        assert found is None, value
        return True
    assert found is not None, value
    error, place = found
    assert (error.message, error.instance, error.validator) == (
        expected.message,
        expected.instance,
        expected.validator,
    ), value
    assert error.validator_value == expected.validator_value or (
        error.validator in ('properties', 'additionalProperties')
    )
    assert place == (expected.path[-1] if expected.path else None), value
    return False


@pytest.mark.parametrize('name', VALIDATORS)
def test_the_fast_way_says_what_jsonschema_does(name: str) -> None:
    bodies = (BODY, INFO, {'snapshot': {**BODY['snapshot'], 'more': 1}})
    valid = [
        _compare(name, body)
        for body in itertools.chain(*map(_changed, bodies))
    ]
    assert min(valid.count(True), valid.count(False)) > 9


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.just('qcow2'),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(('snapshot', *NAMES, *MERGES)) | st.text(), inner
        )
    ),
)


# A busy machine takes its time.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_json)
def test_the_fast_way_says_so_of_arbitrary_json(value: object) -> None:
    for name in VALIDATORS:
        _compare(name, value)


@pytest.mark.parametrize(
    'more',
    [
        {'maxLength': 3},
        {'pattern': 'x'},
        {'not': {}},
        {'type': 'integer'},
        {'type': ['string', 'integer']},
    ],
)
def test_a_keyword_that_is_not_known_is_left_to_jsonschema(
    more: dict[str, Any],
) -> None:
    schema = copy.deepcopy(schemas.CREATE)
    schema['properties']['snapshot']['properties']['volume_id'] = {
        'type': 'string',
        **more,
    }
    assert not acceptor.acceptor(
        schema, dict.fromkeys(('plain-text', 'file-name'), lambda value: True)
    )(BODY)


def test_another_class_of_object_is_left_to_jsonschema() -> None:
    class Body(dict[str, Any]):
        """What json never makes."""

    assert not VALIDATORS['create'].accept(Body(BODY))
    assert jsonschema.Draft202012Validator(schemas.CREATE).is_valid(Body(BODY))


def test_plain_text_is_what_has_no_control_character() -> None:
    for number in range(sys.maxunicode + 1):
        character = chr(number)
        # Line and paragraph breaks, and what turns the direction of text.
        lines = unicodedata.category(character) in ('Cc', 'Cs', 'Zl', 'Zp')
        turns = unicodedata.bidirectional(character) in _TURNS
        plain = not (lines or turns)
        assert schemas.is_plain_text(character) is plain, number
    assert schemas.is_plain_text('')
