# SPDX-License-Identifier: Apache-2.0
"""What the servers have to serve: the shipped pipeline, as the gabbi files
want it, with a header that names the server.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import Any

from tests.functional import fixtures

_stack = contextlib.ExitStack()
_app = _stack.enter_context(fixtures.Keystone().running())
_name = os.environ.get('NOVA_EXT_SERVED_BY', '')


def application(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    """See the module."""

    def start(
        status: str, headers: list[tuple[str, str]], *more: Any
    ) -> Callable[[bytes], Any]:
        return start_response(
            status, [*headers, ('X-Served-By', _name)], *more
        )

    return _app(environ, start)
