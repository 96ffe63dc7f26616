# SPDX-License-Identifier: Apache-2.0
"""The front ends of the page on deployment send this resource to us and all
else to the other service, and change nothing on the way.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.deploy.servers import Started, starting
from tests.deploy.test_servers import GABBI_APPLICATION
from tests.fixtures.gabbi_run import FILES, failures, gabbi_run
from tests.functional import fixtures

RESOURCE = 'os-assisted-volume-snapshots'
PROJECT = fixtures.PROJECT_ID


@pytest.fixture(
    scope='module',
    params=[Started.nginx, Started.apache],
    ids=['nginx', 'apache'],
)
def front_end(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of a front end before two services that differ in a header."""
    with starting(tmp_path_factory.mktemp('front')) as started:
        ours = started.uwsgi(GABBI_APPLICATION, 'ours')
        other = started.uwsgi(GABBI_APPLICATION, 'other')
        yield request.param(
            started, *(url.removeprefix('http://') for url in (ours, other))
        )


def _served_by(
    url: str,
    method: str = 'GET',
    header: str = 'X-Served-By',
    **headers: str,
) -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.headers[header]
    except urllib.error.HTTPError as error:
        with error:
            return error.headers[header]


@pytest.mark.parametrize('prefix', ['', '/compute'])
@pytest.mark.parametrize(
    ('path', 'who'),
    [
        (f'/v2.1/{RESOURCE}', 'ours'),
        (f'/v2.1/{RESOURCE}/s?delete_info=%7B%7D', 'ours'),
        (f'/v2.1/{PROJECT}/{RESOURCE}', 'ours'),
        (f'/v2.1/{PROJECT}/{RESOURCE}/a%2Fb', 'ours'),
        (f'/v2/{PROJECT}/{RESOURCE}', 'ours'),
        # Nova may take these for the resource.
        (f'/v2.1//{RESOURCE}/s', 'ours'),
        (f'/v2.1/%2F{PROJECT}//{RESOURCE}/s', 'ours'),
        (f'/v2.1%2F{RESOURCE}/s', 'ours'),
        (f'/v2.1%2f{RESOURCE}/s', 'ours'),
        (f'/v2.1/{PROJECT}%2F{RESOURCE}/s', 'ours'),
        (f'/v2.1%2F{PROJECT}%2F{RESOURCE}%2Fs', 'ours'),
        (f'/v2.1/A/{RESOURCE}', 'other'),
        (f'/v2.1/servers/x/{RESOURCE}', 'other'),
        ('/v2.1/servers', 'other'),
        (f'/v2.1/{PROJECT}/servers/a%2Fb?x=%2F', 'other'),
        ('/v2.1/', 'other'),
        ('/', 'other'),
    ],
)
@pytest.mark.parametrize('method', ['GET', 'POST', 'DELETE'])
def test_the_path_says_who_answers(
    front_end: str, prefix: str, path: str, who: str, method: str
) -> None:
    assert _served_by(front_end + prefix + path, method) == who


@pytest.mark.parametrize(
    'path',
    [
        f'/v2.1/%6f{RESOURCE[1:]}/s',
        f'/%76%32.1/{RESOURCE}',
        f'//v2.1/{RESOURCE}/s',
        f'/v2.1/./{RESOURCE}',
        f'/v2.1/servers/../{RESOURCE}',
    ],
)
def test_what_is_the_resource_when_it_is_decoded_does_not_reach_nova(
    front_end: str, path: str
) -> None:
    assert _served_by(front_end + path, 'DELETE') != 'other'


def test_what_a_client_says_of_where_it_is_counts_for_nothing(
    front_end: str,
) -> None:
    claims = {'Forwarded': 'for=192.0.2.1;proto=https;host=evil'} | {
        f'X-Forwarded-{what}': 'evil' for what in ('For', 'Host', 'Proto')
    }
    for path in (f'/v2.1/{RESOURCE}', '/v2.1/servers'):
        said = json.loads(
            _served_by(front_end + path, header='X-Served-Forwarded', **claims)
        )
        assert said == {
            'FORWARDED': None,
            'X_FORWARDED_FOR': '127.0.0.1',
            'X_FORWARDED_HOST': front_end.removeprefix('http://'),
            'X_FORWARDED_PROTO': 'http',
        }


def test_only_a_whole_segment_is_a_prefix(front_end: str) -> None:
    for path, served in (
        ('/compute/v2.1/x', '/v2.1/x'),
        ('/compute/', '/'),
        ('/compute', '/'),
        ('/compute?a=b', '/'),
        ('/computeX/v2.1/x', '/computeX/v2.1/x'),
        ('/compute-x', '/compute-x'),
        ('/x/compute/v2.1', '/x/compute/v2.1'),
    ):
        assert _served_by(front_end + path, header='X-Served-Path') == served


def test_each_answer_is_as_without_a_front_end(front_end: str) -> None:
    # NOTE: links in the version documents lack the prefix, which is taken
    # off; in a deployment these documents are Nova's.
    files = [path for path in FILES if 'versions' not in path]
    run = gabbi_run(front_end + '/compute', files, fixtures.ENVIRONMENT)
    assert failures(run) == []
    assert run.returncode == 0, run.stdout
    assert run.stdout.count('✓') > 200
