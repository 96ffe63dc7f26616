# SPDX-License-Identifier: Apache-2.0
"""Tens of thousands of arbitrary requests: none is a 500, each answer keeps
the promises, and nothing unsafe reaches the backend.

The same requests are sent at each run; with NOVA_EXT_FUZZ=random in the
environment they are others each time. What is sent is in arbitrary.
"""

from __future__ import annotations

import base64
import dataclasses
import os
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple

import hypothesis
import pytest
from hypothesis import strategies as st
from oslo_config import cfg

from nova_ext.api import app
from nova_ext.api.router import Application
from tests.fixtures.app import RecordingAPI
from tests.functional import arbitrary, fixtures, promises

WANTED = 20_000

MOUNTS = ('/v2.1', '/v2')
PIPELINES = ('keystone', 'noauth', 'http_basic')


class Storm(NamedTuple):
    """Requests, how many are drawn, and where to each of them is sent."""

    requests: st.SearchStrategy[arbitrary.Request]
    examples: int
    pipelines: tuple[str, ...] = PIPELINES
    mounts: tuple[str, ...] = MOUNTS

    @property
    def sent(self) -> int:
        return self.examples * len(self.pipelines) * len(self.mounts)


# Passwords are slow to check, and nothing looks at a body before they are.
STORMS = {
    'bodies of creates': Storm(arbitrary.creates, 1500, PIPELINES[:2]),
    'queries of deletes': Storm(arbitrary.deletes, 1250, PIPELINES[:2]),
    'headers of creates': Storm(arbitrary.headed_creates, 500),
    'headers of deletes': Storm(arbitrary.headed_deletes, 500),
    'methods and paths': Storm(arbitrary.pathed, 200, mounts=(*MOUNTS, '')),
    'everything at once': Storm(
        arbitrary.everything, 200, mounts=(*MOUNTS, '')
    ),
}

# WebOb leaves the files of large bodies to the garbage collector.
pytestmark = pytest.mark.filterwarnings('ignore:unclosed file')


@dataclasses.dataclass(frozen=True)
class Door:
    """A way in: an application, and headers that let one pass."""

    app: Application
    headers: dict[str, str]


@pytest.fixture(scope='module')
def doors() -> Iterator[dict[str, Door]]:
    """The application with each of the pipelines, by their names."""
    passwords = base64.b64encode(b'cinder:secret').decode()
    headers = {
        'keystone': {'HTTP_X_AUTH_TOKEN': 'token-of-a-service'},
        'noauth': {},
        'http_basic': {'HTTP_AUTHORIZATION': f'Basic {passwords}'},
    }
    with fixtures.Tokens(), fixtures.HttpBasic().running():
        doors = {}
        for name in PIPELINES:
            cfg.CONF.set_override('auth_strategy', name, 'nova_ext')
            doors[name] = Door(app.load(cfg.CONF), headers[name])
        yield doors


def _send(door: Door, mount: str, request: arbitrary.Request) -> None:
    """Send a request and check the answer and what reached the backend."""
    environ = request.environ()
    environ['PATH_INFO'] = path = mount + request.path
    for name, value in door.headers.items():
        environ.setdefault(name, value)
    started: list[Any] = []
    RecordingAPI.calls = []
    chunks = door.app(environ, lambda *answer: started.append(answer))
    try:
        body = b''.join(chunks)
    finally:
        if hasattr(chunks, 'close'):
            chunks.close()
    status, headers = int(started[-1][0].split()[0]), started[-1][1]
    assert status < 500, body
    promises.check_answer(request.method, path, status, headers, body)
    assert len(RecordingAPI.calls) == (
        request.method in ('POST', 'DELETE') and status in (200, 204)
    )
    for call in RecordingAPI.calls:
        _check_call(call.method, call.arguments)


def _check_call(method: str, arguments: tuple[Any, ...]) -> None:
    """Assert that what reached the backend can be used as it is."""
    volume_id, info = arguments[0], arguments[-1]
    if method == 'create':
        texts = [volume_id, *info.values()]
        names = [info['new_file']]
        assert {'snapshot_id', 'type', 'new_file'} <= set(info)
        assert set(info) <= {'snapshot_id', 'type', 'new_file', 'id'}
    else:
        texts = [volume_id]
        keys = ('file_to_merge', 'merge_target_file')
        names = [info[key] for key in keys if info.get(key) is not None]
        assert volume_id == info['volume_id']
        assert '/' not in arguments[1]
    assert info.get('type', 'qcow2') == 'qcow2'
    for text in (*texts, *names):
        assert text
        assert text.encode()
        assert not any(unicodedata.category(c) == 'Cc' for c in text)
    for name in names:
        assert '/' not in name
        assert name not in ('.', '..')
        assert len(name.encode()) <= 255


@pytest.mark.parametrize('name', STORMS)
def test_no_request_breaks_a_promise(
    doors: dict[str, Door], name: str
) -> None:
    storm = STORMS[name]
    sent = 0

    @hypothesis.settings(
        max_examples=storm.examples,
        derandomize=os.environ.get('NOVA_EXT_FUZZ') != 'random',
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(storm.requests)
    def throw(request: arbitrary.Request) -> None:
        nonlocal sent
        for pipeline in storm.pipelines:
            for mount in storm.mounts:
                _send(doors[pipeline], mount, request)
                sent += 1

    throw()
    assert sent >= storm.sent


def test_the_requests_are_as_many_as_wanted() -> None:
    assert sum(storm.sent for storm in STORMS.values()) >= WANTED
