# SPDX-License-Identifier: Apache-2.0
"""Which bus there is, and that another service's options are left alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
from oslo_config import cfg

from nova_ext import bus
from tests.fixtures.bus import private_conf

_URL = 'rabbit://guest:guest@127.0.0.1/'


def _is_quorum(transport: bus.messaging.RPCTransport) -> bool:
    return transport._driver.conf.oslo_messaging_rabbit.rabbit_quorum_queue


def test_queues_are_on_all_brokers_unless_an_operator_says_no(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    conf = private_conf(_URL)
    assert _is_quorum(bus.transport(conf))
    # As where the options are Nova's, in whose process we may be.
    assert not conf.oslo_messaging_rabbit.rabbit_quorum_queue
    no = private_conf(f'{_URL}?rabbit_quorum_queue=false')
    assert not _is_quorum(bus.transport(no))
    path = tmp_path_factory.mktemp('conf') / 'c.conf'
    path.write_text(
        f'[DEFAULT]\ntransport_url = {_URL}\n'
        '[oslo_messaging_rabbit]\nrabbit_quorum_queue = false\n'
    )
    said = cfg.ConfigOpts()
    said([], default_config_files=[str(path)])
    assert not _is_quorum(bus.transport(said))


def test_queues_of_replies_are_dropped_after_half_an_hour() -> None:
    options = bus.transport(private_conf(_URL))._driver.conf
    assert options.oslo_messaging_rabbit.rabbit_transient_queues_ttl == 1800


@pytest.mark.parametrize(
    ('url', 'words'),
    [
        ('abacus://u:secret@h/', 'no driver "abacus"'),
        ('//u:secret@h/', 'not of the form'),
        ('u:secret@h', 'no driver "u"'),
        ('rabbit://u:a/secret@h/', 'must be quoted'),
        ('rabbit://u:secret@h:port/', 'not of the form'),
        ('rabbit://u:secret@[::1/', 'not of the form'),
        ('rabbit://u:secret@h/?abacus=1', 'no such option abacus'),
        ('rabbit://u:secret@h/?rabbit_quorum_queue=7', 'not of the form'),
    ],
)
def test_a_bus_that_cannot_be_is_said_to_be(url: str, words: str) -> None:
    with pytest.raises(bus.UNUSABLE) as unusable:
        bus.transport(private_conf(url))
    assert words in str(unusable.value)
    assert 'secret' not in str(unusable.value)


def test_a_target_is_an_agent_of_ours() -> None:
    target = bus.target('1.0', 'compute-1')
    assert (target.exchange, target.topic) == ('nova_ext', 'nova_ext_agent')
    assert (target.version, target.server) == ('1.0', 'compute-1')


def test_nothing_of_it_brings_eventlet() -> None:
    program = (
        'import sys\nfrom nova_ext import bus\n'
        'assert "oslo_messaging" in sys.modules\n'
        'from oslo_service import backend\n'
        'kind = backend.get_backend_type()\n'
        'assert kind is backend.BackendType.THREADING, kind\n'
    )
    subprocess.run([sys.executable, '-c', program], check=True)
