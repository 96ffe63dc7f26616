# SPDX-License-Identifier: Apache-2.0
"""What a merge costs while it runs, and how soon its end is told.

From libvirt's event that it completed until Cinder has the report, with the
look at libvirt, headers and locks and the write of the outcome in between; and
the agent's CPU time while QEMU is at work, of which it does nothing itself.
"""

from __future__ import annotations

import time

from tests.benchmark import agent_log, cpu, merge, rig
from tests.benchmark.ending import Ending
from tests.benchmark.report import Goal, Row, Section, middle

_DELAY_LIMIT = 10.0
# A hundredth of one CPU.
_HOUR_LIMIT = 36.0
_HOUR = 3600.0
_SMALL = 64 << 10
_WARM_UP = 2


def _delays(
    parts: rig.Rig, ending: Ending, kind: str, rounds: int
) -> tuple[list[float], str]:
    """Seconds from the event until Cinder had the report, each time, and a
    note on what they are made of.
    """
    http = merge.Http(parts)
    at = {}
    for _ in range(_WARM_UP + rounds):
        merge.write(parts, _SMALL)
        one = merge.Merge(parts, kind)
        ending.expect()
        http(one)
        at[one.snapshot_id] = ending.wait(), http.reported_at
        parts.merged(one.doomed)
    delays = [reported - ended for ended, reported in at.values()]
    found = agent_log.read(parts.log)
    # Of time.monotonic() to time.time().
    apart = time.time() - time.monotonic()
    looks = [
        found[snapshot_id]['REPORTING'] - apart - ended
        for snapshot_id, (ended, _) in at.items()
    ]
    look, whole = (middle(taken[_WARM_UP:]) * 1e3 for taken in (looks, delays))
    return delays[_WARM_UP:], (
        f'{kind}: the look, and the write of the outcome {look:.1f} ms, the '
        f'report {whole - look:.1f} ms'
    )


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
        taken = {'pull': _delays(parts, ending, 'pull', rounds)}
        merge.switch(parts, parts.overlay())
        taken['commit'] = _delays(parts, ending, 'commit', rounds)
        machine = parts.machine
    with rig.running(bandwidth=1) as parts:
        merge.switch(parts, parts.overlay())
        idle, busy = _while_running(parts, seconds)
    rows = [
        Row(f'{kind}: completed until reported', delays)
        for kind, (delays, _) in taken.items()
    ]
    delay = max(row.median for row in rows) * 1e3
    fastest = max(min(row.seconds) for row in rows) * 1e3
    return Section(
        title=f'running: {rounds} merges of each kind, then one for '
        f'{seconds:.0f} s; ms',
        rows=rows,
        notes=[
            machine,
            *(note for _, note in taken.values()),
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
