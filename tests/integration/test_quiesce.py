# SPDX-License-Identifier: Apache-2.0
"""The freeze for a switch, with a real guest agent in a real Linux guest.

The proof is in the layer that the switch leaves behind: a file system that
was frozen is clean, one that was not needs its journal.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from nova_ext import exception
from nova_ext.virt.private import PrivateLibvirtd
from tests.fixtures.host import Host, short_directory
from tests.fixtures.linux import Linux, is_clean, make_file_system
from tests.fixtures.merge import WatchedHost, wait_until

pytest_plugins = ['tests.fixtures.host', 'tests.fixtures.linux']

Quiesced = Callable[..., contextlib.AbstractContextManager[Host]]


def _ask(host: Host, command: str, **arguments: Any) -> Any:
    """What the guest agent answers."""
    text = json.dumps({'execute': command, 'arguments': arguments})
    domain = host.guest.domain
    return json.loads(libvirt_qemu.qemuAgentCommand(domain, text, 10, 0))[
        'return'
    ]


def _wait_for_agent(host: Host) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(libvirt.libvirtError):
            _ask(host, 'guest-ping')
            return
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def quiesced(libvirtd: PrivateLibvirtd, linux: Linux) -> Quiesced:
    @contextlib.contextmanager
    def make(**options: Any) -> Iterator[Host]:
        with short_directory() as directory:
            guest = {'customise': linux.customise}
            host = Host(directory, libvirtd, guest, **options)
            make_file_system(host.volume)
            with host.running():
                host.guest.wait_reported(3, timeout=120)
                _wait_for_agent(host)
                yield host

    return make


def _switch(host: Host) -> None:
    overlay = host.overlay()
    host.create(host.snapshot(), overlay.name)
    assert host.chain() == [overlay.name, host.volume.name]


def test_the_guest_is_frozen_for_the_switch_and_thawed(
    quiesced: Quiesced,
) -> None:
    with quiesced() as host:
        _switch(host)
        assert is_clean(host.volume)
        assert _ask(host, 'guest-fsfreeze-status') == 'thawed'
        host.guest.wait_reported(host.guest.reported() + 3)


def test_never_means_that_the_agent_is_not_asked(quiesced: Quiesced) -> None:
    with quiesced(quiesce='never') as host:
        _switch(host)
        assert not is_clean(host.volume)


def test_who_froze_it_before_thaws_it(quiesced: Quiesced) -> None:
    with quiesced(quiesce='required') as host:
        host.guest.domain.fsFreeze()
        _switch(host)
        assert is_clean(host.volume)
        assert _ask(host, 'guest-fsfreeze-status') == 'frozen'
        host.guest.domain.fsThaw()
        host.guest.wait_reported(host.guest.reported() + 3)


@pytest.mark.parametrize('killed', ['kill_agent', 'restart_libvirtd'])
def test_what_dies_in_the_switch_leaves_no_guest_frozen(
    libvirtd: PrivateLibvirtd, linux: Linux, killed: str
) -> None:
    with short_directory() as directory:
        host = WatchedHost(directory, libvirtd, {'customise': linux.customise})
        make_file_system(host.volume)
        with host.running():
            host.guest.wait_reported(3, timeout=120)
            _wait_for_agent(host)
            snapshot_id, overlay = host.snapshot(), host.overlay()
            caller = threading.Thread(
                target=_try_to_switch, args=(host, snapshot_id, overlay.name)
            )
            caller.start()
            called = host.state / 'calls'
            wait_until(
                lambda: (
                    called.exists()
                    and 'snapshotCreateXML' in called.read_text()
                ),
                host,
            )
            getattr(host, killed)()
            if killed == 'kill_agent':
                host.start_agent()
            caller.join(60)
            assert not caller.is_alive()
            wait_until(
                lambda: _ask(host, 'guest-fsfreeze-status') == 'thawed', host
            )
            host.guest.wait_reported(host.guest.reported() + 3)


def _try_to_switch(host: Host, snapshot_id: str, new_file: str) -> None:
    with contextlib.suppress(exception.NovaExtException):
        host.create(snapshot_id, new_file)


def test_an_agent_that_does_not_answer_holds_nothing_up(
    quiesced: Quiesced,
) -> None:
    with quiesced(freeze_limit=2) as host:
        _stop_answering(host)
        started = time.monotonic()
        _switch(host)
        assert time.monotonic() - started < 15
        host.guest.wait_reported(host.guest.reported() + 3)


def test_where_it_is_required_nothing_is_switched_without(
    quiesced: Quiesced,
) -> None:
    with quiesced(quiesce='required', freeze_limit=2) as host:
        _switch(host)
        assert is_clean(host.volume)
    with quiesced(quiesce='required', freeze_limit=2) as host:
        _stop_answering(host)
        with pytest.raises(exception.GuestAgentRequired):
            host.create(host.snapshot(), host.overlay().name)
        host.assert_untouched()


def _stop_answering(host: Host) -> None:
    """Stop the agent's process, by itself."""
    with contextlib.suppress(libvirt.libvirtError):
        libvirt_qemu.qemuAgentCommand(
            host.guest.domain,
            json.dumps(
                {
                    'execute': 'guest-exec',
                    'arguments': {
                        'path': '/bin/busybox',
                        'arg': ['killall', '-STOP', 'qemu-ga'],
                    },
                }
            ),
            2,
            0,
        )
    deadline = time.monotonic() + 20
    while True:
        try:
            _ask_briefly(host)
        except libvirt.libvirtError:
            return
        assert time.monotonic() < deadline


def _ask_briefly(host: Host) -> None:
    text = json.dumps({'execute': 'guest-ping'})
    libvirt_qemu.qemuAgentCommand(host.guest.domain, text, 1, 0)


def test_required_without_an_agent_is_refused(
    libvirtd: PrivateLibvirtd,
) -> None:
    with short_directory() as directory:
        with Host(directory, libvirtd, quiesce='required').running() as host:
            host.guest.wait_reported(1)
            with pytest.raises(
                exception.GuestAgentRequired, match='has no channel'
            ):
                host.create(host.snapshot(), host.overlay().name)
            host.assert_untouched()
            assert host.states() == []
