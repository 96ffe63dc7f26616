# SPDX-License-Identifier: Apache-2.0
"""A request that came in, by whichever way: its method, and the reply to it.

No socket and no message bus is here, and what a method does is the manager's
business.
"""

from __future__ import annotations

import inspect
import logging
import uuid
from typing import TYPE_CHECKING, Any

from nova_ext import context, exception
from nova_ext.agent import wire

if TYPE_CHECKING:
    from nova_ext.agent import manager as agent_manager

LOG = logging.getLogger(__name__)


class Dispatcher:
    """Calls the manager, and puts what comes of it into a reply.

    :ivar identity: of this process, which each reply has, too
    """

    def __init__(self, manager: agent_manager.Manager) -> None:
        self._manager = manager
        self.identity = str(uuid.uuid4())

    def reply(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The reply to a request; nothing is raised.

        :param name: one of those in :mod:`nova_ext.agent.wire`
        """
        # Lines of the log have it.
        context.follow(arguments.get('request_id'))
        try:
            return self._signed(wire.result(self._call(name, arguments)))
        except wire.Malformed as error:
            return self.refuse(error, name)
        except exception.NovaExtException as error:
            LOG.info('Refused: %s', error)
            return self.error(error, name)
        except Exception:
            LOG.exception('Unexpected error')
            reason = 'an unexpected error, which its log shows'
            return self.error(exception.AgentBusy(reason=reason), name)

    def refuse(self, error: wire.Malformed, name: str = '') -> dict[str, Any]:
        """The reply to what is no request."""
        LOG.warning('Refused a malformed message: %s', error)
        reason = f'it cannot read it, {error}'
        return self.error(exception.AgentBusy(reason=reason), name)

    def error(
        self, error: exception.NovaExtException, name: str
    ) -> dict[str, Any]:
        """The reply that hands an error back, whoever found it.

        :param name: of the method, '' where there is none
        """
        return self._signed(wire.error(error))

    def _signed(self, reply: dict[str, Any]) -> dict[str, Any]:
        return {
            **reply,
            'agent': self.identity,
            'understands': wire.VERSION,
        }

    def _call(self, name: str, arguments: dict[str, Any]) -> Any:
        mine = name in wire.METHODS
        method = getattr(
            self._manager if mine else self._manager.control, name
        )
        try:
            inspect.signature(method).bind(**arguments)
        except TypeError as error:
            raise wire.Malformed(f'{name}: {error}') from error
        return method(**arguments)
