# SPDX-License-Identifier: Apache-2.0
"""Requests and answers: parsing, version headers, faults, one status table.

The order of the checks is Nova's; the API reference has it in conventions.inc.
What a resource does is in its controller; nothing of libvirt, messaging or
Cinder is known here.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Any, Protocol

import microversion_parse
import webob
import webob.exc

from nova_ext import exception

LOG = logging.getLogger(__name__)

SERVICE_TYPE = 'compute'
VERSION_HEADERS = ('OpenStack-API-Version', 'X-OpenStack-Nova-API-Version')
LEGACY_V2 = 'openstack.legacy_v2'
CONTEXT = 'nova_ext.context'

JSON = 'application/json'
VENDOR_JSON = 'application/vnd.openstack.compute+json'

FAULT_NAMES = {
    400: 'badRequest',
    401: 'unauthorized',
    403: 'forbidden',
    404: 'itemNotFound',
    405: 'badMethod',
    409: 'conflictingRequest',
    413: 'overLimit',
    415: 'badMediaType',
    429: 'overLimit',
    501: 'notImplemented',
    503: 'serviceUnavailable',
}

# NOTE: the one table from our errors to HTTP, first match wins. 409 is left
# out on purpose: it would need a microversion of its own (LP 1657585).
STATUSES: tuple[tuple[type[exception.NovaExtException], int], ...] = (
    (exception.Invalid, 400),
    (exception.Forbidden, 403),
    (exception.NotFound, 404),
    (exception.Unavailable, 503),
    (exception.Failed, 500),
)

UNEXPECTED = (
    'Unexpected API Error. Please contact the administrator, with the '
    'request id of this answer.'
)

_VERSION_KEYS = {
    name: f'HTTP_{name.upper().replace("-", "_")}' for name in VERSION_HEADERS
}
_VERSION = re.compile(r'[1-9][0-9]*\.([1-9][0-9]*|0)')


class Fault(webob.Response):
    """An error answer in the envelope of the Compute API.

    :param status: HTTP status code
    :param message: what is wrong and what mends it, for the caller
    :ivar kind: of the error of ours that it tells of, if there is one
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: type[exception.NovaExtException] | None = None,
    ) -> None:
        # NOTE: the error itself leads back here by its traceback: a cycle.
        self.kind = kind
        name = FAULT_NAMES.get(status, 'computeFault')
        body = json.dumps({name: {'code': status, 'message': message}})
        # NOTE: webob leaves the charset of JSON out, and takes its time to
        # find out what else there is.
        super().__init__(
            **_whole(status, body.encode(), f'{JSON}; charset=UTF-8')
        )


def _whole(status: int, body: bytes, content_type: str) -> dict[str, Any]:
    """What a response of webob is made of."""
    return {
        'status': status,
        'headerlist': [
            ('Content-Type', content_type),
            ('Content-Length', str(len(body))),
        ],
        'app_iter': [body],
    }


class HTTPFault(Exception):
    """Raised by the checks of this module; ends a request with a Fault."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def status_of(error: exception.NovaExtException) -> int:
    """The HTTP status for one of our errors."""
    for base, status in STATUSES:
        if isinstance(error, base):
            return status
    return 500


class Microversions:
    """The range of microversions that is answered.

    :param maximum: the highest, as text; the lowest is 2.1
    """

    minimum = (2, 1)

    def __init__(self, maximum: str) -> None:
        self.maximum = parse_version(maximum)

    def requested(self, environ: Mapping[str, Any]) -> tuple[int, int]:
        """The version that a request asks for, in the range or not.

        :raises: :class:`HTTPFault` 400 for text that is no version
        """
        # NOTE: it would copy all headers, of which most requests have these
        # two not.
        mine = {
            name: environ[key]
            for name, key in _VERSION_KEYS.items()
            if key in environ
        }
        text = mine and microversion_parse.get_version(
            mine, SERVICE_TYPE, VERSION_HEADERS[1:]
        )
        if not mine or text is None:
            return self.minimum
        return self.maximum if text == 'latest' else parse_version(text)

    def check(self, version: tuple[int, int]) -> None:
        """:raises: :class:`HTTPFault` 406 for a version out of the range"""
        if not self.minimum <= version <= self.maximum:
            raise HTTPFault(
                406,
                f'Version {_dotted(version)} is not supported by the API. '
                f'Minimum is {_dotted(self.minimum)} and maximum is '
                f'{_dotted(self.maximum)}.',
            )


def parse_version(text: str) -> tuple[int, int]:
    """'2.75' as (2, 75). :raises: :class:`HTTPFault` 400"""
    # NOTE: a bound on the length, since int() refuses 4300 digits and more.
    if len(text) > 20 or not _VERSION.fullmatch(text):
        raise HTTPFault(
            400,
            f'API Version String {text[:40]} is of invalid format. Must be '
            'of format MajorNum.MinorNum.',
        )
    major, minor = text.split('.')
    return int(major), int(minor)


def _dotted(version: tuple[int, int]) -> str:
    return f'{version[0]}.{version[1]}'


class Request(webob.Request):
    """A request to a resource; its environ is a webob one."""

    @property
    def legacy_v2(self) -> bool:
        """Whether it came by the /v2 mount, which has no microversions."""
        return bool(self.environ.get(LEGACY_V2))

    def check_content_type(self) -> None:
        """:raises: :class:`HTTPFault` 415"""
        # NOTE: text/plain counts as none, as for Nova.
        if self.environ.get('CONTENT_TYPE') == JSON:
            return
        if self.content_type not in ('', 'text/plain', JSON, VENDOR_JSON):
            raise HTTPFault(415, 'Unsupported Content-Type')

    def json_or_none(self) -> Any:
        """The decoded body; None if it is empty.

        :raises: :class:`HTTPFault` 400
        """
        try:
            body = self.body
        except OSError:
            # The connection broke, or its framing is wrong.
            raise HTTPFault(400, 'Malformed request body') from None
        except webob.exc.HTTPRequestEntityTooLarge as error:
            # The size limit, met only now in a body of unknown length.
            raise HTTPFault(413, error.explanation) from None
        if not body:
            return None
        try:
            # NOTE: decoded here, since loads() of bytes takes UTF-16, too.
            return json.loads(body.decode())
        except (ValueError, RecursionError):
            raise HTTPFault(400, 'Malformed request body') from None

    def query(self) -> dict[str, list[str]]:
        """The query string. :raises: :class:`HTTPFault` 400"""
        try:
            return self.GET.dict_of_lists()
        except UnicodeDecodeError:
            raise HTTPFault(400, 'Query string is not UTF-8 encoded') from None

    def best_content_type(self) -> str:
        """The content type of the answer; never a reason to refuse."""
        if self.environ.get('HTTP_ACCEPT', '*/*') in ('*/*', JSON):
            return JSON
        offers = self.accept.acceptable_offers([JSON, VENDOR_JSON])
        return offers[0][0] if offers else JSON


class Controller(Protocol):
    """What a resource calls: one method per action."""

    def create(
        self, req: Request, context: Any, body: Any
    ) -> dict[str, Any]: ...

    def delete(
        self, req: Request, context: Any, version: tuple[int, int], id: str
    ) -> None: ...


class Resource:
    """The way of a matched request to its controller and back."""

    def __init__(
        self, controller: Controller, microversions: Microversions
    ) -> None:
        self._controller = controller
        self._microversions = microversions

    def __call__(
        self, req: Request, action: str, project_id: str | None, **path: str
    ) -> webob.Response:
        version = None
        try:
            if not req.legacy_v2:
                version = self._microversions.requested(req.environ)
                self._microversions.check(version)
            response = self._call(req, action, project_id, version, path)
        except HTTPFault as fault:
            response = Fault(fault.status, str(fault))
        except exception.NovaExtException as error:
            response = self._refusal(error)
        except Exception:
            LOG.exception('Unexpected error in %s', action)
            response = Fault(500, UNEXPECTED)
        if version:
            _add_version_headers(response, version)
        return response

    def _call(
        self,
        req: Request,
        action: str,
        project_id: str | None,
        version: tuple[int, int] | None,
        path: dict[str, str],
    ) -> webob.Response:
        req.check_content_type()
        body = req.json_or_none() if action == 'create' else None
        context = req.environ.get(CONTEXT)
        if context is None:
            raise HTTPFault(
                500,
                'No filter before this one in the pipeline says who asks; '
                'egg:nova_ext#context belongs before it.',
            )
        if project_id and not context.any_project:
            if project_id != context.project_id:
                raise HTTPFault(
                    400,
                    "Malformed request URL: URL's project_id "
                    f"'{project_id}' doesn't match Context's project_id "
                    f"'{context.project_id}'",
                )
        if action == 'create':
            answer = self._controller.create(req, context, body)
            return webob.Response(
                **_whole(
                    200, json.dumps(answer).encode(), req.best_content_type()
                )
            )
        self._controller.delete(
            req, context, version or self._microversions.minimum, **path
        )
        # NOTE: Nova's 204 has these two headers, so clients may read them.
        return webob.Response(**_whole(204, b'', req.best_content_type()))

    def _refusal(self, error: exception.NovaExtException) -> Fault:
        status = status_of(error)
        if status >= 500:
            LOG.warning('Answered %d: %s', status, error)
        return Fault(status, str(error), type(error))


def _add_version_headers(
    response: webob.Response, version: tuple[int, int]
) -> None:
    standard, legacy = VERSION_HEADERS
    # NOTE: one Vary, because the CORS filter keeps only one (W31).
    response.headerlist += [
        (standard, f'{SERVICE_TYPE} {_dotted(version)}'),
        (legacy, _dotted(version)),
        ('Vary', ', '.join(VERSION_HEADERS)),
    ]
