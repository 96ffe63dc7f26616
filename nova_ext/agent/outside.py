# SPDX-License-Identifier: Apache-2.0
"""Cinder and Nova as jobs know them: who awaits, and who is told.

What they do is in reporter and nova_bdm, when is the engine's business.
"""

from __future__ import annotations

from typing import Protocol

from nova_ext import exception
from nova_ext.agent.job import Job
from nova_ext.agent.transition import Record, Verdict


class Reports(Protocol):
    """What is asked of a reporter."""

    trouble: str

    def fence(self, job: Job) -> None: ...

    def progress(self, job: Job, percent: int) -> None: ...

    def deliver(self, job: Job) -> Verdict: ...

    def confirm(self, job: Job) -> Verdict: ...

    def compare(self, job: Job) -> None: ...

    def witness(self, job: Job) -> tuple[str | None, tuple[str, ...]]: ...

    def is_gone(self, snapshot_id: str) -> bool: ...


class Records(Protocol):
    """What is asked of Nova, on its hosts."""

    trouble: str

    def fence(self, job: Job) -> None: ...

    def refresh(self, job: Job, used: bool) -> Record: ...


class NoNova:
    """Stands in for Nova where none of the guests is Nova's."""

    trouble = ''

    def fence(self, job: Job) -> None:
        """:raises: :class:`nova_ext.exception.NovaNotConfigured`"""
        raise exception.NovaNotConfigured(instance_id=job.instance_id)

    def refresh(self, job: Job, used: bool) -> Record:
        """Nothing is known of it."""
        return Record.UNKNOWN
