# SPDX-License-Identifier: Apache-2.0
"""The applications that the gabbi files are run against.

Each class is a gabbi fixture, named by the files that need it: a pipeline of
the shipped api-paste.ini before a backend that records its calls and refuses
certain volumes. What is asked and answered is in the files, never here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar
from unittest import mock
from wsgiref import validate

import bcrypt
from gabbi import fixture
from keystoneauth1 import fixture as keystone_tokens
from keystoneauth1 import loading
from keystonemiddleware import fixture as keystone_fixture
from oslo_config import cfg
from oslo_middleware import basic_auth, cors

from nova_ext import exception
from nova_ext.api.router import Application
from tests.fixtures.app import RecordingAPI, running_app
from tests.functional import promises
from tests.functional.refusals import refusals

PROJECT_ID = '6f70656e737461636b20636f6d707574'
AUTHENTICATE_URI = 'http://keystone.example.org/identity'

# Registered here, since they are overridden before the filters are loaded.
cfg.CONF.register_opts(cors.CORS_OPTS, group='cors')
cfg.CONF.register_opts(basic_auth.OPTS, group='oslo_middleware')

# Longer than the limit of [oslo_middleware] max_request_body_size, and as
# long as it.
TOO_LARGE = 'x' * 114689
LARGEST = 'x' * 114688
NESTED = '[' * 50000 + ']' * 50000

# What a user of gabbi-run sets according to a deployment.
ENVIRONMENT = {
    'NOVA_EXT_TOKEN': 'token-of-a-service',
    'NOVA_EXT_MEMBER_TOKEN': 'token-of-a-member',
    'NOVA_EXT_PROJECT_ID': PROJECT_ID,
    'NOVA_EXT_VOLUME_ID': '521752a6-acf6-4b2d-bc7a-119f9148cd8c',
    'NOVA_EXT_SNAPSHOT_ID': '421752a6-acf6-4b2d-bc7a-119f9148cd8c',
    'NOVA_EXT_NEW_FILE': 'volume-521752a6.421752a6',
    'NOVA_EXT_MAX_MICROVERSION': '2.104',
    'NOVA_EXT_TOO_LARGE': TOO_LARGE,
    'NOVA_EXT_LARGEST': LARGEST,
    'NOVA_EXT_NESTED': NESTED,
}


_current: list[Application] = []


def application() -> Application:
    """The application of the fixture that is in use when it is called.

    gabbi asks for it when it reads a file, long before the fixture starts.
    """

    def call(
        environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        # NOTE: httpx hands text over where PEP 3333 wants latin-1.
        path = environ['PATH_INFO'].encode().decode('latin-1')
        environ['PATH_INFO'] = path
        if path == '/recorded':
            start_response('200 OK', [('Content-Type', 'application/json')])
            return [_recorded()]
        return _checked(_current[-1], environ, start_response)

    return call


def _recorded() -> bytes:
    return json.dumps(
        [
            {
                'method': call.method,
                'arguments': call.arguments,
                'user_id': call.context.user_id,
                'project_id': call.context.project_id,
                'roles': call.context.roles,
                'tokens': [
                    call.context.auth_token,
                    call.context.service_token,
                ],
                'global_request_id': call.context.global_request_id,
            }
            for call in RecordingAPI.calls
        ]
    ).encode()


@dataclasses.dataclass
class _Answer:
    status: str = ''
    headers: list[tuple[str, str]] = dataclasses.field(default_factory=list)


def _checked(
    app: Application,
    environ: dict[str, Any],
    start_response: Callable[..., Any],
) -> Iterable[bytes]:
    """What `app` answers, if PEP 3333 and our promises hold for it."""
    answer = _Answer()

    def below(
        environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        def start(
            status: str,
            headers: list[tuple[str, str]],
            exc_info: Any = None,
        ) -> Callable[[bytes], Any]:
            answer.status, answer.headers = status, list(headers)
            if status.startswith('204'):
                # NOTE: Nova's 204 has a type, which the validator forbids.
                headers = [
                    (name, value)
                    for name, value in headers
                    if name.lower() != 'content-type'
                ]
            return start_response(status, headers)

        return app(environ, start)

    method, path = environ['REQUEST_METHOD'], environ['PATH_INFO']
    # NOTE: the CORS filter answers OPTIONS without a type, against PEP 3333.
    checked = below if method == 'OPTIONS' else validate.validator(below)
    chunks = checked(environ, lambda *_: lambda _: None)
    try:
        body = b''.join(chunks)
    finally:
        if hasattr(chunks, 'close'):
            chunks.close()
    status = int(answer.status.split()[0])
    promises.check_answer(method, path, status, answer.headers, body)
    start_response(answer.status, answer.headers)
    return [body]


class Tokens(keystone_fixture.AuthTokenFixture):
    """Tokens that keystonemiddleware takes as Keystone's."""

    def setUp(self) -> None:
        super().setUp()
        for name in ('service', 'admin', 'manager', 'member', 'reader'):
            self.add_token_data(
                f'token-of-a-{name}',
                user_id=f'the-{name}',
                project_id=PROJECT_ID,
                role_list=[name],
            )
        self.add_token_data(
            'token-without-role', user_id='nobody', project_id=PROJECT_ID
        )
        self.add_token_data(
            'token-that-expired',
            user_id='the-late',
            project_id=PROJECT_ID,
            role_list=['service'],
            expires='2020-01-01T00:00:00.000000Z',
        )
        for name in ('service', 'admin'):
            token = keystone_tokens.V3Token(user_id=f'the-system-{name}')
            token.add_role(name=name)
            token.set_system_scope()
            self.add_token(token, f'token-of-a-system-{name}')

    def fetch_token(self, token: str, **options: Any) -> Any:
        if token == 'token-that-breaks-the-filter':
            raise RuntimeError('a secret of the filter')
        return super().fetch_token(token, **options)


class Keystone(fixture.GabbiFixture):
    """The pipeline for Keystone, whose answers about tokens are made up."""

    options: ClassVar[dict[str, Any]] = {
        'keystone_authtoken.www_authenticate_uri': AUTHENTICATE_URI,
    }

    @contextlib.contextmanager
    def running(self) -> Iterator[Application]:
        with Tokens(), running_app(self.options) as app:
            RecordingAPI.errors = refusals()
            yield app

    def start_fixture(self) -> None:
        with contextlib.ExitStack() as stack:
            _current.append(stack.enter_context(self.running()))
            stack.callback(_current.pop)
            self._stack = stack.pop_all()

    def stop_fixture(self) -> None:
        self._stack.close()


class UndecidedKeystone(Keystone):
    """As where auth_token leaves it to us to refuse who has no token."""

    options: ClassVar[dict[str, Any]] = {
        **Keystone.options,
        'keystone_authtoken.delay_auth_decision': True,
    }


class UnreachableKeystone(Keystone):
    """The pipeline for a Keystone where nothing listens."""

    @contextlib.contextmanager
    def running(self) -> Iterator[Application]:
        group = 'keystone_authtoken'
        loading.register_auth_conf_options(cfg.CONF, group)
        cfg.CONF.register_opts(
            loading.get_auth_plugin_conf_options('none'), group=group
        )
        # Bound and not listening: nobody else can get this port.
        with socket.socket() as closed:
            closed.bind(('127.0.0.1', 0))
            options = {
                'auth_type': 'none',
                'endpoint': f'http://127.0.0.1:{closed.getsockname()[1]}',
                'http_request_max_retries': 0,
            }
            overrides = {f'{group}.{name}': options[name] for name in options}
            with running_app({**self.options, **overrides}) as app:
                yield app


class Cors(Keystone):
    """With an origin whose pages may call us."""

    options: ClassVar[dict[str, Any]] = {
        **Keystone.options,
        'cors.allowed_origin': ['https://horizon.example.org'],
    }


class Unhealthy(Keystone):
    """With a backend that cannot work now."""

    @contextlib.contextmanager
    def running(self) -> Iterator[Application]:
        away = exception.HostUnavailable(
            host='compute-1', reason='connection refused'
        )
        with (
            mock.patch.object(
                RecordingAPI, 'check', autospec=True, side_effect=away
            ),
            super().running() as app,
        ):
            yield app


class HttpBasic(Keystone):
    """The pipeline for users and passwords in a file."""

    @contextlib.contextmanager
    def running(self) -> Iterator[Application]:
        with tempfile.TemporaryDirectory() as directory:
            users = pathlib.Path(directory, 'htpasswd')
            secret = bcrypt.hashpw(b'secret', bcrypt.gensalt(4)).decode()
            users.write_text(f'cinder:{secret}\n# nova:{secret}\n')
            with running_app(
                {
                    **self.options,
                    'nova_ext.auth_strategy': 'http_basic',
                    'oslo_middleware.http_basic_auth_user_file': str(users),
                }
            ) as app:
                RecordingAPI.errors = refusals()
                yield app


class Noauth(Keystone):
    """The pipeline without authentication."""

    @contextlib.contextmanager
    def running(self) -> Iterator[Application]:
        with running_app({'nova_ext.auth_strategy': 'noauth'}) as app:

            def call(
                environ: dict[str, Any], start_response: Callable[..., Any]
            ) -> Iterable[bytes]:
                address = environ.pop('HTTP_X_TEST_ADDRESS', '127.0.0.1')
                environ['REMOTE_ADDR'] = address
                return app(environ, start_response)

            yield call
