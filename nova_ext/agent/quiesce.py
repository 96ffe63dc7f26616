# SPDX-License-Identifier: Apache-2.0
"""Freezing a guest's file systems for the moment of a switch.

Who freezes also thaws, whatever happens in between; after a process that died
the next look does. Who finds the guest frozen already (Nova does that for an
image, W27) leaves it so.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nova_ext import exception
from nova_ext.virt import chain

if TYPE_CHECKING:
    from nova_ext.virt import guest

LOG = logging.getLogger(__name__)

AUTO, REQUIRED, NEVER = 'auto', 'required', 'never'


def check(mode: str, domain: chain.Domain, stored: bool) -> None:
    """Refuse what `mode` forbids, before anything is started.

    :param stored: the guest is off, so its file systems are at rest
    :raises: :class:`nova_ext.exception.GuestAgentRequired`
    """
    if mode != REQUIRED or stored or domain.agent == 'connected':
        return
    raise exception.GuestAgentRequired(
        instance_id=domain.uuid,
        reason=(
            'it has no channel for a guest agent'
            if domain.agent is None
            else 'its guest agent is not connected'
        ),
    )


@contextlib.contextmanager
def quiesced(
    frozen: guest.Guest, domain: chain.Domain, mode: str, limit: float
) -> Iterator[None]:
    """Freeze, and thaw at the end, or after `limit` seconds if sooner.

    :raises: :class:`nova_ext.exception.GuestAgentRequired`
    """
    if not _is_asked(domain, mode):
        yield
        return
    try:
        frozen.freeze(_whole(limit))
    except exception.HypervisorError as error:
        if 'frozen' in str(error):
            LOG.info('Instance %s is frozen already', frozen.uuid)
            yield
            return
        # NOTE: a freeze that was not answered may still happen.
        _thaw(frozen, limit)
        if mode == REQUIRED:
            raise exception.GuestAgentRequired(
                instance_id=frozen.uuid, reason=str(error)
            ) from None
        LOG.info(
            'Instance %s is not frozen for its snapshot: %s',
            frozen.uuid,
            error,
        )
        yield
        return
    watchdog = threading.Timer(limit, _thaw, [frozen, limit])
    watchdog.daemon = True
    try:
        watchdog.start()
        yield
    finally:
        watchdog.cancel()
        _thaw(frozen, limit)


def thaw(
    frozen: guest.Guest, domain: chain.Domain, mode: str, limit: float
) -> None:
    """Thaw what another process may have left frozen.

    A failure to is only logged.
    """
    if _is_asked(domain, mode):
        _thaw(frozen, limit)


def _is_asked(domain: chain.Domain, mode: str) -> bool:
    return mode != NEVER and domain.agent == 'connected'


def _whole(limit: float) -> int:
    return max(1, int(limit))


def _thaw(frozen: guest.Guest, limit: float) -> None:
    try:
        frozen.thaw(_whole(limit))
    except exception.NovaExtException as error:
        LOG.warning('Instance %s could not be thawed: %s', frozen.uuid, error)
