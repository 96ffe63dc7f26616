# SPDX-License-Identifier: Apache-2.0
"""All that names versions of Python names the same ones."""

from __future__ import annotations

import configparser
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]


def test_all_that_names_versions_names_the_same() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    classifiers = re.findall(
        r'Python :: 3\.(\d+)', setup['metadata']['classifiers']
    )
    tox = (ROOT / 'tox.ini').read_text()
    (minors,) = re.findall(r'\[testenv:py3\{([\d,]+)\}\]', tox)
    assert minors.split(',') == classifiers
    lowest = classifiers[0]
    assert setup['options']['python_requires'] == f'>=3.{lowest}'
    ruff = (ROOT / 'pyproject.toml').read_text()
    assert f'target-version = "py3{lowest}"' in ruff
    assert f'vermin --no-tips --target=3.{lowest}- --violations' in tox
