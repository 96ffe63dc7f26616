# SPDX-License-Identifier: Apache-2.0
"""Tens of thousands of arbitrary requests: none is a 500, each answer keeps
the promises, and nothing unsafe reaches the backend.

The same requests are sent at each run; with NOVA_EXT_FUZZ=random in the
environment they are others each time. What is sent is in arbitrary.
"""

from __future__ import annotations

import os
import unicodedata
from typing import Any, NamedTuple

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.fixtures.app import RecordingAPI
from tests.functional import arbitrary
from tests.functional.doors import PIPELINES, Door

WANTED = 20_000

MOUNTS = ('/v2.1', '/v2')


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
    'bodies of creates': Storm(arbitrary.creates, 1200, PIPELINES[:2]),
    'queries of deletes': Storm(arbitrary.deletes, 900, PIPELINES[:2]),
    'headers of creates': Storm(arbitrary.headed_creates, 450),
    'headers of deletes': Storm(arbitrary.headed_deletes, 450),
    'methods and paths': Storm(arbitrary.pathed, 400, mounts=(*MOUNTS, '')),
    'everything at once': Storm(
        arbitrary.everything, 360, mounts=(*MOUNTS, '')
    ),
}

# WebOb leaves the files of large bodies to the garbage collector.
pytestmark = pytest.mark.filterwarnings('ignore:unclosed file')


def _send(door: Door, mount: str, request: arbitrary.Request) -> None:
    """Send a request and check the answer and what reached the backend."""
    RecordingAPI.calls = []
    answer = door.ask({**request.environ(), 'PATH_INFO': mount + request.path})
    assert answer.status < 500, answer
    assert len(RecordingAPI.calls) == (
        request.method in ('POST', 'DELETE') and answer.status in (200, 204)
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
