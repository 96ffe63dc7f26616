# SPDX-License-Identifier: Apache-2.0
"""The front ends of the page on deployment send this resource to us and all
else to the other service, and change nothing on the way.
"""

from __future__ import annotations

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


def _served_by(url: str, method: str = 'GET') -> str:
    request = urllib.request.Request(url, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.headers['X-Served-By']
    except urllib.error.HTTPError as error:
        with error:
            return error.headers['X-Served-By']


@pytest.mark.parametrize('prefix', ['', '/compute'])
@pytest.mark.parametrize(
    ('path', 'who'),
    [
        (f'/v2.1/{RESOURCE}', 'ours'),
        (f'/v2.1/{RESOURCE}/s?delete_info=%7B%7D', 'ours'),
        (f'/v2.1/{PROJECT}/{RESOURCE}', 'ours'),
        (f'/v2.1/{PROJECT}/{RESOURCE}/a%2Fb', 'ours'),
        (f'/v2/{PROJECT}/{RESOURCE}', 'ours'),
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


def test_each_answer_is_as_without_a_front_end(front_end: str) -> None:
    # NOTE: links in the version documents lack the prefix, which is taken
    # off; in a deployment these documents are Nova's.
    files = [path for path in FILES if 'versions' not in path]
    run = gabbi_run(front_end + '/compute', files, fixtures.ENVIRONMENT)
    assert failures(run) == []
    assert run.returncode == 0, run.stdout
    assert run.stdout.count('✓') > 200
