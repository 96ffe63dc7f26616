# SPDX-License-Identifier: Apache-2.0
"""The backend ``rpc`` with real guests behind a real RabbitMQ."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from nova_ext import context, exception
from nova_ext.agent import wire
from nova_ext.compute import agents
from nova_ext.virt.private import PrivateLibvirtd
from tests.fixtures.bus import DELETE_INFO
from tests.fixtures.fleet import BusHost
from tests.fixtures.host import short_directory
from tests.fixtures.merge import stopped
from tests.fixtures.rabbitmq import RabbitMQ
from tests.integration.test_delete import Share

pytest_plugins = ['tests.fixtures.host', 'tests.fixtures.rabbitmq']

_WAIT = 2.0


@pytest.fixture
def share(
    request: pytest.FixtureRequest,
    libvirtd: PrivateLibvirtd,
    rabbitmq: RabbitMQ,
) -> Iterator[Share]:
    wait = getattr(request, 'param', _WAIT)
    with short_directory() as directory:
        host = BusHost(directory, libvirtd, rabbitmq, reply_wait=wait)
        with host.running():
            host.guest.wait_reported(1)
            yield Share(host)


def test_snapshots_are_made_and_merged_and_nothing_is_lost(
    share: Share,
) -> None:
    older, newer = share.snapshot(), share.snapshot()
    assert len(share.host.chain()) == 3
    share.delete(older)
    share.delete(newer)
    assert len(share.host.chain()) == 1


def test_the_status_says_what_is_under_way(share: Share) -> None:
    status = share.host.api.status('this-host')
    assert (status['running'], status['orphaned']) == (0, 0)
    assert status['version']


def test_operators_methods_are_not_for_the_bus(share: Share) -> None:
    share.snapshot()
    share.host.wait_for_last_state('DONE')
    for method in wire.JOB_METHODS:
        with pytest.raises(exception.AgentBusy, match='there is no method'):
            share.host.api._bus.call('this-host', method, {}, 5)
    assert share.host.states() == ['DONE']


# What the API has given up never starts.


def _create(share: Share) -> str:
    snapshot_id = share.host.snapshot()
    with _given_up():
        share.host.create(snapshot_id, share.host.overlay().name)
    return snapshot_id


def _delete(share: Share) -> str:
    snapshot_id = share.host.snapshot('deleting')
    info = {**DELETE_INFO, 'volume_id': share.volume_id}
    with _given_up():
        share.host.api.volume_snapshot_delete(
            context.RequestContext(), share.volume_id, snapshot_id, info
        )
    return snapshot_id


@contextlib.contextmanager
def _given_up() -> Iterator[None]:
    """Nobody answers in time."""
    begun = time.monotonic()
    with pytest.raises(agents.AnswerLost, match='agent of host this-host'):
        yield
    # A little more than the time to wait, and one more silence.
    assert time.monotonic() - begun < _WAIT + 10


@pytest.mark.parametrize('ask', [_create, _delete])
def test_an_agent_that_hung_does_not_begin_later(
    share: Share, ask: Callable[[Share], str]
) -> None:
    _make_mergeable(share, ask)
    assert share.host._agent is not None
    with stopped(share.host._agent.pid):
        snapshot_id = ask(share)
    _assert_never_begun(share, snapshot_id)


@pytest.mark.parametrize('ask', [_create, _delete])
def test_an_agent_that_was_down_does_not_begin_later(
    share: Share, ask: Callable[[Share], str]
) -> None:
    """Its queue keeps the message, as long as the broker is told to."""
    _make_mergeable(share, ask)
    share.host.kill_agent()
    snapshot_id = ask(share)
    share.host.start_agent(wait=False)
    share.host.wait_listening()
    _assert_never_begun(share, snapshot_id)


def _make_mergeable(share: Share, ask: Callable[[Share], str]) -> None:
    """Have the chain in which the merge would be done at once."""
    if ask is _delete:
        host = share.host
        host.create(host.snapshot(), host.overlay().name)
        host.wait_for_last_state('CONFIRMING')
        for snapshot_id in host.double.snapshots:
            host.double.set_snapshot(snapshot_id, 'available', '100%')
        host.wait_for_last_state('DONE')


def _assert_never_begun(share: Share, snapshot_id: str) -> None:
    """Though the agent works again, and could do it."""
    host = share.host
    chain, states = host.chain(), host.states()
    # The broker hands messages over in order: what was sent before has been
    # read when this is answered.
    assert host.api.status('this-host')['running'] == 0
    host.guest.wait_reported(host.guest.reported() + 5)
    assert (host.chain(), host.states()) == (chain, states)
    assert set(states) <= {'DONE'}
    assert host.double.history(snapshot_id) == []


@pytest.mark.parametrize('share', [30.0], indirect=True)
def test_a_create_whose_agent_is_replaced_meanwhile_is_answered(
    share: Share,
) -> None:
    host = share.host
    host.kill_agent()
    again = threading.Timer(0.2, host.start_agent, kwargs={'wait': False})
    again.start()
    overlay = host.overlay()
    snapshot_id = host.snapshot()
    host.create(snapshot_id, overlay.name)
    again.join()
    assert host.chain() == [overlay.name, host.volume.name]
    assert host.double.history(snapshot_id)[-1] == ('creating', '90%')
