# SPDX-License-Identifier: Apache-2.0
"""The broker and the agents: who answers, by the socket and by the bus."""

from __future__ import annotations

import importlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

from oslo_config import cfg

from nova_ext import exception, patience
from nova_ext.cmd.doctor.finding import Finding, ok, skew, unknown, wrong
from nova_ext.compute import libvirt

_TIMEOUT_SECONDS, _BUS_SECONDS = 5.0, 15.0
_AT_ONCE = 16
_AMQP_PORT = 5672
_URL = 'look at [DEFAULT] transport_url'


def check_own(conf: cfg.ConfigOpts) -> list[Finding]:
    """Whether the agent of this host answers at its socket."""
    api = libvirt.ComputeAPI(conf)
    return _ask(
        'agent of this host',
        lambda: api.ask('status', {}, timeout=_TIMEOUT_SECONDS),
    )


def check_bus(conf: cfg.ConfigOpts, hosts: Sequence[str]) -> Iterator[Finding]:
    """Whether the broker lets us in, and which agents answer there."""
    try:
        rpc = importlib.import_module('nova_ext.compute.rpc')
    except ImportError as error:
        yield wrong('broker', str(error), "pip install 'nova_ext[rpc]'")
        return
    try:
        brokers = rpc.bus.brokers(conf)
    except (*rpc.bus.UNUSABLE, ValueError):
        # NOTE: what they say may quote a password.
        form = 'rabbit://USER:PASSWORD@HOST:PORT/VIRTUAL_HOST'
        yield wrong('broker', 'there can be no such bus', f'{_URL}: {form}')
        return
    closed = [words for words in map(_closed, brokers) if words]
    for words in closed:
        yield wrong('broker', words, f'{_URL}, and at whether RabbitMQ runs')
    if closed and len(closed) == len(brokers):
        return
    try:
        api = rpc.ComputeAPI(conf)
    except cfg.Error as error:
        yield unknown('broker', f'it is not asked: {error}')
        return
    try:
        patience.begin(api.check).result(_BUS_SECONDS)
    except Exception as error:
        # NOTE: also what the driver's library raises and nobody translates.
        yield wrong(
            'broker',
            f'it takes connections, and does not let us in: '
            f'{str(error) or "no answer"}',
            f'{_URL}: user, password, virtual host; and at [oslo_messaging_'
            'rabbit] ssl',
        )
        return
    yield ok('broker', 'it lets us in')
    with futures.ThreadPoolExecutor(_AT_ONCE) as threads:
        for found in threads.map(lambda host: _of(api, host), hosts):
            yield from found


def _of(api: Any, host: str) -> list[Finding]:
    return _ask(
        f'agent of host {host}',
        lambda: patience.begin(lambda: api.status(host)).result(_BUS_SECONDS),
    )


def _closed(address: tuple[str, int | None]) -> str:
    """Why there is no connection; empty if there is."""
    host, port = address
    try:
        with socket.create_connection(
            (host, port or _AMQP_PORT), _TIMEOUT_SECONDS
        ):
            return ''
    except OSError as error:
        return f'{host}:{port or _AMQP_PORT} cannot be reached: {error}'


def _ask(subject: str, status: Callable[[], dict[str, Any]]) -> list[Finding]:
    before = time.time()
    try:
        said = status()
    except (exception.NovaExtException, futures.TimeoutError) as error:
        return [
            wrong(
                subject,
                str(error) or 'no answer',
                'look at the log of nova-ext-agent there, and start it if it '
                'does not run',
            )
        ]
    after = time.time()
    # NOTE: an agent of an earlier release does not say all of it.
    version = said.get('version', 'unknown')
    findings = [ok(subject, f'version {version}, {said["summary"]}')]
    if said['orphaned']:
        findings.append(
            wrong(
                subject,
                f'{said["orphaned"]} jobs ended without Cinder knowing it',
                'see "nova-ext-manage job list" there, and job retry or job '
                'rollback',
            )
        )
    return findings + skew(subject, said.get('time', after), before, after)
