# SPDX-License-Identifier: Apache-2.0
"""The lowest versions that are tried are the lowest that are allowed."""

from __future__ import annotations

import configparser
import pathlib
import re

TOP = pathlib.Path(__file__).resolve().parents[2]


def test_each_lower_bound_is_tried() -> None:
    setup = configparser.ConfigParser()
    setup.read(TOP / 'setup.cfg')
    options = setup['options.extras_require'].values()
    wanted = '\n'.join([setup['options']['install_requires'], *options])
    allowed = dict(
        re.findall(
            r'^([A-Za-z][\w.-]+)(?:\[\w+\])?>=([\d.]+)(?:,!=.*)?$',
            wanted,
            re.M,
        )
    )
    tried = dict(
        re.findall(
            r'^([A-Za-z][\w.-]+)==([\d.]+)$',
            (TOP / 'tests' / 'lower-constraints.txt').read_text(),
            re.M,
        )
    )
    assert set(allowed) == set(tried)
    assert {name: allowed[name] for name in tried} == tried
