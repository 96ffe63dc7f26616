# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end of the agent's UNIX socket, and may ask what.

The kernel says who, so that nobody can claim to be another. What a method
does is not known here.
"""

from __future__ import annotations

import array
import contextlib
import grp
import os
import socket
import struct
from collections.abc import Iterable

from nova_ext.agent import wire

_CREDENTIALS = struct.Struct('3i')
# Linux since 4.13; Python has no name for it.
_SO_PEERGROUPS = 59
# What Python lets be asked for; who is in more counts by its first only.
_MAX_GROUPS = 256


class Peers:
    """Root and the agent's own user may ask everything, a group the API's.

    :param group: by name; None for no other
    :param owners: user ids; None for those two
    :ivar group_id: of the group
    :raises: LookupError if there is no such group
    """

    def __init__(
        self, group: str | None, owners: Iterable[int] | None = None
    ) -> None:
        self._owners = {0, os.geteuid()} if owners is None else {*owners}
        self.group_id = grp.getgrnam(group).gr_gid if group else None

    def owns(self, connection: socket.socket) -> bool:
        """Whether the peer is root or our own user."""
        return credentials(connection)[0] in self._owners

    def refusal(self, connection: socket.socket, method: str) -> str:
        """Why the peer may not ask for a method; '' if it may."""
        user, *groups = credentials(connection)
        if user in self._owners:
            return ''
        if self.group_id not in groups:
            return (
                f'user id {user} may not ask it. Its own user and root may, '
                'and who is in [nova_ext_agent] socket_group'
            )
        if method not in wire.METHODS:
            return (
                f'user id {user} may not ask for {method}, which is for '
                'operators: root and its own user'
            )
        return ''


def credentials(connection: socket.socket) -> tuple[int, ...]:
    """The user id, the group id and further groups of the other end."""
    _, user, group = _CREDENTIALS.unpack(
        connection.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
        )
    )
    found = array.array('I')
    with contextlib.suppress(OSError):
        found.frombytes(
            connection.getsockopt(
                socket.SOL_SOCKET,
                _SO_PEERGROUPS,
                _MAX_GROUPS * found.itemsize,
            )
        )
    return user, group, *found
