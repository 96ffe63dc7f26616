# SPDX-License-Identifier: Apache-2.0
"""novaclient as Cinder uses it, against the service as one command starts it.

Each way in which Cinder's ``[nova]`` section can authenticate makes a
snapshot of a running guest and deletes it again.
"""

from __future__ import annotations

import pathlib
import tempfile
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import bcrypt
import pytest
from keystoneauth1 import loading
from keystoneauth1.session import Session
from novaclient import client, exceptions

from nova_ext.virt.sample import SampleGuest, create_volume, read_records
from nova_ext.virt.sample_chain import make_overlay, qemu_chain
from tests.fixtures.cinder import CinderDouble
from tests.fixtures.cinder_rows import Attachment
from tests.fixtures.cinder_volume import CinderVolume
from tests.fixtures.serve import Served, serving

if TYPE_CHECKING:
    from tests.fixtures.keystone import Accounts, Keystone

pytest_plugins = ['tests.fixtures.keystone']

SIZE = 1 << 30
Auth = Callable[[Served], Any]


def _auth(plugin: str, **options: str) -> Any:
    return loading.get_plugin_loader(plugin).load_from_options(**options)


@pytest.fixture(params=['none', 'http_basic', 'password'])
def way(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path
) -> tuple[dict[str, dict[str, object]], Auth]:
    """Options of the service, and the plugin that a client of it uses."""
    if request.param == 'none':
        return {'nova_ext': {'auth_strategy': 'noauth'}}, (
            lambda served: _auth('none', endpoint=served.url)
        )
    if request.param == 'http_basic':
        users = tmp_path / 'htpasswd'
        digest = bcrypt.hashpw(b'secret', bcrypt.gensalt(4)).decode()
        users.write_text(f'cinder:{digest}\n')
        return {
            'nova_ext': {'auth_strategy': 'http_basic'},
            'oslo_middleware': {'http_basic_auth_user_file': users},
        }, (
            lambda served: _auth(
                'http_basic',
                endpoint=served.url,
                username='cinder',
                password='secret',
            )
        )
    keystone: Keystone = request.getfixturevalue('keystone')
    accounts: Accounts = request.getfixturevalue('accounts')
    authtoken = {
        name.removeprefix('keystone_authtoken.'): value
        for name, value in keystone.authtoken(accounts.checker).items()
    }

    def password(served: Served) -> Any:
        keystone.add_endpoint('compute', served.url)
        return _auth(
            'password',
            auth_url=keystone.url,
            username=accounts.service.user,
            password=accounts.service.password,
            project_name=accounts.service.project,
            user_domain_id='default',
            project_domain_id='default',
        )

    return {'keystone_authtoken': authtoken}, password


def _guest(served: Served, directory: pathlib.Path) -> SampleGuest:
    volume_id = str(uuid.uuid4())
    volume = directory / f'volume-{volume_id}'
    create_volume(volume, size_bytes=SIZE)
    return SampleGuest(
        served.libvirt_uri, directory, volume_path=volume, volume_id=volume_id
    )


@pytest.fixture
def share() -> Iterator[pathlib.Path]:
    """A directory that an unprivileged QEMU may use; pytest's own is 0700."""
    with tempfile.TemporaryDirectory(prefix='nx-share-') as directory:
        path = pathlib.Path(directory)
        path.chmod(0o755)
        yield path


def test_novaclient_creates_a_snapshot_and_deletes_it(
    way: tuple[dict[str, dict[str, object]], Auth],
    tmp_path: pathlib.Path,
    share: pathlib.Path,
) -> None:
    options, auth = way
    options['nova_ext_agent'] = {'reports': 'none'}
    with serving(tmp_path, options, '--private-libvirtd') as served:
        nova = client.Client('2.1', session=Session(auth(served)))
        with _guest(served, share) as guest:
            before = guest.wait_reported(20)
            snapshot_id = str(uuid.uuid4())
            volume = guest.volume_path
            overlay = make_overlay(
                volume, f'{volume.name}.{snapshot_id}', 'raw', SIZE
            )
            made = nova.assisted_volume_snapshots.create(
                guest.volume_id,
                {
                    'snapshot_id': snapshot_id,
                    'type': 'qcow2',
                    'new_file': overlay.name,
                },
            )
            assert (made.id, made.volumeId) == (snapshot_id, guest.volume_id)
            assert qemu_chain(guest.domain, guest.volume_id) == [
                (str(overlay), 'qcow2'),
                (str(volume), 'raw'),
            ]
            with pytest.raises(exceptions.BadRequest, match='active layer'):
                nova.assisted_volume_snapshots.create(
                    guest.volume_id,
                    {
                        'snapshot_id': str(uuid.uuid4()),
                        'type': 'qcow2',
                        'new_file': overlay.name,
                    },
                )
            guest.wait_reported(guest.reported() + 20)
            guest.suspend()
            frozen = read_records(volume, 'raw')
            whole = read_records(overlay, 'qcow2')
            assert (frozen.bad, whole.bad) == (0, 0)
            assert before <= frozen.count < whole.count
            assert whole.count >= guest.reported()


def test_cinder_creates_and_deletes_snapshots_in_every_order(
    tmp_path: pathlib.Path, share: pathlib.Path
) -> None:
    with CinderDouble() as double:
        options: dict[str, dict[str, object]] = {
            'nova_ext': {'auth_strategy': 'noauth'},
            'nova_ext_agent': {'reports': 'cinder'},
            'nova_ext_cinder': {
                'auth_type': 'none',
                'endpoint': double.endpoint,
            },
        }
        cinder = CinderVolume(double, share)
        with serving(tmp_path, options, '--private-libvirtd') as served:
            session = Session(_auth('none', endpoint=served.url))
            resource = client.Client(
                '2.1', session=session
            ).assisted_volume_snapshots
            with _guest(served, share) as guest:
                double.add_volume(
                    guest.volume_id, Attachment(guest.uuid, 'host')
                )
                guest.wait_reported(5)
                snapshots = [str(uuid.uuid4()) for _ in range(3)]
                for snapshot_id in snapshots:
                    cinder.create(
                        guest.volume_id, snapshot_id, resource.create
                    )
                    guest.wait_reported(guest.reported() + 5)
                    # Cinder's first look found the report.
                    assert double.history(snapshot_id) == [
                        ('creating', '0%'),
                        ('creating', '90%'),
                    ]
                chain = qemu_chain(guest.domain, guest.volume_id)
                assert len(chain) == 4
                for index in (1, 2, 0):
                    cinder.delete(snapshots[index], resource.delete)
                    guest.wait_reported(guest.reported() + 5)
                ((active, _),) = qemu_chain(guest.domain, guest.volume_id)
                guest.suspend()
                records = read_records(pathlib.Path(active), 'qcow2')
                assert records.bad == 0
                assert records.count >= guest.reported()
