# SPDX-License-Identifier: Apache-2.0
"""Nova's API as it is shipped, and a real Keystone that it asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.nova.client import Client

if TYPE_CHECKING:
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.keystone import Accounts, Keystone
    from tests.fixtures.nova import Nova, NovaAPI

pytest_plugins = ['tests.fixtures.keystone', 'tests.fixtures.nova']


@pytest.fixture(scope='module')
def api(
    nova: Nova, keystone: Keystone, accounts: Accounts
) -> Iterator[NovaAPI]:
    """Nova's API, which checks tokens as one with the role service."""
    options = keystone.authtoken(accounts.checker)
    with nova.serving(options=options) as api:
        yield api


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
    for token in ('garbage', revoked):
        answer = Client(api.url, token).create('v')
        assert answer.status_code == 401
        assert answer.headers['WWW-Authenticate'] == (
            f'Keystone uri="{keystone.url}"'
        )
