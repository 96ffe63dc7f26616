# SPDX-License-Identifier: Apache-2.0
"""The gabbi files against what they are for: a service with an agent."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from tests.fixtures.gabbi_run import FILES, gabbi_run
from tests.fixtures.serve import serving
from tests.functional import fixtures

if TYPE_CHECKING:
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.keystone import Accounts, Keystone

pytest_plugins = ['tests.fixtures.keystone']


def test_what_changes_nothing_passes_against_an_agent(
    keystone: Keystone, accounts: Accounts, tmp_path: pathlib.Path
) -> None:
    files = [
        path
        for path in FILES
        if not path.endswith(('/create.yaml', '/delete.yaml'))
    ]
    checks = keystone.authtoken(accounts.checker)
    options = {
        'nova_ext': {'auth_strategy': 'keystone'},
        'keystone_authtoken': {
            name.partition('.')[2]: value for name, value in checks.items()
        },
        'nova_ext_agent': {
            'libvirt_uri': 'test:///default',
            'reports': 'none',
        },
    }
    environment = {
        **fixtures.ENVIRONMENT,
        'NOVA_EXT_TOKEN': keystone.token(*accounts.service),
        'NOVA_EXT_MEMBER_TOKEN': keystone.token(*accounts.member),
        'NOVA_EXT_PROJECT_ID': keystone.project_id(accounts.service.project),
    }
    with serving(tmp_path, options) as service:
        run = gabbi_run(service.url.removesuffix('/v2.1'), files, environment)
    assert run.returncode == 0, run.stdout
