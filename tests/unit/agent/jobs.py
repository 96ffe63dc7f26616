# SPDX-License-Identifier: Apache-2.0
"""Jobs for the unit tests of the agent."""

from __future__ import annotations

from typing import Any

from nova_ext.agent.job import Job, Kind, Operation

NOW, DEADLINE = 1000.0, 1570.0


def create(**changes: Any) -> Job:
    """A job that puts an overlay on a volume."""
    return Job(
        **{
            'snapshot_id': 'snapshot',
            'volume_id': 'volume',
            'operation': Operation.CREATE,
            'kind': Kind.OVERLAY,
            'instance_id': 'instance',
            'target': 'vdb',
            'before': ('/share/v', '/share/base'),
            'after': ('/share/v.s', '/share/v', '/share/base'),
            'accepted_at': NOW,
            'deadline': DEADLINE,
            **changes,
        }
    )


def delete(**changes: Any) -> Job:
    """A job that commits the middle one of three layers."""
    return create(
        **{
            'operation': Operation.DELETE,
            'kind': Kind.COMMIT,
            'before': ('/share/v.s2', '/share/v.s1', '/share/v'),
            'after': ('/share/v.s2', '/share/v'),
            **changes,
        }
    )
