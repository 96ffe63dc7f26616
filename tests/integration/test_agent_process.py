# SPDX-License-Identifier: Apache-2.0
"""The agent as a process that systemd, logrotate and operators deal with: it
is stopped, told to read its options again, and says when it is ready.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nova_ext import context, exception
from nova_ext.virt.private import PrivateLibvirtd
from tests.fixtures.cinder import Attachment, Request
from tests.fixtures.fleet import BusHost
from tests.fixtures.host import Host, short_directory
from tests.fixtures.merge import SlowMerge, slow_share, stopped, wait_until
from tests.fixtures.serve import write_config

pytest_plugins = ['tests.fixtures.host', 'tests.fixtures.rabbitmq']

Make = Callable[..., Host]


@pytest.fixture(params=['socket', 'bus'])
def make(
    request: pytest.FixtureRequest, libvirtd: PrivateLibvirtd
) -> Iterator[Make]:
    """Makes a host whose agent is asked by the socket, or by the bus."""
    with contextlib.ExitStack() as stack:

        def host(**options: Any) -> Host:
            directory = stack.enter_context(short_directory())
            if request.param == 'socket':
                made = Host(directory, libvirtd, **options)
            else:
                broker = request.getfixturevalue('rabbitmq')
                name = f'host-{directory.name}'
                made = BusHost(directory, libvirtd, broker, name, **options)
            stack.enter_context(made.running())
            attachment = Attachment(made.guest.uuid, f'host-{directory.name}')
            made.double.add_volume(made.volume_id, attachment)
            made.guest.wait_reported(1)
            return made

        yield host


class Post:
    """A POST in flight, whose report of `progress` Cinder holds."""

    def __init__(self, host: Host, progress: str) -> None:
        self.snapshot_id, self.overlay = host.snapshot(), host.overlay()
        self.error: exception.NovaExtException | None = None
        self._host = host
        self._progress = progress
        self._arrived, self._go_on = threading.Event(), threading.Event()
        host.double.answer_with(500, times=None, when=self._hold)
        self._thread = threading.Thread(target=self._post)
        self._thread.start()
        assert self._arrived.wait(30), host.log()

    def let_go(self) -> None:
        """Cinder answers again."""
        self._host.double.clear_faults()
        self._go_on.set()

    def join(self) -> None:
        """Wait until it has its answer."""
        self._thread.join(60)
        assert not self._thread.is_alive(), self._host.log()

    def _hold(self, request: Request) -> bool:
        if (request.update or {}).get('progress') == self._progress:
            self._arrived.set()
            self._go_on.wait(60)
        return False

    def _post(self) -> None:
        try:
            self._host.create(self.snapshot_id, self.overlay.name)
        except exception.NovaExtException as error:
            self.error = error


def _terminate(host: Host) -> Callable[[], float]:
    """SIGTERM; what is returned waits, and says how many seconds it took."""
    assert host._agent is not None
    agent, begun = host._agent, time.monotonic()
    agent.terminate()

    def wait() -> float:
        assert agent.wait(60) == 0
        return time.monotonic() - begun

    return wait


def test_who_waits_is_answered_and_then_it_ends(make: Make) -> None:
    host = make()
    post = Post(host, '90%')
    ended = _terminate(host)
    wait_until(lambda: not (host.state / 'agent.sock').exists(), host)
    post.let_go()
    post.join()
    assert post.error is None
    assert ended() < 15
    assert host.double.snapshots[post.snapshot_id].progress == '90%'
    assert host.chain() == [post.overlay.name, host.volume.name]
    host.start_agent()
    host.wait_for_last_state('CONFIRMING')


def test_nobody_waits_longer_than_stop_wait(make: Make) -> None:
    host = make(stop_wait=0.5)
    post = Post(host, '90%')
    ended = _terminate(host)
    # The switch was made, so the answer can't be no.
    post.join()
    assert post.error is None
    assert host.chain() == [post.overlay.name, host.volume.name]
    assert ended() < 15
    assert host.states() == ['REPORTING']
    post.let_go()
    host.start_agent()
    host.double.wait_for(
        lambda: host.double.snapshots[post.snapshot_id].progress == '90%'
    )


def test_what_was_not_begun_then_is_never_begun(
    libvirtd: PrivateLibvirtd,
) -> None:
    with short_directory() as directory:
        with Host(directory, libvirtd, stop_wait=0.2).running() as host:
            post = Post(host, '0%')
            ended = _terminate(host)
            post.join()
            assert isinstance(post.error, exception.RequestExpired)
            post.let_go()
            assert ended() < 15
            host.start_agent()
            host.wait_for_last_state('FAILED')
            host.assert_untouched()


def test_a_merge_goes_on_while_there_is_no_agent(
    libvirtd: PrivateLibvirtd,
) -> None:
    with slow_share(libvirtd) as share:
        merge = SlowMerge(share, 'pull')
        # NOTE: it does not wait for the merge, of which nobody knows the end.
        assert _terminate(share.host)() < 10
        assert share.host.states()[-1] == 'RUNNING'
        merge.assert_under_way()
        share.host.start_agent()
        merge.let_go()
        merge.assert_done()


def _rewrite(host: Host, **options: Any) -> None:
    """Change the file that the agent reads, and tell it so."""
    groups = host.configuration()
    for group in ('DEFAULT', 'nova_ext_agent'):
        groups[group].update(options.pop(group, {}))
    write_config(host.state / 'agent.conf', groups)
    assert host._agent is not None
    host._agent.send_signal(signal.SIGHUP)


def _wait_for_log(host: Host, words: str) -> None:
    wait_until(lambda: words in host.log(), host)


def test_options_are_read_again(host: Host) -> None:
    assert 'DEBUG' not in host.log()
    _rewrite(
        host,
        DEFAULT={'debug': True},
        nova_ext_agent={'reply_wait': 0.5, 'socket': '/nowhere/sock'},
    )
    _wait_for_log(host, 'nova_ext_agent.reply_wait changed')
    _wait_for_log(host, 'immutable option nova_ext_agent.socket')
    _wait_for_log(host, 'DEBUG nova_ext.agent.service')
    # It must be the same for the API.
    host.api.conf.set_override('reply_wait', 0.5, 'nova_ext_agent')
    try:
        post = Post(host, '90%')
        post.join()
    finally:
        host.api.conf.clear_override('reply_wait', 'nova_ext_agent')
    assert post.error is None
    assert host.states() == ['REPORTING']
    post.let_go()
    host.wait_for_last_state('CONFIRMING')


class _AsOptioned(SlowMerge):
    """As slow as the agent makes it; `bandwidth` in MiB/s."""

    bandwidth = 0

    def _slow_down(self) -> bool:
        guest = self.host.guest
        info = guest.domain.blockJobInfo(guest.target)
        self.bandwidth = info.get('bandwidth', 0)
        return bool(info)


def test_the_bandwidth_of_the_next_merge_can_be_changed(
    libvirtd: PrivateLibvirtd,
) -> None:
    with slow_share(libvirtd) as share:
        _rewrite(share.host, nova_ext_agent={'bandwidth': 1})
        _wait_for_log(share.host, 'nova_ext_agent.bandwidth changed')
        merge = _AsOptioned(share, 'pull')
        assert merge.bandwidth == 1
        merge.let_go()
        merge.assert_done()


def test_bad_options_leave_the_old_ones(host: Host) -> None:
    kept = 'All options stay as they were'
    for number, (text, words) in enumerate(
        [
            ('[nova_ext_agent]\nbandwidth = much\n', 'much'),
            ('[nova_ext_agent]\nreply_wait = 1000\n', '300'),
            ('nonsense\n', 'agent.conf'),
            ('[DEFAULT]\ndebug = maybe\n', 'standard error output'),
        ],
        start=1,
    ):
        (host.state / 'agent.conf').write_text(text)
        assert host._agent is not None
        host._agent.send_signal(signal.SIGHUP)
        wait_until(lambda n=number: host.log().count(kept) == n, host)
        assert words in host.log().rpartition(kept)[2].partition('\n')[0]
    host.create(host.snapshot(), host.overlay().name)
    # And when they are mended they are read.
    _rewrite(host, nova_ext_agent={'reply_wait': 7.5})
    _wait_for_log(host, 'to [7.5]')


def test_a_log_that_was_moved_away_is_begun_anew(host: Host) -> None:
    log, number = host.state / 'agent.log', 0
    for told in (False, True):
        number += 1
        moved = log.rename(host.state / f'agent.log.{number}')
        assert host._agent is not None
        if told:
            host._agent.send_signal(signal.SIGHUP)
        with pytest.raises(exception.VolumeNotAttached):
            host.api.volume_snapshot_create(
                context.RequestContext(),
                f'volume-{number}',
                {'snapshot_id': 's', 'type': 'qcow2', 'new_file': 'f'},
            )
        assert f'volume-{number}' in host.log()
        assert f'volume-{number}' not in moved.read_text()


@pytest.mark.parametrize('abstract', [False, True])
def test_it_says_when_it_is_ready_and_when_it_stops(
    libvirtd: PrivateLibvirtd,
    monkeypatch: pytest.MonkeyPatch,
    abstract: bool,
) -> None:
    with short_directory() as directory, contextlib.ExitStack() as stack:
        notices = stack.enter_context(
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        )
        notices.settimeout(30)
        path = f'{directory}/notify'
        notices.bind(f'\0{path}' if abstract else path)
        if not abstract:
            # As that of systemd, for whoever is told of it.
            os.chmod(path, 0o777)
        monkeypatch.setenv('NOTIFY_SOCKET', f'@{path}' if abstract else path)
        host = Host(directory, libvirtd)

        def told() -> dict[str, str]:
            lines = notices.recv(4096).decode().splitlines()
            return dict(line.split('=', 1) for line in lines)

        with host.running():
            said = told()
            assert said['READY'] == '1'
            assert said['STATUS'].startswith('Listening on')
            _rewrite(host, nova_ext_agent={'bandwidth': 5})
            said = told()
            assert said['RELOADING'] == '1'
            assert int(said['MONOTONIC_USEC']) > 0
            assert told()['READY'] == '1'
            assert 'bandwidth changed' in host.log()
        assert told()['STOPPING'] == '1'


_IMPATIENT = """
import sys
from nova_ext.agent import service
from nova_ext.cmd import agent
service._END_SECONDS = 0.5
sys.exit(agent.main())
"""


class _Impatient(Host):
    """A host whose agent does not wait long for what hangs."""

    _module = ('-c', _IMPATIENT)


def test_what_hangs_does_not_keep_it_from_ending(
    libvirtd: PrivateLibvirtd,
) -> None:
    with short_directory() as directory:
        with _Impatient(directory, libvirtd, stop_wait=0.5).running() as host:
            post = Post(host, '0%')
            assert host._agent is not None
            with stopped(libvirtd.pid):
                post.let_go()
                host.wait_for_last_state('RUNNING')
                host._agent.terminate()
                post.join()
                assert post.error is None
                assert host._agent.wait(10) == 1
            assert 'does not come back' in host.log()
            assert host.states() == ['RUNNING']
