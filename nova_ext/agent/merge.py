# SPDX-License-Identifier: Apache-2.0
"""What a request to merge means, and what a chain must be for it.

A DELETE names two files in terms of the client; here they become a kind, a
base and a top, and a chain without one layer. Cinder's own notes beside the
files are read as a second witness. Nothing is started or changed.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

from nova_ext import exception
from nova_ext.agent.job import Job, Kind
from nova_ext.virt import chain, image

# NOTE: a line for each snapshot; a thousand of them are not 128 KiB.
_MAX_INFO_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for.

    :ivar base: name of the file that stays below; None for none
    :ivar top: for a commit the name of the file that disappears
    """

    kind: Kind
    base: str | None
    top: str | None

    def __str__(self) -> str:
        if self.kind is Kind.COMMIT:
            return f'commit of {self.top} into {self.base}'
        return f'pull of what is above {self.base or "nothing"}'


def translate(volume_id: str, delete_info: dict[str, Any]) -> Request:
    """What a ``delete_info`` asks for.

    :raises: :class:`nova_ext.exception.SnapshotNotInChain`
    """
    for key in ('file_to_merge', 'merge_target_file'):
        # NOTE: null is an order to merge everything, absence is none.
        if key not in delete_info:
            raise exception.SnapshotNotInChain(
                volume_id=volume_id,
                reason=f'delete_info does not say {key}, not even as null',
            )
    file_to_merge = delete_info['file_to_merge']
    target = delete_info['merge_target_file']
    if target is None:
        return Request(Kind.PULL, base=file_to_merge, top=None)
    if file_to_merge is None:
        raise exception.SnapshotNotInChain(
            volume_id=volume_id,
            reason='a merge_target_file needs a file_to_merge',
        )
    return Request(Kind.COMMIT, base=target, top=file_to_merge)


def wanted(
    volume_id: str, paths: tuple[str, ...], request: Request
) -> tuple[str, ...]:
    """The chain as a request wants it; exactly one layer disappears.

    :param paths: the chain as it is, active layer first
    :raises: :class:`nova_ext.exception.SnapshotNotInChain`
    """

    def refusal(reason: str) -> exception.SnapshotNotInChain:
        return exception.SnapshotNotInChain(volume_id=volume_id, reason=reason)

    names = [os.path.basename(path) for path in paths]

    def position(name: str) -> int:
        if names.count(name) != 1:
            raise refusal(f'{name} is not in it once; it is {show(paths)}')
        return names.index(name)

    # What is from `first` and before `last` disappears.
    last = len(paths) if request.base is None else position(request.base)
    first = 1 if request.top is None else position(request.top)
    if first == 0:
        raise refusal(f'{request.top} is the active layer')
    if last - first != 1:
        raise refusal(
            f'exactly one layer must disappear; the chain is {show(paths)}'
        )
    changed = [paths[first]]
    if request.kind is Kind.COMMIT:
        changed.append(paths[last])
    for path in changed:
        # NOTE: Quobyte keeps bases that many volumes share in a directory
        # below the mount, volume_from_snapshot_cache.
        if os.path.dirname(path) != os.path.dirname(paths[0]):
            raise refusal(
                f'{path} is not in the directory of the active layer; other '
                'volumes may share it'
            )
    return paths[:first] + paths[last:]


def look(
    disk: chain.Disk, volume_id: str
) -> tuple[chain.Seen, dict[str, str]]:
    """What is seen of a disk's files, and Cinder's notes on them.

    :returns: the chain; snapshot id → name of the file made for it, and
        ``active`` → name of the active layer. Empty where Cinder has no
        notes, as with other clients.
    :raises: :class:`nova_ext.virt.image.NotAnImage`, OSError
    """
    seen = chain.observe(disk)
    directory, active = os.path.split(disk.layers[0].path)
    # NOTE: a migrated volume's files bear another id than the volume.
    for name in (volume_id, active.partition('.')[0].removeprefix('volume-')):
        try:
            return seen, _notes(os.path.join(directory, f'volume-{name}.info'))
        except FileNotFoundError:
            continue
    return seen, {}


def _notes(path: str) -> dict[str, str]:
    try:
        return parse_notes(image.read_notes(path, _MAX_INFO_BYTES))
    except image.NotAnImage as error:
        raise image.NotAnImage(
            f"Cinder's notes in {path} cannot be read: {error}"
        ) from None


def parse_notes(text: bytes) -> dict[str, str]:
    """What Cinder's ``.info`` file says.

    :raises: :class:`nova_ext.virt.image.NotAnImage`
    """
    try:
        notes = json.loads(text)
    except (ValueError, RecursionError):
        raise image.NotAnImage('it is not JSON') from None
    if not isinstance(notes, dict):
        raise image.NotAnImage('it is no object')
    for word in (*notes, *notes.values()):
        if not isinstance(word, str) or not word.isprintable():
            raise image.NotAnImage('not all in it is plain text')
    return notes


def check_notes(
    volume_id: str,
    paths: tuple[str, ...],
    notes: dict[str, str],
    request: Request,
) -> None:
    """Refuse to merge in a chain that is not what Cinder takes it for.

    After a merge that Cinder did not take note of, it computes the next one
    from names that mean something else by now: of the youngest of two
    snapshots it would ask for a pull that loses the other.

    :raises: :class:`nova_ext.exception.SnapshotNotInChain`
    """
    names = [os.path.basename(path) for path in paths]
    for key, name in notes.items():
        # NOTE: above what is committed there may be an overlay that Cinder
        # does not count; what is pulled goes into the active layer itself.
        active = key == 'active' and request.kind is Kind.PULL
        if name in names[: 1 if active else None]:
            continue
        what = 'the active file' if key == 'active' else f'snapshot {key}'
        raise exception.SnapshotNotInChain(
            volume_id=volume_id,
            reason=f"Cinder's .info file names {name} for {what}, and the "
            f'chain is {show(paths)}. A layer has changed that Cinder took '
            'no note of; make the .info file agree with the chain first',
        )


def check_same(known: Job, asked: Request) -> None:
    """Refuse to merge a snapshot away a second time in another way.

    :raises: :class:`nova_ext.exception.SnapshotMerged`
    """
    before = Request(known.kind, known.base, known.top)
    if before != asked:
        raise exception.SnapshotMerged(
            snapshot_id=known.snapshot_id,
            volume_id=known.volume_id,
            known=str(before),
            asked=str(asked),
            active=os.path.basename(known.after[0]),
            doomed=os.path.basename(known.doomed[0]),
        )


def show(paths: tuple[str, ...]) -> str:
    """A chain for a message, the base first."""
    return ' <- '.join(os.path.basename(path) for path in reversed(paths))
