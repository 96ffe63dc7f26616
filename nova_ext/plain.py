# SPDX-License-Identifier: Apache-2.0
"""Text that can be stored, logged and sent anywhere as it is.

What is done about other text is not said here.
"""

from __future__ import annotations

import re

# NOTE: control characters, lone surrogates, and what breaks lines or turns
# their direction where a log is looked at.
_NOT_PLAIN = re.compile(
    r'[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]'
)


def is_plain(text: str) -> bool:
    """Whether nothing in it is more than a character on a line."""
    # NOTE: what can be printed is plain, and is found out faster.
    return text.isprintable() or not _NOT_PLAIN.search(text)


def made_plain(text: str) -> str:
    """The text, with a space where it is more than that."""
    return _NOT_PLAIN.sub(' ', text)
