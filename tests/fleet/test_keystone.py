# SPDX-License-Identifier: Apache-2.0
"""Keystone is down: for those who ask us, and for us who tell Cinder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from keystoneauth1 import exceptions

from tests.crash.rig import wait_for
from tests.fixtures.cinder_rows import Identity
from tests.fixtures.keystone import Accounts, Keystone
from tests.fixtures.rabbitmq import RabbitMQ
from tests.fleet.conftest import Count, last_look
from tests.fleet.rig import Attempt, Fleet, Refused

pytest_plugins = ['tests.fixtures.keystone']

_REPLY_WAIT = 15.0


class _Tokens(dict[str, Identity]):
    """Those that Keystone says are good, or said so before."""

    def __init__(self, keystone: Keystone) -> None:
        super().__init__()
        self._keystone = keystone

    def get(self, token: str, default: object = None) -> Identity | None:  # type: ignore[override]
        if token not in self:
            try:
                self[token] = Identity(*self._keystone.roles(token))
            except exceptions.ClientException:
                return None
        return self[token]


class KeystoneFleet(Fleet):
    """One in which everybody has a token of Keystone's."""

    def __init__(
        self, bus: RabbitMQ, keystone: Keystone, accounts: Accounts
    ) -> None:
        super().__init__(bus, 'token', reply_wait=_REPLY_WAIT)
        self._keystone, self._accounts = keystone, accounts
        self.double.tokens = _Tokens(keystone)
        self.door = {'nova_ext': {'auth_strategy': 'keystone'}}
        for name, value in keystone.authtoken(accounts.checker).items():
            group, option = name.split('.')
            self.door.setdefault(group, {})[option] = value

    def _enter(self) -> None:
        account = self._accounts.nova
        with self.double:
            # It is listened on again, at the same place.
            endpoint = self.double.endpoint
        self.credentials = {
            'auth_type': 'password',
            'auth_url': self._keystone.url,
            'username': account.user,
            'password': account.password,
            'project_name': account.project,
            'user_domain_id': 'default',
            'project_domain_id': 'default',
            'endpoint_override': endpoint,
        }
        super()._enter()

    def new_token(self) -> str:
        """One that no worker has seen."""
        return self._keystone.token(*self._accounts.service)

    def first_tokens(self) -> None:
        """See :class:`tests.fleet.rig.Fleet`."""
        for share in self.shares:
            share.front.token = self.new_token()

    @contextlib.contextmanager
    def keystone_down(self) -> Iterator[None]:
        """No Keystone, as long as this context lasts."""
        self._keystone.stop()
        try:
            yield
        finally:
            self._keystone.start()


@pytest.fixture(scope='module')
def fleet(
    bus: RabbitMQ, keystone: Keystone, accounts: Accounts, count: Count
) -> Iterator[KeystoneFleet]:
    """The fleet of this module."""
    with KeystoneFleet(bus, keystone, accounts) as fleet:
        yield fleet
        last_look(fleet, count)


def test_who_cannot_be_known_is_told_so(fault: KeystoneFleet) -> None:
    share, _ = fault.shares
    known, share.front.token = share.front.token, fault.new_token()
    jobs = share.host.states()
    with fault.keystone_down():
        error = Attempt(share.create).failure()
        assert isinstance(error, Refused)
        assert error.status == 503
    assert share.host.states() == jobs
    share.create()
    share.front.token = known


def test_a_report_waits_for_the_token_that_it_needs(
    fault: KeystoneFleet,
) -> None:
    share, _ = fault.shares
    share.host.die_at('before deliver')
    mine = Attempt(share.create)
    share.host.wait_killed()
    with fault.keystone_down():
        # It has no token any more, and cannot have one.
        share.host.restart_agent()
        share.host.wait_for_last_state('REPORTING')
        wait_for(lambda: 'It is tried until it can' in share.host.log(), '')
        assert share.host.states()[-1] == 'REPORTING'
        assert mine.error is None
    mine.end()
