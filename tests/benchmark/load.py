# SPDX-License-Identifier: Apache-2.0
"""What a small fleet does when 64 clients ask at the same time.

Each client does what Cinder does with a volume of its own, again and again:
two snapshots, and then the deletion of the older, which is a commit, and of
the younger, which is a pull. The clients and the double of Cinder share this
process; all else is as shipped, in processes of its own (fleet.py).
"""

from __future__ import annotations

import collections
import dataclasses
import http.client
import itertools
import json
import os
import pathlib
import statistics
import tempfile
import time
import urllib.parse
from collections.abc import Sequence
from concurrent import futures
from typing import Any

from nova_ext.agent.job import Operation, State
from nova_ext.agent.journal import Journal
from nova_ext.virt.sample_records import qemu_img
from tests.benchmark import fleet, hypervisor
from tests.benchmark.report import Row, Section
from tests.benchmark.rig import MeasuringFailed

_CLIENTS = 64
_SNAPSHOTS = 2  # of a volume at a time
_PATH = '/v2.1/os-assisted-volume-snapshots'
# No client begins again after so many seconds, and none waits longer for one
# answer or report than the other number.
_SECONDS, _PATIENCE = 240.0, 120.0
_REPORTS = [
    ('creating', '0%'),
    ('creating', '90%'),
    ('deleting', '0%'),
    ('deleting', '90%'),
]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one request came to.

    :ivar seconds: until the answer
    :ivar reported: seconds until Cinder was told that it is done
    """

    method: str
    snapshot_id: str
    status: int
    seconds: float
    reported: float = 0.0


class Client:
    """Asks for one thing after another.

    :param end: of time.monotonic(), after which it does not begin again
    :ivar answers: to all that it asked
    """

    def __init__(
        self,
        parts: fleet.Fleet,
        volumes: Sequence[hypervisor.Volume],
        end: float,
    ) -> None:
        self._parts, self._volumes, self._end = parts, volumes, end
        self.answers: list[Answer] = []

    def run(self) -> None:
        """All volumes in turn, until there is nothing more to do.

        :raises: :class:`tests.benchmark.rig.MeasuringFailed`
        """
        for volume in itertools.cycle(self._volumes):
            if time.monotonic() > self._end or not self._cycle(volume):
                return

    def _cycle(self, volume: hypervisor.Volume) -> bool:
        snapshots = []
        for _ in range(_SNAPSHOTS):
            ahead = volume.next()
            if ahead is None:
                return False
            snapshots.append(ahead[0])
            self._create(volume, *ahead)
        for snapshot_id in snapshots:
            self._delete(volume, snapshot_id)
        return True

    def _create(
        self, volume: hypervisor.Volume, snapshot_id: str, path: pathlib.Path
    ) -> None:
        self._parts.cinder.add_snapshot(snapshot_id, volume.id)
        info = {
            'snapshot_id': snapshot_id,
            'type': 'qcow2',
            'new_file': path.name,
        }
        body = {'snapshot': {'volume_id': volume.id, 'create_info': info}}
        self._ask('POST', snapshot_id, _PATH, json.dumps(body))
        volume.layers.append(path)

    def _delete(self, volume: hypervisor.Volume, snapshot_id: str) -> None:
        *below, name = (path.name for path in volume.layers[:2])
        is_active = len(volume.layers) == _SNAPSHOTS
        info = {
            'volume_id': volume.id,
            'type': 'qcow2',
            'file_to_merge': None if is_active else name,
            'merge_target_file': None if is_active else below[0],
        }
        self._parts.cinder.set_snapshot(snapshot_id, 'deleting')
        query = urllib.parse.urlencode({'delete_info': json.dumps(info)})
        self._ask('DELETE', snapshot_id, f'{_PATH}/{snapshot_id}?{query}')
        # A pull leaves the upper file, a commit the lower.
        volume.layers.pop(0 if is_active else 1).unlink()

    def _ask(
        self, method: str, snapshot_id: str, url: str, body: str = ''
    ) -> None:
        reported = self._parts.cinder.expect(snapshot_id)
        began = time.monotonic()
        connection = http.client.HTTPConnection(
            '127.0.0.1', self._parts.port, timeout=_PATIENCE
        )
        headers = {'Content-Type': 'application/json'}
        connection.request(method, url, body, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        answered = time.monotonic() - began
        connection.close()
        told = answer.status < 300 and reported.wait(_PATIENCE)
        self.answers.append(
            Answer(
                method,
                snapshot_id,
                answer.status,
                answered,
                time.monotonic() - began,
            )
        )
        if not told:
            raise MeasuringFailed(f'{method}: {answer.status} {text}')


def _account(parts: fleet.Fleet, answers: Sequence[Answer]) -> None:
    """See that nothing was lost, and nothing done twice.

    :raises: :class:`tests.benchmark.rig.MeasuringFailed`
    """
    found = []
    told: dict[str | None, list[Any]] = collections.defaultdict(list)
    for request in parts.cinder.requests:
        update = request.update or {}
        report = update.get('status'), update.get('progress')
        if request.applied and report in _REPORTS:
            told[request.snapshot_id].append(report)
    asked = collections.Counter(
        (answer.snapshot_id, answer.method) for answer in answers
    )
    snapshots = {snapshot_id for snapshot_id, _ in asked}
    for snapshot_id in snapshots | set(told):
        if told[snapshot_id] != _REPORTS:
            found.append(f'Cinder was told {told[snapshot_id]}')
    if parts.cinder.snapshots:
        found.append(f'Cinder has {parts.cinder.snapshots}')
    done: collections.Counter[tuple[str, str]] = collections.Counter()
    for host in parts.hosts:
        for volume in host.volumes:
            chain, expected = host.chain(volume), volume.layers
            if chain != [str(path) for path in expected]:
                found.append(f'the chain is {chain}, and not {expected}')
        host.end_agent()
        found += _journalled(host, done)
        for domain in host.domains:
            domain.destroy()
        found += [
            f'{volume.id} has lost its data'
            for volume in host.volumes
            if not _is_whole(volume)
        ]
    if done != asked:
        found.append(f'done and asked differ: {done - asked}, {asked - done}')
    if found:
        raise MeasuringFailed(
            f'{len(found)} lost or doubled: ' + '\n'.join(found[:20])
        )


def _journalled(
    host: hypervisor.Host, done: collections.Counter[tuple[str, str]]
) -> list[str]:
    """Count what a journal has, and tell what is no success in it."""
    methods = {Operation.CREATE: 'POST', Operation.DELETE: 'DELETE'}
    journal = Journal(host.directory / 'journal.sqlite')
    jobs = journal.jobs(everything=True)
    journal.close()
    done.update((job.snapshot_id, methods[job.operation]) for job in jobs)
    return [f'{job}' for job in jobs if job.state is not State.DONE]


def _is_whole(volume: hypervisor.Volume) -> bool:
    with tempfile.TemporaryDirectory() as directory:
        raw = pathlib.Path(directory) / 'raw'
        qemu_img('convert', '-O', 'raw', str(volume.layers[-1]), str(raw))
        with raw.open('rb') as file:
            return file.read(len(volume.data)) == volume.data


def measure(short: bool, others: bool) -> Section:
    """All clients at the same time, until each has done its part.

    :raises: :class:`tests.benchmark.rig.MeasuringFailed`, and what the parts
        raise
    """
    cycles = 1 if short else 5
    load = os.getloadavg()[0]
    with fleet.running(cycles * _SNAPSHOTS) as parts:
        # Clients next to each other ask different hosts.
        volumes = [
            volume
            for pair in zip(
                *(host.volumes for host in parts.hosts), strict=True
            )
            for volume in pair
        ]
        before = [(host.memory(), host.cpu()) for host in parts.hosts]
        began = time.monotonic()
        clients = [
            Client(parts, volumes[number::_CLIENTS], began + _SECONDS)
            for number in range(_CLIENTS)
        ]
        with futures.ThreadPoolExecutor(_CLIENTS) as pool:
            list(pool.map(Client.run, clients))
        taken = time.monotonic() - began
        memory = [
            f'{host.name}: {rss:.0f} MiB before, {host.memory():.0f} after, '
            f'{host.memory("VmHWM"):.0f} at most'
            for host, (rss, _) in zip(parts.hosts, before, strict=True)
        ]
        used = sum(host.cpu() for host in parts.hosts)
        used -= sum(cpu for _, cpu in before)
        answers = [answer for client in clients for answer in client.answers]
        _account(parts, answers)
    return _section(answers, taken, memory, used, load)


def _section(
    answers: Sequence[Answer],
    taken: float,
    memory: Sequence[str],
    used: float,
    load: float,
) -> Section:
    rows = [
        Row(
            f'{method} until its {what}',
            [
                getattr(answer, field)
                for answer in answers
                if answer.method == method
            ],
        )
        for method in ('POST', 'DELETE')
        for what, field in (('answer', 'seconds'), ('report', 'reported'))
    ]
    rate = len(answers) / taken
    statuses = collections.Counter(answer.status for answer in answers)
    return Section(
        title=f'load: {_CLIENTS} clients, {fleet.WORKERS} API workers with '
        f'{fleet.THREADS} threads, {fleet.HOSTS} agents with '
        f'{hypervisor.VOLUMES} volumes each; ms',
        rows=rows,
        notes=[
            f'{os.cpu_count()} CPUs, load before {load:.1f}',
            f'{len(answers)} requests in {taken:.0f} s, {rate:.1f}/s; answers '
            f'{dict(statuses)}; each reported, journalled and done once',
            *(
                f'{row.name}: p50 {row.median * 1e3:.0f}, p99 '
                f'{statistics.quantiles(row.seconds, n=100)[98] * 1e3:.0f}'
                for row in rows
            ),
            *(f'agent of {line}' for line in memory),
            f'agents: {used / len(answers) * 1e3:.1f} ms of CPU a request',
        ],
        figure=f'load {rate:.1f}/s',
    )
