# SPDX-License-Identifier: Apache-2.0
"""A guest that forges a header in its raw disk, and others who write to the
share. What is in a raw disk stays data, and no chain leads out of the share.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
from collections.abc import Callable

import pytest

from nova_ext import context, exception
from nova_ext.virt.sample_chain import qemu_chain
from tests.fixtures.host import SIZE, Host
from tests.fixtures.merge import monitor, wait_until
from tests.unit.virt import qcow2

pytest_plugins = ['tests.fixtures.host']

SECRET = b'what another guest wrote' * 100
DONE = ('deleting', '90%')


def _qemu_img(*arguments: object) -> None:
    subprocess.run(['qemu-img', *map(str, arguments)], check=True)


def _forge(host: Host) -> bytes:
    """Have the guest's disk begin with a header that names a secret."""
    (host.directory / 'secret').write_bytes(SECRET)
    header = host.directory / 'header'
    qcow2.make(
        header,
        backing=os.fsencode(host.directory / 'secret'),
        backing_format=b'raw',
        size=SIZE,
    )
    info = subprocess.check_output(
        ['qemu-img', 'info', '--output=json', header]
    )
    # It is one that a probe would fall for.
    assert json.loads(info)['format'] == 'qcow2'
    content = header.read_bytes()
    domain = host.guest.domain
    (device,) = (
        block['qdev']
        for block in monitor(domain, 'query-block')
        if host.chain()[0] in json.dumps(block)
    )
    command = f'qemu-io -d {device} "write -s {header} 0 {len(content)}"'
    said = monitor(
        domain, 'human-monitor-command', **{'command-line': command}
    )
    assert said == '', said
    return content


def _layers(host: Host) -> list[tuple[str, str]]:
    return [
        (pathlib.Path(path).name, layer_format)
        for path, layer_format in qemu_chain(host.guest.domain, host.volume_id)
    ]


def _create(host: Host) -> tuple[str, str]:
    """A snapshot, over whatever is active; its id and its new file."""
    active = host.directory / host.chain()[0]
    new_file = host.overlay(active).name
    snapshot_id = host.snapshot()
    host.create(snapshot_id, new_file)
    return snapshot_id, new_file


def _delete(host: Host, snapshot_id: str, **info: str | None) -> None:
    host.double.set_snapshot(snapshot_id, 'deleting')
    host.api.volume_snapshot_delete(
        context.RequestContext(user_id='cinder'),
        host.volume_id,
        snapshot_id,
        {'volume_id': host.volume_id, 'type': 'qcow2', **info},
    )
    wait_until(lambda: host.double.history(snapshot_id)[-1] == DONE, host)


def _assert_is_data(host: Host, forged: bytes) -> None:
    """What the guest reads is what it wrote, in every byte of it."""
    flat = host.directory / 'flat'
    top = host.chain()[0]
    layer_format = 'raw' if top == host.volume.name else 'qcow2'
    source = host.directory / top
    _qemu_img('convert', '-U', '-f', layer_format, '-O', 'raw', source, flat)
    with flat.open('rb') as file:
        # Behind them, in the first block, the guest has written since.
        assert file.read(512) == forged[:512]
    assert SECRET[:24] not in flat.read_bytes()[: 1 << 24]


def test_a_header_that_the_guest_forged_stays_data(host: Host) -> None:
    volume = (host.volume.name, 'raw')
    forged = _forge(host)
    one, first = _create(host)
    two, second = _create(host)
    assert _layers(host) == [(second, 'qcow2'), (first, 'qcow2'), volume]
    # The older one is committed into the raw file, the newer one pulled.
    _delete(host, one, file_to_merge=first, merge_target_file=volume[0])
    assert _layers(host) == [(second, 'qcow2'), volume]
    _assert_is_data(host, forged)
    _delete(host, two, file_to_merge=None, merge_target_file=None)
    assert _layers(host) == [(second, 'qcow2')]
    _assert_is_data(host, forged)


def test_a_forged_header_stays_data_where_the_guest_is_off(
    host: Host,
) -> None:
    volume = (host.volume.name, 'raw')
    forged = _forge(host)
    host.guest.domain.destroy()
    one, first = _create(host)
    two, second = _create(host)
    _delete(host, one, file_to_merge=first, merge_target_file=volume[0])
    assert host.chain() == [second, volume[0]]
    _assert_is_data(host, forged)
    host.guest.start()
    assert _layers(host) == [(second, 'qcow2'), volume]
    host.guest.domain.destroy()
    _delete(host, two, file_to_merge=None, merge_target_file=None)
    assert host.chain() == [second]
    _assert_is_data(host, forged)


def _rebase(path: pathlib.Path, backing: object, layer_format: str) -> None:
    _qemu_img(
        *('rebase', '-u', '-f', 'qcow2', '-b', backing, '-F', layer_format),
        path,
    )


def _patch(path: pathlib.Path, offset: int, value: bytes) -> None:
    with path.open('r+b') as file:
        file.seek(offset)
        file.write(value)


def _without_format(path: pathlib.Path) -> None:
    qcow2.make(
        path, backing=b'volume-x', backing_format=None, size=SIZE, l1=(0, 0)
    )
    (path.parent / 'volume-x').write_bytes(bytes(1 << 16))


HEADERS: dict[str, tuple[Callable[[pathlib.Path], None], str]] = {
    'absolute': (
        lambda path: _rebase(path, '/etc/passwd', 'raw'),
        'leads out',
    ),
    'dots': (
        lambda path: _rebase(path, '../../../../etc/passwd', 'raw'),
        'leads out',
    ),
    'json': (
        lambda path: _rebase(
            path, 'json:{"driver":"file","filename":"/etc/passwd"}', 'raw'
        ),
        'is not a plain file',
    ),
    'protocol': (
        lambda path: _rebase(path, 'nbd://127.0.0.1:1/x', 'raw'),
        'is not a plain file',
    ),
    'no format': (_without_format, 'does not say the format'),
    'data file': (
        lambda path: _patch(path, 72, b'\0' * 7 + b'\4'),
        'external data file',
    ),
    'loop': (lambda path: _rebase(path, path.name, 'qcow2'), 'no end'),
    'device': (lambda path: _rebase(path, '/dev/zero', 'raw'), 'leads out'),
}


def test_nothing_is_started_on_a_header_that_somebody_changed(
    host: Host,
) -> None:
    _, first = _create(host)
    two, second = _create(host)
    host.guest.domain.destroy()
    good = (host.directory / first).read_bytes()
    for forge, words in HEADERS.values():
        forge(host.directory / first)
        with pytest.raises(exception.ShareUnavailable, match=words):
            _delete(host, two, file_to_merge=first, merge_target_file=None)
        with pytest.raises(exception.ShareUnavailable, match=words):
            host.create(host.snapshot(), second + 'x')
        (host.directory / first).write_bytes(good)
    # Cinder was told nothing, and no stand-in started.
    assert host.double.history(two)[-1] != DONE
    names = {
        domain.name()
        for domain in host.guest.domain.connect().listAllDomains()
    }
    assert not [name for name in names if name.startswith('nova-ext-')]


def _fifo(path: pathlib.Path) -> None:
    os.mkfifo(path)


def _nested(path: pathlib.Path) -> None:
    path.write_text('[' * 100_000)


def _large(path: pathlib.Path) -> None:
    path.write_bytes(b' ' * (2 << 20))


def _link(path: pathlib.Path) -> None:
    (path.parent / 'kept').write_text('{}')
    path.symlink_to('kept')


def _line_break(path: pathlib.Path) -> None:
    path.write_text(json.dumps({'active': 'v\n2026 INFO all is well'}))


def test_notes_that_are_none_are_refused_at_once(host: Host) -> None:
    one, _ = _create(host)
    path = host.directory / f'volume-{host.volume_id}.info'
    for make in (_fifo, _nested, _large, _link, _line_break):
        make(path)
        with pytest.raises(exception.ShareUnavailable, match='be read'):
            _delete(
                host,
                one,
                file_to_merge=host.volume.name,
                merge_target_file=None,
            )
        path.unlink()
    assert not [
        line for line in host.log().split('\n') if line.startswith('2026 INFO')
    ]
    assert 'Traceback' not in host.log()
