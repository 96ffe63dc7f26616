# SPDX-License-Identifier: Apache-2.0
"""The agent is killed in the middle of a POST: what the caller is told."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from nova_ext import exception
from tests.fixtures.cinder import Request
from tests.fixtures.host import Host

pytest_plugins = ['tests.fixtures.host']


@contextlib.contextmanager
def _killed_at(
    host: Host, progress: str, snapshot_id: str, new_file: str
) -> Iterator[exception.NovaExtException | None]:
    """POST, and kill the agent while Cinder holds its report of `progress`.

    The agent is started again; what the POST came to is handed out.
    """
    arrived, go_on = threading.Event(), threading.Event()
    outcome: list[exception.NovaExtException | None] = []

    def hold(request: Request) -> bool:
        if request.update.get('progress') == progress:
            arrived.set()
            go_on.wait(30)
        return False

    def post() -> None:
        try:
            host.create(snapshot_id, new_file)
            outcome.append(None)
        except exception.NovaExtException as error:
            outcome.append(error)

    host.double.answer_with(500, times=None, when=hold)
    caller = threading.Thread(target=post)
    caller.start()
    assert arrived.wait(30)
    host.kill_agent()
    go_on.set()
    host.double.clear_faults()
    host.start_agent()
    caller.join(60)
    yield outcome[0]


def test_after_the_switch_the_caller_is_told_that_it_was_made(
    host: Host,
) -> None:
    snapshot_id, overlay = host.snapshot(), host.overlay()
    with _killed_at(host, '90%', snapshot_id, overlay.name) as error:
        assert error is None
        assert host.chain() == [overlay.name, host.volume.name]
        snapshot = host.double.snapshots[snapshot_id]
        assert (snapshot.status, snapshot.progress) == ('creating', '90%')
        assert host.states() == ['CONFIRMING']


def test_before_the_switch_nothing_is_switched(host: Host) -> None:
    snapshot_id, overlay = host.snapshot(), host.overlay()
    with _killed_at(host, '0%', snapshot_id, overlay.name) as error:
        assert isinstance(error, exception.Invalid | exception.Failed)
        host.assert_untouched()
        host.double.wait_for(
            lambda: host.double.snapshots[snapshot_id].status == 'error'
        )


def test_an_agent_that_is_down_is_said_to_be(host: Host) -> None:
    host.stop_agent()
    try:
        host.create(host.snapshot(), host.overlay().name)
    except exception.HostUnavailable as error:
        assert 'Start nova-ext-agent' in str(error)
    else:
        raise AssertionError('it was not refused')
    host.start_agent()
    host.assert_untouched()


def test_a_stopping_agent_answers_those_who_wait(host: Host) -> None:
    snapshot_id, overlay = host.snapshot(), host.overlay()
    arrived = threading.Event()

    def slow(request: Request) -> bool:
        if request.update.get('progress') == '90%':
            arrived.set()
        return False

    host.double.answer_with(500, when=slow)
    host.double.delay(1.0, times=2)
    answered = threading.Event()

    def post() -> None:
        host.create(snapshot_id, overlay.name)
        answered.set()

    caller = threading.Thread(target=post)
    caller.start()
    assert arrived.wait(30)
    host.stop_agent()
    caller.join(30)
    assert answered.is_set()
    assert host.double.snapshots[snapshot_id].progress == '90%'
    host.start_agent()


def test_libvirt_may_be_restarted_between_requests(host: Host) -> None:
    first = host.overlay()
    host.create(host.snapshot(), first.name)
    host.restart_libvirtd()
    second = host.overlay(first)
    host.create(host.snapshot(), second.name)
    assert host.chain() == [second.name, first.name, host.volume.name]
