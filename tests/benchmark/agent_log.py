# SPDX-License-Identifier: Apache-2.0
"""When the agent has come to each step of a job, by the lines of its log.

What the steps are called, and compared with, is not here.
"""

from __future__ import annotations

import datetime
import re
from pathlib import Path

_LINE = re.compile(
    r"^(\S+ \S+) .* of snapshot '(\S+)' .*: ([A-Z]+)(?:,.*)?$", re.M
)
# The log has whole milliseconds, and no more than those that are over.
_CUT_SECONDS = 0.0005


def read(log: Path) -> dict[str, dict[str, float]]:
    """Snapshot → state → when its job came to that last, by time.time(); to a
    millisecond, so that only means of many are of use.
    """
    found: dict[str, dict[str, float]] = {}
    for at, snapshot_id, state in _LINE.findall(log.read_text()):
        found.setdefault(snapshot_id, {})[state] = (
            datetime.datetime.fromisoformat(at).timestamp() + _CUT_SECONDS
        )
    return found
