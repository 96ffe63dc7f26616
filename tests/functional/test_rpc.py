# SPDX-License-Identifier: Apache-2.0
"""The backend ``rpc``, from an HTTP request to an agent's manager and back.

The bus is oslo.messaging's own fake; what a real one does beside that is
tried in the integration tests.
"""

from __future__ import annotations

import functools
import logging
import socketserver
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import webob
from oslo_config import cfg

from nova_ext import bus, exception
from nova_ext.agent import wire
from nova_ext.compute import agents, rpc
from tests.fixtures.app import configured
from tests.fixtures.bus import (
    CREATE_INFO,
    DELETE_INFO,
    HOST,
    SERVER,
    STATUS,
    VOLUME,
    BusAgent,
    Http,
    attach,
    every_error,
    on_bus,
    private_conf,
)
from tests.fixtures.cinder import Attachment, CinderDouble

URL = 'fake://'
VERBS = ['create', 'delete']


@pytest.fixture
def double() -> Iterator[CinderDouble]:
    with CinderDouble() as running:
        attach(running)
        yield running


@pytest.fixture(scope='module')
def running() -> Iterator[BusAgent]:
    with BusAgent(URL) as agent:
        yield agent


@pytest.fixture
def agent(running: BusAgent) -> BusAgent:
    running.manager.calls.clear()
    running.manager.error = None
    return running


@pytest.fixture
def conf(double: CinderDouble) -> Iterator[cfg.ConfigOpts]:
    with tempfile.TemporaryDirectory(prefix='nx-') as directory:
        options = {
            'nova_ext_agent.reply_wait': 0.1,
            'nova_ext_agent.socket': f'{directory}/agent.sock',
        }
        with configured(options) as conf, on_bus(conf, URL, double):
            with mock.patch.object(agents, '_REPEAT_SECONDS', 0.02):
                yield conf


@pytest.fixture
def http(conf: cfg.ConfigOpts, agent: BusAgent) -> Http:
    return Http(conf, 'rpc')


def _said(answer: webob.Response) -> tuple[int, str, str]:
    """Status, name of the fault, message."""
    ((name, fault),) = answer.json.items()
    assert fault['code'] == answer.status_int
    return answer.status_int, name, fault['message']


def _looks(double: CinderDouble) -> int:
    return sum('/volumes/' in request.path for request in double.requests)


@pytest.mark.parametrize('verb', VERBS)
def test_a_request_reaches_the_agent_whole(
    http: Http, agent: BusAgent, verb: str
) -> None:
    begun = time.time()
    answer = getattr(http, verb)()
    assert answer.status_int == {'create': 200, 'delete': 204}[verb]
    ((method, arguments),) = agent.manager.calls
    assert method == f'volume_snapshot_{verb}'
    assert begun + 0.1 <= arguments.pop('not_after') <= time.time() + 0.1
    request_id = answer.headers['x-openstack-request-id']
    assert arguments.pop('request_id') == request_id
    expected: dict[str, Any] = {'volume_id': VOLUME}
    if verb == 'create':
        expected['create_info'] = CREATE_INFO
    else:
        expected |= {'snapshot_id': 's', 'delete_info': DELETE_INFO}
    assert arguments == expected


# The same dispatcher behind both ways that lead to an agent.


class _Lines(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        request = wire.parse_request(wire.decode(self.rfile.readline()))
        dispatcher = self.server.dispatcher  # type: ignore[attr-defined]
        self.wfile.write(wire.encode(dispatcher.reply(*request)))


@pytest.fixture
def local(conf: cfg.ConfigOpts, agent: BusAgent) -> Iterator[Http]:
    path = conf.nova_ext_agent.socket
    with socketserver.UnixStreamServer(path, _Lines) as server:
        server.dispatcher = agent.dispatcher  # type: ignore[attr-defined]
        serve = functools.partial(server.serve_forever, 0.05)
        thread = threading.Thread(target=serve)
        thread.start()
        yield Http(conf, 'libvirt')
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    'error', every_error(), ids=lambda e: type(e).__name__
)
def test_an_error_is_answered_alike_from_near_and_far(
    error: exception.NovaExtException,
    agent: BusAgent,
    http: Http,
    local: Http,
) -> None:
    agent.manager.error = error
    for verb in VERBS:
        far, near = getattr(http, verb)(), getattr(local, verb)()
        assert far.json == near.json
        assert far.status == near.status
        assert str(error) == _said(far)[2]


def test_an_unexpected_error_of_the_agent_reveals_nothing(
    http: Http, agent: BusAgent
) -> None:
    agent.manager.error = RuntimeError('a secret')
    status, name, message = _said(http.create())
    assert (status, name) == (503, 'serviceUnavailable')
    assert 'a secret' not in message and 'its log' in message


# Which host has the volume.


@pytest.mark.parametrize('verb', VERBS)
@pytest.mark.parametrize(
    ('attachments', 'status', 'words'),
    [
        ([], 400, f'No volume Block Device Mapping with id {VOLUME}.'),
        ([('a', HOST), ('b', HOST)], 400, 'is a multi-attach volume'),
        ([('a', HOST), ('b', 'x')], 400, 'is a multi-attach volume'),
        ([('a', HOST), ('a', 'x')], 400, 'is being moved to another host'),
        ([('a', None)], 503, 'the role to which it shows host_name'),
    ],
)
def test_a_volume_that_no_single_host_has_is_refused(
    http: Http,
    agent: BusAgent,
    double: CinderDouble,
    verb: str,
    attachments: list[tuple[str, Any]],
    status: int,
    words: str,
) -> None:
    double.add_volume(VOLUME, *(Attachment(*one) for one in attachments))
    answer = getattr(http, verb)()
    assert answer.status_int == status
    assert words in _said(answer)[2]
    assert agent.manager.calls == []


def test_a_volume_that_a_server_has_twice_is_its_hosts_business(
    http: Http, agent: BusAgent, double: CinderDouble
) -> None:
    both = [Attachment(SERVER, HOST), Attachment(SERVER, HOST)]
    double.add_volume(VOLUME, *both)
    assert http.create().status_int == 200
    assert len(agent.manager.calls) == 1


@pytest.mark.parametrize('volume_id', ['unknown', '..', '../snapshots/s?a=b'])
def test_a_volume_that_cinder_does_not_know_is_nowhere(
    http: Http, volume_id: str
) -> None:
    status, _, message = _said(http.create(volume_id))
    assert status == 400
    assert f'with id {volume_id}. Cinder shows no attachment' in message


@pytest.mark.parametrize('verb', VERBS)
def test_without_cinder_nothing_is_started(
    http: Http, agent: BusAgent, double: CinderDouble, verb: str
) -> None:
    double.stop_listening()
    status, name, message = _said(getattr(http, verb)())
    assert (status, name) == (503, 'serviceUnavailable')
    assert f'Cinder cannot be asked which host has volume {VOLUME}' in message
    assert agent.manager.calls == []


@pytest.mark.parametrize('code', [401, 403, 500, 503])
def test_a_cinder_that_refuses_is_quoted(
    http: Http, agent: BusAgent, double: CinderDouble, code: int
) -> None:
    double.answer_with(code, times=None, method='GET')
    status, _, message = _said(http.create())
    assert status == 503
    assert f'it answered {code}' in message
    assert agent.manager.calls == []


@pytest.mark.parametrize('verb', VERBS)
def test_cinder_is_asked_once_for_a_while(
    http: Http, double: CinderDouble, verb: str
) -> None:
    for _ in range(3):
        assert getattr(http, verb)().status_int < 300
    assert _looks(double) == 1


def test_what_is_not_to_be_remembered_is_not(
    http: Http, double: CinderDouble
) -> None:
    with mock.patch.object(http.backend._hosts, '_seconds', 0.0):
        for _ in range(3):
            http.create()
    assert _looks(double) == 3


@pytest.mark.parametrize('verb', VERBS)
def test_a_volume_that_has_moved_is_looked_for_again(
    http: Http, agent: BusAgent, double: CinderDouble, verb: str
) -> None:
    getattr(http, verb)()
    agent.manager.error = exception.VolumeNotAttached(volume_id=VOLUME)
    attach(double, 'compute-2')
    with BusAgent(URL, 'compute-2') as other:
        assert getattr(http, verb)().status_int < 300
        assert len(other.manager.calls) == 1
        assert getattr(http, verb)().status_int < 300
    assert _looks(double) == 2


@pytest.mark.parametrize('verb', VERBS)
def test_a_volume_that_is_where_it_was_is_not_asked_for_twice(
    http: Http, agent: BusAgent, double: CinderDouble, verb: str
) -> None:
    getattr(http, verb)()
    error = exception.VolumeNotAttached(volume_id=VOLUME)
    agent.manager.error = error
    assert _said(getattr(http, verb)())[2] == str(error)
    assert len(agent.manager.calls) == 2
    assert _looks(double) == 2


def test_hosts_are_not_remembered_without_end(
    http: Http, double: CinderDouble
) -> None:
    with mock.patch.object(rpc, '_REMEMBERED', 3):
        for number in range(10):
            double.add_volume(f'v{number}', Attachment(SERVER, HOST))
            assert http.create(f'v{number}').status_int == 200
            assert len(http.backend._hosts._known) <= 3


def test_health_is_the_bus(http: Http) -> None:
    answer = http.health()
    assert answer.status_int == 200
    assert 'the message bus can be reached' in answer.text


# An answer that is lost.


def test_what_was_begun_at_the_last_moment_is_found_out(
    http: Http, agent: BusAgent
) -> None:
    """The answer is lost until the time is over; then the agent says that it
    had begun, which must not become a 503 that says it did not."""
    ask = http.backend._bus.call
    begun = time.time()

    def lossy(*arguments: Any) -> Any:
        if time.time() < begun + 0.1:
            raise agents.AnswerLost(host=HOST, reason='lost')
        return ask(*arguments)

    with mock.patch.object(http.backend._bus, 'call', autospec=True) as call:
        call.side_effect = lossy
        assert http.create().status_int == 200
    ((_, arguments),) = agent.manager.calls
    assert arguments['not_after'] < time.time()


@pytest.mark.parametrize('verb', VERBS)
def test_what_may_have_been_begun_is_not_refused_for_what_cinder_says_now(
    http: Http, double: CinderDouble, verb: str
) -> None:
    assert getattr(http, verb)().status_int < 300
    double.add_volume(VOLUME)
    lost = agents.AnswerLost(host=HOST, reason='lost')
    with mock.patch.object(http.backend._bus, 'call', side_effect=lost):
        assert _said(getattr(http, verb)())[::2] == (503, str(lost))


@pytest.mark.parametrize('verb', VERBS)
def test_who_asks_again_reaches_whom_he_has_asked(
    http: Http, double: CinderDouble, verb: str
) -> None:
    """Though what Cinder said was to be forgotten at once."""
    asked = []

    def lossy(host: str, *arguments: Any) -> Any:
        asked.append(host)
        attach(double, 'compute-2')
        raise (
            agents.AnswerLost(host=HOST, reason='lost')
            if host == HOST
            else exception.VolumeNotAttached(volume_id=VOLUME)
        )

    with (
        mock.patch.object(http.backend._hosts, '_seconds', 0.0),
        mock.patch.object(http.backend._bus, 'call', side_effect=lossy),
    ):
        status, _, message = _said(getattr(http, verb)())
    assert (status, 'lost' in message) == (503, True)
    assert asked.count(HOST) > 2


# What is no request.


def _send(
    method: str, arguments: dict[str, Any], version: str = '1.0', **more: Any
) -> Any:
    client = bus.messaging.get_rpc_client(
        bus.transport(private_conf(URL)),
        bus.target(version, HOST)(**more),
        timeout=5,
    )
    return client.call({}, method, **arguments)


# What would begin a line of a log, or turn or hide one where it is shown.
FORGED = (
    'a\n2026 INFO all is well',
    'a\r',
    '\x1b[2J',
    '\x85',
    '\u2028',
    '\u202e',
)
ARGUMENTS = {
    'volume_id': VOLUME,
    'create_info': CREATE_INFO,
    'not_after': 1e12,
}


@pytest.mark.parametrize(
    ('method', 'arguments', 'more', 'words'),
    [
        *(
            (method, {}, {}, 'there is no method')
            for method in (
                *wire.JOB_METHODS,
                *('stop', 'reply', 'target', 'control', '_dispatcher'),
                *('__init__', '__class__', 'oslo_rpc_server_ping'),
                *('x' * 10_000, 'a\nb'),
            )
        ),
        ('status', {}, {'version': '2.0'}, "its version is '2.0'"),
        ('status', {}, {'version': '0.9'}, "its version is '0.9'"),
        ('status', {}, {'version': '1.1'}, 'at most 1.0 is understood'),
        ('status', {}, {'namespace': 'other'}, 'it has a namespace'),
        ('status', {'a': 1}, {}, 'status: got an unexpected'),
        ('status', {'context': 1}, {}, 'status: '),
        ('volume_snapshot_create', {}, {}, 'missing a required argument'),
        *(
            ('volume_snapshot_create', {**ARGUMENTS, **wrong}, {}, words)
            for wrong, words in (
                ({'volume_id': 7}, 'a volume_id of another type'),
                ({'volume_id': None}, 'a volume_id of another type'),
                *(
                    ({'volume_id': bad}, 'a volume_id that is not plain text')
                    for bad in ('a\0b', '\ud800', *FORGED)
                ),
                *(
                    ({'request_id': bad}, 'a request_id that is not plain te')
                    for bad in FORGED
                ),
                *(
                    (
                        {'create_info': {**CREATE_INFO, name: FORGED[0]}},
                        f'create_info has a {name} that is not plain text',
                    )
                    for name in ('snapshot_id', 'type', 'new_file')
                ),
                ({'volume_id': 'x' * (2 << 20)}, 'longer than 1048576 bytes'),
                ({'not_after': 'soon'}, 'a not_after of another type'),
                ({'not_after': float('nan')}, 'that is no number'),
                ({'not_after': float('inf')}, 'that is no number'),
                ({'create_info': []}, 'a create_info of another type'),
                ({'create_info': {}}, 'create_info has no snapshot_id'),
                (
                    {'create_info': {**CREATE_INFO, 'new_file': 7}},
                    'create_info has a new_file of another type',
                ),
            )
        ),
    ],
)
def test_what_is_no_request_is_refused_in_one_line(
    agent: BusAgent,
    caplog: pytest.LogCaptureFixture,
    method: str,
    arguments: dict[str, Any],
    more: dict[str, Any],
    words: str,
) -> None:
    with caplog.at_level(logging.INFO):
        caplog.clear()
        reply = _send(method, arguments, **more)
    with pytest.raises(exception.AgentBusy, match='it cannot read it') as told:
        wire.parse_reply(reply)
    assert words in str(told.value)
    assert len(str(told.value)) < 300
    assert agent.manager.calls == []
    (record,) = [one for one in caplog.records if one.levelno > logging.INFO]
    assert record.levelname == 'WARNING' and record.exc_info is None
    assert '\n' not in record.getMessage()


@pytest.mark.parametrize(
    'reply',
    [
        {
            'error': 'AgentBusy',
            'kwargs': {'reason': f'it says{FORGED[0]}\r\x1b[2J'},
        },
        {
            **{'error': 'OfLater', 'kwargs': {}, 'base': 'Failed'},
            'message': f'it says{FORGED[0]}\r\x1b[2J',
        },
    ],
)
def test_an_agent_s_error_is_one_line_of_a_log(reply: dict[str, Any]) -> None:
    with pytest.raises(exception.NovaExtException) as told:
        wire.parse_reply(reply)
    assert str(told.value).isprintable()
    assert 'it saysa 2026' in str(told.value)


def test_the_status_is_all_that_can_be_seen(agent: BusAgent) -> None:
    reply = _send('status', {})
    assert wire.parse_reply(reply) == STATUS
    assert set(reply) == {'result', 'agent', 'understands', 'settled'}


# Another version at the other end.


class Peer:
    """An agent of another version, as oslo.messaging itself makes one.

    :ivar messages: (version, method, arguments) of each request
    :ivar reply: what it answers
    """

    def __init__(self, version: str) -> None:
        self.target = bus.messaging.Target(version=version)
        self.messages: list[tuple[str, str, dict[str, Any]]] = []
        self.reply: dict[str, Any] = {}
        self.server = bus.messaging.get_rpc_server(
            bus.transport(private_conf(URL)),
            bus.target(version, f'peer-{version}'),
            [self],
        )
        dispatch = self.server.dispatcher.dispatch

        def noted(incoming: Any) -> Any:
            message = incoming.message
            self.messages.append(
                (message['version'], message['method'], message['args'])
            )
            return dispatch(incoming)

        self.server.dispatcher.dispatch = noted

    def volume_snapshot_create(
        self, context: Any, volume_id: str, create_info: Any, **more: Any
    ) -> Any:
        return self.reply


@pytest.fixture(scope='module')
def peers() -> Iterator[dict[str, Peer]]:
    peers = {version: Peer(version) for version in ('1.0', '1.1', '2.0')}
    for peer in peers.values():
        peer.server.start()
    yield peers
    for peer in peers.values():
        peer.server.stop()
        peer.server.wait()


Meet = Callable[..., Peer]


@pytest.fixture
def meet(peers: dict[str, Peer], double: CinderDouble) -> Meet:
    """Have the volume on the host of an agent, given its version."""

    def met(version: str, **reply: Any) -> Peer:
        peer = peers[version]
        peer.messages.clear()
        peer.reply = {'result': None, 'understands': version, **reply}
        attach(double, f'peer-{version}')
        return peer

    return met


@pytest.fixture
def next_version() -> Iterator[None]:
    """As if this side were of version 1.1, which has one argument more."""
    call = agents.ComputeAPI._call

    def newer(self: Any, *arguments: Any, **more: Any) -> None:
        call(self, *arguments, priority='high', **more)

    with (
        mock.patch.object(wire, 'VERSION', '1.1'),
        mock.patch.dict(wire.LATER, priority='1.1'),
        mock.patch.object(agents.ComputeAPI, '_call', newer),
    ):
        yield


def test_an_old_agent_is_asked_in_its_own_version(
    http: Http, meet: Meet, next_version: None
) -> None:
    peer = meet('1.0')
    for _ in range(2):
        assert http.create().status_int == 200
    assert [version for version, _, _ in peer.messages] == ['1.0', '1.0']
    assert all('priority' not in args for _, _, args in peer.messages)


def test_a_new_agent_is_asked_for_more_once_it_has_said_so(
    http: Http, meet: Meet, next_version: None
) -> None:
    peer = meet('1.1')
    for _ in range(2):
        assert http.create().status_int == 200
    assert [version for version, _, _ in peer.messages] == ['1.0', '1.1']
    priorities = [args.get('priority') for _, _, args in peer.messages]
    assert priorities == [None, 'high']


def test_more_than_an_agent_understands_is_not_sent(
    http: Http, next_version: None
) -> None:
    """The cap is oslo.messaging's, and holds whatever we would send."""
    client = http.backend._bus._connected()
    prepared = client.prepare(server=HOST, version='1.1', version_cap='1.0')
    assert not prepared.can_send_version()
    with pytest.raises(bus.messaging.RPCVersionCapError):
        prepared.call({}, 'status')


def test_an_old_api_is_served_by_a_new_agent(http: Http, meet: Meet) -> None:
    peer = meet('1.1', progress=5, result={'of': 'the future'})
    for _ in range(2):
        assert http.create().status_int == 200
    assert [version for version, _, _ in peer.messages] == ['1.0', '1.0']


@pytest.mark.parametrize(
    ('base', 'status'),
    [
        ('Invalid', 400),
        ('Forbidden', 403),
        ('NotFound', 404),
        ('Unavailable', 503),
        ('Failed', 500),
        ('NovaExtException', 500),
    ],
)
@pytest.mark.parametrize(
    ('name', 'kwargs'),
    [('OfTheFuture', {'a': 1}), ('VolumeNotAttached', {'another': 'name'})],
)
def test_an_error_of_a_new_agent_keeps_its_answer(
    http: Http,
    meet: Meet,
    base: str,
    status: int,
    name: str,
    kwargs: dict[str, Any],
) -> None:
    error = {'error': name, 'kwargs': kwargs, 'base': base, 'message': '100 %'}
    meet('1.1', **error)
    answer = http.create()
    assert (answer.status_int, _said(answer)[2]) == (status, '100 %')


@pytest.mark.parametrize(
    'reply',
    [
        {'error': 'OfTheFuture'},
        {'error': ['x'], 'base': 'Invalid'},
        {'error': 'SystemExit', 'base': 'BaseException', 'message': 'm'},
        {'error': 'SystemExit', 'base': ['Invalid'], 'message': 'm'},
    ],
)
def test_an_answer_that_cannot_be_read_names_the_host(
    http: Http, meet: Meet, reply: dict[str, Any]
) -> None:
    meet('1.1', **reply)
    status, _, message = _said(http.create())
    assert status == 503
    assert 'The agent of host peer-1.1' in message
    assert 'Are its version and that of the API the same?' in message


def test_an_agent_of_another_major_version_is_named(
    http: Http, meet: Meet
) -> None:
    meet('2.0')
    status, _, message = _said(http.create())
    assert status == 503
    assert 'The agent of host peer-2.0 cannot be reached' in message
