# SPDX-License-Identifier: Apache-2.0
"""Who is compared: the floor, ours as shipped and behind stock filters, ours
in Nova, Nova and placement.

Here: how each is configured, and the process of one. The last three are
optional: without the network there is no virtualenv for them. Not here: what
they are asked, and what is measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmark.rig import MeasuringFailed
from tests.fixtures.host import short_directory
from tests.fixtures.nova import Nova
from tests.fixtures.nova_plugin import paste_with, plugin_virtualenv
from tests.fixtures.serve import write_config
from tests.fixtures.servers import ServerFailed, server_environment

SCRIPT = Path(__file__).with_name('peer.py')

_PASTE = Path(__file__).parents[2] / 'etc' / 'nova_ext' / 'api-paste.ini'
_TOKENS = {
    'auth_type': 'none',
    'www_authenticate_uri': 'http://keystone.example.org',
}
# Ours → what is there of oslo.middleware.
_STOCK = {
    'nova_ext.api.stock:HTTPProxyToWSGI.factory': (
        'oslo_middleware.http_proxy_to_wsgi:HTTPProxyToWSGI.factory'
    ),
    'nova_ext.api.stock:RequestId.factory': (
        'oslo_middleware:RequestId.factory'
    ),
    'nova_ext.api.stock:RequestBodySizeLimiter.factory': (
        'oslo_middleware:RequestBodySizeLimiter.factory'
    ),
    # Its own factory wants this much, and reads the usual files.
    'nova_ext.api.stock:cors_factory': (
        'oslo_middleware.cors:filter_factory\n'
        'allowed_origin = http://page.example.org'
    ),
}


@dataclasses.dataclass(frozen=True)
class Peer:
    """How one is run.

    :ivar python: of its virtualenv
    :ivar kind: see peer.py
    """

    name: str
    python: Path
    kind: str
    env: Mapping[str, str]
    log: Path

    @contextlib.contextmanager
    def running(self) -> Iterator[Process]:
        """A process of it, until this context ends."""
        process = Process(self)
        try:
            yield process
        finally:
            process.end()


class Process:
    """Answers requests, and says what they cost.

    :ivar loading: what loading cost, as :meth:`cost` has it
    """

    def __init__(self, peer: Peer) -> None:
        with peer.log.open('ab') as output:
            self._process = subprocess.Popen(
                # Isolated, or the script's directory comes first.
                [peer.python, '-I', SCRIPT, peer.kind],
                env=peer.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )
        self._log = peer.log
        self.loading = self._line()

    def cost(self, order: Mapping[str, Any]) -> dict[str, float]:
        """CPU seconds of requests, KiB in memory then, and modules loaded."""
        return self._ask('cost', order)

    def profile(self, order: Mapping[str, Any]) -> dict[str, float]:
        """See peer.py."""
        return self._ask('profile', order)

    def start(self, app: str, packages: Sequence[str]) -> dict[str, int]:
        """See peer.py."""
        return self._ask('start', {'app': app, 'packages': packages})

    def _ask(self, name: str, order: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps((name, order)) + '\n')
        self._process.stdin.flush()
        return self._line()

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.communicate()

    def _line(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise MeasuringFailed(self._log.read_text()[-4000:])
        return json.loads(line)


@dataclasses.dataclass(frozen=True)
class Peers:
    """All that could be had.

    :ivar absent: name → why it could not
    :ivar volume_id: of a volume that Nova knows
    """

    peers: Mapping[str, Peer]
    absent: Mapping[str, str]
    volume_id: str


def _ours(
    directory: Path,
    name: str,
    paste: Path,
    bus: str = 'rabbit://guest:guest@127.0.0.1:1/',
    more: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> Peer:
    configuration = write_config(
        directory / f'{name}.conf',
        {
            'DEFAULT': {
                'log_file': directory / f'{name}-requests.log',
                'transport_url': bus,
            },
            'nova_ext': {
                'auth_strategy': 'keystone',
                'api_paste_config': paste,
                **options,
            },
            'keystone_authtoken': _TOKENS,
            # Nobody asks it here; the backend rpc wants to know where it is.
            'nova_ext_cinder': {
                'auth_type': 'none',
                'endpoint': 'http://cinder.example.org',
            },
            **(more or {}),
        },
    )
    return Peer(
        name,
        Path(sys.executable),
        'ours',
        server_environment(OS_NOVA_EXT_CONFIG_FILES=str(configuration)),
        directory / f'{name}.log',
    )


def _behind_stock(path: Path) -> Path:
    """Our pipeline with the filters that Nova's has, as they are."""
    text = _PASTE.read_text()
    for ours, theirs in _STOCK.items():
        assert f' = {ours}\n' in text
        text = text.replace(f' = {ours}\n', f' = {theirs}\n')
    path.write_text(text)
    return path


def _of_nova(directory: Path, nova: Nova) -> Iterator[Peer]:
    plugin = plugin_virtualenv(nova.bin, directory / 'plugin')
    mounted = paste_with(
        nova.shipped_paste,
        directory / 'api-paste.ini',
        {'assisted_volume_snapshots': 'use = egg:nova_ext#nova'},
    )
    tokens = {f'keystone_authtoken.{name}': _TOKENS[name] for name in _TOKENS}
    for name, paste in (('in Nova', mounted), ('Nova', None)):
        home = directory / name.replace(' ', '-')
        home.mkdir()
        options = {**tokens, 'DEFAULT.log_file': str(home / 'nova.log')}
        env = nova.configured(home, paste, options)
        yield Peer(name, plugin / 'python', 'nova', env, home / 'log')
    home = directory / 'placement'
    home.mkdir()
    write_config(
        home / 'placement.conf',
        {
            'DEFAULT': {'log_file': home / 'placement.log'},
            'placement_database': {'connection': 'sqlite://'},
            'keystone_authtoken': _TOKENS,
        },
    )
    env = server_environment(OS_PLACEMENT_CONFIG_DIR=str(home))
    yield Peer(
        'placement', nova.bin / 'python', 'placement', env, home / 'log'
    )


@contextlib.contextmanager
def prepared(others: bool) -> Iterator[Peers]:
    """All peers, until this context ends.

    :param others: whether Nova and placement are wanted
    """
    with short_directory() as directory, contextlib.ExitStack() as stack:
        shipped = _ours(directory, 'ours', _PASTE)
        found = [
            dataclasses.replace(shipped, name='floor', kind='floor'),
            shipped,
            _ours(
                directory,
                'stock filters',
                _behind_stock(directory / 'stock-paste.ini'),
            ),
        ]
        absent = dict.fromkeys(('in Nova', 'Nova', 'placement'), 'not wanted')
        volume_id = '9f7d2c3a-6a1e-4a52-9f3b-0d6f3d1c2b4a'
        if others:
            try:
                nova = stack.enter_context(Nova(directory / 'nova'))
                nova.create_host()
                volume_id = nova.attach(nova.create_instance())
                found += _of_nova(directory, nova)
            except ServerFailed as error:
                reason = str(error).strip().splitlines()[-1]
                absent = dict.fromkeys(absent, reason)
            else:
                absent = {}
        yield Peers({peer.name: peer for peer in found}, absent, volume_id)


@contextlib.contextmanager
def backends() -> Iterator[dict[str, Peer]]:
    """The floor, and our pipeline with each backend that is not in Nova."""
    with short_directory() as directory:
        found = [
            dataclasses.replace(
                _ours(directory, name, _PASTE, compute_api=name),
                kind='shipped',
            )
            for name in ('libvirt', 'rpc')
        ]
        floor = dataclasses.replace(found[0], name='floor', kind='floor')
        yield {peer.name: peer for peer in (floor, *found)}


def on_bus(
    directory: Path,
    name: str,
    bus: str,
    groups: Mapping[str, Mapping[str, Any]],
) -> Peer:
    """Our pipeline, whose agents are on a message bus.

    :param bus: its transport_url
    :param groups: group → options, beside those that all have
    """
    peer = _ours(directory, name, _PASTE, bus, groups, compute_api='rpc')
    return dataclasses.replace(peer, kind='shipped')
