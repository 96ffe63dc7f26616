# SPDX-License-Identifier: Apache-2.0
"""A disk and its backing chain as values, from libvirt's XML and the files.

What libvirt says, what the headers say and what QEMU has open are three
answers to one question; :func:`observe` puts them side by side, and whoever
acts on a chain does so only where they agree. Nothing is changed here.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from xml.etree import ElementTree  # noqa: S405 (written by libvirt itself)

from nova_ext.virt import image

# NOTE: libvirt's own bound (QEMU_DOMAIN_STORAGE_SOURCE_CHAIN_MAX_DEPTH), so
# that neither a loop of headers nor a crowd of them can hold us up.
_MAX_LAYERS = 200
# What an overlay, or the next start, would not keep.
_SPECIAL = {
    'shareable': 'it is shared with other instances',
    'transient': 'what is written to it is thrown away',
    './/slices': 'a part of its file is used only',
}
_NOVA = '{http://openstack.org/xmlns/libvirt/nova/'


@dataclasses.dataclass(frozen=True)
class Layer:
    """One file of a chain: its path and the format it is opened with.

    :ivar snapshots: how many are inside it, as far as its header was read
    """

    path: str
    format: str
    snapshots: int = 0


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
    :ivar special: why its layers cannot be changed; '' if they can
    """

    target: str
    serial: str | None
    type: str
    layers: tuple[Layer, ...]
    readonly: bool
    encrypted: bool
    busy: bool
    committed: str | None = None
    special: str = ''


@dataclasses.dataclass(frozen=True)
class Domain:
    """A guest, as libvirt describes it.

    :ivar agent: state of the guest agent's channel: ``connected``,
        ``disconnected``, or None if there is none
    :ivar of_nova: whether Nova has defined it, and will again
    :ivar number: libvirt's of its QEMU process; None if it has none
    :ivar rescued: whether Nova has it boot from a rescue image, and will go
        back to a definition of before
    """

    uuid: str
    name: str
    disks: tuple[Disk, ...]
    agent: str | None
    of_nova: bool = False
    number: int | None = None
    rescued: bool = False

    @property
    def process(self) -> str:
        """Which process it has: another one after each start, unless no guest
        had one when libvirtd was started in between; or nothing.
        """
        # NOTE: libvirt counts from 1 again when the host was started anew,
        # and when libvirtd was while no guest had a process. The latter is
        # not noticed: a definition says nothing else of its process.
        return '' if self.number is None else f'{_boot()} {self.number}'


@dataclasses.dataclass(frozen=True)
class Seen:
    """What was found of a chain at one moment; paths, active layer first.

    :ivar domain: what libvirt says
    :ivar headers: what the files' headers say, beginning at the active
        layer that libvirt names
    :ivar files: path → device and inode, or the path where nothing is
    :ivar open: path → QEMU's locks, for every file that was asked for
    :ivar vague: whether a header does not say the format of what is below
    :ivar holding: paths of layers with snapshots inside, of which a merge
        would keep nothing
    """

    domain: tuple[str, ...]
    headers: tuple[str, ...]
    files: dict[str, tuple[int, int] | str]
    open: dict[str, image.Locks]
    vague: bool = False
    holding: tuple[str, ...] = ()

    @property
    def agree(self) -> bool:
        """Whether libvirt and the headers name the same files."""
        return self.same(self.domain, self.headers)

    def same(self, one: tuple[str, ...], other: tuple[str, ...]) -> bool:
        """Whether two chains are of the same files, whatever their names."""
        return [self.files[p] for p in one] == [self.files[p] for p in other]


@functools.cache
def _boot() -> str:
    with open('/proc/sys/kernel/random/boot_id') as file:
        return file.read().strip()


def read(xml: str) -> ElementTree.Element:
    """The root of a domain's XML. :raises: ValueError"""
    try:
        return ElementTree.fromstring(xml)  # noqa: S314
    except ElementTree.ParseError as error:
        raise ValueError(f'it is not XML: {error}') from None


# NOTE: most definitions are what they were at the look before.
@functools.lru_cache(maxsize=32)
def parse(xml: str) -> Domain:
    """A domain's XML as a value. :raises: ValueError"""
    root = read(xml)
    number = root.get('id')
    agent = root.find("devices/channel/target[@name='org.qemu.guest_agent.0']")
    of_nova = any(element.tag.startswith(_NOVA) for element in root.iter())
    return Domain(
        uuid=root.findtext('uuid', ''),
        name=root.findtext('name', ''),
        disks=tuple(
            _disk(element)
            for element in root.iterfind('devices/disk')
            if element.find('target') is not None
        ),
        agent=(None if agent is None else agent.get('state', 'disconnected')),
        of_nova=of_nova,
        rescued=of_nova
        and any(
            value.endswith('disk.rescue')
            for source in root.iterfind('devices/disk/source')
            for value in source.attrib.values()
        ),
        number=None if number is None else int(number),
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
        special=next(
            (
                why
                for path, why in _SPECIAL.items()
                if element.find(path) is not None
            ),
            '',
        ),
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


def home(path: str) -> str:
    """The directory that the chain of the active layer at `path` is in."""
    return os.path.realpath(os.path.dirname(path))


def backing_path(path: str, name: str, within: str) -> str:
    """Where a backing file name in the header of the file at `path` leads.

    :param within: the :func:`home` of the chain, which it may not leave
    :raises: :class:`nova_ext.virt.image.NotAnImage` for a name that is not
        one of a file (``json:``, a protocol, control characters), or of one
        elsewhere
    """
    if ':' in name.split('/')[0] or not name.isprintable():
        raise image.NotAnImage(
            f'its backing file {name[:100]!r} is not a plain file'
        )
    # NOTE: not normalised: behind a link `..` is elsewhere for the kernel.
    found = os.path.join(os.path.dirname(path), name)
    _check_within(found, within, f'its backing file {name}')
    return found


def _check_within(path: str, within: str, what: str) -> None:
    # NOTE: Quobyte's shared bases are below, in volume_from_snapshot_cache.
    if os.path.commonpath((os.path.realpath(path), within)) != within:
        raise image.NotAnImage(
            f'{what} leads out of {within}, the directory of the active '
            'layer; neither a name in a header nor a link may'
        )


def headers(layer: Layer) -> tuple[str, ...]:
    """The chain below `layer` as the headers tell it.

    A raw file ends it: what is in a raw file is the guest's, and never read
    as a header.

    :raises: :class:`nova_ext.virt.image.NotAnImage`, OSError
    """
    return tuple(found.path for found in _follow(layer))


def _follow(layer: Layer) -> list[Layer]:
    within = home(layer.path)
    _check_within(layer.path, within, f'the link {layer.path}')
    layers = [layer]
    while layers[-1].format == 'qcow2':
        path = layers[-1].path
        found = image.read_qcow2(path, link=True, data=False)
        if found.features & image.DATA_FILE:
            # QEMU would open whatever file the header names.
            raise image.NotAnImage(f'{path} has an external data file')
        layers[-1] = dataclasses.replace(layers[-1], snapshots=found.snapshots)
        if found.backing_file is None:
            break
        if len(layers) >= _MAX_LAYERS:
            raise image.NotAnImage(
                f'its backing chain has no end, or more than {_MAX_LAYERS} '
                'layers'
            )
        layers.append(
            Layer(
                backing_path(path, found.backing_file, within),
                found.backing_format or '',
            )
        )
    return layers


def _check_formats(said: tuple[Layer, ...], found: list[Layer]) -> None:
    """Refuse a file that one witness takes for a header and one for data."""
    for one, other in zip(said, found, strict=False):
        if not (one.format and other.format) or _file(one.path) != _file(
            other.path
        ):
            continue
        if (one.format == 'qcow2') != (other.format == 'qcow2'):
            raise image.NotAnImage(
                f'libvirt opens {one.path} as {one.format}, and the header '
                f'above it says {other.format[:15]!r}. What is in a raw file '
                "is the guest's: find out who wrote the header before it "
                'is made to agree by "qemu-img rebase -u -F FORMAT"'
            )


def observe(disk: Disk, *others: str) -> Seen:
    """Look at a disk's chain now.

    :param others: further paths whose locks are wanted; a path that is gone
        counts as not open
    :raises: :class:`nova_ext.virt.image.NotAnImage`, OSError
    """
    named = tuple(layer.path for layer in disk.layers)
    layers = _follow(disk.layers[0])
    _check_formats(disk.layers, layers)
    below = tuple(layer.path for layer in layers)
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
        vague=not all(layer.format for layer in layers),
        holding=tuple(layer.path for layer in layers if layer.snapshots),
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
