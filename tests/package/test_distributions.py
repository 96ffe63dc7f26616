# SPDX-License-Identifier: Apache-2.0
"""What is in sdist and wheel, and that anybody's are the same bytes."""

from __future__ import annotations

import hashlib
import pathlib
import shutil
import subprocess
import sys
import zipfile

from tests.package import EPOCH
from tests.package.conftest import build

Built = tuple[pathlib.Path, pathlib.Path]


def _digests(paths: Built) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def _files(top: pathlib.Path) -> set[str]:
    return {
        str(path.relative_to(top)) for path in top.rglob('*') if path.is_file()
    }


def test_a_packager_elsewhere_gets_the_same_bytes(
    built: Built, unpacked: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """From the sdist, which bears its moment, with what differs there."""
    shutil.rmtree(unpacked / 'nova_ext.egg-info')
    again = build(unpacked, tmp_path, TZ='Asia/Tokyo', LC_ALL='C')
    assert _digests(again) == _digests(built)


def test_the_moment_of_a_checkout_is_that_of_its_commit(
    built: Built, source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    checkout = shutil.copytree(source, tmp_path / 'checkout')
    checkout.joinpath('setup.cfg').touch()
    git = ['git', '-c', 'user.name=A', '-c', 'user.email=a@example.org']
    for command in (['init', '--quiet'], ['add', '.'], ['commit', '-qm', 'A']):
        subprocess.run(
            [*git, *command],
            cwd=checkout,
            check=True,
            env={
                'PATH': '/usr/bin:/bin',
                'HOME': str(tmp_path),
                'GIT_COMMITTER_DATE': '1700000000 +0000',
            },
        )
    again = build(checkout, tmp_path / 'dist')
    assert _digests(again) == _digests(built)
    other = build(checkout, tmp_path / 'other', **{EPOCH: '1700000060'})
    assert set(_digests(other)).isdisjoint(_digests(built))


def test_a_checkout_is_built_where_git_is_not(
    source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    checkout = shutil.copytree(source, tmp_path / 'checkout')
    checkout.joinpath('.git').mkdir()
    assert all(build(checkout, tmp_path / 'dist', PATH=str(tmp_path)))


def test_the_sdist_has_all_that_the_repository_has(
    source: pathlib.Path, unpacked: pathlib.Path
) -> None:
    lacking = _files(source) - _files(unpacked)
    assert lacking == {'.gitignore'}


def test_the_wheel_has_samples_where_pip_puts_them(
    built: Built, source: pathlib.Path
) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        names = archive.namelist()
    data = {
        name.partition('.data/data/')[2] for name in names if '.data/' in name
    }
    functional = source / 'tests' / 'functional'
    api_ref = source / 'api-ref' / 'source'
    assert data == {
        *(str(p.relative_to(source)) for p in source.glob('etc/*/*')),
        *(
            f'share/nova_ext/gabbits/{p.name}'
            for p in functional.glob('gabbits/*.yaml')
        ),
        *(
            f'share/nova_ext/{p.relative_to(api_ref)}'
            for p in api_ref.glob('samples/*/*')
        ),
        'share/nova_ext/openapi.json',
    }
    rest = {name.partition('/')[0] for name in names if '.data/' not in name}
    assert rest == {'nova_ext', 'nova_ext-0.1.0.dist-info'}
    code = {name for name in names if name.startswith('nova_ext/')}
    assert code == {f'nova_ext/{name}' for name in _files(source / 'nova_ext')}


def test_an_index_would_take_them(built: Built) -> None:
    subprocess.run(
        [sys.executable, '-m', 'twine', 'check', '--strict', *built],
        check=True,
    )
