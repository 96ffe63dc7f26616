# SPDX-License-Identifier: Apache-2.0
"""Which requests are ours: one table, and the mapper made from it.

What an unmatched request gets is decided by who mounts the router: the
stand-alone app answers 404, the filter hands it to the next application.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import routes

from nova_ext.api import wsgi

# NOTE: what Nova lets stand for a project in a path; upper case is a 404.
PROJECT_ID = '[0-9a-f-]+'


@dataclasses.dataclass(frozen=True)
class Route:
    """One method on one path below the version mount."""

    method: str
    path: str
    action: str


ROUTES = (
    Route('POST', '/os-assisted-volume-snapshots', 'create'),
    Route('DELETE', '/os-assisted-volume-snapshots/{id}', 'delete'),
)

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def not_found(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    """The answer to a path, or a method on a path, that is nobody's."""
    fault = wsgi.Fault(404, 'The resource could not be found.')
    return fault(environ, start_response)


class Router:
    """Sends requests of the table to the resource and others elsewhere.

    :param fallback: the application for requests that are not in the table
    """

    def __init__(
        self, resource: wsgi.Resource, fallback: Application = not_found
    ) -> None:
        self._resource = resource
        self._fallback = fallback
        self._mapper = routes.Mapper(register=False)
        self._mapper.redirect = False
        for route in ROUTES:
            for prefix in ('', '/{project_id}'):
                self._mapper.connect(
                    prefix + route.path,
                    action=route.action,
                    requirements={'project_id': PROJECT_ID},
                    conditions={'method': [route.method]},
                )
        self._mapper.create_regs([])

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        match, well_formed = self._match(environ)
        if match is None:
            return self._fallback(environ, start_response)
        if not well_formed:
            return not_found(environ, start_response)
        req = wsgi.Request(environ)
        response = self._resource(
            req,
            action=match.pop('action'),
            project_id=match.pop('project_id', None),
            **match,
        )
        return response(environ, start_response)

    def _match(self, environ: dict[str, Any]) -> tuple[Any, bool]:
        """What the mapper finds for a path, and whether we serve that path.

        What we do not serve must not reach the next application either, if
        it would take it for the same resource, as Nova does.
        """
        path = environ['PATH_INFO']
        try:
            path = path.encode('latin-1').decode()
            # NOTE: the `$` of the patterns matches before a line break at the
            # end, which would then be missing in the id.
            well_formed = not path.endswith('\n')
        except UnicodeError:
            well_formed = False
        return self._mapper.match(path, environ), well_formed
