# SPDX-License-Identifier: Apache-2.0
"""Arbitrary JSON, as hypothesis strategies: documents of which most are a
valid one with something wrong in it, and text that is hardly JSON.

What requests are made of them is not said here.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

# Text with what is rare elsewhere: half surrogate pairs, controls, slashes.
text = st.one_of(
    st.text(st.characters(), max_size=12),
    st.text('\ud800\udfff\0\n\r\t\x1b\x7f/.\\"\' %\u2028\ufeff', max_size=6),
    st.sampled_from(
        ('', '.', '..', '../x', '/etc/passwd', 'a/b', 'x' * 255, 'x' * 256)
        + ('é' * 128, '\U0001f5ab', '%s', '%(x)s', '{}', 'null', 'qcow2')
    ),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from((2**63, -(2**64), 10**4000, 0.5, -0.0)),
    st.floats(),
    text,
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)
    ),
    max_leaves=6,
)


def _places(document: Any, above: tuple[str, ...] = ()) -> list[tuple]:
    """The path of each key in a document of objects."""
    places = []
    for key, value in document.items():
        places.append((*above, key))
        if isinstance(value, dict):
            places += _places(value, (*above, key))
    return places


@st.composite
def mutations(draw: st.DrawFn, valid: dict[str, Any]) -> Any:
    """`valid` with up to three values replaced, removed, added or renamed."""
    document = copy.deepcopy(valid)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.sampled_from(_places(valid)))
        holder = document
        for key in place[:-1]:
            holder = holder.get(key) if isinstance(holder, dict) else None
        if not isinstance(holder, dict):
            continue
        change = draw(st.sampled_from(('replace', 'remove', 'add', 'rename')))
        if change == 'replace':
            holder[place[-1]] = draw(values)
        elif change == 'add':
            holder[draw(text)] = draw(values)
        elif place[-1] in holder:
            value = holder.pop(place[-1])
            if change == 'rename':
                holder[draw(text)] = value
    return document


def dumped(document: Any, ascii_only: bool) -> bytes:
    """JSON text, with half surrogate pairs as they are."""
    text = json.dumps(document, ensure_ascii=ascii_only)
    return text.encode('utf-8', 'surrogatepass')


deep = st.builds(
    lambda opening, depth: (opening * depth).encode(),
    st.sampled_from(('[', '{"a":', '[[{"snapshot":')),
    st.sampled_from((1, 2, 50, 500, 990, 1100, 1500)),
)
odd_json = st.sampled_from(
    (
        b'NaN',
        b'{"snapshot": -Infinity}',
        b'1' * 5000,
        b'{"snapshot": {"volume_id": ' + b'9' * 5000 + b'}}',
        b'{"snapshot": 1, "snapshot": {}}',
        b'\xef\xbb\xbf{}',
        b'\xff\xfe{\0}\0',
        b'{"a": "\\ud800"}',
        b'{"a": "\\u0000"}',
        b'{} {}',
        b'\0',
        b' ' * 114_689,
    )
)
