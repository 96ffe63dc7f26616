# SPDX-License-Identifier: Apache-2.0
"""Packaging entry point: what setup.cfg cannot declare.

The same sources make the same bytes: of one moment (SOURCE_DATE_EPOCH, else
that of the commit, else what setup.cfg in a tarball bears), whoever builds
them.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import pathlib
import subprocess
import tarfile

import setuptools
from setuptools.command import sdist

_HERE = pathlib.Path(__file__).resolve().parent


def _moment() -> str:
    if (_HERE / '.git').exists():
        # A checkout that was copied to where git is not is built as well.
        with contextlib.suppress(FileNotFoundError):
            run = subprocess.run(  # noqa: S603 (no input is in it)
                ['git', 'log', '-1', '--format=%ct'],  # noqa: S607
                cwd=_HERE,
                capture_output=True,
                text=True,
            )
            if run.returncode == 0:
                return run.stdout.strip()
    return str(int((_HERE / 'setup.cfg').stat().st_mtime))


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = int(os.environ['SOURCE_DATE_EPOCH'])
    member.uid = member.gid = 0
    member.uname = member.gname = ''
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    return member


class _Sdist(sdist.sdist):
    def make_archive(
        self,
        base_name: str,
        format: str,
        root_dir: str | None = None,
        base_dir: str | None = None,
        **_: object,
    ) -> str:
        path = f'{base_name}.tar.gz'
        with (
            open(path, 'wb') as file,
            gzip.GzipFile('', 'wb', fileobj=file, mtime=0) as zipped,
            tarfile.open(mode='w', fileobj=zipped) as archive,
        ):
            archive.add(str(base_dir), filter=_anonymous)
        return path


os.environ.setdefault('SOURCE_DATE_EPOCH', _moment())
# NOTE: a wheel has the modes of the files that it is made of.
os.umask(0o022)
setuptools.setup(cmdclass={'sdist': _Sdist})
