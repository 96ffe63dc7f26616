# SPDX-License-Identifier: Apache-2.0
"""What a real RabbitMQ does with the messages between API and agents.

The agent's manager does as a test says; real guests are in test_rpc.py.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import kombu
import pytest

from nova_ext import context, exception
from nova_ext.agent import rpc as agent_rpc
from nova_ext.compute import agents, rpc
from tests.fixtures.app import configured
from tests.fixtures.bus import (
    CREATE_INFO,
    HOST,
    STATUS,
    VOLUME,
    BusAgent,
    attach,
    on_bus,
    private_conf,
)
from tests.fixtures.cinder import CinderDouble
from tests.fixtures.rabbitmq import RabbitMQ
from tests.fixtures.servers import free_port

pytest_plugins = ['tests.fixtures.rabbitmq']

_SILENCE = 2


def _bus(url: str) -> rpc._Bus:
    return rpc._Bus(private_conf(url, nova_ext_rpc__silence=_SILENCE))


def _create(bus: rpc._Bus, host: str = HOST, timeout: float = 20.0) -> Any:
    arguments = {
        'volume_id': VOLUME,
        'create_info': CREATE_INFO,
        'not_after': time.time() + 60,
    }
    return bus.call(host, 'volume_snapshot_create', arguments, timeout)


@pytest.fixture(scope='module')
def running(rabbitmq: RabbitMQ) -> Iterator[BusAgent]:
    with BusAgent(rabbitmq.url) as agent:
        yield agent


@pytest.fixture
def agent(running: BusAgent) -> BusAgent:
    running.manager.calls.clear()
    running.manager.error = None
    running.manager.work = lambda: None
    return running


@pytest.fixture(scope='module')
def bus(rabbitmq: RabbitMQ) -> Iterator[rpc._Bus]:
    bus = _bus(rabbitmq.url)
    yield bus
    bus._connected().transport.cleanup()


def test_a_call_is_answered(agent: BusAgent, bus: rpc._Bus) -> None:
    assert _create(bus) is None
    assert bus.call(HOST, 'status', {}, 5) == STATUS
    assert len(agent.manager.calls) == 1


@pytest.mark.parametrize('host', ['unknown', 'x' * 300, ' ', 'a.b', '#'])
def test_a_host_that_never_listened_is_said_to_be_at_once(
    agent: BusAgent, bus: rpc._Bus, host: str
) -> None:
    bus.check()
    begun = time.monotonic()
    with pytest.raises(exception.HostUnavailable) as refused:
        _create(bus, host)
    assert f'The agent of host {host} cannot be reached' in str(refused.value)
    assert time.monotonic() - begun < _SILENCE
    assert _create(bus) is None


def test_an_agent_that_works_is_waited_for(
    agent: BusAgent, bus: rpc._Bus, rabbitmq: RabbitMQ
) -> None:
    """It is heard of, and its message is not delivered to anybody else."""
    unacknowledged = []

    def work() -> None:
        time.sleep(2.5 * _SILENCE)
        unacknowledged.append(
            rabbitmq.control(
                *('-q', 'list_queues', '--no-table-headers', '--'),
                *('name', 'messages_unacknowledged'),
            )
        )

    agent.manager.work = work
    assert _create(bus) is None
    counts = dict(line.split('\t') for line in unacknowledged[0].splitlines())
    assert counts[f'nova_ext_agent.{HOST}'] == '0'


def test_queues_of_agents_are_quorum_queues(
    agent: BusAgent, bus: rpc._Bus, rabbitmq: RabbitMQ
) -> None:
    bus.call(HOST, 'status', {}, 5)
    lines = rabbitmq.control(
        *('-q', 'list_queues', '--no-table-headers', 'name', 'type')
    ).splitlines()
    types = dict(line.split('\t') for line in lines)
    assert types['nova_ext_agent'] == 'quorum'
    assert types[f'nova_ext_agent.{HOST}'] == 'quorum'
    # Those of one process each end with it.
    assert {types[name] for name in types if name.startswith('reply_')} == {
        'classic'
    }


def test_a_message_for_a_silent_agent_expires(
    rabbitmq: RabbitMQ, bus: rpc._Bus
) -> None:
    """Though its queue outlives it, and whatever its manager would say."""
    with BusAgent(rabbitmq.url, 'away'):
        assert _create(bus, 'away') is None
    begun = time.monotonic()
    with pytest.raises(agents.AnswerLost, match='agent of host away') as lost:
        _create(bus, 'away', timeout=_SILENCE)
    assert _SILENCE <= time.monotonic() - begun < 2 * _SILENCE
    assert f'silent for {_SILENCE} s' in str(lost.value)
    time.sleep(1)
    with BusAgent(rabbitmq.url, 'away') as back:
        assert bus.call('away', 'status', {}, 5) == STATUS
        assert back.manager.calls == []


def test_a_second_agent_of_a_name_is_seen(
    agent: BusAgent, rabbitmq: RabbitMQ
) -> None:
    other = BusAgent(rabbitmq.url)
    other.server.start()
    try:
        _wait(lambda: other.doubled, timeout=30)
    finally:
        other.server.stop()
    assert f'as host {HOST}' in other.doubled[0]
    assert agent.doubled == []


def test_one_that_was_not_heard_is_seen_later(rabbitmq: RabbitMQ) -> None:
    with (
        mock.patch.object(agent_rpc, '_OTHER_TIMES', 0),
        mock.patch.object(agent_rpc, '_WATCH_SECONDS', 0.3),
        mock.patch.object(agent_rpc.Server, '_is_taken', return_value=False),
        mock.patch.object(
            agent_rpc.Server,
            '_is_doubled',
            autospec=True,
            side_effect=agent_rpc.Server._is_doubled,
        ) as listened,
        BusAgent(rabbitmq.url, 'twice') as one,
        BusAgent(rabbitmq.url, 'twice') as other,
    ):
        _wait(lambda: one.doubled or other.doubled, timeout=30)
        # One of them stays, however often both listen for the other.
        times = listened.call_count
        _wait(lambda: listened.call_count >= times + 4, timeout=30)
        assert sorted(map(bool, (one.doubled, other.doubled))) == [False, True]


# What is on the bus.


def test_no_token_is_on_the_bus(agent: BusAgent, rabbitmq: RabbitMQ) -> None:
    """All of the message, as whoever may read the queue sees it."""
    with kombu.Connection(_amqp(rabbitmq.url)) as spy:
        channel = spy.channel()
        exchange = kombu.Exchange('nova_ext', 'topic', passive=True)
        queue = kombu.Queue(
            'spy', exchange, '#', channel=channel, auto_delete=True
        )
        queue.declare()
        who = context.RequestContext(
            user_id='cinder',
            auth_token='gAAAAABsecret',
            service_token='gAAAAABsecret',
            request_id='req-1',
        )
        with CinderDouble() as double, configured({}) as conf:
            attach(double)
            with on_bus(conf, rabbitmq.url, double):
                backend = rpc.ComputeAPI(conf)
                backend.volume_snapshot_create(who, VOLUME, CREATE_INFO)
        messages = []
        while (message := queue.get(no_ack=True)) is not None:
            messages.append(message.body)
    (message,) = [one for one in messages if 'not_after' in one]
    assert 'secret' not in message and 'cinder' not in message
    content = json.loads(json.loads(message)['oslo.message'])
    library = {'_msg_id', '_reply_q', '_timeout', '_unique_id'}
    assert set(content) - library == {'method', 'args', 'version'}
    assert set(content['args']) == {
        *('volume_id', 'create_info', 'not_after', 'request_id'),
    }


def _amqp(url: str) -> str:
    return url.replace('rabbit:', 'amqp:')


def _envelope(**content: Any) -> dict[str, str]:
    return {'oslo.version': '2.0', 'oslo.message': json.dumps(content)}


_JSON = {'content_type': 'application/json', 'content_encoding': 'utf-8'}
_PICKLE = {
    'content_type': 'application/x-python-serialize',
    'content_encoding': 'binary',
}


@pytest.mark.parametrize(
    ('body', 'properties'),
    [
        (b'junk', _JSON),
        (b'', _JSON),
        (b'\xff\xfe', _JSON),
        (b'[' * 100_000, _JSON),
        (b'{}', {**_JSON, 'content_encoding': 'no-such'}),
        (b'{}', {**_JSON, 'headers': {'compression': 'no-such'}}),
        (b'cos\nsystem\n(S"false"\ntR.', _PICKLE),
        ({'oslo.version': '9.0', 'oslo.message': '{}'}, {}),
        ({'oslo.version': '2.0', 'oslo.message': '"x"'}, {}),
        ({}, {}),
        ([], {}),
        (_envelope(), {}),
        (_envelope(method=['status']), {}),
        (_envelope(method='status', args=7, version='1.0'), {}),
        (_envelope(method='status', args={}, version=1.0), {}),
        (_envelope(method='job_list', args={}, version='1.0'), {}),
        *(
            (
                _envelope(
                    method='status', args={}, version='1.0', _timeout=wrong
                ),
                {},
            )
            for wrong in ([], -1, 1 << 80)
        ),
        (_envelope(_unique_id={}, _msg_id=[], _reply_q=[], _timeout='x'), {}),
    ],
)
def test_what_is_no_message_is_refused_in_one_line(
    rabbitmq: RabbitMQ,
    agent: BusAgent,
    bus: rpc._Bus,
    caplog: pytest.LogCaptureFixture,
    body: Any,
    properties: dict[str, Any],
) -> None:
    bus.call(HOST, 'status', {}, 5)
    with caplog.at_level(logging.INFO):
        caplog.clear()
        with kombu.Connection(_amqp(rabbitmq.url)) as sender:
            kombu.Producer(sender.channel()).publish(
                body, routing_key=f'nova_ext_agent.{HOST}', **properties
            )
        # In the order of the queue.
        assert bus.call(HOST, 'status', {}, 5) == STATUS
        _wait(lambda: _warnings(caplog))
    (record,) = _warnings(caplog)
    assert record.exc_info is None
    assert len(record.getMessage().splitlines()) == 1
    assert agent.manager.calls == []
    _wait(lambda: not _heartbeats())


def _heartbeats() -> list[threading.Thread]:
    """Threads that tell a caller that its request is being worked on."""
    return [one for one in threading.enumerate() if 'watchdog' in one.name]


def _warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [one for one in caplog.records if one.levelno > logging.INFO]


def _wait(condition: Callable[[], object], timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# A broker that cannot be reached.


def test_without_a_broker_the_first_request_ends_soon(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """oslo.messaging would wait without end for the queue of the replies."""
    nowhere = f'rabbit://user:hidden@127.0.0.1:{free_port()}/'
    bus = _bus(nowhere)
    for ask in (lambda: _create(bus), bus.check):
        begun = time.monotonic()
        with pytest.raises(exception.ServiceUnavailable) as refused:
            ask()
        assert time.monotonic() - begun < 10
        assert 'the message bus cannot be used' in str(refused.value)
        assert 'hidden' not in str(refused.value) + caplog.text
    assert 'Connection refused' in caplog.text


def test_a_broker_that_is_back_is_used(
    rabbitmq: RabbitMQ, agent: BusAgent
) -> None:
    bus = _bus(rabbitmq.url)
    with mock.patch.object(rpc.bus, 'transport', autospec=True) as transport:
        conf = private_conf(f'rabbit://127.0.0.1:{free_port()}/')
        transport.return_value = rpc.bus.messaging.get_rpc_transport(conf)
        with pytest.raises(exception.ServiceUnavailable):
            _create(bus)
    bus._client = None
    assert _create(bus) is None
