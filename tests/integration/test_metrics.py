# SPDX-License-Identifier: Apache-2.0
"""The agent's numbers, as Prometheus reads them."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nova_ext import exception
from nova_ext.virt.private import PrivateLibvirtd
from tests.fixtures.host import Host, short_directory
from tests.fixtures.servers import free_port
from tests.integration.test_delete import Share

pytest_plugins = ['tests.fixtures.host']


def _scrape(port: int) -> dict[tuple[str, ...], float]:
    """Name and values of the labels, which are sorted → a sample's value."""
    url = f'http://127.0.0.1:{port}/metrics'
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_was_done_is_counted(libvirtd: PrivateLibvirtd) -> None:
    port = free_port()
    with short_directory() as directory:
        with Host(directory, libvirtd, metrics_port=port).running() as host:
            share = Share(host)
            host.guest.wait_reported(1)
            snapshot_id = share.snapshot()
            with pytest.raises(exception.InvalidOverlay):
                host.create(host.snapshot(), 'missing')
            host.wait_for_last_state('DONE')
            held = directory / host.chain()[1]
            share.cinder.delete(snapshot_id, share.compute_delete)
            host.wait_for_last_state('DONE')
            numbers = _scrape(port)
            assert numbers['nova_ext_jobs', 'DONE'] == 2
            assert numbers['nova_ext_jobs', 'RUNNING'] == 0
            name = 'nova_ext_job_seconds'
            for labels in (
                ('overlay', 'create', 'DONE'),
                ('pull', 'delete', 'DONE'),
            ):
                assert numbers[(f'{name}_count', *labels)] == 1
                assert 0 < numbers[(f'{name}_sum', *labels)] < 60
            assert not held.exists()
            assert numbers['nova_ext_merged_bytes_total', 'pull'] > 4096
            refused = ('volume_snapshot_create', 'InvalidOverlay')
            name = 'nova_ext_refused_requests_total'
            assert numbers[(name, *refused)] == 1
            # What it had done is counted once, whoever is started after it.
            host.stop_agent()
            with pytest.raises(urllib.error.URLError):
                _scrape(port)
            host.start_agent()
            numbers = _scrape(port)
            assert numbers['nova_ext_jobs', 'DONE'] == 2
            assert not [key for key in numbers if 'job_seconds' in key[0]]


def test_a_port_that_is_taken_keeps_no_job_from_being_done(
    libvirtd: PrivateLibvirtd,
) -> None:
    with short_directory() as directory, socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        with Host(directory, libvirtd, metrics_port=port).running() as host:
            assert 'there are no metrics' in host.log()
            host.create(host.snapshot(), host.overlay().name)


def test_who_wants_none_needs_no_client() -> None:
    source = (
        'import sys; sys.modules["prometheus_client"] = None\n'
        'import nova_ext.agent.service\n'
    )
    subprocess.run([sys.executable, '-c', source], check=True, timeout=60)
