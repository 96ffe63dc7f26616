# SPDX-License-Identifier: Apache-2.0
"""Requests that neither gabbi nor another client can be made to send, and
bodies whose length nobody said.

What a client does send is in gabbits/.
"""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from tests.functional import arbitrary
from tests.functional.doors import PIPELINES, Door
from tests.functional.fixtures import TOO_LARGE

# WebOb leaves the files of large bodies to the garbage collector.
pytestmark = pytest.mark.filterwarnings('ignore:unclosed file')

CREATE = json.dumps(arbitrary.CREATE).encode()


def _environ(
    method: str, path: str, body: bytes = b'', **more: Any
) -> dict[str, Any]:
    environ = arbitrary.Request(method, path, body=body).environ()
    return {**environ, **more}


def _chunked(body: bytes, ends: bool = True) -> dict[str, Any]:
    """A POST of a body in chunks, behind a server that decodes these or
    that, like wsgiref, does not say where a body ends."""
    environ = _environ('POST', '/v2.1/os-assisted-volume-snapshots')
    del environ['CONTENT_LENGTH']
    environ['HTTP_TRANSFER_ENCODING'] = 'chunked'
    environ['wsgi.input'] = io.BytesIO(body)
    if ends:
        environ['wsgi.input_terminated'] = True
    return environ


@pytest.mark.parametrize('pipeline', PIPELINES)
def test_a_body_in_chunks_is_read(
    doors: dict[str, Door], pipeline: str
) -> None:
    answer = doors[pipeline].ask(_chunked(CREATE))
    assert answer.status == 200
    assert json.loads(answer.body)['snapshot']['id'] == 'any'


@pytest.mark.parametrize('pipeline', PIPELINES)
def test_a_body_in_chunks_that_is_too_large_is_refused_as_such(
    doors: dict[str, Door], pipeline: str
) -> None:
    answer = doors[pipeline].ask(_chunked(TOO_LARGE.encode()))
    assert answer.status == 413


def test_a_body_whose_end_is_not_known_is_never_waited_for(
    doors: dict[str, Door],
) -> None:
    class Endless(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise AssertionError('this would block')

    environ = _chunked(b'', ends=False)
    environ['wsgi.input'] = Endless()
    answer = doors['noauth'].ask(environ)
    assert answer.status == 400
    assert b"None is not of type 'object'" in answer.body


@pytest.mark.parametrize(
    ('length', 'status'),
    [('', 400), ('0', 400), ('5', 400), ('99999', 400), ('abc', 400)]
    + [('-1', 400), ('114689', 413), ('9' * 5000, 400)],
)
def test_a_length_that_is_wrong_is_a_refusal(
    doors: dict[str, Door], length: str, status: int
) -> None:
    environ = _environ(
        'POST',
        '/v2.1/os-assisted-volume-snapshots',
        CREATE,
        CONTENT_LENGTH=length,
    )
    assert doors['noauth'].ask(environ).status == status


@pytest.mark.parametrize('pipeline', PIPELINES)
@pytest.mark.parametrize(
    'header',
    [
        'CONTENT_TYPE',
        'HTTP_ACCEPT',
        'HTTP_OPENSTACK_API_VERSION',
        'HTTP_X_OPENSTACK_NOVA_API_VERSION',
        'HTTP_X_AUTH_TOKEN',
        'HTTP_AUTHORIZATION',
        'HTTP_ORIGIN',
    ],
)
def test_a_header_beyond_ascii_does_no_harm(
    doors: dict[str, Door], pipeline: str, header: str
) -> None:
    environ = _environ('POST', '/v2.1/os-assisted-volume-snapshots', CREATE)
    environ[header] = 'caf\xe9 \xff \xb2'
    assert doors[pipeline].ask(environ).status in (200, 400, 401, 415)


@pytest.mark.parametrize(
    'path',
    [
        '/v2.1/os-assisted-volume-snapshots/\xff',
        '/v2.1/os-assisted-volume-snapshots/\xed\xa0\x80',
        '/v2.1/\xff',
        '/v2/\xff',
        '/\xff',
        '/v2.1\xff',
    ],
)
def test_a_path_that_is_not_utf_8_is_not_found(
    doors: dict[str, Door], path: str
) -> None:
    assert doors['keystone'].ask(_environ('DELETE', path)).status == 404


def test_versions_and_ids_of_the_request_are_each_one_header(
    doors: dict[str, Door],
) -> None:
    # That none is repeated is a promise, which each answer is checked for.
    environ = _environ('POST', '/v2.1/os-assisted-volume-snapshots', CREATE)
    headers = doors['keystone'].ask(environ).headers
    assert headers['Vary'] == (
        'OpenStack-API-Version, X-OpenStack-Nova-API-Version'
    )
    assert (
        headers['x-openstack-request-id'] == (headers['x-compute-request-id'])
    )
