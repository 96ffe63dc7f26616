# SPDX-License-Identifier: Apache-2.0
"""A guest behind one of the backends, asked over HTTP as Cinder asks.

The application is the shipped one, before the real backend; which backend
that is, and what it needs beside an agent, is said in SITES alone. What is
asked, and what is answered to it, is said by the tests.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import webob
from oslo_config import cfg

from nova_ext import context as nova_ext_context
from nova_ext.api import app
from nova_ext.compute import api as compute
from nova_ext.compute import rpc
from nova_ext.virt.private import PrivateLibvirtd
from nova_ext.virt.sample import SampleGuest
from tests.fixtures.app import configured
from tests.fixtures.bus import on_bus
from tests.fixtures.cinder import Attachment, CinderDouble
from tests.fixtures.host import Host, short_directory
from tests.fixtures.merge import WatchedHost, wait_until
from tests.integration.test_delete import Share
from tests.integration.test_overlay_refused import _shareable_elsewhere

_HOST = 'this-host'
PATH = '/v2.1/os-assisted-volume-snapshots'


class Refused(Exception):
    """An answer of 400 or more; its text is the message for the caller."""

    def __init__(self, answer: webob.Response) -> None:
        # In the envelope, whatever was asked (W15).
        ((self.name, fault),) = answer.json.items()
        super().__init__(fault['message'])
        self.status = answer.status_int
        assert fault['code'] == self.status


class Front(compute.ComputeAPI):
    """The HTTP API, in the place of the backend that it calls."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        super().__init__(conf)
        # One backend for both, so that a test can have it fail.
        self._backend = compute.load(conf)
        with mock.patch.object(compute, 'load', autospec=True) as load:
            load.return_value = self._backend
            self._app = app.load(conf)

    def volume_snapshot_create(
        self,
        context: nova_ext_context.RequestContext,
        volume_id: str,
        create_info: dict[str, Any],
    ) -> None:
        """POST as Cinder does. :raises: Refused"""
        snapshot = {'volume_id': volume_id, 'create_info': create_info}
        self.post({'snapshot': snapshot})

    def volume_snapshot_delete(
        self,
        context: nova_ext_context.RequestContext,
        volume_id: str,
        snapshot_id: str,
        delete_info: dict[str, Any],
    ) -> None:
        """DELETE as Cinder does. :raises: Refused"""
        answer = self.delete(snapshot_id, json.dumps(delete_info))
        assert (answer.status_int, answer.body) == (204, b'')

    def check(self) -> str:
        """What the agent says of its jobs. :raises: Unavailable"""
        if isinstance(self._backend, rpc.ComputeAPI):
            return self._backend.status(_HOST)['summary']
        return self._backend.check()

    def post(self, body: Any) -> dict[str, Any]:
        """The body of a 200. :raises: Refused

        :param body: sent as it is if it is bytes, else as JSON
        """
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        answer = self.ask('POST', PATH, body)
        assert answer.status_int == 200
        return answer.json

    def delete(
        self, snapshot_id: str, delete_info: str, **headers: str
    ) -> webob.Response:
        """:raises: Refused"""
        snapshot_id = urllib.parse.quote(snapshot_id, safe='')
        query = urllib.parse.urlencode({'delete_info': delete_info})
        return self.ask('DELETE', f'{PATH}/{snapshot_id}?{query}', **headers)

    def ask(
        self, method: str, path: str, body: bytes = b'', **headers: str
    ) -> webob.Response:
        """:raises: Refused"""
        answer = webob.Request.blank(
            path,
            environ={'REMOTE_ADDR': '127.0.0.1'},
            method=method,
            body=body,
            headers={'Content-Type': 'application/json', **headers},
        ).get_response(self._app)
        if answer.status_int >= 400:
            raise Refused(answer)
        return answer


@contextlib.contextmanager
def fronted(conf: cfg.ConfigOpts, backend: str) -> Iterator[Front]:
    """The API before a backend, with a configuration that is read."""
    conf.set_override('auth_strategy', 'noauth', 'nova_ext')
    conf.set_override('compute_api', backend, 'nova_ext')
    try:
        yield Front(conf)
    finally:
        conf.clear_override('auth_strategy', 'nova_ext')
        conf.clear_override('compute_api', 'nova_ext')


class LibvirtHost(WatchedHost):
    """A host whose agent is asked by its UNIX socket."""

    @contextlib.contextmanager
    def running(self) -> Iterator[Host]:
        """See :class:`tests.fixtures.host.Host`."""
        with super().running(), fronted(cfg.CONF, 'libvirt') as self.api:
            yield self


class RpcHost(WatchedHost):
    """A host whose agent is asked by a message bus.

    :ivar bus: its transport_url, once it is said
    """

    bus = ''

    @contextlib.contextmanager
    def running(self) -> Iterator[Host]:
        """See :class:`tests.fixtures.host.Host`."""
        self._options |= {'rpc': True, 'host': _HOST}
        with (
            super().running(),
            on_bus(cfg.CONF, self.bus, self.double),
            fronted(cfg.CONF, 'rpc') as self.api,
        ):
            log = 'Listening on the message bus'
            wait_until(lambda: log in self.log(), self)
            yield self

    def snapshot(self, status: str = 'creating') -> str:
        """As of a host; Cinder has attached the volume to an instance here."""
        known = self.double.volumes.get(self.volume_id)
        if known is None or not known.attachments:
            attachment = Attachment(str(uuid.uuid4()), _HOST)
            self.double.add_volume(self.volume_id, attachment)
        return super().snapshot(status)

    def configuration(self) -> dict[str, dict[str, Any]]:
        """See :class:`tests.fixtures.host.Host`."""
        groups = super().configuration()
        groups['DEFAULT']['transport_url'] = self.bus
        return groups


#: Backend → its host. A backend joins by a line here.
SITES: dict[str, type[Host]] = {'libvirt': LibvirtHost, 'rpc': RpcHost}


class Site:
    """Where the tests of one backend run.

    :param backend: the name of its entry point
    :param bus: the transport_url of those that have one
    """

    def __init__(
        self, backend: str, libvirtd: PrivateLibvirtd, bus: str
    ) -> None:
        self.backend = backend
        self.libvirtd = libvirtd
        self._bus = bus

    @contextlib.contextmanager
    def share(
        self,
        guest: dict[str, Any] | None = None,
        volume_id: str | None = None,
        prepare: Callable[[pathlib.Path], object] = lambda volume: None,
        **options: Any,
    ) -> Iterator[Share]:
        """A guest that writes, and its volume as cinder-volume sees it.

        :param guest: options of the sample guest
        :param volume_id: another than a random UUID
        :param prepare: is given the volume before the guest has it
        :param options: of the group nova_ext_agent
        """
        make = SITES[self.backend]
        with short_directory() as directory:
            host = make(directory, self.libvirtd, guest, **options)
            if isinstance(host, RpcHost):
                host.bus = self._bus
            if volume_id is not None:
                _rename(host, volume_id)
            prepare(host.volume)
            with host.running():
                # A Linux, where it is one, takes its time.
                host.guest.wait_reported(1, timeout=120)
                yield Share(host)

    @contextlib.contextmanager
    def front(
        self, overrides: dict[str, Any] | None = None
    ) -> Iterator[Front]:
        """The API where no agent runs.

        :param overrides: ``group.option`` → value
        """
        with short_directory() as directory:
            state_dir = {'nova_ext_agent.state_dir': str(directory)}
            with (
                configured(state_dir | (overrides or {})) as conf,
                CinderDouble() as double,
                on_bus(conf, self._bus, double),
                fronted(conf, self.backend) as front,
            ):
                yield front


def _rename(host: Host, volume_id: str) -> None:
    host.volume_id = host.guest.volume_id = volume_id
    host.volume = host.volume.rename(host.directory / f'volume-{volume_id}')
    host.guest.volume_path = host.volume


def filled(volume: pathlib.Path) -> None:
    """Give a volume much to read, behind what the guest writes."""
    with volume.open('r+b') as file:
        file.seek(300 << 20)
        for _ in range(200):
            file.write(b'x' * (1 << 20))


def second_guest(host: Host) -> SampleGuest:
    """Another guest that has the same volume; as a context."""
    return SampleGuest(
        host.uri,
        host.directory,
        name=f'second-{uuid.uuid4()}',
        volume_path=host.volume,
        volume_id=host.volume_id,
        customise=_shareable_elsewhere,
    )
