# SPDX-License-Identifier: Apache-2.0
"""What every answer of the service promises, whatever was asked.

What a certain request is answered is never said here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import jsonschema

from nova_ext.api import schemas, wsgi

REQUEST_IDS = ('x-openstack-request-id', 'x-compute-request-id')
VERSIONS = tuple(name.lower() for name in wsgi.VERSION_HEADERS)

_REQUEST_ID = re.compile(r'req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}')
_VERSIONED = re.compile(r'/+v2(\.1)?(/|$)')
_LEGACY = re.compile(r'/+v2(/|$)')
_HEALTHCHECK = re.compile(r'/+healthcheck(/|$)')
_FAULT = jsonschema.Draft202012Validator(schemas.FAULT)


def check_answer(
    method: str,
    path: str,
    status: int,
    headers: Sequence[tuple[str, str]],
    body: bytes,
) -> None:
    """Assert that an answer keeps the promises.

    :param path: as the server saw it, without the query
    """
    names = [name.lower() for name, _ in headers]
    assert len(names) == len(set(names)), f'a header is repeated: {headers}'
    values = dict(zip(names, (value for _, value in headers), strict=True))
    for name, value in headers:
        assert '\n' not in name + value and '\r' not in name + value
    # The CORS filter answers OPTIONS before anything of ours is asked.
    if _VERSIONED.match(path) and method != 'OPTIONS':
        _check_request_ids(values)
    _check_versions(path, values)
    if status == 204 or method == 'HEAD':
        assert body == b''
    elif 'content-length' in values:
        assert int(values['content-length']) == len(body)
    if status >= 400 and method != 'HEAD' and not _HEALTHCHECK.match(path):
        _check_fault(status, values, body)


def _check_request_ids(values: dict[str, str]) -> None:
    first, second = (values[name] for name in REQUEST_IDS)
    assert first == second
    assert _REQUEST_ID.fullmatch(first), first


def _check_versions(path: str, values: dict[str, str]) -> None:
    standard, legacy = (values.get(name) for name in VERSIONS)
    if standard is None:
        assert legacy is None
        return
    assert not _LEGACY.match(path), 'the legacy mount has no microversions'
    assert standard == f'compute {legacy}'
    varies = [name.strip() for name in values['vary'].split(',')]
    assert varies[:2] == list(wsgi.VERSION_HEADERS), varies


def _check_fault(status: int, values: dict[str, str], body: bytes) -> None:
    assert values['content-type'].startswith(wsgi.JSON), values
    answer = json.loads(body)
    if set(answer) == {'error'} and status == 401:
        # keystonemiddleware's own words.
        assert answer['error']['code'] == 401
        assert values['www-authenticate'].startswith('Keystone uri=')
        return
    _FAULT.validate(answer)
    ((name, fault),) = answer.items()
    assert name == wsgi.FAULT_NAMES.get(status, 'computeFault')
    assert fault['code'] == status
