# SPDX-License-Identifier: Apache-2.0
"""The agent's end of the message bus, where no message is under way."""

from __future__ import annotations

import logging
import sys
import threading
from unittest import mock

from nova_ext import bus
from nova_ext.agent import rpc
from tests.fixtures.bus import BusAgent


def test_who_is_stopped_while_it_waits_for_a_broker_does_not_listen() -> None:
    waiting, there, ended = (threading.Event() for _ in range(3))

    def start(server: object) -> None:
        waiting.set()
        assert there.wait(20)

    kind = bus.messaging.rpc.server.RPCServer
    with (
        mock.patch.object(kind, 'start', start),
        mock.patch.object(kind, 'stop', lambda server: ended.set()),
    ):
        server = BusAgent('fake://', 'waits').server
        server.start()
        assert waiting.wait(20)
        server.stop()
        assert not ended.is_set()
        there.set()
        assert ended.wait(20)
    assert server._listening is None


def test_what_the_driver_cannot_read_is_one_line() -> None:
    try:
        raise ValueError('100 %s of it')
    except ValueError:
        found = sys.exc_info()
    for arguments, text in (((), 'it ...'), (('it',), '%s ...')):
        record = logging.LogRecord(
            *('driver', logging.ERROR, 'path', 1),
            *(f'Failed to process {text}', arguments, found),
        )
        assert rpc._in_one_line(record)
        words = 'Failed to process it ... 100 %s of it'
        assert logging.Formatter().format(record) == words
