# SPDX-License-Identifier: Apache-2.0
"""The schemas and their check alone; what a request gets is functional."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest

from nova_ext import exception
from nova_ext.api import schemas

BODY = {
    'snapshot': {
        'volume_id': 'volume-1',
        'create_info': {
            'snapshot_id': 'snapshot-1',
            'type': 'qcow2',
            'new_file': 'file-1',
        },
    }
}


def _deep(depth: int) -> list[Any]:
    document: list[Any] = []
    for _ in range(depth):
        document = [document]
    return document


@pytest.mark.parametrize(
    'schema',
    [
        schemas.CREATE,
        schemas.CREATE_RESPONSE,
        schemas.DELETE_INFO,
        schemas.DELETE_QUERY,
        schemas.FAULT,
    ],
)
def test_each_schema_is_one(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    assert (
        schema['$schema'] == jsonschema.Draft202012Validator.META_SCHEMA['$id']
    )


@pytest.mark.parametrize(
    'text', ['a', 'volume-1', 'é', '快照', '\U0001f5ab', ' ', 'a b', '\u200d']
)
def test_plain_text(text: str) -> None:
    assert schemas.is_plain_text(text)


@pytest.mark.parametrize(
    'text',
    ['\0', 'a\nb', 'a\r', '\t', '\x1b', '\x7f', '\x85', '\x9f', '\ud800']
    + ['\u2028', '\u2029', '\u202e', '\u2066'],
)
def test_no_plain_text(text: str) -> None:
    assert not schemas.is_plain_text(text)
    assert not schemas.is_file_name(text)


@pytest.mark.parametrize(
    'name', ['f', '...', '.f', 'f.', '-f', '~', '*', 'é' * 127, 'x' * 255]
)
def test_file_name(name: str) -> None:
    assert schemas.is_file_name(name)


@pytest.mark.parametrize(
    'name', ['.', '..', '/', 'a/b', './f', 'f/', 'é' * 128, 'x' * 256]
)
def test_no_file_name(name: str) -> None:
    assert not schemas.is_file_name(name)
    assert schemas.is_plain_text(name)


def test_a_format_says_nothing_of_what_is_no_string() -> None:
    # Their type is refused by the schema, in Nova's words.
    for value in (None, 5, [], {}):
        assert schemas.is_plain_text(value)
        assert schemas.is_file_name(value)


def test_a_body_is_handed_on_and_left_as_it_was() -> None:
    body = copy.deepcopy(BODY)
    assert schemas.create(body) == BODY['snapshot']
    assert body == BODY


def test_of_a_legacy_body_only_known_keys_are_handed_on() -> None:
    body: dict[str, Any] = copy.deepcopy(BODY)
    for holder in (
        body,
        body['snapshot'],
        body['snapshot']['create_info'],
    ):
        holder['other'] = {'any': 1}
    assert schemas.create(body, legacy=True) == BODY['snapshot']
    with pytest.raises(exception.InvalidInput):
        schemas.create(body)


def test_the_message_about_a_long_value_is_short() -> None:
    body: dict[str, Any] = copy.deepcopy(BODY)
    body['snapshot']['create_info']['type'] = 'x' * 100_000
    with pytest.raises(exception.InvalidInput) as caught:
        schemas.create(body)
    message = str(caught.value)
    assert len(message) < 3000
    assert message.startswith('Invalid input for field/attribute type. Value:')
    assert message.endswith("is not one of ['qcow2']")


def test_nesting_too_deep_for_the_check_is_a_refusal() -> None:
    body: dict[str, Any] = copy.deepcopy(BODY)
    body['snapshot']['volume_id'] = _deep(100_000)
    with pytest.raises(exception.InvalidInput, match='nested too deeply'):
        schemas.create(body)


@pytest.mark.parametrize('strict', [True, False])
def test_the_last_delete_info_is_taken(strict: bool) -> None:
    query = {'delete_info': ['a', 'b']}
    assert schemas.delete_query(query, strict) == 'b'
    assert schemas.delete_query({}, strict) is None


def test_other_keys_of_a_query_are_refused_if_strict() -> None:
    query = {'delete_info': ['a'], 'extra': ['1']}
    assert schemas.delete_query(query, strict=False) == 'a'
    with pytest.raises(exception.InvalidInput, match="'extra' was unexp"):
        schemas.delete_query(query, strict=True)


def test_delete_info_is_decoded() -> None:
    info = {
        'volume_id': 'v',
        'type': 'qcow2',
        'file_to_merge': 'f',
        'merge_target_file': None,
    }
    more = {**info, 'other': [1]}
    assert schemas.delete_info(json.dumps(more)) == info


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, "^'delete_info'"),
        ('', r'^Expecting value: line 1 column 1 \(char 0\)'),
        ('[' * 100_000, 'recursion|nested'),
        ('1' * 5000, r'^Exceeds the limit|is not of type'),
        ('{}', "^'volume_id'"),
    ],
)
def test_a_delete_info_of_no_use_is_refused(
    text: str | None, message: str
) -> None:
    with pytest.raises(exception.InvalidInput, match=message):
        schemas.delete_info(text)


@pytest.mark.parametrize(
    'answer',
    [
        {},
        {'badRequest': {'code': 400}},
        {'badRequest': {'code': 200, 'message': ''}},
        {'badRequest': {'code': '400', 'message': ''}},
        {'badRequest': {'code': 400, 'message': '', 'title': ''}},
        {'badRequest': {'code': 400, 'message': ''}, 'other': {}},
        {'message': 'x', 'code': '404 Not Found', 'title': 'Not Found'},
    ],
)
def test_what_is_no_fault_is_not_taken_for_one(answer: object) -> None:
    validator = jsonschema.Draft202012Validator(schemas.FAULT)
    assert not validator.is_valid(answer)
    assert validator.is_valid({'overLimit': {'code': 413, 'message': 'x'}})
