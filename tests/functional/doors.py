# SPDX-License-Identifier: Apache-2.0
"""The application with each of its pipelines at the same time, asked with an
environ of PEP 3333 itself: for what an HTTP client would not send.

Each answer is checked for the promises. What is sent is not said here.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from oslo_config import cfg

from nova_ext.api import app
from nova_ext.api.router import Application
from tests.functional import fixtures, promises

_PASSWORD = base64.b64encode(b'cinder:secret').decode()

# Pipeline → the headers, as an environ has them, that let one pass.
PASSED = {
    'keystone': {'HTTP_X_AUTH_TOKEN': 'token-of-a-service'},
    'noauth': {},
    'http_basic': {'HTTP_AUTHORIZATION': f'Basic {_PASSWORD}'},
}
PIPELINES = tuple(PASSED)


class Answer(NamedTuple):
    """What was answered; header names as they were sent."""

    status: int
    headers: dict[str, str]
    body: bytes


class Door(NamedTuple):
    """A way in: an application, and headers that let one pass."""

    app: Application
    passed: dict[str, str]

    def ask(self, environ: dict[str, Any]) -> Answer:
        """Send a request, with what lets it pass unless it has its own."""
        method, path = environ['REQUEST_METHOD'], environ['PATH_INFO']
        started: list[Any] = []
        chunks = self.app(
            {**self.passed, **environ}, lambda *start: started.append(start)
        )
        try:
            body = b''.join(chunks)
        finally:
            if hasattr(chunks, 'close'):
                chunks.close()
        status, headers = int(started[-1][0].split()[0]), started[-1][1]
        promises.check_answer(method, path, status, headers, body)
        return Answer(status, dict(headers), body)


@contextlib.contextmanager
def opened() -> Iterator[dict[str, Door]]:
    """The doors by the names of their pipelines."""
    with fixtures.Tokens(), fixtures.HttpBasic().running():
        doors = {}
        for name, passed in PASSED.items():
            cfg.CONF.set_override('auth_strategy', name, 'nova_ext')
            doors[name] = Door(app.load(cfg.CONF), passed)
        yield doors
