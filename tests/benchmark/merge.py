# SPDX-License-Identifier: Apache-2.0
"""What merging a layer away costs, beside what libvirt takes for it.

The floor is a bare call to libvirt, until its event says that the job has
completed; ours is from the DELETE until Cinder has the report on which it
removes the file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import libvirt
import libvirt_qemu

from tests.benchmark import rig
from tests.benchmark.create import client
from tests.benchmark.crowd import crowd
from tests.benchmark.ending import Ending
from tests.benchmark.report import Goal, Row, Section

LIMIT = 1.3
# By the wall, of which others on the machine take their part.
_SLACK = 2.0

_MIB = 1 << 20
_SMALL = 64 << 10
_WARM_UP = 1
_CROWD = 200

Way = Callable[['Merge'], float]


class Merge:
    """One merge that is to be measured.

    :ivar base: path of what stays below; None for none
    :ivar top: for a commit the path of what disappears
    """

    def __init__(self, parts: rig.Rig, kind: str) -> None:
        self.parts = parts
        overlay = parts.overlay()
        switch(parts, overlay)
        self.snapshot_id = overlay.snapshot_id
        *_, below, _ = parts.layers
        self.doomed = below
        self.top = self.base = None
        if kind == 'commit':
            self.top, self.base = below, parts.layers[-3]
        parts.look()

    @property
    def delete_info(self) -> str:
        """As Cinder sends it."""
        top, base = self.top, self.base
        return json.dumps(
            {
                'volume_id': self.parts.guest.volume_id,
                'type': 'qcow2',
                'file_to_merge': top and top.name,
                'merge_target_file': base and base.name,
            }
        )


class Floor:
    """The bare call, and the event of its end."""

    def __init__(self, parts: rig.Rig, ending: Ending) -> None:
        self._domain = parts.domain
        self._target = parts.guest.target
        self._ending = ending

    def __call__(self, merge: Merge) -> float:
        self._ending.expect()
        started = time.monotonic()
        if merge.base is None:
            self._domain.blockRebase(self._target, None, 0, 0)
        else:
            self._domain.blockCommit(
                self._target,
                str(merge.base),
                str(merge.top),
                0,
                libvirt.VIR_DOMAIN_BLOCK_COMMIT_RELATIVE,
            )
        return self._ending.wait() - started


class Http:
    """A DELETE to the shipped pipeline, as Cinder sends it.

    :ivar reported_at: when Cinder had the last report, by time.monotonic()
    """

    reported_at = 0.0

    def __init__(self, parts: rig.Rig) -> None:
        self._parts = parts
        self._service = client(parts.url)

    def __call__(self, merge: Merge) -> float:
        started = self.begin(merge)
        self.end(merge)
        return self.reported_at - started

    def begin(self, merge: Merge) -> float:
        """Ask; when that was, by time.monotonic()."""
        cinder = self._parts.cinder
        cinder.remove_snapshot(merge.snapshot_id)
        cinder.add_snapshot(
            merge.snapshot_id, self._parts.guest.volume_id, 'deleting'
        )
        started = time.monotonic()
        self._service.delete(
            f'/os-assisted-volume-snapshots/{merge.snapshot_id}',
            params={'delete_info': merge.delete_info},
        )
        return started

    def end(self, merge: Merge) -> None:
        """Wait until it is reported, and for what follows that."""
        cinder = self._parts.cinder
        self.reported_at = cinder.reported_at(merge.snapshot_id)
        self._parts.settle([])


def switch(parts: rig.Rig, overlay: rig.Overlay) -> None:
    parts.domain.snapshotCreateXML(parts.snapshot_xml(overlay), rig.SNAPSHOT)
    parts.check(overlay)


def write(parts: rig.Rig, size: int) -> None:
    """Put data into the active layer, behind what the guest writes."""
    said = libvirt_qemu.qemuMonitorCommand(
        parts.domain,
        json.dumps({'execute': 'query-block'}),
        0,
    )
    (device,) = (
        block['qdev']
        for block in json.loads(said)['return']
        if parts.layers[-1].name in json.dumps(block)
    )
    libvirt_qemu.qemuMonitorCommand(
        parts.domain,
        f'qemu-io -d {device} "write -P 7 {300 * _MIB} {size}"',
        libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP,
    )


def _take(
    parts: rig.Rig, kind: str, size: int, ways: list[Way], rounds: int
) -> list[list[float]]:
    """Seconds that each way took for the same merge, in turn."""
    if kind == 'commit':
        switch(parts, parts.overlay())
    taken: list[list[float]] = [[] for _ in ways]
    for number in range(_WARM_UP + rounds):
        for way in range(len(ways)):
            # Each way is the first as often as the others.
            chosen = (way + number) % len(ways)
            write(parts, size)
            merge = Merge(parts, kind)
            taken[chosen].append(ways[chosen](merge))
            parts.merged(merge.doomed)
    return [seconds[_WARM_UP:] for seconds in taken]


def measure(short: bool, others: bool) -> Section:
    """Merge after merge, each way in turn; then the same in a crowd.

    :raises: :class:`tests.benchmark.rig.MeasuringFailed`, and what the parts
        raise
    """
    rounds, size = 10 if short else 20, 128 * _MIB
    kinds = ('pull', 'commit')
    rows = []
    ratios = {}
    with rig.running() as parts:
        with Ending(parts) as ending:
            ways: list[Way] = [Floor(parts, ending), Http(parts)]
            # While there is little in the volume; a pull would look at all of
            # it, and its duration is another each time.
            bare, alone = _take(parts, 'commit', _SMALL, ways, rounds)
            rows += [
                Row('64 KiB commit: bare', bare),
                Row('64 KiB commit: ours', alone),
            ]
            with crowd(parts.connection, parts.guest.directory, _CROWD - 1):
                parts.look()
                bare, crowded = _take(parts, 'commit', _SMALL, ways, rounds)
            rows += [
                Row(f'  bare, among {_CROWD} guests', bare),
                Row(f'  ours, among {_CROWD} guests', crowded),
            ]
            parts.flatten()
            for kind in kinds:
                bare, ours = _take(parts, kind, size, ways, rounds)
                ratios[kind] = Row('', ours).median / Row('', bare).median
                rows += [
                    Row(f'{kind}: bare call until its event', bare),
                    Row(f'{kind}: DELETE until the report', ours),
                ]
        machine = parts.machine
    ratio = max(ratios.values())
    growth = Row('', crowded).median / Row('', alone).median
    least = min(crowded) / min(alone)
    return Section(
        title=f'merge of {size // _MIB} MiB: {rounds} rounds, each way once '
        'a round; ms',
        rows=rows,
        notes=[
            machine,
            *(f'{kind}: ours / bare = {ratios[kind]:.2f}' for kind in kinds),
            f'ours among {_CROWD} guests / alone = {growth:.2f}; the fastest: '
            f'{least:.2f}',
        ],
        goals=[Goal('merge / bare libvirt', ratio, LIMIT, _SLACK)],
        figure=f'merge {ratio:.2f} libvirt',
    )
