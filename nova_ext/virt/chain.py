# SPDX-License-Identifier: Apache-2.0
"""A disk and its backing chain as values, from libvirt's XML and the files.

What libvirt says, what the headers say and what QEMU has open are three
answers to one question; :func:`observe` puts them side by side, and whoever
acts on a chain does so only where they agree. Nothing is changed here.
"""

from __future__ import annotations

import dataclasses
import os
from xml.etree import ElementTree  # noqa: S405 (written by libvirt itself)

from nova_ext.virt import image

# NOTE: longer than any chain that QEMU would open, so that a loop of headers
# can't hold us up.
_MAX_LAYERS = 512
_NOVA = '{http://openstack.org/xmlns/libvirt/nova/'


@dataclasses.dataclass(frozen=True)
class Layer:
    """One file of a chain: its path and the format it is opened with."""

    path: str
    format: str


@dataclasses.dataclass(frozen=True)
class Disk:
    """A disk of a guest, as libvirt describes it.

    :ivar target: the target dev, such as ``vdb``
    :ivar serial: for a volume its id
    :ivar layers: the backing chain, active layer first; empty if the disk
        is not made of files
    :ivar busy: whether libvirt says that a block job mirrors it
    :ivar committed: the file that is the same as what is above it, where
        the active layer was committed and the guest can go on in that file
    """

    target: str
    serial: str | None
    type: str
    layers: tuple[Layer, ...]
    readonly: bool
    encrypted: bool
    busy: bool
    committed: str | None = None


@dataclasses.dataclass(frozen=True)
class Domain:
    """A guest, as libvirt describes it.

    :ivar agent: state of the guest agent's channel: ``connected``,
        ``disconnected``, or None if there is none
    :ivar of_nova: whether Nova has defined it, and will again
    """

    uuid: str
    name: str
    disks: tuple[Disk, ...]
    agent: str | None
    of_nova: bool = False


@dataclasses.dataclass(frozen=True)
class Seen:
    """What was found of a chain at one moment; paths, active layer first.

    :ivar domain: what libvirt says
    :ivar headers: what the files' headers say, beginning at the active
        layer that libvirt names
    :ivar files: path → device and inode, or the path where nothing is
    :ivar open: path → QEMU's locks, for every file that was asked for
    """

    domain: tuple[str, ...]
    headers: tuple[str, ...]
    files: dict[str, tuple[int, int] | str]
    open: dict[str, image.Locks]

    @property
    def agree(self) -> bool:
        """Whether libvirt and the headers name the same files."""
        return self.same(self.domain, self.headers)

    def same(self, one: tuple[str, ...], other: tuple[str, ...]) -> bool:
        """Whether two chains are of the same files, whatever their names."""
        return [self.files[p] for p in one] == [self.files[p] for p in other]


def parse(xml: str) -> Domain:
    """A domain's XML as a value. :raises: ValueError"""
    root = ElementTree.fromstring(xml)  # noqa: S314
    agent = root.find("devices/channel/target[@name='org.qemu.guest_agent.0']")
    return Domain(
        uuid=root.findtext('uuid', ''),
        name=root.findtext('name', ''),
        disks=tuple(
            _disk(element)
            for element in root.iterfind('devices/disk')
            if element.find('target') is not None
        ),
        agent=(None if agent is None else agent.get('state', 'disconnected')),
        of_nova=any(element.tag.startswith(_NOVA) for element in root.iter()),
    )


def _disk(element: ElementTree.Element) -> Disk:
    return Disk(
        target=element.find('target').get('dev', ''),  # type: ignore
        serial=element.findtext('serial'),
        type=element.get('type', ''),
        layers=_layers(element),
        readonly=element.find('readonly') is not None,
        encrypted=(
            element.find('encryption') is not None
            or element.find('source/encryption') is not None
        ),
        busy=element.find('mirror') is not None,
        committed=_committed(element.find('mirror')),
    )


def _committed(mirror: ElementTree.Element | None) -> str | None:
    if mirror is None or mirror.get('ready') != 'yes':
        return None
    source = mirror.find('source')
    ours = mirror.get('job') == 'active-commit' and source is not None
    return source.get('file') if ours else None


def _layers(element: ElementTree.Element) -> tuple[Layer, ...]:
    if element.get('type') != 'file':
        return ()
    layers = []
    driver = element.find('driver')
    layer_format = 'raw' if driver is None else driver.get('type', 'raw')
    part: ElementTree.Element | None = element
    while part is not None:
        source = part.find('source')
        path = None if source is None else source.get('file')
        if path is None:
            break
        layers.append(Layer(path, layer_format))
        part = part.find('backingStore')
        if part is not None:
            found = part.find('format')
            layer_format = '' if found is None else found.get('type', '')
    return tuple(layers)


def backing_path(path: str, name: str) -> str:
    """Where a backing file name in the header of the file at `path` leads.

    :raises: :class:`nova_ext.virt.image.NotAnImage` for a name that is not
        one of a file (``json:``, a protocol, control characters)
    """
    if ':' in name.split('/')[0] or not name.isprintable():
        raise image.NotAnImage(
            f'its backing file {name[:100]!r} is not a plain file'
        )
    # NOTE: not normalised: behind a link `..` is elsewhere for the kernel.
    return os.path.join(os.path.dirname(path), name)


def headers(layer: Layer) -> tuple[str, ...]:
    """The chain below `layer` as the headers tell it.

    A raw file ends it: what is in a raw file is the guest's, and never read
    as a header.

    :raises: :class:`nova_ext.virt.image.NotAnImage`, OSError
    """
    paths = [layer.path]
    layer_format: str | None = layer.format
    while layer_format == 'qcow2':
        found = image.read_qcow2(paths[-1], link=True)
        if found.backing_file is None:
            break
        if len(paths) >= _MAX_LAYERS:
            raise image.NotAnImage('its backing chain has no end')
        paths.append(backing_path(paths[-1], found.backing_file))
        layer_format = found.backing_format
    return tuple(paths)


def observe(disk: Disk, *others: str) -> Seen:
    """Look at a disk's chain now.

    :param others: further paths whose locks are wanted; a path that is gone
        counts as not open
    :raises: :class:`nova_ext.virt.image.NotAnImage`, OSError
    """
    named = tuple(layer.path for layer in disk.layers)
    below = headers(disk.layers[0])
    found = {}
    for path in {*below, *others}:
        try:
            found[path] = image.locks(path)
        except FileNotFoundError:
            found[path] = image.Locks(False, False)
    return Seen(
        domain=named,
        headers=below,
        files={path: _file(path) for path in {*named, *below, *others}},
        open=found,
    )


def same_files(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two chains are of the same files, whatever their names.

    :raises: OSError
    """
    return [_file(path) for path in one] == [_file(path) for path in other]


def _file(path: str) -> tuple[int, int] | str:
    try:
        return image.identity(path)
    except FileNotFoundError:
        return path
