# SPDX-License-Identifier: Apache-2.0
"""The backend inside nova-api: Nova's own compute API, with guards before it.

What Nova answers stays as it is; a guard refuses what Nova would accept and
lose data by (W1 to W32: data-safety.rst of the API reference). What happens
on the hypervisor is Nova's, and cannot be guarded from here. Nova is imported
only with this module.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova.api.openstack import api_version_request
from nova.compute import api as nova_compute
from nova.compute import vm_states
from oslo_config import cfg
from oslo_db import exception as db_exception

from nova_ext import cinder, exception, fence
from nova_ext import context as nova_ext_context
from nova_ext.compute import api

LOG = logging.getLogger(__name__)


def max_microversion() -> str:
    """The highest microversion of the Nova that we are in."""
    return api_version_request.max_api_version().get_string()


class ComputeAPI(api.ComputeAPI):
    """Nova's compute API, guarded.

    :raises: :class:`nova_ext.exception.InvalidInput` for options that
        contradict each other
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        super().__init__(conf)
        self._compute_api = _GuardedAPI(conf.nova_ext_nova)
        snapshots = _snapshots(conf)
        if snapshots is not None:
            self._compute_api.compute_rpcapi = _FencedCasts(
                self._compute_api.compute_rpcapi, snapshots
            )

    def volume_snapshot_create(
        self,
        context: nova_ext_context.RequestContext,
        volume_id: str,
        create_info: dict[str, Any],
    ) -> None:
        """See :class:`nova_ext.compute.api.ComputeAPI`."""
        with _translated():
            self._compute_api.volume_snapshot_create(
                context.origin, volume_id, create_info
            )

    def volume_snapshot_delete(
        self,
        context: nova_ext_context.RequestContext,
        volume_id: str,
        snapshot_id: str,
        delete_info: dict[str, Any],
    ) -> None:
        """See :class:`nova_ext.compute.api.ComputeAPI`."""
        with _translated():
            self._compute_api.volume_snapshot_delete(
                context.origin, volume_id, snapshot_id, delete_info
            )

    def check(self) -> str:
        """See :class:`nova_ext.compute.api.ComputeAPI`."""
        with _translated():
            cells = objects.CellMappingList.get_all(
                nova_context.get_admin_context()
            )
        return f'nova-api with {len(cells)} cells'


def _snapshots(conf: cfg.ConfigOpts) -> cinder.Snapshots | None:
    wanted = conf.nova_ext_nova.fence
    cinder.register_opts(conf)
    if wanted != 'never' and conf.nova_ext_cinder.auth_type:
        return cinder.Cinder(conf)
    reason = (
        'Cinder is not told before a snapshot begins, so that a stale '
        'progress there can make it remove a file in use. Give '
        '[nova_ext_cinder] an auth_type and credentials'
    )
    if wanted == 'required':
        raise exception.InvalidInput(
            reason=f'[nova_ext_nova] fence is "required". {reason}'
        )
    LOG.warning('%s.', reason)
    return None


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Nova's errors as ours, in Nova's words."""
    try:
        yield
    except nova_exception.VolumeBDMIsMultiAttach as error:
        raise exception.VolumeIsMultiAttach(
            volume_id=error.kwargs['volume_id']
        ) from error
    except (
        nova_exception.VolumeBDMNotFound,
        nova_exception.InvalidVolume,
        nova_exception.InstanceInvalidState,
        nova_exception.InstanceNotReady,
    ) as error:
        raise exception.InvalidInput(reason=error.format_message()) from error
    except nova_exception.NotFound as error:
        raise exception.ResourceNotFound(
            reason=error.format_message()
        ) from error
    except db_exception.DBError as error:
        LOG.exception('A database of Nova cannot be used')
        raise exception.ServiceUnavailable(
            reason='a database of Nova cannot be used; its log says more'
        ) from error


class _GuardedAPI(nova_compute.API):
    """Nova's compute API; what it looks up is guarded here, so that nothing
    is looked up twice.
    """

    def __init__(self, options: cfg.GroupAttr) -> None:
        super().__init__()
        self._options = options

    def _get_bdm_by_volume_id(
        self,
        context: nova_context.RequestContext,
        volume_id: str,
        expected_attrs: list[str] | None = None,
    ) -> objects.BlockDeviceMapping:
        bdm = super()._get_bdm_by_volume_id(
            context, volume_id, expected_attrs=expected_attrs
        )
        instance = bdm.instance
        if (
            self._options.refuse_suspended
            and instance.vm_state == vm_states.SUSPENDED
        ) or (
            self._options.refuse_rescued
            and instance.vm_state == vm_states.RESCUED
        ):
            raise nova_exception.InstanceInvalidState(
                attr='vm_state',
                instance_uuid=instance.uuid,
                state=instance.vm_state,
                method='snapshot a volume',
            )
        if self._options.refuse_host_down and instance.host:
            self._check_host(context, instance)
        return bdm

    def _check_host(
        self, context: nova_context.RequestContext, instance: objects.Instance
    ) -> None:
        service = objects.Service.get_by_host_and_binary(
            context, instance.host, 'nova-compute'
        )
        if service is None or not self.servicegroup_api.service_is_up(service):
            # NOTE: who may ask may not be told where instances are.
            raise exception.ServiceUnavailable(
                reason=f'the compute service of instance {instance.uuid} is '
                'down. Nothing was started; try again when it is up'
            )


class _FencedCasts:
    """Nova's messages to hypervisors; the fence stands right before ours."""

    def __init__(self, rpcapi: Any, snapshots: cinder.Snapshots) -> None:
        self._rpcapi = rpcapi
        self._snapshots = snapshots

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rpcapi, name)

    def volume_snapshot_create(
        self,
        context: nova_context.RequestContext,
        instance: objects.Instance,
        volume_id: str,
        create_info: dict[str, Any],
    ) -> None:
        fence.put_up(
            self._snapshots, create_info['snapshot_id'], fence.CREATING
        )
        self._rpcapi.volume_snapshot_create(
            context, instance, volume_id, create_info
        )

    def volume_snapshot_delete(
        self,
        context: nova_context.RequestContext,
        instance: objects.Instance,
        volume_id: str,
        snapshot_id: str,
        delete_info: dict[str, Any],
    ) -> None:
        fence.put_up(self._snapshots, snapshot_id, fence.DELETING)
        self._rpcapi.volume_snapshot_delete(
            context, instance, volume_id, snapshot_id, delete_info
        )
