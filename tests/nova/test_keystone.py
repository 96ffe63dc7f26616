# SPDX-License-Identifier: Apache-2.0
"""Nova's API, alone and with our filter, and a real Keystone that it asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from keystoneauth1 import identity, session
from novaclient import client as novaclient
from novaclient import exceptions

from tests.nova.client import PATH, Client, merge_info

if TYPE_CHECKING:
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.keystone import Account, Accounts, Keystone
    from tests.fixtures.nova import Nova, NovaAPI

pytest_plugins = ['tests.fixtures.keystone', 'tests.fixtures.nova']


@pytest.fixture(scope='module')
def alone(
    nova: Nova, keystone: Keystone, accounts: Accounts
) -> Iterator[NovaAPI]:
    """Nova's API, which checks tokens as one with the role service."""
    options = keystone.authtoken(accounts.checker)
    with nova.serving(options=options) as api:
        yield api


@pytest.fixture(scope='module')
def filtered(
    nova: Nova,
    keystone: Keystone,
    accounts: Accounts,
    paste: Path,
    plugin: Path,
) -> Iterator[NovaAPI]:
    """The same with our filter, and it is in the catalog."""
    options = keystone.authtoken(accounts.checker)
    with nova.serving(paste, options, bin=plugin) as api:
        keystone.add_endpoint('compute', f'{api.url}/v2.1')
        yield api


@pytest.fixture(params=['alone', 'filtered'])
def api(request: pytest.FixtureRequest) -> NovaAPI:
    """One of the two."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(
    ('who', 'role'),
    [
        ('service', 'service'),
        ('nova', 'admin'),
        ('elsewhere', 'service'),
        ('member', 'member'),
    ],
)
def test_roles(
    who: str,
    role: str,
    api: NovaAPI,
    nova: Nova,
    keystone: Keystone,
    accounts: Accounts,
) -> None:
    client = Client(api.url, keystone.token(*getattr(accounts, who)))
    volume_id = nova.attach(nova.create_instance())
    may = role in ('admin', nova.role)

    answers = client.create(volume_id), client.merge(volume_id)
    assert [answer.status_code for answer in answers] == (
        [200, 204] if may else [403, 403]
    )
    assert len(api.messages(volume_id)) == (2 if may else 0)


def test_who_has_no_token_learns_where_to_get_one(
    api: NovaAPI, keystone: Keystone, accounts: Accounts
) -> None:
    revoked = keystone.token(*accounts.service)
    keystone.revoke(revoked)
    for token in ('garbage', revoked, None):
        headers = {'X-Auth-Token': token}
        answer = Client(api.url).send('POST', f'/v2.1{PATH}', headers=headers)
        assert answer.status_code == 401
        assert answer.headers['WWW-Authenticate'] == (
            f'Keystone uri="{keystone.url}"'
        )


def _log_in(keystone: Keystone, account: Account) -> novaclient.Client:
    """As Cinder does it, by the options of its section [nova]."""
    auth = identity.Password(
        keystone.url,
        username=account.user,
        password=account.password,
        project_name=account.project,
        user_domain_id='default',
        project_domain_id='default',
    )
    return novaclient.Client('2.1', session=session.Session(auth=auth))


def test_novaclient_finds_the_filter_by_the_catalog(
    filtered: NovaAPI, nova: Nova, keystone: Keystone, accounts: Accounts
) -> None:
    cinder = accounts.service if nova.role == 'service' else accounts.nova
    asked = _log_in(keystone, cinder).assisted_volume_snapshots
    volume_id = nova.attach(nova.create_instance())
    info = {'snapshot_id': 's', 'type': 'qcow2', 'new_file': 'file'}
    made = asked.create(volume_id, info)
    assert (made.id, made.volumeId) == ('s', volume_id)
    asked.delete('s', merge_info(volume_id))
    assert [message.method for message in filtered.messages(volume_id)] == [
        'volume_snapshot_create',
        'volume_snapshot_delete',
    ]
    # Nova alone would have done it.
    suspended = nova.attach(nova.create_instance(vm_state='suspended'))
    with pytest.raises(exceptions.BadRequest, match='vm_state suspended'):
        asked.create(suspended, info)
    asked = _log_in(keystone, accounts.member).assisted_volume_snapshots
    with pytest.raises(exceptions.Forbidden, match='os-assisted-volume-snap'):
        asked.create(volume_id, info)
    assert len(filtered.messages(volume_id)) == 2
