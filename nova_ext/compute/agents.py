# SPDX-License-Identifier: Apache-2.0
"""What the backends share whose work an agent does.

How an agent is reached, and which, is said by each of them. Nothing is known
here of jobs.
"""

from __future__ import annotations

import abc
import time
from typing import Any

from nova_ext import context as nova_ext_context
from nova_ext import exception
from nova_ext.agent import wire
from nova_ext.compute import api

_REPEAT_SECONDS = 0.5


class AnswerLost(exception.HostUnavailable):
    """The agent may have the request, and did not answer."""


class ComputeAPI(api.ComputeAPI):
    """Hands each call to an agent and its answer or error back."""

    def volume_snapshot_create(
        self,
        context: nova_ext_context.RequestContext,
        volume_id: str,
        create_info: dict[str, Any],
    ) -> None:
        """See :class:`nova_ext.compute.api.ComputeAPI`."""
        self._call(
            'volume_snapshot_create',
            context,
            volume_id=volume_id,
            create_info=create_info,
        )

    def volume_snapshot_delete(
        self,
        context: nova_ext_context.RequestContext,
        volume_id: str,
        snapshot_id: str,
        delete_info: dict[str, Any],
    ) -> None:
        """See :class:`nova_ext.compute.api.ComputeAPI`."""
        self._call(
            'volume_snapshot_delete',
            context,
            volume_id=volume_id,
            snapshot_id=snapshot_id,
            delete_info=delete_info,
        )

    @abc.abstractmethod
    def ask(
        self, method: str, arguments: dict[str, Any], timeout: float
    ) -> Any:
        """What the agent answers.

        :param timeout: seconds
        :raises: :class:`nova_ext.exception.NovaExtException`
        """

    def _call(
        self,
        method: str,
        context: nova_ext_context.RequestContext,
        **arguments: Any,
    ) -> None:
        """Ask, and if the answer is lost ask again, with the same words.

        An agent that was restarted knows what became of the first, and joins
        it or says so; "no" must not be said of what was done, or is still to
        be.
        """
        wait = self.conf.nova_ext_agent.reply_wait
        # NOTE: the agent starts nothing after `not_after`, so whoever got no
        # answer from us can be sure that nothing starts later (W4).
        arguments['not_after'] = time.time() + wait
        arguments['request_id'] = (
            context.global_request_id or context.request_id
        )
        end = time.monotonic() + wait + wire.CLOCK_ALLOWANCE
        lost = False
        while True:
            # NOTE: what is asked for the last time cannot be begun any more,
            # so that whoever answers it knows the end.
            last = time.monotonic() > end
            try:
                self.ask(method, arguments, timeout=wire.answer_wait(wait))
                return
            except exception.Unavailable as error:
                lost = lost or isinstance(error, AnswerLost)
                if not lost or last:
                    raise
            time.sleep(_REPEAT_SECONDS)
