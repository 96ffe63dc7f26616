# SPDX-License-Identifier: Apache-2.0
"""Nothing starts that could not check a token."""

from __future__ import annotations

import pytest
from oslo_config import cfg

from nova_ext.api import app, authtoken
from tests.fixtures.app import configured

NOTHING = {'keystone_authtoken.auth_type': None}


def test_without_credentials_the_service_does_not_start() -> None:
    with configured(NOTHING) as conf, pytest.raises(cfg.Error) as raised:
        app.load(conf)
    assert '[keystone_authtoken] auth_type is not set' in str(raised.value)


@pytest.mark.parametrize('strategy', ['http_basic', 'noauth'])
def test_who_checks_no_token_needs_none(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('nova_ext.api.filters.BasicAuth.__init__', _accept)
    options = {**NOTHING, 'nova_ext.auth_strategy': strategy}
    with configured(options) as conf:
        app.load(conf)


def _accept(self: object, *arguments: object, **options: object) -> None:
    """There is no file of users here."""


def test_the_section_of_the_filter_may_say_it() -> None:
    with configured(NOTHING):
        assert authtoken.filter_factory({}, auth_type='none')(None)
        assert authtoken.filter_factory({'auth_type': 'none'})(None)
