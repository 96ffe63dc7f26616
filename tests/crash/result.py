# SPDX-License-Identifier: Apache-2.0
"""What is run, and what came of it, as values."""

from __future__ import annotations

import dataclasses
import re

from tests.crash.operations import Operation
from tests.crash.plan import KILLED, Passed, Plan

MISSED = 'missed'
REPEATED, ANSWERED, CUT = 'repeated', 'answered', 'cut'


@dataclasses.dataclass(frozen=True)
class Case:
    """What is run.

    :ivar calls: what becomes of Cinder's call when the agent dies: REPEATED
        as the API does it, CUT off, or ANSWERED before
    """

    operation: Operation
    state: str
    plan: Plan
    calls: str = REPEATED


@dataclasses.dataclass
class Result:
    """What came of it, in one word, and all that is wrong with it.

    :ivar passed: the points
    :ivar compared: bytes that were read back
    :ivar wrong: what is neither a loss nor a false report, and yet wrong
    """

    case: Case
    word: str = ''
    passed: list[Passed] = dataclasses.field(default_factory=list)
    losses: list[str] = dataclasses.field(default_factory=list)
    false: list[str] = dataclasses.field(default_factory=list)
    wrong: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    compared: int = 0
    log: str = ''

    @property
    def struck(self) -> bool:
        """Whether somebody died: not every moment has a QEMU."""
        return any(
            re.fullmatch(f'{KILLED}( [0-9]+)+', passed.point)
            for passed in self.passed
        )

    @property
    def fine(self) -> bool:
        return not (self.losses or self.false or self.wrong)
