# SPDX-License-Identifier: Apache-2.0
"""What the API costs: ours, Nova's, and ours in Nova, in CPU time.

The floor is what no service in OpenStack can do without: keystonemiddleware,
which has the token in its cache, and fifteen lines that read a body and
answer. Here is what is compared; who answers the requests is
post_process.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.benchmark.report import Row, Section
from tests.benchmark.rig import MeasuringFailed
from tests.fixtures.host import short_directory
from tests.fixtures.nova import Nova
from tests.fixtures.nova_plugin import paste_with, plugin_virtualenv
from tests.fixtures.serve import write_config
from tests.fixtures.servers import server_environment

# Of ours in Nova to Nova's: for what is ours, and for what is not.
OURS_LIMIT, OTHERS_LIMIT = 0.5, 1.05

_SCRIPT = Path(__file__).with_name('post_process.py')
_PROJECT = Path(__file__).resolve().parents[2]
_PATH = '/os-assisted-volume-snapshots'
_TOKENS = {
    'keystone_authtoken.auth_type': 'none',
    'keystone_authtoken.www_authenticate_uri': 'http://keystone.example.org',
}
# A round of each is a tenth of a second or less.
_COUNT, _WARM_UP = 30, 3


class Process:
    """A process that answers requests, and says what CPU they took.

    :param python: of a virtualenv
    :param kind: see post_process.py
    """

    def __init__(
        self, python: str | Path, kind: str, log: Path, env: Mapping[str, str]
    ) -> None:
        with log.open('ab') as output:
            self._process = subprocess.Popen(
                # Isolated, or the script's directory comes first.
                [python, '-I', _SCRIPT, kind],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )
        self._log = log
        self._line()

    def seconds(self, order: Order) -> float:
        """CPU seconds of one request."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(dataclasses.asdict(order)) + '\n')
        self._process.stdin.flush()
        return float(self._line()) / order.count

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise MeasuringFailed(self._log.read_text()[-4000:])
        return line


@dataclasses.dataclass(frozen=True)
class Order:
    """Requests that are measured together.

    :ivar status: what the answer's status must begin with
    :ivar stub: whether Nova's compute API, which looks into its databases and
        sends a message, is left out; None where there is none
    """

    path: str
    method: str = 'GET'
    body: str = ''
    status: str = '200'
    stub: bool | None = None
    count: int = _COUNT
    warm_up: int = _WARM_UP


def measure(short: bool) -> Section:
    """Requests in turn: each kind to each process once a round.

    :raises: :class:`tests.benchmark.rig.MeasuringFailed`, and
        :class:`tests.fixtures.servers.ServerFailed`
    """
    rounds = 12 if short else 120
    with short_directory() as directory, Nova(directory / 'nova') as nova:
        nova.create_host()
        volume_id = nova.attach(nova.create_instance())
        with _processes(directory, nova) as processes:
            ways = _ways(processes, volume_id)
            taken: dict[str, list[float]] = {name: [] for name in ways}
            for number in range(rounds + 1):
                for name, (process, order) in ways.items():
                    seconds = process.seconds(order)
                    if number:
                        taken[name].append(seconds)
    return _section(taken)


@contextlib.contextmanager
def _processes(directory: Path, nova: Nova) -> Iterator[dict[str, Process]]:
    plugin = plugin_virtualenv(nova.bin, directory / 'plugin')
    mounted = paste_with(
        nova.shipped_paste,
        directory / 'api-paste.ini',
        {'assisted_volume_snapshots': 'use = egg:nova_ext#nova'},
    )
    configuration = write_config(
        directory / 'nova_ext.conf',
        {
            'DEFAULT': {'log_file': directory / 'nova_ext.log'},
            'nova_ext': {
                'auth_strategy': 'keystone',
                'api_paste_config': (
                    _PROJECT / 'etc' / 'nova_ext' / 'api-paste.ini'
                ),
            },
            'keystone_authtoken': {
                name.partition('.')[2]: value
                for name, value in _TOKENS.items()
            },
        },
    )

    def of_nova(name: str, paste: Path | None) -> Process:
        home = directory / name
        home.mkdir()
        options = {**_TOKENS, 'DEFAULT.log_file': str(home / 'nova.log')}
        env = nova.configured(home, paste, options)
        return Process(plugin / 'python', 'nova', home / 'log', env)

    ours = server_environment(OS_NOVA_EXT_CONFIG_FILES=str(configuration))
    with contextlib.ExitStack() as stack:
        processes: dict[str, Process] = {}
        for name, make in {
            'floor': lambda: Process(
                sys.executable, 'floor', directory / 'floor.log', ours
            ),
            'ours': lambda: Process(
                sys.executable, 'ours', directory / 'ours.log', ours
            ),
            'nova': lambda: of_nova('plain', None),
            'mounted': lambda: of_nova('mounted', mounted),
        }.items():
            processes[name] = make()
            stack.callback(processes[name].end)
        yield processes


def _ways(
    processes: Mapping[str, Process], volume_id: str
) -> dict[str, tuple[Process, Order]]:
    """Name → who is asked for what."""
    create_info: dict[str, Any] = {
        'snapshot_id': str(uuid.uuid4()),
        'type': 'qcow2',
        'new_file': f'volume-{volume_id}.{uuid.uuid4()}',
    }
    body = json.dumps(
        {'snapshot': {'volume_id': volume_id, 'create_info': create_info}}
    )
    post = Order(f'/v2.1{_PATH}', 'POST', body)
    ways = {name: (processes[name], post) for name in ('floor', 'ours')}
    for name in ('nova', 'mounted'):
        for stub in (True, False):
            order = dataclasses.replace(post, stub=stub)
            ways[f'{name}, {"stub" if stub else "all"}'] = (
                processes[name],
                order,
            )
        for path, status in (('servers', '200'), ('nothing', '404')):
            order = Order(f'/v2.1/{path}', status=status)
            ways[f'{name}, {path}'] = processes[name], order
    return ways


_NAMES = {
    'floor': 'floor: keystonemiddleware and an app of 15 lines',
    'ours': 'POST, our pipeline as shipped',
    'nova, stub': 'POST, Nova without its compute API',
    'mounted, stub': 'POST, our filter in Nova without its compute API',
    'nova, all': 'POST, Nova to its message bus',
    'mounted, all': 'POST, our filter in Nova to its message bus',
    'nova, servers': 'GET /servers, Nova',
    'mounted, servers': 'GET /servers, Nova with our filter',
    'nova, nothing': 'an unknown path, Nova',
    'mounted, nothing': 'an unknown path, Nova with our filter',
}


def _section(taken: Mapping[str, list[float]]) -> Section:
    def ratio(of: str, to: str) -> float:
        # Of each round: what disturbs one, disturbs both.
        pairs = zip(taken[of], taken[to], strict=True)
        return statistics.median(one / other for one, other in pairs)

    notes = []
    for what, kind, limit in (
        ('POST', 'stub', OURS_LIMIT),
        ('POST to the message bus', 'all', None),
        ('GET /servers', 'servers', OTHERS_LIMIT),
        ('an unknown path', 'nothing', None),
    ):
        found = ratio(f'mounted, {kind}', f'nova, {kind}')
        note = f'{what}: our filter in Nova / Nova = {found:.3f}'
        if limit is not None:
            verdict = 'met' if found <= limit else 'NOT met'
            note += f': the limit of {limit:.2f} is {verdict}'
        notes.append(note)
    return Section(
        title=f'post: {len(taken["floor"])} rounds of {_COUNT} requests; '
        'ms of CPU each',
        rows=[
            Row(_NAMES[name], seconds, is_floor=name == 'floor')
            for name, seconds in taken.items()
        ],
        notes=notes,
        figure=f'post {ratio("ours", "floor"):.2f} floor, '
        f'nova {ratio("nova, stub", "floor"):.2f} floor',
    )
