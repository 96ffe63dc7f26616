# SPDX-License-Identifier: Apache-2.0
"""With all logs on, neither they nor an answer repeat what let one in."""

from __future__ import annotations

import base64
import json
import logging

import pytest
import webob
from oslo_config import cfg
from oslo_log import log as oslo_log

from nova_ext import log
from tests.fixtures.app import RecordingAPI
from tests.functional import arbitrary, fixtures

PATH = '/v2.1/os-assisted-volume-snapshots'
SECRETS = {
    'X-Auth-Token': 'token-of-a-service',
    'X-Service-Token': 'token-of-a-manager',
    'Authorization': 'Basic '
    + base64.b64encode(b'cinder:secret-of-cinder').decode(),
    'Cookie': 'a=secret-cookie',
}
WRONG = {
    'X-Auth-Token': 'token-of-nobody-here',
    'Authorization': 'Basic '
    + base64.b64encode(b'cinder:secret-of-another').decode(),
}
BROKEN = {'X-Auth-Token': 'token-that-breaks-the-filter'}


@pytest.mark.parametrize(
    'pipeline',
    [
        fixtures.Keystone,
        fixtures.UndecidedKeystone,
        fixtures.UnreachableKeystone,
        fixtures.HttpBasic,
        fixtures.Noauth,
    ],
)
def test_no_pipeline_writes_down_who_knocked(
    pipeline: type[fixtures.Keystone], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    written = []
    with pipeline().running() as app:
        RecordingAPI.errors['521752a6-acf6-4b2d-bc7a-119f9148cd8c'] = (
            ValueError('unexpected')
        )
        for headers in (SECRETS, WRONG, BROKEN, {}):
            for body in (json.dumps(arbitrary.CREATE), '{', '{}'):
                request = webob.Request.blank(
                    PATH, method='POST', headers=headers, text=body
                )
                request.content_type = 'application/json'
                answer = request.get_response(app)
                written.append(f'{answer.headers} {answer.text}')
    written.append(caplog.text)
    assert 'POST' in caplog.text
    for text in written:
        for secret in (*SECRETS.values(), *WRONG.values(), *BROKEN.values()):
            word = secret.removeprefix('Basic ').removeprefix('a=')
            assert word not in text
        for password in ('secret-of-cinder', 'secret-of-another'):
            assert password not in text


def _basic(user: str) -> dict[str, str]:
    pair = base64.b64encode(f'{user}:secret'.encode()).decode()
    return {'Authorization': f'Basic {pair}'}


def test_no_name_of_a_user_makes_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    conf = cfg.ConfigOpts()
    oslo_log.register_options(conf)
    conf([], default_config_files=[])
    with fixtures.HttpBasic().running() as app:
        for name in ('a\n2026 INFO all is well', '\x1b[2J', 'cinder\r'):
            request = webob.Request.blank(PATH, headers=_basic(name))
            assert request.get_response(app).status_int == 401
    written = log.Formatter(conf)
    lines = [written.format(record) for record in caplog.records]
    assert any('User a 2026 INFO' in line for line in lines)
    assert not {*'\n\r\x1b'} & {*''.join(lines)}


def test_a_user_whose_line_is_a_comment_is_none() -> None:
    with fixtures.HttpBasic().running() as app:
        for name, status in (('cinder', 400), ('# nova', 401)):
            request = webob.Request.blank(
                PATH, method='POST', headers=_basic(name), text='{}'
            )
            request.content_type = 'application/json'
            answer = request.get_response(app)
            assert answer.status_int == status
            assert ('WWW-Authenticate' in answer.headers) is (status == 401)
