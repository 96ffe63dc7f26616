# SPDX-License-Identifier: Apache-2.0
"""Numbers for Prometheus, where an agent shall have them.

They derive from two places, which are wrapped here: the journal, through
which every transition goes, and the dispatcher, from which every reply comes.
Nothing else knows of them, and this module is imported on demand only.
"""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

import prometheus_client
from prometheus_client import core, registry

from nova_ext import exception
from nova_ext.agent import dispatch, journal
from nova_ext.agent import job as agent_job
from nova_ext.agent.job import Job, State

if TYPE_CHECKING:
    from nova_ext.agent import manager as agent_manager

_LABELS = ('operation', 'kind', 'state')
# From a switch to a merge of terabytes, in seconds.
_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 60, 300, 600, 1800, 3600, 7200)
_BLOCK = 512


class Metrics:
    """What is counted.

    :ivar collected: what a scrape reads
    """

    def __init__(self) -> None:
        self.collected = registry.CollectorRegistry()
        self.seconds = prometheus_client.Histogram(
            'nova_ext_job_seconds',
            'From the acceptance of a job to its end',
            _LABELS,
            buckets=_SECONDS,
            registry=self.collected,
        )
        self.merged = prometheus_client.Counter(
            'nova_ext_merged_bytes',
            'Of files that were merged away, as they took space',
            ('kind',),
            registry=self.collected,
        )
        self.refused = prometheus_client.Counter(
            'nova_ext_refused_requests',
            'Requests that were refused or failed, by the error they got',
            ('method', 'reason'),
            registry=self.collected,
        )
        prometheus_client.Info(
            'nova_ext_agent', 'The agent', registry=self.collected
        ).info({'version': metadata.version('nova_ext')})

    def journal(self, path: pathlib.Path, look: Callable[..., int]) -> Journal:
        """The journal, counted; see :class:`Journal`."""
        return Journal(path, self, look)

    def dispatcher(self, manager: agent_manager.Manager) -> Dispatcher:
        """The dispatcher, counted."""
        return Dispatcher(manager, self)

    def serve(self, address: str, port: int) -> None:
        """Answer scrapes, as long as the process lives.

        :raises: OSError
        """
        prometheus_client.start_http_server(port, address, self.collected)


class Journal(journal.Journal):
    """The journal, with its transitions counted.

    :param look: reads the space that a file takes, on shares that may hang
    """

    def __init__(
        self,
        path: pathlib.Path,
        metrics: Metrics,
        look: Callable[..., int],
    ) -> None:
        super().__init__(path)
        self._metrics = metrics
        self._look = look
        # Of the jobs that began or were taken up here, unless they are over.
        self._states: dict[int, State] = {}
        metrics.collected.register(_Jobs(self))

    def add(self, job: Job) -> Job:
        """See :class:`nova_ext.agent.journal.Journal`."""
        job = super().add(job)
        self._states[job.identity] = job.state
        return job

    def update(self, job: Job, durable: bool = True) -> None:
        """See :class:`nova_ext.agent.journal.Journal`."""
        super().update(job, durable)
        before = self._states.get(job.identity)
        if before is None:
            # NOTE: what an operator makes of a job that is over is no second
            # end.
            return
        self._states[job.identity] = job.state
        # NOTE: Cinder may have to be told more than once.
        if before in agent_job.TOUCHING and job.state is State.REPORTING:
            self._count_bytes(job)
        if job.state in agent_job.FINAL:
            del self._states[job.identity]
            labels = (job.operation, job.kind, job.state)
            seconds = max(time.time() - job.accepted_at, 0.0)
            self._metrics.seconds.labels(
                *(label.value for label in labels)
            ).observe(seconds)

    def update_all(self, jobs: Sequence[Job]) -> None:
        """See :class:`nova_ext.agent.journal.Journal`."""
        super().update_all(jobs)
        self._states.update((job.identity, job.state) for job in jobs)

    def _count_bytes(self, job: Job) -> None:
        # NOTE: as long as Cinder is not told, it removes none of them.
        if job.succeeded and not job.merged:
            for path in job.doomed:
                try:
                    size = self._look(path, _allocated, path)
                except OSError:
                    continue
                self._metrics.merged.labels(job.kind.value).inc(size)


class Dispatcher(dispatch.Dispatcher):
    """The dispatcher, with the errors of its replies counted."""

    def __init__(
        self, manager: agent_manager.Manager, metrics: Metrics
    ) -> None:
        super().__init__(manager)
        self._metrics = metrics

    def error(
        self, error: exception.NovaExtException, name: str
    ) -> dict[str, Any]:
        """See :class:`nova_ext.agent.dispatch.Dispatcher`."""
        self._metrics.refused.labels(name, type(error).__name__).inc()
        return super().error(error, name)


class _Jobs(registry.Collector):
    """How many jobs the journal has in each state, when it is asked."""

    def __init__(self, jobs: journal.Journal) -> None:
        self._jobs = jobs

    def describe(self) -> Iterator[core.Metric]:
        """Their names; the journal is not read for that."""
        yield self._family()

    def collect(self) -> Iterator[core.Metric]:
        """A value for each state."""
        family = self._family()
        for state in State:
            family.add_metric([state.value], self._jobs.count(state))
        yield family

    def _family(self) -> core.GaugeMetricFamily:
        return core.GaugeMetricFamily(
            'nova_ext_jobs',
            'Jobs in the journal, which forgets those that are long over',
            labels=['state'],
        )


def _allocated(path: str) -> int:
    return os.stat(path).st_blocks * _BLOCK
