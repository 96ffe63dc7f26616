# SPDX-License-Identifier: Apache-2.0
"""nova-ext-manage at work on a merge that stands still until it is let go."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from nova_ext.virt.private import PrivateLibvirtd
from tests.fixtures import pages
from tests.fixtures.host import Host
from tests.integration.test_delete import Merge, Share, _wait_until
from tests.integration.test_delete import _slow_share as slow_share

pytest_plugins = ['tests.fixtures.host']


def manage(host: Host, *arguments: object, status: int = 0) -> tuple[str, str]:
    """What the command prints, on both streams."""
    config = host.state / 'agent.conf'
    done = subprocess.run(
        [
            *(sys.executable, '-m', 'nova_ext.cmd.manage'),
            *('--config-file', config, 'job', *map(str, arguments)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done
    return done.stdout, done.stderr


def _json(share: Share, *arguments: object) -> Any:
    return json.loads(manage(share.host, *arguments, '--json')[0])


def _as_documented(host: Host) -> list[dict[str, Any]]:
    """What the command of follow.rst prints."""
    (block,) = (
        block
        for block in pages.blocks()
        if block.page == 'follow.rst' and 'nova-ext-manage' in block.text
    )
    program, group, *words = block.text.split()
    assert (program, group) == ('nova-ext-manage', 'job')
    return json.loads(manage(host, *words)[0])


def test_jobs_are_seen_slowed_and_ended(libvirtd: PrivateLibvirtd) -> None:
    with slow_share(libvirtd) as share:
        merge = Merge(share)
        _wait_until(lambda: share.host.states()[-1] == 'RUNNING', share.host)
        every = _as_documented(share.host)
        assert [job['operation'] for job in every] == ['create', 'delete']
        shown = {'state', 'accepted_at', 'before', 'after', 'instance_id'}
        assert shown | {'request_id'} <= {*every[0]}
        (job,) = [j for j in _json(share, 'list') if j['kind'] == 'pull']
        number = job['id']
        assert job['snapshot_id'] == merge.snapshot_id
        shown = _json(share, 'show', number)
        assert 0 <= shown['done'] < shown['total']
        for refused in (('show', 99), ('cancel', every[0]['id'])):
            out, words = manage(share.host, *refused, status=1)
            assert out == ''
            assert 'job' in words.lower()
        manage(share.host, 'limit', number, 3)
        info = share.host.guest.domain.blockJobInfo(share.host.guest.target)
        assert info['bandwidth'] == 3
        manage(share.host, 'limit', number, 1)
        manage(share.host, 'cancel', number)
        out, _ = manage(share.host, 'watch', number, status=1)
        assert 'operator cancelled it' in out
        merge.end()
        assert merge.error is not None
        assert merge.told()[-1] == ('error_deleting', None)
        assert share.host.chain() == merge.chain
        # It is deleted again, and then all is well.
        share.host.double.set_snapshot(merge.snapshot_id, 'available')
        share.delete(merge.snapshot_id)
        assert _json(share, 'show', number)['state'] == 'FAILED'
        out, _ = manage(share.host, 'show', number + 1)
        assert 'DONE' in out or 'CONFIRMING' in out
        share.assert_nothing_lost()
