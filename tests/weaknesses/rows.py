# SPDX-License-Identifier: Apache-2.0
"""Which rows of the table have no test for a backend, and why."""

from __future__ import annotations

ROWS = range(1, 33)

_COMPUTE = 'it happens in nova-compute, behind the message'
_ROWS_OF_NOVA = "Nova's databases are read by its own compute API"

#: Backend → row → why it is open.
OPEN: dict[str, dict[int, str]] = {
    'nova': {
        **dict.fromkeys((1, 5, 6, 7, 8, 9, 10, 11), _COMPUTE),
        **dict.fromkeys((23, 24, 25, 26, 27, 28, 29, 30), _COMPUTE),
        **dict.fromkeys((21, 22), _ROWS_OF_NOVA),
        31: "the size limit is a filter of Nova's, before ours",
    },
}

#: Backend → row → why it cannot occur there.
IMPOSSIBLE: dict[str, dict[int, str]] = {
    'nova': {32: 'Nova writes the definition anew for each start'},
}
