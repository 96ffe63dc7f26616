# SPDX-License-Identifier: Apache-2.0
"""The real parts that are measured: service, agent, libvirt, QEMU, Cinder.

Here: starting them, the overlay before each measurement and the merge after
some, none of it within a clock.  Not here: clocks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import platform
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import libvirt
from oslo_config import cfg

from nova_ext import conf as nova_ext_conf
from nova_ext import context, exception
from nova_ext.compute import api as compute
from nova_ext.virt import chain
from nova_ext.virt.sample import SampleGuest, create_volume
from nova_ext.virt.sample_chain import make_overlay
from tests.benchmark.cinder_process import CinderProcess
from tests.fixtures.serve import Served, serving

_SIZE_BYTES = 1 << 30
_SECONDS = 30.0
_REPORTS = [['creating', '0%'], ['creating', '90%']]


class MeasuringFailed(RuntimeError):
    """What was to be measured did not happen; says why."""


@dataclasses.dataclass(frozen=True)
class Overlay:
    """A new file that waits to become the active layer."""

    snapshot_id: str
    volume_id: str
    path: pathlib.Path

    @property
    def create_info(self) -> dict[str, str]:
        """As Cinder sends it."""
        return {
            'snapshot_id': self.snapshot_id,
            'type': 'qcow2',
            'new_file': self.path.name,
        }


class Rig:
    """A running guest and all that may switch its disk.

    :ivar compute: the backend that reaches the agent
    :ivar url: of the service, which has the same agent
    """

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        served: Served,
        cinder: CinderProcess,
        connection: libvirt.virConnect,
        guest: SampleGuest,
    ) -> None:
        self.url = served.url
        self.cinder = cinder
        self.compute = compute.load(conf)
        self.context = context.RequestContext()
        self.connection = connection
        self.guest = guest
        self.domain = guest.domain
        self._layers = [guest.volume_path]
        # Of the minute before: others' work makes bad figures, ours is meant.
        self._load = os.getloadavg()[0]

    @property
    def machine(self) -> str:
        """What the figures depend on, in a few words."""
        versions = {
            'libvirt': self.connection.getLibVersion(),
            'QEMU': self.connection.getVersion(),
        }
        return ', '.join(
            [
                f'{os.cpu_count()} CPUs',
                f'load before {self._load:.1f}',
                f'Python {platform.python_version()}',
                *(
                    f'{name} {number // 10**6}.{number // 1000 % 1000}'
                    for name, number in versions.items()
                ),
            ]
        )

    @property
    def other_targets(self) -> list[str]:
        """The disks of the guest that stay as they are."""
        return [
            disk.target
            for disk in chain.parse(self.domain.XMLDesc()).disks
            if disk.target != self.guest.target
        ]

    def overlay(self) -> Overlay:
        """Do Cinder's part before a request: the file and the row."""
        snapshot_id = str(uuid.uuid4())
        active = self._layers[-1]
        path = make_overlay(
            active,
            f'{self.guest.volume_path.name}.{snapshot_id}',
            'raw' if active == self.guest.volume_path else 'qcow2',
            _SIZE_BYTES,
        )
        self.cinder.add_snapshot(snapshot_id, self.guest.volume_id)
        return Overlay(snapshot_id, self.guest.volume_id, path)

    def check(self, overlay: Overlay) -> None:
        """Make sure that the guest was switched to it.

        :raises: :class:`MeasuringFailed`
        """
        (disk,) = (
            disk
            for disk in chain.parse(self.domain.XMLDesc()).disks
            if disk.target == self.guest.target
        )
        if disk.layers[0].path != str(overlay.path):
            raise MeasuringFailed(f'the disk is still on {disk.layers[0]}')
        self._layers.append(overlay.path)

    def settle(self, overlays: Sequence[Overlay]) -> None:
        """Wait until nothing more happens, and see what Cinder was told.

        :raises: :class:`MeasuringFailed`
        """
        deadline = time.monotonic() + _SECONDS
        while not self.compute.check().startswith('0 jobs'):
            if time.monotonic() > deadline:
                raise MeasuringFailed(self.compute.check())
            time.sleep(0.01)
        for overlay in overlays:
            reports = self.cinder.remove_snapshot(overlay.snapshot_id)
            if reports != _REPORTS:
                raise MeasuringFailed(f'Cinder was told {reports}')

    def flatten(self) -> None:
        """Merge all layers into the volume, so that chains stay short.

        :raises: :class:`MeasuringFailed`
        """
        self.domain.blockCommit(
            self.guest.target,
            str(self.guest.volume_path),
            None,
            flags=libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE,
        )
        deadline = time.monotonic() + _SECONDS
        while not self._pivot():
            if time.monotonic() > deadline:
                raise MeasuringFailed('a merge between two rounds hangs')
            time.sleep(0.005)
        for path in self._layers[1:]:
            path.unlink()
        del self._layers[1:]
        # The events of the merge make the agent look at the guest anew when
        # it is next asked: now, and not within a clock. A service would not
        # see them one moment before a request either.
        with contextlib.suppress(exception.InvalidOverlay):
            self.compute.volume_snapshot_create(
                self.context,
                self.guest.volume_id,
                {'snapshot_id': 'none', 'type': 'qcow2', 'new_file': 'none'},
            )

    def _pivot(self) -> bool:
        try:
            self.domain.blockJobAbort(
                self.guest.target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT
            )
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_BLOCK_COPY_ACTIVE:
                raise
            return False
        return True


def _options(cinder: CinderProcess) -> dict[str, dict[str, Any]]:
    return {
        'nova_ext': {'auth_strategy': 'noauth'},
        'nova_ext_agent': {'reports': 'cinder'},
        'nova_ext_cinder': {
            'auth_type': 'none',
            'endpoint': cinder.endpoint,
            'endpoint_override': cinder.endpoint,
        },
    }


def _read(path: pathlib.Path) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    nova_ext_conf.register_opts(conf)
    conf(
        [],
        project='nova_ext',
        default_config_files=[str(path)],
        default_config_dirs=[],
    )
    return conf


@contextlib.contextmanager
def running() -> Iterator[Rig]:
    """All parts, as shipped, until this context ends."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix='nova-ext-bench-'))
    # The guest runs without root's privileges and has to get at its volume.
    directory.chmod(0o755)
    # libvirt would print each error on stderr beside raising it.
    libvirt.registerErrorHandler(lambda context, error: None, None)
    try:
        with contextlib.ExitStack() as stack:
            cinder = stack.enter_context(CinderProcess())
            served = stack.enter_context(
                serving(directory, _options(cinder), '--private-libvirtd')
            )
            connection = libvirt.open(served.libvirt_uri)
            stack.callback(connection.close)
            guest = _guest(connection, directory)
            stack.enter_context(guest)
            guest.wait_reported(10)
            conf = _read(directory / 'nova_ext.conf')
            try:
                yield Rig(conf, served, cinder, connection, guest)
            except Exception:
                print(served.log.read_text()[-4000:], file=sys.stderr)
                raise
    finally:
        shutil.rmtree(directory)


def _guest(
    connection: libvirt.virConnect, directory: pathlib.Path
) -> SampleGuest:
    volume_id = str(uuid.uuid4())
    volume = directory / 'share' / f'volume-{volume_id}'
    volume.parent.mkdir()
    create_volume(volume, size_bytes=_SIZE_BYTES)
    return SampleGuest(
        connection, volume.parent, volume_path=volume, volume_id=volume_id
    )
