# SPDX-License-Identifier: Apache-2.0
"""What a file must be to become the active layer, and what is said if not."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from nova_ext.agent import overlay
from nova_ext.virt import chain, image
from tests.unit.agent import fakes

SIZE = 1 << 30


@pytest.fixture
def active(share: fakes.Share) -> chain.Disk:
    """A disk that QEMU has open: v, raw."""
    share.raw('v', SIZE)
    share.open('v')
    return share.disk('v')


def _objection(share: fakes.Share, disk: chain.Disk) -> str | None:
    return overlay.look(disk, share.path('s'))[1]


def test_a_new_overlay_is_taken(share: fakes.Share, active: Any) -> None:
    share.qcow2('s', 'v')
    seen, objection = overlay.look(active, share.path('s'))
    assert objection is None
    assert seen.headers == (share.path('v'),)
    assert seen.open[share.path('v')].writable


def test_a_new_overlay_on_an_overlay_is_taken(share: fakes.Share) -> None:
    share.raw('base')
    share.qcow2('v', 'base')
    share.qcow2('s', 'v', 'qcow2')
    assert _objection(share, share.disk('v', 'base')) is None


@pytest.mark.parametrize(
    'header',
    [
        {'version': 2},
        {'size': 2 * SIZE, 'l1': (0,) * 4},
        {'features': image.COMPRESSION},
        {'features': image.EXTENDED_L2, 'l1': (0,) * 4},
    ],
)
def test_what_new_overlays_may_be(
    share: fakes.Share, active: Any, header: dict[str, Any]
) -> None:
    share.qcow2('s', 'v', **header)
    assert _objection(share, active) is None


def _other(share: fakes.Share) -> None:
    share.raw('other')
    share.qcow2('s', 'other')


def _link(share: fakes.Share) -> None:
    share.qcow2('good', 'v')
    os.symlink('good', share.path('s'))


def _hard_link(share: fakes.Share) -> None:
    share.qcow2('good', 'v')
    os.link(share.path('good'), share.path('s'))


def _in_use(share: fakes.Share) -> None:
    share.qcow2('s', 'v')
    share.opened['s'] = False


OBJECTIONS: list[tuple[Callable[[fakes.Share], Any], str]] = [
    (lambda share: None, 'there is no file s in the directory of the'),
    (lambda share: share.raw('s'), 'Image is not in qcow2 format'),
    (lambda share: share.qcow2('s', 'v', cut=100), 'cut short'),
    (lambda share: share.qcow2('s'), 'it has no backing file'),
    (lambda share: share.qcow2('s', 'absent'), 'absent does not exist'),
    (_other, 'its backing file is other, and the active layer is v'),
    (lambda share: share.qcow2('s', 's'), 'its backing file is s, and'),
    (lambda share: share.qcow2('s', 'nbd://v'), 'is not a plain file'),
    (lambda share: share.qcow2('s', 'v', 'qcow2'), 'its backing format is qc'),
    (
        lambda share: share.qcow2(
            's', 'v', extensions=b'', backing_offset=104
        ),
        'its backing format is None',
    ),
    (
        lambda share: share.qcow2('s', 'v', size=SIZE - 512),
        f'its size of {SIZE - 512} bytes is smaller than the {SIZE} bytes',
    ),
    (lambda share: share.qcow2('s', 'v', crypt_method=1), 'it is encrypted'),
    (lambda share: share.qcow2('s', 'v', crypt_method=2), 'it is encrypted'),
    (lambda share: share.qcow2('s', 'v', features=4), 'external data file'),
    (lambda share: share.qcow2('s', 'v', features=1), 'features (0x1)'),
    (lambda share: share.qcow2('s', 'v', features=2), 'features (0x2)'),
    (lambda share: share.qcow2('s', 'v', features=32), 'features (0x20)'),
    (lambda share: share.qcow2('s', 'v', l1=(1, 0)), 'already holds data'),
    (lambda share: share.qcow2('s', 'v', snapshots=1), 'already holds data'),
    (_link, 'it is a symbolic link'),
    (_hard_link, 'it has another name'),
    (_in_use, 'another process has it open'),
    (lambda share: os.mkdir(share.path('s')), 'it is not a regular file'),
    (lambda share: os.mkfifo(share.path('s')), 'it is not a regular file'),
]


@pytest.mark.parametrize(('make', 'words'), OBJECTIONS)
def test_what_is_no_overlay_is_said(
    share: fakes.Share,
    active: Any,
    make: Callable[[fakes.Share], Any],
    words: str,
) -> None:
    make(share)
    assert words in (_objection(share, active) or '')


def test_a_disk_of_two_raw_names_is_compared_by_the_file(
    share: fakes.Share, active: Any
) -> None:
    os.symlink('.', share.path('mount'))
    share.qcow2('s', share.path('mount/v'))
    assert _objection(share, active) is None


def test_what_is_wrong_with_the_disk_is_no_fault_of_the_overlay(
    share: fakes.Share, active: Any
) -> None:
    share.qcow2('s', 'v')
    os.unlink(share.path('v'))
    with pytest.raises(FileNotFoundError):
        overlay.look(active, share.path('s'))
    share.raw('v')
    junk = fakes.disk((share.path('v'), 'qcow2'))
    with pytest.raises(image.NotAnImage):
        overlay.look(junk, share.path('s'))
