# SPDX-License-Identifier: Apache-2.0
"""The resource os-assisted-volume-snapshots: two short methods.

Validation is in schemas, HTTP in wsgi, and the work behind the compute API;
what is left here is the order of them, which is Nova's.
"""

from __future__ import annotations

from typing import Any

from nova_ext import context as nova_ext_context
from nova_ext import policies
from nova_ext.api import schemas, wsgi
from nova_ext.compute import api as compute

# NOTE: from this microversion on unknown query keys are refused.
STRICT_QUERY = (2, 75)


class AssistedVolumeSnapshotsController:
    """Create and delete snapshots that Cinder and a hypervisor share."""

    def __init__(self, compute_api: compute.ComputeAPI) -> None:
        self._compute_api = compute_api

    def create(
        self,
        req: wsgi.Request,
        context: nova_ext_context.RequestContext,
        body: Any,
    ) -> dict[str, Any]:
        """Make the instance that uses a volume switch to a new file."""
        snapshot = schemas.create(body, legacy=req.legacy_v2)
        context.can(policies.CREATE)
        volume_id = snapshot['volume_id']
        create_info = snapshot['create_info']
        self._compute_api.volume_snapshot_create(
            context, volume_id, create_info
        )
        snapshot_id = create_info.get('id', create_info['snapshot_id'])
        return {'snapshot': {'id': snapshot_id, 'volumeId': volume_id}}

    def delete(
        self,
        req: wsgi.Request,
        context: nova_ext_context.RequestContext,
        version: tuple[int, int],
        id: str,
    ) -> None:
        """Merge one layer of the volume's backing chain away."""
        text = schemas.delete_query(
            req.query(), strict=version >= STRICT_QUERY
        )
        context.can(policies.DELETE)
        schemas.check_id(id)
        delete_info = schemas.delete_info(text)
        self._compute_api.volume_snapshot_delete(
            context, delete_info['volume_id'], id, delete_info
        )
