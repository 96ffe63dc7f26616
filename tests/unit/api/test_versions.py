# SPDX-License-Identifier: Apache-2.0
"""The version documents, as keystoneauth's discovery reads them."""

from __future__ import annotations

from typing import Any

import pytest
import requests
import webob
from keystoneauth1 import discover

from nova_ext.api import app, versions

ROOT = 'http://api.example.org:8774'


class _Session:
    """A session of keystoneauth, as far as discovery uses one."""

    def __init__(self, prefix: str = '') -> None:
        self._prefix = prefix
        self._app = app.Mount(
            {
                '': versions.Versions('2.90'),
                '/v2': versions.Versions('2.90', 'v2.0'),
                '/v2.1': versions.Versions('2.90', 'v2.1'),
            }
        )

    def get(
        self, url: str, headers: dict[str, str], **options: Any
    ) -> requests.Response:
        assert url.startswith(ROOT + self._prefix)
        path = url[len(ROOT + self._prefix) :]
        request = webob.Request.blank(path, base_url=ROOT + self._prefix)
        answer = request.get_response(self._app)
        response = requests.Response()
        response.status_code = answer.status_int
        response._content = answer.body
        response.headers.update(answer.headers)
        response.url = url
        return response


@pytest.mark.parametrize('prefix', ['', '/compute'])
def test_discovery_finds_both_versions_at_the_root(prefix: str) -> None:
    found = discover.Discover(_Session(prefix), f'{ROOT}{prefix}/')
    v20, v21 = found.version_data()
    assert (v20['version'], v21['version']) == ((2, 0), (2, 1))
    assert v20['url'] == f'{ROOT}{prefix}/v2/'
    assert v21['url'] == f'{ROOT}{prefix}/v2.1/'
    assert v20['max_microversion'] is None
    assert v21['min_microversion'] == (2, 1)
    assert v21['max_microversion'] == (2, 90)


@pytest.mark.parametrize('end', ['/v2.1', '/v2.1/'])
def test_discovery_finds_the_microversions_at_an_endpoint(end: str) -> None:
    found = discover.Discover(_Session('/compute'), f'{ROOT}/compute{end}')
    (v21,) = found.version_data()
    assert v21['url'] == f'{ROOT}/compute/v2.1/'
    assert v21['status'] == discover.Status.CURRENT
    assert v21['max_microversion'] == (2, 90)


def test_discovery_uses_the_current_version_for_any_of_version_2() -> None:
    found = discover.Discover(_Session(), f'{ROOT}/')
    assert found.url_for('2.1') == f'{ROOT}/v2.1/'
    assert found.url_for('2') == f'{ROOT}/v2.1/'


@pytest.mark.parametrize('path', ['/x', '/\xff', '//', '/\n'])
def test_any_other_path_is_not_found(path: str) -> None:
    request = webob.Request.blank('/')
    request.environ['PATH_INFO'] = path
    response = request.get_response(versions.Versions('2.90'))
    assert response.status_int == 404
