# SPDX-License-Identifier: Apache-2.0
"""The gabbi files that run against any deployment, against a real Nova.

Where it answers otherwise than we do is listed in differences.yaml; what is
not listed, and what is listed and does not differ, is a failure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.functional.fixtures import ENVIRONMENT
from tests.nova.parity import FILES, Count, listed, run

if TYPE_CHECKING:
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.nova import Nova, NovaAPI

pytest_plugins = ['tests.fixtures.nova']


@pytest.fixture(scope='module')
def environment(nova: Nova) -> dict[str, str]:
    """What the files want to be told of this deployment."""
    return {
        **ENVIRONMENT,
        'NOVA_EXT_TOKEN': 'token-of-a-service',
        'NOVA_EXT_MEMBER_TOKEN': 'token-of-a-member',
        'NOVA_EXT_PROJECT_ID': nova.project_id,
        'NOVA_EXT_VOLUME_ID': nova.attach(nova.create_instance()),
        'NOVA_EXT_MAX_MICROVERSION': nova.max_microversion,
    }


@pytest.mark.parametrize('file', FILES)
def test_differences_of_plain_nova(
    file: str,
    plain_nova: NovaAPI,
    environment: dict[str, str],
    parity: Count,
) -> None:
    answers = run(file, plain_nova.url, environment)
    expected = listed().get(file, {})

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


def test_every_listed_file_is_run() -> None:
    assert listed().keys() <= set(FILES)
