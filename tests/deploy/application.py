# SPDX-License-Identifier: Apache-2.0
"""What the servers have to serve: the shipped pipeline, as the gabbi files
want it, with headers that name the server, and the path that it was asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any

from tests.functional import fixtures

FORWARDED = (
    'FORWARDED',
    *(f'X_FORWARDED_{what}' for what in ('FOR', 'HOST', 'PROTO')),
)
_stack = contextlib.ExitStack()
_app = _stack.enter_context(fixtures.Keystone().running())
_name = os.environ.get('NOVA_EXT_SERVED_BY', '')


def application(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    """See the module."""

    path = urllib.parse.quote(environ['PATH_INFO'], encoding='latin-1')
    said = {name: environ.get(f'HTTP_{name}') for name in FORWARDED}

    def start(
        status: str, headers: list[tuple[str, str]], *more: Any
    ) -> Callable[[bytes], Any]:
        return start_response(
            status,
            [
                *headers,
                ('X-Served-By', _name),
                ('X-Served-Path', path),
                ('X-Served-Forwarded', json.dumps(said)),
            ],
            *more,
        )

    return _app(environ, start)
