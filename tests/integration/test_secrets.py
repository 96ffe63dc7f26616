# SPDX-License-Identifier: Apache-2.0
"""Nothing that a service leaves behind has a secret of its own or a caller's.

API and agent run with all their logs on, with a real Keystone, broker and
guest, through good requests, bad ones and faults; then whatever they wrote,
answered and sent is searched.
"""

from __future__ import annotations

import base64
import json
import pathlib
import secrets
import threading
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import kombu
import pytest
import requests

from nova_ext.virt.sample import SampleGuest, create_volume
from nova_ext.virt.sample_chain import make_overlay
from tests.fixtures.cinder import CinderDouble
from tests.fixtures.cinder_rows import Attachment
from tests.fixtures.host import short_directory
from tests.fixtures.rabbitmq import RabbitMQ
from tests.fixtures.serve import Served, serving

if TYPE_CHECKING:
    from tests.fixtures.keystone import Accounts, Keystone

pytest_plugins = ['tests.fixtures.keystone']

SIZE = 1 << 30
HOST = 'this-host'


class Tap:
    """A copy of each message on the bus: requests, replies, heartbeats."""

    def __init__(self, broker: RabbitMQ) -> None:
        self.payloads: list[bytes] = []
        broker.control('trace_on')
        self._connection = kombu.Connection(
            broker.url.replace('rabbit', 'amqp')
        )
        channel = self._connection.channel()
        queue = kombu.Queue(f'tap-{uuid.uuid4()}', exclusive=True)(channel)
        queue.declare()
        queue.bind_to('amq.rabbitmq.trace', routing_key='#')
        self._consumer = kombu.Consumer(
            channel, [queue], on_message=self._take, no_ack=True
        )
        self._consumer.consume()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _take(self, message: Any) -> None:
        body = message.body
        self.payloads.append(
            body if isinstance(body, bytes) else body.encode()
        )

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._connection.drain_events(timeout=0.2)
            except TimeoutError:
                continue

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._connection.close()


class Scene:
    """A service, and whom it speaks with."""

    def __init__(
        self,
        served: Served,
        share: pathlib.Path,
        guest: SampleGuest,
        double: CinderDouble,
    ) -> None:
        self.served = served
        self.share = share
        self.guest = guest
        self.double = double
        self.answers: list[str] = []

    def ask(self, method: str, path: str, **options: Any) -> int:
        answer = requests.request(
            method, self.served.url + path, timeout=120, **options
        )
        self.answers.append(f'{answer.headers}\n{answer.text}')
        return answer.status_code

    def create(self, token: str) -> int:
        volume = pathlib.Path(self.guest.volume_path)
        overlay = make_overlay(
            volume, f'{volume.name}.{uuid.uuid4()}', 'raw', SIZE
        )
        snapshot_id = str(uuid.uuid4())
        self.double.add_snapshot(snapshot_id, self.guest.volume_id)
        body = {
            'snapshot': {
                'volume_id': self.guest.volume_id,
                'create_info': {
                    'snapshot_id': snapshot_id,
                    'type': 'qcow2',
                    'new_file': overlay.name,
                },
            }
        }
        return self.ask(
            'POST',
            '/os-assisted-volume-snapshots',
            json=body,
            headers={'X-Auth-Token': token},
        )


@pytest.fixture
def share() -> Iterator[pathlib.Path]:
    with short_directory() as directory:
        yield directory


def test_no_secret_is_written_answered_or_sent(
    keystone: Keystone,
    accounts: Accounts,
    tmp_path: pathlib.Path,
    share: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Of libraries, that would stand before the first line of the service.
    monkeypatch.setenv('PYTHONWARNINGS', 'ignore')
    cinder_password = f'cinder-{secrets.token_hex(8)}'
    token = keystone.token(*accounts.service)
    expired_token = keystone.expired_token(*accounts.service)
    wrong_token = f'gAAAA{secrets.token_hex(20)}'
    # Of a service that is none of our business.
    endpoint = f'http://127.0.0.1:1/catalog-{secrets.token_hex(8)}'
    keystone.add_endpoint('object-store', endpoint)
    catalog = requests.get(
        f'{keystone.url}/auth/catalog', headers={'X-Auth-Token': token}
    )
    assert endpoint in catalog.text
    authtoken = {
        name.removeprefix('keystone_authtoken.'): value
        for name, value in keystone.authtoken(accounts.checker).items()
    }
    with (
        short_directory() as broker_directory,
        RabbitMQ(broker_directory) as broker,
        CinderDouble('http_basic', password=cinder_password) as double,
    ):
        options: dict[str, dict[str, object]] = {
            'DEFAULT': {'debug': True, 'transport_url': broker.url}
            | {'default_log_levels': 'root=DEBUG'},
            'nova_ext': {'compute_api': 'rpc'},
            'nova_ext_rpc': {'silence': 2},
            'nova_ext_agent': {'reports': 'cinder', 'rpc': True, 'host': HOST},
            'nova_ext_cinder': {
                'auth_type': 'http_basic',
                'endpoint': double.endpoint,
                'username': 'nova_ext',
                'password': cinder_password,
                'timeout': 2,
            },
            'keystone_authtoken': {
                **authtoken,
                'http_request_max_retries': 0,
                'service_token_roles_required': True,
            },
        }
        known = {
            'service password': accounts.checker.password,
            'token': token,
            'wrong token': wrong_token,
            'expired token': expired_token,
            'catalog': endpoint,
            'broker password': broker.password,
            'Cinder password': cinder_password,
        }
        with serving(tmp_path, options, '--private-libvirtd') as served:
            volume_id = str(uuid.uuid4())
            volume = share / f'volume-{volume_id}'
            create_volume(volume, size_bytes=SIZE)
            with SampleGuest(
                served.libvirt_uri,
                share,
                volume_path=volume,
                volume_id=volume_id,
            ) as guest:
                guest.wait_reported(1)
                double.add_volume(volume_id, Attachment(guest.uuid, HOST))
                scene = Scene(served, share, guest, double)
                tap = Tap(broker)
                try:
                    _good_and_bad(scene, token, wrong_token, expired_token)
                finally:
                    tap.close()
                broker.stop()
                assert scene.create(token) == 503
            served.process.terminate()
            assert served.process.stdout is not None
            said = served.process.stdout.read()
    written = {
        str(path): path.read_bytes()
        for path in [*tmp_path.rglob('*')]
        if path.is_file() and path.name != 'nova_ext.conf'
    }
    assert any('journal.sqlite' in name for name in written)
    log = served.log.read_text()
    # It was all on, and all was there to be seen.
    for witness in ('REQ: curl', ' DEBUG ', 'AMQP', '401', 'Answered 503'):
        assert witness in log, witness
    assert tap.payloads
    written['answers'] = '\n'.join(scene.answers).encode()
    written['stdout'] = said.encode()
    written['payloads'] = b'\n'.join(tap.payloads)
    for witness in (volume_id, 'volume_snapshot_create', 'understands'):
        assert witness.encode() in written['payloads'], witness
    for name, secret in known.items():
        for form in _forms(secret):
            for where, content in written.items():
                assert form not in content, (name, where)


def _good_and_bad(scene: Scene, token: str, *refused: str) -> None:
    double = scene.double
    # Faults first, since a good one makes another file the active layer.
    for code in (401, 403, 500):
        double.answer_with(code, times=None)
        assert scene.create(token) in (400, 503)
        double.clear_faults()
    double.stop_listening()
    assert scene.create(token) == 503
    double.listen_again()
    with_token = {'X-Auth-Token': token}
    path = '/os-assisted-volume-snapshots'
    assert scene.ask('POST', path, data='{', headers=with_token) == 400
    assert scene.ask('POST', path, json={}, headers=with_token) == 400
    for wrong_token in refused:
        assert scene.create(wrong_token) == 401
    assert scene.ask('POST', path, json={}) == 401
    for info in ('', '{', '[]', json.dumps({'volume_id': 'x'})):
        query = urllib.parse.urlencode({'delete_info': info})
        status = scene.ask('DELETE', f'{path}/x?{query}', headers=with_token)
        assert status == 400
    assert scene.ask('GET', '', headers=with_token) == 200
    assert scene.ask('GET', '/nothing', headers=with_token) == 404
    assert scene.create(token) == 200
    deadline = time.monotonic() + 60
    while 'DONE' not in scene.served.log.read_text():
        assert time.monotonic() < deadline
        for snapshot in double.snapshots.values():
            if snapshot.progress == '90%':
                snapshot.status = 'available'
        time.sleep(0.1)


def _forms(secret: str) -> set[bytes]:
    """A secret as it is, and as it may be disguised."""
    encoded = {
        base64.b64encode(f'{name}:{secret}'.encode())
        for name in ('nova_ext', 'cinder', '')
    }
    return {
        secret.encode(),
        urllib.parse.quote(secret).encode(),
        base64.b64encode(secret.encode()).rstrip(b'='),
        *encoded,
    }
