# SPDX-License-Identifier: Apache-2.0
"""The weaknesses of Nova's that are guarded against from within its API.

Each test is named after a row of the table that tests/weaknesses has for the
other backends. What happens on the hypervisor is Nova's in any case.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.fixtures.cinder import CinderDouble
from tests.fixtures.servers import ServerFailed
from tests.nova.client import PATH, SNAPSHOT, Client, merge_info

if TYPE_CHECKING:
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.nova import Nova, NovaAPI

pytest_plugins = ['tests.fixtures.nova']

DEEP = b'[' * 50_000 + b']' * 50_000
OPEN = {
    'refuse_suspended': 'false',
    'refuse_rescued': 'false',
    'refuse_host_down': 'false',
    'refuse_paths': 'false',
    'refuse_bad_delete_info': 'false',
    'refuse_multi_attach': 'false',
    'wrap_not_found': 'false',
}


class Mounted:
    """A server with our filter, and what its requests come to."""

    def __init__(self, api: NovaAPI, nova: Nova) -> None:
        self.api = api
        self.nova = nova
        self.client = Client(api.url)

    def attach(self, **instance: Any) -> str:
        """The volume of a new instance."""
        return self.nova.attach(self.nova.create_instance(**instance))

    def sent(self, volume_id: str | None) -> int:
        """How many messages about a volume went to the hypervisor."""
        return len(self.api.messages(volume_id))

    def assert_refused(
        self,
        answer: requests.Response,
        volume_id: str | None,
        words: str,
        status: int = 400,
    ) -> None:
        """A fault of ours, and nothing on the bus."""
        assert answer.status_code == status, answer.text
        ((_, fault),) = answer.json().items()
        assert fault['code'] == status
        assert words in fault['message']
        assert self.sent(volume_id) == 0


@pytest.fixture
def guarded(mounted: NovaAPI, nova: Nova) -> Mounted:
    """All guards that need no credentials, which is the default."""
    return Mounted(mounted, nova)


@pytest.fixture(scope='module')
def unguarded(nova: Nova, paste: Path, plugin: Path) -> Iterator[Mounted]:
    """All guards off: what they would refuse is Nova's to answer."""
    options = {f'nova_ext_nova.{name}': text for name, text in OPEN.items()}
    with nova.serving(paste, options, nova.tokens(), plugin) as api:
        yield Mounted(api, nova)


@contextlib.contextmanager
def _fenced(
    nova: Nova, paste: Path, plugin: Path, cinder: CinderDouble
) -> Iterator[Mounted]:
    options = {
        'nova_ext_cinder.auth_type': 'none',
        'nova_ext_cinder.endpoint': cinder.endpoint,
        'nova_ext_cinder.timeout': '2',
        'nova_ext_nova.fence': 'required',
    }
    with nova.serving(paste, options, nova.tokens(), plugin) as api:
        yield Mounted(api, nova)


@pytest.fixture(scope='module')
def cinder() -> Iterator[CinderDouble]:
    """Whom the fence asks."""
    with CinderDouble() as double:
        yield double


@pytest.fixture(scope='module')
def fenced(
    nova: Nova, paste: Path, plugin: Path, cinder: CinderDouble
) -> Iterator[Mounted]:
    """With credentials for Cinder."""
    with _fenced(nova, paste, plugin, cinder) as mounted:
        yield mounted


def test_w02_stale_progress_is_wiped_out_before_a_merge(
    fenced: Mounted, cinder: CinderDouble
) -> None:
    volume_id, snapshot_id = fenced.attach(), str(uuid.uuid4())
    cinder.add_snapshot(snapshot_id, volume_id, 'deleting', '90%')
    seen: list[int] = []

    def look(request: object) -> bool:
        seen.append(fenced.sent(volume_id))
        return False

    cinder.answer_with(500, when=look)
    path = f'/v2.1{PATH}/{snapshot_id}'
    answer = fenced.client.delete(merge_info(volume_id), path)
    cinder.clear_faults()
    assert answer.status_code == 204
    assert cinder.snapshots[snapshot_id].progress == '0%'
    # Before the hypervisor could begin.
    assert seen == [0]
    assert fenced.sent(volume_id) == 1


@pytest.mark.parametrize('kind', ['create', 'delete'])
def test_w04_what_cinder_does_not_await_is_not_begun(
    fenced: Mounted, cinder: CinderDouble, kind: str
) -> None:
    volume_id = fenced.attach()

    def ask(status: str) -> requests.Response:
        snapshot_id = str(uuid.uuid4())
        if status:
            cinder.add_snapshot(snapshot_id, volume_id, status)
        if kind == 'create':
            return fenced.client.create(volume_id, snapshot_id=snapshot_id)
        path = f'/v2.1{PATH}/{snapshot_id}'
        return fenced.client.delete(merge_info(volume_id), path)

    for status in ('error', 'available', ''):
        fenced.assert_refused(ask(status), volume_id, 'does not await')
    cinder.stop_listening()
    try:
        answer = ask('')
        fenced.assert_refused(answer, volume_id, 'nothing was started', 503)
    finally:
        cinder.listen_again()
    awaited = {'create': 'creating', 'delete': 'deleting'}[kind]
    assert ask(awaited).status_code in (200, 204)
    assert fenced.sent(volume_id) == 1


def test_w04_without_credentials_there_is_no_fence(
    nova: Nova, paste: Path, plugin: Path
) -> None:
    options = {'nova_ext_nova.fence': 'required'}
    with pytest.raises(ServerFailed, match='auth_type and credentials'):
        with nova.serving(paste, options, nova.tokens(), plugin):
            pytest.fail('it started without what it requires')


@pytest.mark.parametrize('vm_state', ['suspended', 'rescued'])
def test_w03_a_suspended_or_rescued_instance_is_refused(
    guarded: Mounted, unguarded: Mounted, vm_state: str
) -> None:
    volume_id = guarded.attach(vm_state=vm_state)
    for ask in ('create', 'merge'):
        answer = getattr(guarded.client, ask)(volume_id)
        guarded.assert_refused(answer, volume_id, f'in vm_state {vm_state}')
        getattr(unguarded.client, ask)(volume_id)
    assert unguarded.sent(volume_id) == 2


def test_w04_a_host_that_is_down_is_refused(
    guarded: Mounted, unguarded: Mounted, nova: Nova
) -> None:
    host = nova.create_host('down', up=False)
    volume_id = guarded.attach(host=host)
    for ask in ('create', 'merge'):
        answer = getattr(guarded.client, ask)(volume_id)
        guarded.assert_refused(answer, volume_id, 'is down', 503)
        assert host not in answer.json().values()
        getattr(unguarded.client, ask)(volume_id)
    assert unguarded.sent(volume_id) == 2


@pytest.mark.parametrize('name', ['/etc/passwd', '../a', 'a/b', '.', '..'])
def test_w12_new_file_is_a_plain_name(
    guarded: Mounted, unguarded: Mounted, name: str
) -> None:
    volume_id = guarded.attach()
    answer = guarded.client.create(volume_id, new_file=name)
    guarded.assert_refused(answer, volume_id, 'new_file')
    assert unguarded.client.create(volume_id, new_file=name).ok
    assert unguarded.sent(volume_id) == 1


@pytest.mark.parametrize('info', ['[]', '5', 'null', '"text"', 'true'])
def test_w13_delete_info_is_an_object(
    guarded: Mounted, unguarded: Mounted, info: str
) -> None:
    answer = guarded.client.delete(info)
    guarded.assert_refused(answer, None, "is not of type 'object'")
    assert unguarded.client.delete(info).status_code == 500


def test_w14_two_attachments_are_refused(
    guarded: Mounted, unguarded: Mounted, nova: Nova
) -> None:
    volume_id = guarded.attach()
    nova.attach(nova.create_instance(), volume_id)
    for answer in (
        guarded.client.create(volume_id),
        guarded.client.merge(volume_id),
    ):
        guarded.assert_refused(answer, volume_id, 'is a multi-attach volume')
    assert unguarded.client.merge(volume_id).status_code == 500


def test_w15_what_is_not_found_is_a_fault(
    guarded: Mounted, unguarded: Mounted, nova: Nova
) -> None:
    # As if its cell were removed meanwhile.
    host = nova.create_host('fails-with-CellMappingNotFound')
    volume_id = guarded.attach(host=host)
    for answer in (
        guarded.client.create(volume_id),
        guarded.client.merge(volume_id),
    ):
        guarded.assert_refused(answer, volume_id, 'has no mapping', 404)
        assert 'itemNotFound' in answer.json()
    answer = unguarded.client.merge(volume_id)
    assert answer.status_code == 404
    assert 'itemNotFound' not in answer.text


def test_a_database_that_is_away_is_said_to_be(
    guarded: Mounted, nova: Nova
) -> None:
    # As if its cell's were stopped meanwhile.
    host = nova.create_host('fails-with-DBConnectionError')
    volume_id = guarded.attach(host=host)
    for ask in ('create', 'merge'):
        answer = getattr(guarded.client, ask)(volume_id)
        guarded.assert_refused(answer, volume_id, 'a database of Nova', 503)


@pytest.mark.parametrize('value', [5, None, [], True, {}])
def test_w16_volume_id_is_text(
    guarded: Mounted, unguarded: Mounted, nova: Nova, value: object
) -> None:
    # Nova takes null for the disk of whoever has one that is no volume.
    with nova.local_disk(nova.create_instance()):
        answer = guarded.client.delete({'volume_id': value})
        guarded.assert_refused(answer, None, 'field/attribute volume_id')
        answer = unguarded.client.delete({'volume_id': value})
        assert 'field/attribute' not in answer.text


def test_w17_no_answer_is_refused_after_the_cast(
    nova: Nova, paste: Path, plugin: Path
) -> None:
    options = {'api.response_validation': 'error'}
    with nova.serving(paste, options, nova.tokens(), plugin) as api:
        mounted = Mounted(api, nova)
        volume_id = nova.attach(nova.create_instance(), 'no-uuid')
        answer = mounted.client.create(volume_id, id='any text')
        assert answer.json() == {
            'snapshot': {'id': 'any text', 'volumeId': 'no-uuid'}
        }
        assert mounted.sent(volume_id) == 1


@pytest.mark.parametrize('body', [b'\xff\xfe', DEEP])
def test_w18_what_is_no_json_is_refused(guarded: Mounted, body: bytes) -> None:
    guarded.assert_refused(
        guarded.client.post(body), None, 'Malformed request body'
    )


def test_w19_the_id_of_a_snapshot_is_told(guarded: Mounted) -> None:
    answer = guarded.client.create(guarded.attach())
    assert answer.json()['snapshot']['id'] == SNAPSHOT


def test_w20_messages_say_what_is_wrong(guarded: Mounted) -> None:
    for query, words in (
        ({}, "'delete_info' is a required query parameter"),
        ({'delete_info': '{}'}, "'volume_id' is a required property"),
    ):
        answer = guarded.client.send(
            'DELETE', f'/v2.1{PATH}/any', params=query
        )
        guarded.assert_refused(answer, None, words)
