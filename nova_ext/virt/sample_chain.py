# SPDX-License-Identifier: Apache-2.0
"""Cinder's part in a snapshot, and QEMU's own word for a chain.

For the demo and the tests, like :mod:`nova_ext.virt.sample`. No service code
may use it: asking QEMU's monitor marks a guest as tainted.
"""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING, Any

from nova_ext.virt.sample_records import qemu_img

if TYPE_CHECKING:
    import libvirt


def make_overlay(
    active: pathlib.Path, name: str, active_format: str, size_bytes: int
) -> pathlib.Path:
    """Make a qcow2 overlay by the two commands that Cinder runs.

    :param active: absolute path of the layer below
    :param name: file name of the overlay, in the same directory
    :returns: the overlay's path
    :raises RuntimeError: with the words of qemu-img
    """
    overlay = active.with_name(name)
    backing = f'backing_file={active},backing_fmt={active_format}'
    qemu_img('create', '-f', 'qcow2', '-o', backing, str(overlay),
             str(size_bytes))  # fmt: skip
    qemu_img('rebase', '-u', '-b', active.name, '-F', active_format,
             str(overlay))  # fmt: skip
    overlay.chmod(0o666)
    return overlay


def qemu_chain(
    domain: libvirt.virDomain, serial: str
) -> list[tuple[str, str]]:
    """Path and format of each layer that QEMU has open, active layer first.

    :param serial: of the disk
    :raises LookupError: if QEMU has no such disk
    """
    import libvirt_qemu

    answer = json.loads(
        libvirt_qemu.qemuMonitorCommand(
            domain, json.dumps({'execute': 'query-block'}), 0
        )
    )
    for device in answer['return']:
        image = device.get('inserted', {}).get('image')
        if image and _serial(domain, device['qdev']) == serial:
            return _layers(image)
    raise LookupError(f'QEMU has no disk with serial {serial}')


def _serial(domain: libvirt.virDomain, path: str) -> str:
    import libvirt_qemu

    # The front end is the disk device, or for virtio its child.
    device = path.removesuffix('/virtio-backend')
    command = {
        'execute': 'qom-get',
        'arguments': {'path': device, 'property': 'serial'},
    }
    answer = libvirt_qemu.qemuMonitorCommand(domain, json.dumps(command), 0)
    return json.loads(answer).get('return', '')


def _layers(image: dict[str, Any] | None) -> list[tuple[str, str]]:
    layers = []
    while image:
        layers.append((_file_name(image['filename']), image['format']))
        image = image.get('backing-image')
    return layers


def _file_name(name: str) -> str:
    """The path in one of the ways in which QEMU writes a file's name."""
    if not name.startswith('json:'):
        return name
    node = json.loads(name.removeprefix('json:'))
    while isinstance(node.get('file'), dict):
        node = node['file']
    return node.get('filename', name)
