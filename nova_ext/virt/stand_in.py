# SPDX-License-Identifier: Apache-2.0
"""The definition of a stand-in: a domain that works on the disk of another.

Merges are QEMU's business, also where the guest is off: a paused domain with
nothing but the disk in question is started for them, never runs, and is
gone afterwards. Here its XML is made; what it is used for is not known.
"""

from __future__ import annotations

from xml.etree import ElementTree  # noqa: S405 (written by libvirt itself)

from nova_ext.virt import chain

# NOTE: it never executes anything; less than this some machines refuse.
_MEMORY_MIB = 64
# Of a driver, what is about the files; the rest, such as an I/O thread, is
# about the machine that the guest has, and the stand-in has not.
_OF_FILES = ('name', 'type', 'cache', 'io', 'discard', 'detect_zeroes')


def definition(guest_xml: str, target: str, name: str, uuid: str) -> str:
    """The XML of a stand-in for one disk of a guest.

    It has the guest's machine, emulator and security labels, so that it may
    open what the guest may, and the disk without its serial, so that it is
    not taken for an attachment. Its backing chain is what the headers say.

    :param guest_xml: the stored definition of the guest
    :param target: the target dev of the disk
    :raises: ValueError if the guest has no such disk
    """
    guest = chain.read(guest_xml)
    root = ElementTree.Element('domain', type=guest.get('type', 'kvm'))
    for tag, text in (('name', name), ('uuid', uuid), ('vcpu', '1')):
        ElementTree.SubElement(root, tag).text = text
    memory = ElementTree.SubElement(root, 'memory', unit='MiB')
    memory.text = str(_MEMORY_MIB)
    os = ElementTree.SubElement(root, 'os')
    os.extend(guest.findall('os/type'))
    devices = ElementTree.SubElement(root, 'devices')
    devices.extend(guest.findall('devices/emulator'))
    devices.append(_disk(guest, target))
    ElementTree.SubElement(devices, 'controller', type='usb', model='none')
    ElementTree.SubElement(devices, 'memballoon', model='none')
    root.extend(
        label
        for label in guest.findall('seclabel')
        if label.get('type') != 'dynamic'
    )
    return ElementTree.tostring(root, encoding='unicode')


def without_backing(guest_xml: str, target: str) -> str | None:
    """The XML of a disk that says nothing of its backing chain.

    :returns: None if the definition says nothing as it is
    :raises: ValueError if the guest has no such disk
    """
    disk = _find(chain.read(guest_xml), target)
    stores = disk.findall('backingStore')
    for store in stores:
        disk.remove(store)
    return ElementTree.tostring(disk, encoding='unicode') if stores else None


def _disk(guest: ElementTree.Element, target: str) -> ElementTree.Element:
    found = _find(guest, target)
    disk = ElementTree.Element('disk', type='file', device='disk')
    for driver in found.findall('driver'):
        kept = {k: v for k, v in driver.items() if k in _OF_FILES}
        ElementTree.SubElement(disk, 'driver', kept)
    disk.extend(found.findall('source'))
    # NOTE: other buses want a controller, which the guest has perhaps set up.
    ElementTree.SubElement(disk, 'target', dev=target, bus='virtio')
    return disk


def _find(guest: ElementTree.Element, target: str) -> ElementTree.Element:
    for disk in guest.iterfind('devices/disk'):
        element = disk.find('target')
        if element is not None and element.get('dev') == target:
            return disk
    raise ValueError(f'no disk {target}')
