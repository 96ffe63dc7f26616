# SPDX-License-Identifier: Apache-2.0
"""What a file must be to become the active layer of a disk.

Everything is read in one go, by whoever may wait for a hung share. Nothing
is changed; what is said to whom is admission's business.
"""

from __future__ import annotations

import errno
import os

from nova_ext.virt import chain, image

# What an overlay's header may ask of QEMU; all else is refused.
_FEATURES = image.COMPRESSION | image.EXTENDED_L2


def look(disk: chain.Disk, new_path: str) -> tuple[chain.Seen, str | None]:
    """What is seen of the disk, and why the overlay can't go on top of it.

    :raises: :class:`nova_ext.virt.image.NotAnImage`, OSError for what is
        wrong with the disk and not with the overlay
    """
    active = disk.layers[0]
    if active.format == 'qcow2':
        size = image.read_qcow2(
            active.path, link=True, data=False
        ).virtual_size
    else:
        size = image.raw_size(active.path)
    seen = chain.observe(disk)
    directory, name = os.path.split(new_path)
    try:
        overlay = image.read_qcow2(new_path)
        return seen, _objection(active, size, seen, new_path, overlay)
    except image.NotAnImage as error:
        return seen, str(error)
    except FileNotFoundError:
        return seen, (
            f'there is no file {name} in the directory of the active layer, '
            f'{directory}'
        )
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return seen, 'its name is too long'


def _objection(
    active: chain.Layer,
    size: int,
    seen: chain.Seen,
    new_path: str,
    overlay: image.Image,
) -> str | None:
    if overlay.encrypted:
        return 'it is encrypted'
    if overlay.features & image.DATA_FILE:
        return 'its data are in an external data file'
    if overlay.features & ~_FEATURES:
        return (
            'its header has incompatible features '
            f'({overlay.features:#x}) that a new overlay does not have'
        )
    if overlay.holds_data:
        return 'it already holds data'
    if image.locks(new_path).opened:
        return 'another process has it open'
    if overlay.backing_file is None:
        return 'it has no backing file'
    backing = chain.backing_path(
        new_path, overlay.backing_file, chain.home(active.path)
    )
    if not os.path.exists(backing):
        return f'its backing file {overlay.backing_file} does not exist'
    if image.identity(backing) != seen.files[active.path]:
        return (
            f'its backing file is {overlay.backing_file}, and the active '
            f'layer is {os.path.basename(active.path)}'
        )
    if overlay.backing_format != active.format:
        return (
            f'its backing format is {overlay.backing_format}, and the '
            f'format of the active layer is {active.format}'
        )
    if overlay.virtual_size < size:
        return (
            f'its size of {overlay.virtual_size} bytes is smaller than the '
            f'{size} bytes of the disk'
        )
    return None
