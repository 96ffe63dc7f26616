# SPDX-License-Identifier: Apache-2.0
"""What a merge costs while it runs, and how soon its end is told.

From libvirt's event that it completed until Cinder has the report, with the
look at libvirt, headers and locks and the write of the outcome in between; and
the agent's CPU time while QEMU is at work, of which it does nothing itself.
"""

from __future__ import annotations

import time

from tests.benchmark import cpu, merge, rig
from tests.benchmark.ending import Ending
from tests.benchmark.report import Goal, Row, Section

_DELAY_LIMIT = 10.0
# A hundredth of one CPU.
_HOUR_LIMIT = 36.0
_HOUR = 3600.0
_SMALL = 64 << 10
_WARM_UP = 2


def _delays(
    parts: rig.Rig, ending: Ending, kind: str, rounds: int
) -> list[float]:
    """Seconds from the event until Cinder had the report, each time."""
    http = merge.Http(parts)
    delays = []
    for _ in range(_WARM_UP + rounds):
        merge.write(parts, _SMALL)
        one = merge.Merge(parts, kind)
        ending.expect()
        http(one)
        delays.append(http.reported_at - ending.wait())
        parts.merged(one.doomed)
    return delays[_WARM_UP:]


def _while_running(parts: rig.Rig, seconds: float) -> tuple[float, float]:
    """Seconds of the agent's CPU time in an hour: idle, and with a merge."""
    pid = cpu.listener(parts.compute.conf.nova_ext_agent.socket)

    def measured() -> float:
        before = cpu.seconds(pid)
        time.sleep(seconds)
        return (cpu.seconds(pid) - before) / seconds * _HOUR

    idle = measured()
    # At one MiB a second it lasts longer than it is looked at.
    merge.write(parts, int(seconds * 1.5) << 20)
    one = merge.Merge(parts, 'commit')
    http = merge.Http(parts)
    http.begin(one)
    busy = measured()
    if not parts.domain.blockJobInfo(parts.guest.target):
        raise rig.MeasuringFailed('the merge was over too soon')
    parts.domain.blockJobSetSpeed(parts.guest.target, 0)
    http.end(one)
    parts.merged(one.doomed)
    return idle, busy


def measure(short: bool, others: bool) -> Section:
    """Small merges, then one that is slow.

    :raises: :class:`tests.benchmark.rig.MeasuringFailed`, and what the parts
        raise
    """
    rounds, seconds = (10, 20.0) if short else (40, 120.0)
    with rig.running() as parts, Ending(parts) as ending:
        delays = {'pull': _delays(parts, ending, 'pull', rounds)}
        merge.switch(parts, parts.overlay())
        delays['commit'] = _delays(parts, ending, 'commit', rounds)
        machine = parts.machine
    with rig.running(bandwidth=1) as parts:
        merge.switch(parts, parts.overlay())
        idle, busy = _while_running(parts, seconds)
    rows = [
        Row(f'{kind}: completed until reported', found)
        for kind, found in delays.items()
    ]
    delay = max(row.median for row in rows) * 1e3
    fastest = max(min(row.seconds) for row in rows) * 1e3
    return Section(
        title=f'running: {rounds} merges of each kind, then one for '
        f'{seconds:.0f} s; ms',
        rows=rows,
        notes=[
            machine,
            f'seconds of CPU of the agent an hour: {busy:.1f} with a merge, '
            f'{idle:.1f} without',
        ],
        goals=[
            Goal('ms from completed to reported', delay, _DELAY_LIMIT, None),
            Goal('  the fastest of each kind', fastest, _DELAY_LIMIT, 5.0),
            Goal('s of CPU an hour of a merge', busy, _HOUR_LIMIT, 2.0),
        ],
        figure=f'merge told in {delay:.1f} ms',
    )
