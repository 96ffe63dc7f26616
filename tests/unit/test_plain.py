# SPDX-License-Identifier: Apache-2.0
"""What is plain text, of all that there is."""

from __future__ import annotations

import sys

from nova_ext import plain


def test_what_is_made_plain_is_what_is_not() -> None:
    """The fast way to a yes says it of nothing else."""
    refused = [
        number
        for number in range(sys.maxunicode + 1)
        if not plain.is_plain(chr(number))
    ]
    assert refused == [
        number
        for number in range(sys.maxunicode + 1)
        if number != 0x20 and plain.made_plain(chr(number)) == ' '
    ]
    for first, last in (
        *((0x00, 0x1F), (0x7F, 0x9F), (0x2028, 0x202E)),
        *((0x2066, 0x2069), (0xD800, 0xDFFF)),
    ):
        assert {first, last} <= {*refused}
    assert len(refused) == 32 + 33 + 7 + 4 + 2048
