# SPDX-License-Identifier: Apache-2.0
"""The gabbi files that run against any deployment, against a real Nova: as it
is shipped, and with our filter in its pipelines.

Where it answers otherwise than we do alone is listed in differences.yaml; what
is not listed, and what is listed and does not differ, is a failure.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.gabbi_run import FILES as PATHS
from tests.fixtures.gabbi_run import gabbi_run
from tests.functional.fixtures import ENVIRONMENT
from tests.nova.client import Client
from tests.nova.parity import FILES, Count, listed, run

if TYPE_CHECKING:
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.nova import Nova, NovaAPI

pytest_plugins = ['tests.fixtures.nova']

# Fixture of a server → its lists.
LISTS = {
    'plain_nova': ('pipeline', 'resource'),
    'mounted': ('pipeline',),
}


@pytest.fixture(scope='module')
def environment(nova: Nova, plain_nova: NovaAPI) -> dict[str, str]:
    """What the files want to be told of this deployment."""
    document = Client(plain_nova.url).send('GET', '/v2.1/')
    return {
        **ENVIRONMENT,
        'NOVA_EXT_TOKEN': 'token-of-a-service',
        'NOVA_EXT_MEMBER_TOKEN': 'token-of-a-member',
        'NOVA_EXT_PROJECT_ID': nova.project_id,
        'NOVA_EXT_VOLUME_ID': nova.attach(nova.create_instance()),
        'NOVA_EXT_MAX_MICROVERSION': document.json()['version']['version'],
    }


@pytest.mark.parametrize('file', FILES)
@pytest.mark.parametrize('deployment', LISTS, scope='module')
def test_differences(
    file: str,
    deployment: str,
    environment: dict[str, str],
    nova: Nova,
    parity: Count,
    request: pytest.FixtureRequest,
) -> None:
    api: NovaAPI = request.getfixturevalue(deployment)
    answers = run(file, api.url, environment)
    expected = listed(nova.release, *LISTS[deployment]).get(file, {})

    differing = {name: one for name, one in answers.items() if one}
    unlisted = {
        name: answer
        for name, answer in differing.items()
        if name not in expected or not answer.is_listed_as(expected[name])
    }
    parity.requests += len(answers)
    parity.unlisted += len(unlisted)
    parity.listed += len(differing) - len(unlisted)
    assert not unlisted, '\n\n'.join(
        f'{name}: {answer.status} {answer.body}\n{answer.failure}'
        for name, answer in unlisted.items()
    )
    assert expected.keys() <= differing.keys(), 'these do not differ'


def test_gabbi_run_finds_nothing_where_nothing_is_listed(
    nova: Nova, plain_nova: NovaAPI, environment: dict[str, str]
) -> None:
    """As a user runs the files against a cloud without us."""
    lists = listed(nova.release, 'pipeline', 'resource')
    files = [path for path in PATHS if pathlib.Path(path).stem not in lists]
    assert len(files) > 3
    run = gabbi_run(plain_nova.url, files, environment)
    assert run.returncode == 0, run.stdout


def test_every_listed_file_is_run(nova: Nova) -> None:
    listing = listed(nova.release, 'pipeline', 'resource')
    assert listing.keys() <= set(FILES)
