# SPDX-License-Identifier: Apache-2.0
"""What is a point of the matrix: the methods around which somebody dies.

Only names are here, so that they can be checked where no libvirt is.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

_FLAGS = ('merged', 'flushed', 'released', 'cancelled')


def journal_label(_: object, job: Any, durable: bool = True) -> str:
    """A name for a write of the journal."""
    flags = [flag for flag in _FLAGS if getattr(job, flag, False)]
    if job.succeeded is False:
        flags.append('failed')
    return ' '.join(['journal', job.state.value, *flags])


# By class: method → name of the point, or what makes the name.
POINTS: dict[str, dict[str, str | Callable[..., str]]] = {
    'nova_ext.agent.journal:Journal': {
        'add': journal_label,
        'update': journal_label,
    },
    'nova_ext.virt.guest:Guest': {
        name: name
        for name in (
            *('snapshot', 'pull', 'commit', 'flush', 'cancel', 'freeze'),
            *('thaw', 'limit', 'forget_backing', 'end', 'pivot'),
        )
    },
    'nova_ext.virt.host:Host': {'start_paused': 'start_paused'},
    'nova_ext.agent.reporter:Reporter': {
        name: name for name in ('fence', 'deliver', 'confirm', 'progress')
    },
    'nova_ext.agent.manager:Manager': {
        'volume_snapshot_create': 'request',
        'volume_snapshot_delete': 'request',
    },
}
# The other methods of these classes. Listed, so that a new one has to be put
# in one of the two.
READS = {
    'nova_ext.agent.journal:Journal': {
        *(
            'close',
            'latest',
            'merged',
            'get',
            'jobs',
            'touching',
            'unfinished',
            'later',
            'forget',
            'old_snapshot',
            'forget_snapshot',
            'count',
            # At a start, of all or none: who dies in it starts the same again.
            'update_all',
        ),
    },
    'nova_ext.virt.guest:Guest': {
        *('describe', 'state', 'has_managed_save', 'has_job'),
        *('is_occupied', 'block_job', 'stored'),
    },
    'nova_ext.virt.host:Host': {
        *('close', 'connect', 'guest', 'attachments', 'volumes'),
        *('described', 'of_nova', 'qemu_user'),
    },
    'nova_ext.agent.reporter:Reporter': {'compare', 'is_gone', 'witness'},
}


def owner(name: str) -> type:
    """The class of that name."""
    module, _, attribute = name.partition(':')
    return getattr(importlib.import_module(module), attribute)


def unknown(name: str, methods: set[str]) -> set[str]:
    """Which of a class's public methods are in neither table."""
    return methods - READS.get(name, methods) - POINTS[name].keys()


def methods(name: str) -> set[str]:
    """The public methods of a class."""
    return {
        method
        for method, _ in inspect.getmembers(owner(name), inspect.isfunction)
        if not method.startswith('_')
    }
