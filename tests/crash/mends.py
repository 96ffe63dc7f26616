# SPDX-License-Identifier: Apache-2.0
"""How our messages say what is to be done, as far as a run obeys them.

Nothing is done here, and no libvirt is needed.
"""

from __future__ import annotations

import re

_DEFINITION = re.compile('definition.*"virsh edit"', re.DOTALL)
_OTHERS = re.compile(
    'qemu-img rebase|delete the snapshot again|delete it again|nova-ext-manage'
)
_POWER = re.compile('Power the instance off and on')
_REBASE = re.compile('qemu-img rebase -u -F FORMAT -b ([^ ]+) ([^ "]+)"')


def of_definition(text: str) -> bool:
    """Whether it says that libvirt lost the chain, and how to mend that."""
    return bool(_DEFINITION.search(text))


def any_of(text: str) -> bool:
    """Whether it says what to do at all."""
    return of_definition(text) or bool(_OTHERS.search(text))


def of_power(text: str) -> bool:
    """Whether the guest is to be powered off and on."""
    return bool(_POWER.search(text))


def rebase(text: str) -> tuple[str, str] | None:
    """Which file is to be put below which, if any: (below, above)."""
    found = _REBASE.search(text)
    return (found[1], found[2]) if found else None
