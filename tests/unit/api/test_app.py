# SPDX-License-Identifier: Apache-2.0
"""The paste factories, and the app as a filter before another."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

import pytest
import webob
from oslo_config import cfg
from oslo_middleware import http_proxy_to_wsgi
from paste import deploy

from nova_ext import context, policies
from nova_ext.api import app, wsgi
from nova_ext.api.router import Application
from nova_ext.compute import api as compute
from nova_ext.compute import libvirt
from tests.fixtures.app import (
    PASTE_FILE,
    RecordingAPI,
    configured,
    running_app,
)

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


def _naming(name: str) -> Application:
    """An application that answers where it was reached."""

    def application(
        environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        text = f'{name} {environ["SCRIPT_NAME"]} {environ["PATH_INFO"]}'
        return webob.Response(text=text)(environ, start_response)

    return application


def _reached(mount: app.Mount, path: str, prefix: str = '') -> str:
    request = webob.Request.blank('/', environ={'SCRIPT_NAME': prefix})
    request.environ['PATH_INFO'] = path
    return request.get_response(mount).text


@pytest.mark.parametrize(
    ('path', 'reached'),
    [
        ('', 'root  '),
        ('/', 'root  /'),
        ('/v2', 'document /v2 '),
        ('/v2/', 'document /v2 /'),
        ('/v2/x', 'api /v2 /x'),
        ('/v2//x///y', 'api /v2 /x/y'),
        ('//v2/x', 'api /v2 /x'),
        ('/v2.1', 'other /v2.1 '),
        ('/v2.1/x', 'other /v2.1 /x'),
        ('/v2.10/x', 'root  /v2.10/x'),
        ('/v2x', 'root  /v2x'),
        ('/V2/x', 'root  /V2/x'),
    ],
)
def test_the_longest_prefix_is_mounted(path: str, reached: str) -> None:
    mount = app.Mount(
        {
            '': _naming('root'),
            '/v2': _naming('document'),
            '/v2/+': _naming('api'),
            '/v2.1': _naming('other'),
        }
    )
    assert _reached(mount, path) == reached
    name, _, rest = reached.partition(' ')
    assert _reached(mount, path, '/compute') == f'{name} /compute{rest}'


def test_what_is_below_no_prefix_is_not_found() -> None:
    mount = app.Mount({'/v2': _naming('document')})
    assert 'itemNotFound' in _reached(mount, '/')


def _install_context(application: Application) -> Application:
    """Stands for the filter before ours that says who asks."""

    def call(
        environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        environ[wsgi.CONTEXT] = context.RequestContext(
            enforcer=policies.init(cfg.CONF), user_id='u', roles=['service']
        )
        return application(environ, start_response)

    return call


def test_as_a_filter_only_our_requests_are_answered() -> None:
    with running_app():
        application = _install_context(app.filter_factory({})(_naming('next')))
        ours = webob.Request.blank(
            '/os-assisted-volume-snapshots',
            method='POST',
            body=json.dumps(BODY).encode(),
        ).get_response(application)
        assert ours.json_body['snapshot']['volumeId'] == 'volume-1'
        others = webob.Request.blank('/servers').get_response(application)
        assert others.text == 'next  /servers'
    assert len(RecordingAPI.calls) == 1


def test_alone_all_other_requests_are_not_found() -> None:
    with running_app():
        response = webob.Request.blank('/servers').get_response(
            app.app_factory({})
        )
    assert response.status_int == 404


@pytest.mark.parametrize('factory', [app.app_factory, app.filter_factory])
def test_an_option_in_a_section_that_has_none_is_refused(
    factory: Callable[..., object],
) -> None:
    with pytest.raises(cfg.Error, match=r"'max_microversion'.*no options"):
        factory({}, max_microversion='2.10')


class Loader:
    """Notes in what order it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def get_app(self, name: str, global_conf: Any) -> Application:
        self.asked.append(name)
        return _naming(name)

    def get_filter(self, name: str, global_conf: Any) -> Any:
        self.asked.append(name)
        return lambda application: application


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.mark.parametrize('strategy', ['keystone', 'http_basic', 'noauth'])
def test_each_strategy_has_a_pipeline(loader: Loader, strategy: str) -> None:
    with configured({'nova_ext.auth_strategy': strategy}):
        pipelines = deploy.appconfig(f'config:{PASTE_FILE}', name='api_v21')
        local = {
            name: pipelines[name]
            for name in ('keystone', 'http_basic', 'noauth')
        }
        app.pipeline_factory(loader, {}, **local)
        assert loader.asked[0] == 'api'
        assert loader.asked[1:] == local[strategy].split()[-2::-1]


def test_what_is_mounted_twice_is_loaded_once(loader: Loader) -> None:
    mount = app.mount_factory(
        loader, {}, **{'/': 'root', '/one/': 'app', '/two/+': 'b a app'}
    )
    assert loader.asked == ['root', 'app', 'a', 'b']
    for path, answer in (
        ('/one/x', 'app /one /x'),
        ('/two/x', 'app /two /x'),
        ('/two/', 'root  /two/'),
    ):
        request = webob.Request.blank(path)
        assert request.get_response(mount).text == answer


def test_without_a_paste_file_the_error_names_it(
    tmp_path: pathlib.Path,
) -> None:
    with configured({}) as conf:
        missing = str(tmp_path / 'missing.ini')
        conf.set_override('api_paste_config', missing, 'nova_ext')
        with pytest.raises(cfg.ConfigFilesNotFoundError, match='missing.ini'):
            app.load(conf)


def test_the_backend_is_the_one_that_is_configured() -> None:
    with configured({'nova_ext.auth_strategy': 'noauth'}) as conf:
        assert type(compute.load(conf)) is libvirt.ComputeAPI


def test_importing_reads_no_configuration(tmp_path: pathlib.Path) -> None:
    code = (
        'import nova_ext.api.app, nova_ext.api.filters\n'
        'from oslo_config import cfg\n'
        'assert cfg.CONF._namespace is None\n'
    )
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True)


def test_without_authentication_no_header_makes_a_caller_local() -> None:
    cfg.CONF.register_opts(http_proxy_to_wsgi.OPTS, group='oslo_middleware')
    options = {
        'nova_ext.auth_strategy': 'noauth',
        'oslo_middleware.enable_proxy_headers_parsing': True,
    }
    with configured(options) as conf:
        request = webob.Request.blank(
            '/v2.1/os-assisted-volume-snapshots/x',
            method='DELETE',
            environ={'REMOTE_ADDR': '192.0.2.1'},
            headers={
                'X-Forwarded-For': '127.0.0.1',
                'Forwarded': 'for=127.0.0.1',
            },
        )
        assert request.get_response(app.load(conf)).status_int == 403


def test_a_file_takes_the_service_out_and_its_absence_is_no_warning(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        configured({'nova_ext.auth_strategy': 'noauth'}) as conf,
        mock.patch.object(compute, 'load', autospec=True) as load,
    ):
        load.side_effect = RecordingAPI
        service = app.load(conf)
        probe = webob.Request.blank('/healthcheck')
        assert probe.get_response(service).status_int == 200
        assert not [r for r in caplog.records if r.levelname != 'INFO']
        path = conf.healthcheck.disable_by_file_path
        assert path == '/etc/nova_ext/healthcheck_disable'
        conf.set_override('disable_by_file_path', str(tmp_path), 'healthcheck')
        probe = webob.Request.blank('/healthcheck')
        try:
            answer = probe.get_response(service)
        finally:
            conf.clear_override('disable_by_file_path', 'healthcheck')
        assert (answer.status_int, answer.text.split('\n')[0]) == (
            503,
            'DISABLED BY FILE',
        )
