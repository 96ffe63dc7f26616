# SPDX-License-Identifier: Apache-2.0
"""Create and delete on one guest, again and again, with faults at random.

The agent is one process all the time, so that what it does not give back is
seen; who dies, and when, is the business of tests/crash. Each cycle ends with
a comparison of libvirt, QEMU, the headers, Cinder's notes and a model, and the
run with a look at every record that the guest was told is written. The exit
status is 0 only if nothing was lost, nothing else was wrong, and nothing grew.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import random
import sys
import time

from nova_ext.virt.private import PrivateLibvirtd
from tests.fixtures.host import Host, short_directory
from tests.fixtures.model_strikes import NOTHING, QUICK, Action, Strike
from tests.fixtures.model_world import Lost, World
from tests.soak import gauge

_FAULTS_PER_CYCLE = 0.25
# So that a look at all of them takes as long in the end as at the beginning.
_RING_BLOCKS = 2048
# After them a job whose snapshot is no more is forgotten.
_HISTORY_SECONDS = 2.0
# What SQLite writes ahead of its journal.
_JOURNAL_BYTES_AHEAD = 8 << 20
_GROWTH_PERCENT = 10.0
_STRIKES = [
    strike
    for strike in QUICK
    if strike.action not in (Action.KILL, Action.CRASH)
]


class Soak:
    """A run.

    :ivar cycles: snapshots that were made and deleted
    """

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.cycles = 0
        self.samples: list[gauge.Sample] = []
        self._random = random.Random(seed)
        self._last_note = time.monotonic()

    def cycle(self) -> None:
        """One snapshot more and one less, of up to four."""
        world, chance = self.world, self._random
        world.create(self._strike())
        while len(world.model.snapshots) > chance.randrange(4):
            world.delete(chance.randrange(4), 'available', self._strike())
        if chance.random() < _FAULTS_PER_CYCLE / 5:
            world.restart_libvirtd()
        if chance.random() < _FAULTS_PER_CYCLE / 5:
            world.pause_or_resume()
        if world.paused and chance.random() < 0.5:
            world.pause_or_resume()
        if world.model.orphan:
            world.mend()
        world.clear_up()
        del world.trace[:-100]
        self.cycles += 1
        self.samples.append(gauge.sample(self._pid, self._journal))
        self._note()

    @property
    def _journal(self) -> pathlib.Path:
        return self.world.host.state / 'journal.sqlite'

    @property
    def _pid(self) -> int:
        agent = self.world.host._agent
        assert agent is not None
        assert agent.poll() is None, self.world.host.log()
        return agent.pid

    def _strike(self) -> Strike:
        struck = self._random.random() < _FAULTS_PER_CYCLE
        return self._random.choice(_STRIKES) if struck else NOTHING

    def _note(self) -> None:
        if time.monotonic() > self._last_note + 60:
            self._last_note = time.monotonic()
            last = self.samples[-1]
            print(f'{self.cycles} cycles, {last}', flush=True)

    def ahead(self) -> int:
        """Bytes that SQLite has written ahead of the journal."""
        return pathlib.Path(f'{self._journal}-wal').stat().st_size


def _report(soak: Soak, lost: int, wrong: int) -> int:
    grown = gauge.growth(soak.samples)
    ahead = soak.ahead()
    for name, percent in grown.items():
        last = getattr(soak.samples[-1], name)
        print(f'{name}: {last} at the end, {percent:+.1f}%')
    print(f'{ahead} bytes written ahead of the journal')
    print(f'{soak.world.compared} bytes read back and compared')
    within = ahead <= _JOURNAL_BYTES_AHEAD
    worst = max(grown.values())
    print(
        f'soak: {soak.cycles} cycles, {soak.world.faults} faults, '
        f'{lost} lost, growth {worst:.1f}%'
    )
    return int(bool(lost or wrong or worst > _GROWTH_PERCENT or not within))


def main() -> int:
    """Run for as long as is wanted; 0 if all was well."""
    parser = argparse.ArgumentParser(prog='tox -e soak --')
    parser.add_argument('--minutes', type=float, default=1.5)
    parser.add_argument('--hours', type=float, default=0.0)
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    seed = options.seed or random.randrange(1 << 30)
    print(f'--seed {seed}', flush=True)
    lost = wrong = 0
    with contextlib.ExitStack() as stack:
        there, share = (
            stack.enter_context(short_directory()) for _ in range(2)
        )
        libvirtd = stack.enter_context(PrivateLibvirtd(there))
        guest = {'ring_blocks': _RING_BLOCKS}
        days = _HISTORY_SECONDS / 86400
        host = stack.enter_context(
            Host(share, libvirtd, guest, history_days=days).running()
        )
        host.guest.wait_reported(1)
        soak = Soak(World(host), seed)
        seconds = 3600 * options.hours or 60 * options.minutes
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end or soak.cycles < 8:
                soak.cycle()
            soak.world.end()
        except Exception as error:
            lost = int(isinstance(error, Lost))
            wrong = 1
            print('\n'.join(soak.world.trace[-50:]), host.log()[-20_000:])
            print(f'{type(error).__name__}: {error}')
        return _report(soak, lost, wrong)


if __name__ == '__main__':
    sys.exit(main())
