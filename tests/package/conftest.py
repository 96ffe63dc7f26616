# SPDX-License-Identifier: Apache-2.0
"""The distributions, built as a packager builds them."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

import pytest

from tests.package import EPOCH

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What work leaves in a checkout.
_LEFT = shutil.ignore_patterns(
    *('.git', '.tox', '.venv', '*_cache', '.hypothesis', '__pycache__'),
    *('*.egg-info', 'build', 'dist', '*.sample'),
)


def build(
    source: pathlib.Path, target: pathlib.Path, **environment: str
) -> tuple[pathlib.Path, pathlib.Path]:
    """The sdist and, made of it, the wheel of `source`."""
    subprocess.run(
        [
            *(sys.executable, '-m', 'build', '--no-isolation'),
            *('--outdir', str(target), str(source)),
        ],
        check=True,
        env={
            **{k: v for k, v in os.environ.items() if k != EPOCH},
            **environment,
        },
    )
    (sdist,) = target.glob('*.tar.gz')
    (wheel,) = target.glob('*.whl')
    return sdist, wheel


@pytest.fixture(scope='session')
def source(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A plain copy of the sources, as of a tarball of a forge."""
    copy = tmp_path_factory.mktemp('source') / 'nova_ext'
    return shutil.copytree(ROOT, copy, ignore=_LEFT)


@pytest.fixture(scope='session')
def built(
    source: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, pathlib.Path]:
    """The sdist and the wheel, of a moment that is given."""
    return build(
        source, tmp_path_factory.mktemp('dist'), **{EPOCH: '1700000000'}
    )


@pytest.fixture(scope='session')
def unpacked(
    built: tuple[pathlib.Path, pathlib.Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> pathlib.Path:
    """What is in the sdist."""
    directory = tmp_path_factory.mktemp('sdist')
    with tarfile.open(built[0]) as archive:
        archive.extractall(directory, filter='data')
    (top,) = directory.iterdir()
    return top
