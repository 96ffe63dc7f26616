# SPDX-License-Identifier: Apache-2.0
"""One request id from Cinder's request to what the agent tells it of it."""

from __future__ import annotations

import json
import subprocess
import sys

from nova_ext import context
from tests.fixtures.host import Host

pytest_plugins = ['tests.fixtures.host']

REQUEST_ID = 'req-8e1b2a0c-96c1-4a6c-9d68-2b0a3c4d5e6f'


def test_what_is_no_request_id_is_none(host: Host) -> None:
    active = host.volume
    # One of more than a line is refused: tests/functional/test_rpc.py.
    for bad in ('req-1 forged', 'req-\u20ac', 'x' * 500, ''):
        overlay = host.overlay(active)
        host.api.volume_snapshot_create(
            context.RequestContext(global_request_id=bad, request_id=bad),
            host.volume_id,
            {
                'snapshot_id': host.snapshot(),
                'type': 'qcow2',
                'new_file': overlay.name,
            },
        )
        active = overlay
    ids = [
        request.headers['X-OpenStack-Request-ID']
        for request in host.double.requests
    ]
    assert len(ids) >= 8
    assert all(one.startswith('req-') and len(one) == 40 for one in ids)


def test_it_is_in_each_line_and_in_each_report(host: Host) -> None:
    snapshot_id, overlay = host.snapshot(), host.overlay()
    host.api.volume_snapshot_create(
        context.RequestContext(global_request_id=REQUEST_ID),
        host.volume_id,
        {
            'snapshot_id': snapshot_id,
            'type': 'qcow2',
            'new_file': overlay.name,
        },
    )
    host.wait_for_last_state('CONFIRMING')
    of_snapshot = [
        line for line in host.log().splitlines() if snapshot_id in line
    ]
    assert len(of_snapshot) >= 4
    assert all(REQUEST_ID in line for line in of_snapshot)
    reports = [
        request.headers.get('X-OpenStack-Request-ID')
        for request in host.double.requests
        if request.snapshot_id == snapshot_id
    ]
    assert len(reports) >= 2
    assert set(reports) == {REQUEST_ID}
    done = subprocess.run(
        [
            *(sys.executable, '-m', 'nova_ext.cmd.manage'),
            *('--config-file', host.state / 'agent.conf'),
            *('job', 'list', '--all', '--json'),
        ],
        capture_output=True,
        check=True,
        timeout=60,
    )
    (job,) = json.loads(done.stdout)
    assert (job['request_id'], job['instance_id']) == (
        REQUEST_ID,
        host.guest.uuid,
    )
