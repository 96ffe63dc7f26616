# SPDX-License-Identifier: Apache-2.0
"""What Nova's own tests want of this resource holds with our filter, too."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.servers import server_environment

if TYPE_CHECKING:
    # Imported before pytest_plugins are, it would bring a warning.
    from tests.fixtures.nova import Nova

pytest_plugins = ['tests.fixtures.nova']

_SCRIPT = Path(__file__).parents[1] / 'fixtures' / 'nova_own_tests.py'
_RAN = re.compile(r'^Ran (\d+) tests in .*\n\nOK$', re.MULTILINE)
_VOLUME_ID = '521752a6-acf6-4b2d-bc7a-119f9148cd8c'
_SNAPSHOT_ID = '421752a6-acf6-4b2d-bc7a-119f9148cd8c'
# contract §1.2 and §1.3: the examples of the document.
_SAMPLES = {
    'snapshot-create-assisted-req': {
        'volume_id': _VOLUME_ID,
        'create_info': {
            'snapshot_id': _SNAPSHOT_ID,
            'type': 'qcow2',
            'new_file': 'new_file_name',
            'id': _SNAPSHOT_ID,
        },
    },
    'snapshot-create-assisted-resp': {
        'id': _SNAPSHOT_ID,
        'volumeId': _VOLUME_ID,
    },
}


@pytest.fixture(scope='module')
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as Nova's sources have it as doc/api_samples."""
    directory = tmp_path_factory.mktemp('api_samples')
    (directory / 'os-assisted-volume-snapshots').mkdir()
    for name, snapshot in _SAMPLES.items():
        path = directory / 'os-assisted-volume-snapshots' / f'{name}.json'
        path.write_text(json.dumps({'snapshot': snapshot}))
    return directory


def _run(python: Path, paste: Path, samples: Path, native: bool) -> str:
    return subprocess.run(
        [python, '-I', _SCRIPT, paste, samples],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=server_environment(
            OS_NOVA_DISABLE_EVENTLET_PATCHING=str(native).lower()
        ),
        timeout=300,
    ).stdout


@pytest.mark.parametrize('native', [True, False], ids=['threads', 'eventlet'])
def test_novas_own_tests_hold(
    plugin: Path, paste: Path, samples: Path, native: bool
) -> None:
    said = _run(plugin / 'python', paste, samples, native)
    ran = _RAN.search(said)
    # Before Nova 34 there are four more.
    assert ran and int(ran[1]) in (31, 35), said[-8000:]


def test_novas_own_tests_fail_where_our_filter_is_not(
    plugin: Path, nova: Nova, samples: Path
) -> None:
    said = _run(plugin / 'python', nova.shipped_paste, samples, native=True)
    # A creation and a deletion, each below three prefixes.
    failed = re.search(r'^FAILED \((.*)\)$', said, re.MULTILINE)
    assert failed, said[-8000:]
    assert sum(map(int, re.findall(r'\d', failed[1]))) == 6, said[-8000:]
