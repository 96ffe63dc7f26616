# SPDX-License-Identifier: Apache-2.0
"""What one look of the doctor came to."""

from __future__ import annotations

import dataclasses

from nova_ext import plain

# NOTE: clocks that differ by less do no harm: a request that another host has
# sent is still taken, and a header tells whole seconds only.
_SKEW_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line for an operator.

    :ivar subject: what was looked at
    :ivar state: ``ok``, ``wrong``, or ``unknown`` where it can't be seen
    :ivar mend: what to do about it; empty if there is nothing
    """

    subject: str
    state: str
    says: str
    mend: str = ''

    def __str__(self) -> str:
        mend = f' -> {self.mend}' if self.mend else ''
        # NOTE: logs of the kernel and other services have a say in it.
        return plain.made_plain(
            f'{self.state.upper():<7} {self.subject}: {self.says}{mend}'
        )


def ok(subject: str, says: str) -> Finding:
    """All is as it should be."""
    return Finding(subject, 'ok', says)


def wrong(subject: str, says: str, mend: str) -> Finding:
    """Something must be mended."""
    return Finding(subject, 'wrong', says.rstrip('.'), mend)


def unknown(subject: str, says: str, mend: str = '') -> Finding:
    """It can't be seen from here."""
    return Finding(subject, 'unknown', says.rstrip('.'), mend)


def skew(
    whose: str, clock: float, before: float, after: float
) -> list[Finding]:
    """Whether a clock goes as ours does.

    :param clock: what it said, in whole seconds perhaps
    :param before: when it was asked, by ours
    :param after: when it had answered, by ours
    """
    seconds, how = max((clock - after, 'ahead of'), (before - clock, 'behind'))
    if seconds <= _SKEW_SECONDS:
        return []
    return [
        wrong(
            f'clock of {whose}',
            f'it is {seconds:.0f} s {how} that of this host',
            'have both hosts follow a time server (chrony)',
        )
    ]
