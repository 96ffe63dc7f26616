# SPDX-License-Identifier: Apache-2.0
"""The agent is restarted in the middle of a POST: what the caller is told."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator

import pytest

from nova_ext import context, exception
from nova_ext.compute import libvirt as backend
from nova_ext.virt.private import PrivateLibvirtd
from nova_ext.virt.sample import SampleGuest, create_volume
from nova_ext.virt.sample_chain import make_overlay, qemu_chain
from tests.fixtures.app import configured
from tests.fixtures.cinder import CinderDouble
from tests.fixtures.serve import write_config

SIZE = 1 << 30


class Rig:
    """A guest, its agent as a process, and a Cinder that can be held."""

    def __init__(self, directory: pathlib.Path, uri: str) -> None:
        self.double = CinderDouble()
        self.directory = directory
        self.uri = uri
        self.volume_id, self.snapshot_id = str(uuid.uuid4()), str(uuid.uuid4())
        self.volume = directory / f'volume-{self.volume_id}'
        create_volume(self.volume, size_bytes=SIZE)
        self.overlay = make_overlay(
            self.volume, f'{self.volume.name}.new', 'raw', SIZE
        )
        self.guest = SampleGuest(
            uri, directory, volume_path=self.volume, volume_id=self.volume_id
        )
        self.outcome: list[BaseException | None] = []

    def agent(self) -> subprocess.Popen[bytes]:
        config = write_config(
            self.directory / 'agent.conf',
            {
                'DEFAULT': {'log_file': self.directory / 'agent.log'},
                'nova_ext_agent': {
                    'state_dir': self.directory,
                    'libvirt_uri': self.uri,
                    'reports': 'cinder',
                },
                'nova_ext_cinder': {
                    'auth_type': 'none',
                    'endpoint': self.double.endpoint,
                },
            },
        )
        return subprocess.Popen(
            [
                *(sys.executable, '-m', 'nova_ext.cmd.agent'),
                *('--config-file', config),
            ]
        )

    def post(self) -> None:
        with configured(
            {'nova_ext_agent.state_dir': str(self.directory)}
        ) as conf:
            api = backend.ComputeAPI(conf)
            while True:
                with contextlib.suppress(exception.HostUnavailable):
                    api.check()
                    break
            try:
                api.volume_snapshot_create(
                    context.RequestContext(user_id='cinder'),
                    self.volume_id,
                    {
                        'snapshot_id': self.snapshot_id,
                        'type': 'qcow2',
                        'new_file': self.overlay.name,
                    },
                )
                self.outcome.append(None)
            except exception.NovaExtException as error:
                self.outcome.append(error)

    def chain(self) -> list[str]:
        layers = qemu_chain(self.guest.domain, self.volume_id)
        return [path for path, _ in layers]


@pytest.fixture
def rig() -> Iterator[Rig]:
    with (
        tempfile.TemporaryDirectory(prefix='nx-', dir='/tmp') as libvirt,
        tempfile.TemporaryDirectory(prefix='nx-', dir='/tmp') as directory,
        PrivateLibvirtd(pathlib.Path(libvirt)) as libvirtd,
    ):
        pathlib.Path(directory).chmod(0o755)
        made = Rig(pathlib.Path(directory), libvirtd.uri)
        with made.double, made.guest:
            made.double.add_snapshot(made.snapshot_id, made.volume_id)
            made.guest.wait_reported(1)
            yield made


@contextlib.contextmanager
def _killed_when(rig: Rig, progress: str) -> Iterator[None]:
    """Kill the agent while Cinder holds its report of this progress."""
    arrived, go_on = threading.Event(), threading.Event()

    def hold(request: object) -> bool:
        if request.update.get('progress') == progress:  # type: ignore
            arrived.set()
            go_on.wait(30)
        return False

    rig.double.answer_with(500, times=None, when=hold)
    agent = rig.agent()
    caller = threading.Thread(target=rig.post)
    try:
        caller.start()
        assert arrived.wait(30)
        agent.kill()
        agent.wait()
        go_on.set()
        rig.double.clear_faults()
        agent = rig.agent()
        caller.join(60)
        assert not caller.is_alive()
        yield
    finally:
        agent.terminate()
        agent.wait(30)
        caller.join(60)


def test_after_the_switch_the_caller_is_told_that_it_was_made(
    rig: Rig,
) -> None:
    with _killed_when(rig, '90%'):
        assert rig.outcome == [None]
        assert rig.chain() == [str(rig.overlay), str(rig.volume)]
        snapshot = rig.double.snapshots[rig.snapshot_id]
        assert (snapshot.status, snapshot.progress) == ('creating', '90%')


def test_before_the_switch_nothing_is_switched(rig: Rig) -> None:
    with _killed_when(rig, '0%'):
        (error,) = rig.outcome
        assert isinstance(error, exception.Invalid | exception.Failed)
        assert rig.chain() == [str(rig.volume)]
        rig.double.wait_for(
            lambda: rig.double.snapshots[rig.snapshot_id].status == 'error'
        )
