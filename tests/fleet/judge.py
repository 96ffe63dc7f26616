# SPDX-License-Identifier: Apache-2.0
"""What must hold after each fault: nothing lost, nothing doubled, no lie.

A disk is read record by record, each snapshot is compared with what it held
when it was made, and each answer of the API with what was asked of libvirt
before and after it.
"""

from __future__ import annotations

import dataclasses
import itertools

from tests.crash import judge as crash_judge
from tests.crash import plan as crash_plan
from tests.crash.operations import RUNNING
from tests.crash.plan import Passed
from tests.fleet.rig import Fleet, FleetShare

_STARTS = ('before snapshot', 'before pull', 'before commit')
_DOING = {'create': 'creating', 'delete': 'deleting'}


@dataclasses.dataclass
class Verdict:
    """What was found; empty if all is well.

    :ivar lost: records, contents of snapshots, chains
    :ivar doubled: what was done or reported twice, or after a "no"
    """

    lost: list[str] = dataclasses.field(default_factory=list)
    doubled: list[str] = dataclasses.field(default_factory=list)


class _Data(crash_judge.Judge):
    """Looks at the disk of a guest that goes on afterwards."""

    def look(self) -> list[str]:
        guest, chain = self._host.guest, self._share.chain_counted()
        guest.suspend()
        try:
            self._expect('chain that QEMU has open', self._host.chain(), chain)
            self._expect("libvirt's chain", self._host.defined(), chain)
            self._check_images(chain)
            self._compare(chain)
        finally:
            guest.resume()
        try:
            guest.wait_reported(guest.reported() + 3)
        except TimeoutError as error:
            self.losses.append(f'the guest cannot write: {error}')
        return self.losses


def judge(fleet: Fleet, end: bool = False) -> Verdict:
    """Look at everything.

    :param end: whether the guests are started anew by this: what is right
        only in the memory of QEMU or libvirt is not right
    """
    verdict = Verdict()
    for share in fleet.shares:
        share.host.wait_final()
        data = _Data(share, RUNNING, qemu_died=False)
        found = data.judge([], False) if end else data.look()
        verdict.lost += [f'{share.host.name}: {text}' for text in found]
        verdict.lost += share.false
        verdict.doubled += [
            f'{share.host.name}: {text}' for text in _doubled(share)
        ]
    return verdict


def _doubled(share: FleetShare) -> list[str]:
    found = []
    calls = share.front.calls
    starts = _starts(share.host.post.records())
    ends = [call.began for call in calls[1:]] + [float('inf')]
    for call, end in zip(calls, ends, strict=True):
        mine = [start for start in starts if call.began <= start < end]
        if len(mine) > 1:
            found.append(f'{len(mine)} starts for {call}')
        refused = call.status is None or call.status >= 400
        if refused and any(start > call.ended for start in mine):
            found.append(f'started after the answer to {call}')
    for snapshot_id in {call.snapshot_id for call in calls}:
        history = share.host.double.history(snapshot_id, applied=True)
        # NOTE: a report whose answer was lost is sent again.
        told = [report for report, _ in itertools.groupby(history)]
        for operation, status in _DOING.items():
            asked = sum(
                (call.operation, call.snapshot_id) == (operation, snapshot_id)
                for call in calls
            )
            times = told.count((status, '90%'))
            if times > asked:
                found.append(f'{status} 90% {times} times, {snapshot_id}')
    return found


def _starts(records: list[Passed]) -> list[float]:
    """When libvirt was asked for something, which was not if the agent was
    killed just before.
    """
    found = []
    for passed, then in itertools.zip_longest(records, records[1:]):
        killed = then is not None and then.point.startswith(crash_plan.KILLED)
        if passed.point.partition(' #')[0] in _STARTS and not killed:
            found.append(passed.time)
    return found
