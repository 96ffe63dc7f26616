# SPDX-License-Identifier: Apache-2.0
"""Who may use the bus: TLS, users and permissions of a real RabbitMQ.

The options are oslo.messaging's own; those tried here are those that
api-ref/source/fleet.rst shows.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from nova_ext import exception
from nova_ext.compute import rpc
from tests.fixtures.bus import (
    CREATE_INFO,
    HOST,
    STATUS,
    VOLUME,
    BusAgent,
    private_conf,
)
from tests.fixtures.certificates import Authority
from tests.fixtures.host import short_directory
from tests.fixtures.rabbitmq import RabbitMQ
from tests.fixtures.servers import free_port

DOCUMENT = pathlib.Path(__file__).parents[2] / 'api-ref/source/fleet.rst'
PASSWORD = 'hidden-secret'
_TLS = """\
listeners.ssl.1 = 127.0.0.1:{port}
ssl_options.cacertfile = {ca}
ssl_options.certfile = {certificate}
ssl_options.keyfile = {key}
"""


@dataclasses.dataclass
class Broker:
    """A RabbitMQ with TLS, set up as the document says."""

    rabbitmq: RabbitMQ
    port: int
    authority: Authority

    def url(self, user: str, password: str = PASSWORD, vhost: str = '') -> str:
        vhost = vhost or 'nova_ext'
        return f'rabbit://{user}:{password}@127.0.0.1:{self.port}/{vhost}'

    def options(self, ca: pathlib.Path | None = None) -> dict[str, Any]:
        return {
            'oslo_messaging_rabbit__ssl': True,
            'oslo_messaging_rabbit__ssl_ca_file': str(
                ca or self.authority.certificate
            ),
        }


def _documented(command: str) -> list[list[str]]:
    """The words of each such rabbitmqctl command of the document."""
    pattern = rf'rabbitmqctl ({command}(?:.*\\\n)*.*)\n'
    lines = re.findall(pattern, DOCUMENT.read_text())
    assert lines
    return [
        [word.strip("'") for word in line.replace('\\\n', ' ').split()]
        for line in lines
    ]


@pytest.fixture(scope='module')
def broker() -> Iterator[Broker]:
    with short_directory() as directory:
        authority = Authority(directory / 'authority')
        certificate, key = authority.issue('127.0.0.1')
        port = free_port()
        settings = _TLS.format(
            port=port,
            ca=authority.certificate,
            certificate=certificate,
            key=key,
        )
        with RabbitMQ(directory, settings) as rabbitmq:
            for command in ('add_vhost', 'add_user', 'set_permissions'):
                for words in _documented(command):
                    rabbitmq.control(
                        *(PASSWORD if w == 'PASSWORD' else w for w in words)
                    )
            rabbitmq.control('add_user', 'stranger', PASSWORD)
            yield Broker(rabbitmq, port, authority)


def _bus(url: str, **options: Any) -> rpc._Bus:
    return rpc._Bus(private_conf(url, nova_ext_rpc__silence=2, **options))


def _create(bus: rpc._Bus, host: str = HOST) -> Any:
    arguments = {
        'volume_id': VOLUME,
        'create_info': CREATE_INFO,
        'not_after': time.time() + 60,
    }
    return bus.call(host, 'volume_snapshot_create', arguments, 20.0)


def test_the_documented_permissions_are_enough(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    options = broker.options()
    bus = _bus(broker.url('nova_ext_api'), **options)
    with (
        caplog.at_level(logging.ERROR),
        BusAgent(broker.url('nova_ext_agent'), **options) as agent,
        BusAgent(
            broker.url('nova_ext_agent'), 'compute-2', **options
        ) as other,
    ):
        assert _create(bus) is None
        assert bus.call('compute-2', 'status', {}, 5) == STATUS
        assert len(agent.manager.calls) == 1
        assert other.manager.calls == []
        with pytest.raises(exception.HostUnavailable, match='never listened'):
            _create(bus, 'unknown')
        bus._connected().transport.cleanup()
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.parametrize(
    ('user', 'password', 'vhost', 'logged'),
    [
        ('nova_ext_api', 'wrong-secret', '', 'ACCESS_REFUSED'),
        ('nobody', PASSWORD, '', 'ACCESS_REFUSED'),
        ('nova_ext_api', PASSWORD, 'unknown', 'not found'),
        ('stranger', PASSWORD, '', 'refused'),
    ],
)
def test_who_may_not_is_refused_and_told_where_to_look(
    broker: Broker,
    caplog: pytest.LogCaptureFixture,
    user: str,
    password: str,
    vhost: str,
    logged: str,
) -> None:
    bus = _bus(broker.url(user, password, vhost), **broker.options())
    _assert_refused(bus, caplog, logged)


def test_a_certificate_of_an_unknown_authority_is_refused(
    broker: Broker, caplog: pytest.LogCaptureFixture, tmp_path: pathlib.Path
) -> None:
    other = Authority(tmp_path / 'other')
    options = broker.options(other.certificate)
    bus = _bus(broker.url('nova_ext_api'), **options)
    _assert_refused(bus, caplog, 'CERTIFICATE_VERIFY_FAILED')


def test_without_an_authority_those_of_the_machine_are_believed(
    broker: Broker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And each of their certificates, whatever name it is for."""
    url = broker.url('nova_ext_api').replace('127.0.0.1', 'localhost')
    bus = _bus(url, oslo_messaging_rabbit__ssl=True)
    _assert_refused(bus, caplog, 'CERTIFICATE_VERIFY_FAILED')
    monkeypatch.setenv('SSL_CERT_FILE', str(broker.authority.certificate))
    bus = _bus(url, oslo_messaging_rabbit__ssl=True)
    with pytest.raises(exception.HostUnavailable, match='never listened'):
        _create(bus, 'unknown')
    bus._connected().transport.cleanup()


def test_who_is_an_agent_can_ask_another(broker: Broker) -> None:
    options = broker.options()
    url = broker.url('nova_ext_agent')
    with BusAgent(url, 'compute-3', **options):
        bus = _bus(url, **options)
        assert bus.call('compute-3', 'status', {}, 5) == STATUS
        bus._connected().transport.cleanup()


def test_a_certificate_for_another_name_is_refused(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    url = broker.url('nova_ext_api').replace('127.0.0.1', 'localhost')
    bus = _bus(url, **broker.options())
    _assert_refused(bus, caplog, 'CERTIFICATE_VERIFY_FAILED')


def test_without_tls_the_port_of_tls_is_of_no_use(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    _assert_refused(_bus(broker.url('nova_ext_api')), caplog, '')


def _assert_refused(
    bus: rpc._Bus, caplog: pytest.LogCaptureFixture, logged: str
) -> None:
    """In good time, twice; the log has the cause and no password."""
    for _ in range(2):
        begun = time.monotonic()
        with pytest.raises(exception.ServiceUnavailable) as refused:
            _create(bus)
        assert time.monotonic() - begun < 20
        assert 'the option transport_url' in str(refused.value)
        assert 'secret' not in str(refused.value)
    mine = [
        one for one in caplog.records if one.name == 'nova_ext.compute.rpc'
    ]
    assert len(mine) == 2
    assert logged.lower() in mine[0].getMessage().lower()
    assert 'secret' not in caplog.text
    assert not [one for one in caplog.records if one.exc_info]


def test_an_agent_that_may_not_listen_says_so_and_tries_again(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.rabbitmq.control('add_user', 'late', PASSWORD)
    broker.rabbitmq.control(
        *('set_permissions', '-p', 'nova_ext', 'late', '.*', '', '')
    )
    agent = BusAgent(broker.url('late'), 'late', **broker.options())
    agent.server.start()
    try:
        deadline = time.monotonic() + 20
        words = 'cannot be listened on as late'
        while words not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert 'secret' not in caplog.text
        broker.rabbitmq.control(
            *('set_permissions', '-p', 'nova_ext', 'late', '.*', '.*', '.*')
        )
        while agent.server._listening is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        agent.server.stop()
