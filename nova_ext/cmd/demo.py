# SPDX-License-Identifier: Apache-2.0
"""nova-ext-demo: the main job, on a real guest, to look at.

It starts nova-ext-serve with a private libvirtd and a sample guest that
writes to a volume file without pause, plays Cinder's part, and shows what
happens to the backing chain and to what the guest wrote. Everything is below
one temporary directory, and ends with the demo.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import pathlib
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from importlib import metadata

import bcrypt

from nova_ext.cmd import show
from nova_ext.virt import sample, sample_chain

_SIZE_BYTES = 1 << 30
_START_SECONDS = 120.0
_RECORDS = 40

_CONFIG = """\
[DEFAULT]
log_file = {directory}/nova_ext.log

[nova_ext]
auth_strategy = http_basic
port = {port}

[nova_ext_agent]
state_dir = {directory}/state
reports = none

[oslo_middleware]
http_basic_auth_user_file = {directory}/htpasswd
"""


class DemoFailed(RuntimeError):
    """The demo did not come to its end; says why."""


class _Service:
    """nova-ext-serve, as an operator of one host starts it."""

    def __init__(self, directory: pathlib.Path, port: int) -> None:
        self.directory = directory
        self.user, self.password = 'cinder', secrets.token_urlsafe(12)
        digest = bcrypt.hashpw(self.password.encode(), bcrypt.gensalt(4))
        users = directory / 'htpasswd'
        users.touch(mode=0o600)
        users.write_text(f'{self.user}:{digest.decode()}\n')
        self.config = directory / 'nova_ext.conf'
        self.config.write_text(_CONFIG.format(directory=directory, port=port))
        self.url = ''
        self.libvirt_uri = ''

    @contextlib.contextmanager
    def running(self) -> Iterator[_Service]:
        """Start it, and end it with this context."""
        command = [
            *(sys.executable, '-m', 'nova_ext.cmd.serve'),
            f'--config-file={self.config}',
            '--private-libvirtd',
        ]
        # NOTE: its libvirtd has the guest, which the demo ends first, also
        # where the whole terminal is told to end.
        with subprocess.Popen(  # noqa: S603 (our own module)
            command, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            try:
                line = process.stdout.readline() if process.stdout else ''
                match = re.fullmatch(r'Serving (\S+) for (\S+)\n', line)
                if match is None:
                    raise DemoFailed('the service did not start; its log:')
                self.url, self.libvirt_uri = match.groups()
                yield self
            finally:
                process.send_signal(signal.SIGTERM)

    def post(self, body: dict[str, object]) -> tuple[int, str]:
        """POST to the resource; status and body of the answer."""
        credentials = f'{self.user}:{self.password}'.encode()
        request = urllib.request.Request(  # noqa: S310 (http, loopback)
            f'{self.url}/os-assisted-volume-snapshots',
            data=json.dumps(body).encode(),
            headers={
                'Content-Type': 'application/json',
                'Authorization': 'Basic '
                + base64.b64encode(credentials).decode(),
            },
        )
        try:
            with urllib.request.urlopen(request) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


def _wait_for_records(guest: sample.SampleGuest, number: int) -> int:
    """Show the guest writing until it has reported `number` more records."""
    first = guest.reported()
    with show.Progress('the guest writes', number) as progress:
        while (done := guest.reported() - first) < number:
            progress.update(done)
            guest.wait_reported(first + done + 1, timeout=30.0)
        progress.update(number)
    return guest.reported()


def _chain(guest: sample.SampleGuest) -> list[tuple[str, str]]:
    return sample_chain.qemu_chain(guest.domain, guest.volume_id)


def _demo(service: _Service, stay: bool) -> bool:
    volume_id, snapshot_id = str(uuid.uuid4()), str(uuid.uuid4())
    volume = service.directory / 'share' / f'volume-{volume_id}'
    volume.parent.mkdir()
    sample.create_volume(volume, size_bytes=_SIZE_BYTES)
    guest = sample.SampleGuest(
        service.libvirt_uri,
        volume.parent,
        volume_path=volume,
        volume_id=volume_id,
    )
    with guest:
        show.title('1. A guest writes numbered records to its volume')
        before = _wait_for_records(guest, _RECORDS)
        show.chain('backing chain in QEMU', _chain(guest))

        show.title('2. Cinder makes a qcow2 overlay beside the volume')
        overlay = sample_chain.make_overlay(
            volume, f'{volume.name}.{snapshot_id}', 'raw', _SIZE_BYTES
        )
        show.line(overlay.name)

        show.title('3. Cinder asks for the switch')
        body = {
            'snapshot': {
                'volume_id': volume_id,
                'create_info': {
                    'snapshot_id': snapshot_id,
                    'type': 'qcow2',
                    'new_file': overlay.name,
                },
            }
        }
        show.line(f'POST {service.url}/os-assisted-volume-snapshots')
        show.json(body)
        started = time.monotonic()
        status, answer = service.post(body)
        took = (time.monotonic() - started) * 1000
        show.line(f'{status} after {took:.0f} ms')
        if status != 200:
            raise DemoFailed(answer)
        show.json(json.loads(answer))

        show.title('4. The guest writes to the overlay; the volume is frozen')
        show.chain('backing chain in QEMU', _chain(guest))
        _wait_for_records(guest, _RECORDS)
        lost = _check(guest, volume, overlay, before)
        if stay:
            _stay(service, volume_id, overlay)
    return lost == 0


def _check(
    guest: sample.SampleGuest,
    volume: pathlib.Path,
    overlay: pathlib.Path,
    before: int,
) -> int:
    """Count what can be read back; how many records are lost."""
    guest.suspend()
    reported = guest.reported()
    frozen = sample.read_records(volume, 'raw')
    whole = sample.read_records(overlay, 'qcow2')
    guest.resume()
    show.line(
        f'in the volume: records 1 to {frozen.last}; through the overlay: '
        f'records 1 to {whole.last}; reported by the guest: {reported}'
    )
    lost = (
        whole.bad
        + frozen.bad
        + max(0, reported - whole.count)
        + max(0, before - frozen.count)
    )
    show.result(
        f'guest records: {before} before, {whole.count} after, {lost} lost',
        good=lost == 0,
    )
    return lost


def _stay(service: _Service, volume_id: str, active: pathlib.Path) -> None:
    snapshot_id = str(uuid.uuid4())
    new = f'volume-{volume_id}.{snapshot_id}'
    resource = f'{service.url}/os-assisted-volume-snapshots'
    curl = f'curl -i -u {service.user}:{service.password}'
    body = json.dumps(
        {
            'snapshot': {
                'volume_id': volume_id,
                'create_info': {
                    'snapshot_id': snapshot_id,
                    'type': 'qcow2',
                    'new_file': new,
                },
            }
        }
    )
    info = json.dumps(
        {
            'volume_id': volume_id,
            'type': 'qcow2',
            'file_to_merge': f'volume-{volume_id}',
            'merge_target_file': None,
        }
    )
    show.title('Go on from here (Ctrl-C ends all)')
    show.line('another overlay, and the switch to it:', '')
    show.command(
        f'cd {active.parent} && qemu-img create -q -f qcow2 -b {active.name} '
        f'-F qcow2 {new} && chmod 666 {new}'
    )
    show.command(f"{curl} -H 'Content-Type: application/json' -d '{body}' "
                 f'{resource}')  # fmt: skip
    show.line('merge that snapshot away again:', '')
    show.command(f"{curl} -X DELETE -G --data-urlencode 'delete_info={info}' "
                 f'{resource}/{snapshot_id}')  # fmt: skip
    show.line('what libvirt says of the guest, and the logs:', '')
    show.command(f"virsh -c '{service.libvirt_uri}' domblklist sample")
    # NOTE: whoever has read the last line may end it before the next.
    with contextlib.suppress(KeyboardInterrupt):
        show.command(f'tail {service.directory}/nova_ext.log')
        signal.pause()


def _interrupt(number: int, _: object) -> None:
    # A terminal that closes says so more than once.
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Run the demo; exit status 1 if anything was lost or went wrong."""
    parser = argparse.ArgumentParser(
        prog='nova-ext-demo',
        description='The main job, on a real guest, to look at: what happens '
        'to the backing chain and to what the guest writes. Everything is '
        'below one temporary directory, and ends with the demo.',
    )
    parser.add_argument(
        '--version', action='version', version=metadata.version('nova_ext')
    )
    parser.add_argument(
        '--stay',
        action='store_true',
        help='stay up afterwards, and print commands to go on with',
    )
    parser.add_argument(
        '--port',
        type=int,
        default=0,
        help='to listen on (default: a free one)',
    )
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    directory = pathlib.Path(tempfile.mkdtemp(prefix='nova-ext-'))
    directory.chmod(0o755)
    try:
        with _Service(directory, arguments.port).running() as service:
            return 0 if _demo(service, arguments.stay) else 1
    except KeyboardInterrupt:
        print('nova-ext-demo: interrupted', file=sys.stderr)
        # As a shell has it: 128 and the number of SIGINT.
        return 130
    except (DemoFailed, RuntimeError, OSError) as error:
        print(f'nova-ext-demo: {error}', file=sys.stderr)
        log = directory / 'nova_ext.log'
        if log.exists():
            print(log.read_text()[-4000:], file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == '__main__':
    sys.exit(main())
