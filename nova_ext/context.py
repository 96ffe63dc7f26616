# SPDX-License-Identifier: Apache-2.0
"""Who asks: the request context and its question to the policy.

How an identity gets here is the business of the filters in api/; what the
rules say is in :mod:`nova_ext.policies`.
"""

from __future__ import annotations

import re
from typing import Any

from oslo_context import context

from nova_ext import enforcer as nova_ext_enforcer
from nova_ext import exception

_REQUEST_ID = re.compile(r'req-[0-9A-Za-z-]{1,64}')


def follow(request_id: Any) -> None:
    """Have what this thread logs and asks for bear the id of a request.

    :param request_id: what came with it; if it is none, a new one is made
    """
    known = isinstance(request_id, str) and _REQUEST_ID.fullmatch(request_id)
    RequestContext(request_id=request_id if known else None)


class RequestContext(context.RequestContext):
    """The identity and the request id that one request carries.

    :param enforcer: the policy that :meth:`can` asks
    :param any_project: True where no identity service ties the caller to a
        project, so that any project id in a URL is the caller's
    :param origin: the context of the service that we are mounted in
    """

    def __init__(
        self,
        *args: Any,
        enforcer: nova_ext_enforcer.Enforcer | None = None,
        any_project: bool = False,
        origin: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._enforcer = enforcer
        self.any_project = any_project
        self.origin = origin

    def can(self, action: str) -> None:
        """Return if the policy allows `action`.

        :raises: :class:`nova_ext.exception.PolicyNotAuthorized`
        """
        # NOTE: asked again each time, since the policy may have changed.
        if self._enforcer is None or not self._enforcer.allows(action, self):
            raise exception.PolicyNotAuthorized(action=action) from None
