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
from nova_ext.virt import chain, guest
from nova_ext.virt.sample import SampleGuest, create_volume
from nova_ext.virt.sample_chain import make_overlay
from tests.benchmark.cinder_process import CinderProcess
from tests.fixtures.serve import Served, serving

_SIZE_BYTES = 1 << 30
_SECONDS = 30.0
SNAPSHOT = (
    libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
)
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
    :ivar uri: of libvirt
    :ivar log: of the service and its agent
    """

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        served: Served,
        cinder: CinderProcess,
        connection: libvirt.virConnect,
        sample: SampleGuest,
    ) -> None:
        self.url = served.url
        self.uri = served.libvirt_uri
        self.log = served.log
        self.cinder = cinder
        self.compute = compute.load(conf)
        self.context = context.RequestContext()
        self.connection = connection
        self.guest = sample
        self.domain = sample.domain
        self._layers = [sample.volume_path]
        # The disks of the guest that stay as they are.
        self._others = [
            disk.target
            for disk in chain.parse(self.domain.XMLDesc()).disks
            if disk.target != sample.target
        ]
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

    def snapshot_xml(self, overlay: Overlay) -> str:
        """What libvirt is asked to do to the disks of the guest."""
        return guest.snapshot_xml(
            self.guest.target, str(overlay.path), self._others
        )

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
        self.look()

    def merged(self, path: pathlib.Path) -> None:
        """Remove a file that was merged away.

        :raises: :class:`MeasuringFailed` if it was not
        """
        (disk,) = (
            disk
            for disk in chain.parse(self.domain.XMLDesc()).disks
            if disk.target == self.guest.target
        )
        self._layers.remove(path)
        named = [layer.path for layer in reversed(disk.layers)]
        if named != [str(layer) for layer in self._layers]:
            raise MeasuringFailed(f'{path} was merged into {named}')
        path.unlink()

    @property
    def layers(self) -> list[pathlib.Path]:
        """The files of the disk, the base first."""
        return list(self._layers)

    def look(self) -> None:
        """Have the agent look at the guest."""
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


def _options(cinder: CinderProcess, **agent: Any) -> dict[str, dict[str, Any]]:
    return {
        'nova_ext': {'auth_strategy': 'noauth'},
        'nova_ext_agent': {'reports': 'cinder', **agent},
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
def running(**agent: Any) -> Iterator[Rig]:
    """All parts, as shipped, until this context ends.

    :param agent: options of the agent
    """
    directory = pathlib.Path(tempfile.mkdtemp(prefix='nova-ext-bench-'))
    # The guest runs without root's privileges and has to get at its volume.
    directory.chmod(0o755)
    # libvirt would print each error on stderr beside raising it.
    libvirt.registerErrorHandler(lambda context, error: None, None)
    try:
        with contextlib.ExitStack() as stack:
            cinder = stack.enter_context(CinderProcess())
            options = _options(cinder, **agent)
            served = stack.enter_context(
                serving(directory, options, '--private-libvirtd')
            )
            connection = libvirt.open(served.libvirt_uri)
            stack.callback(connection.close)
            sample = _guest(connection, directory)
            stack.enter_context(sample)
            sample.wait_reported(10)
            conf = _read(directory / 'nova_ext.conf')
            try:
                yield Rig(conf, served, cinder, connection, sample)
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
