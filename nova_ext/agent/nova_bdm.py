# SPDX-License-Identifier: Apache-2.0
"""What Nova keeps of where a volume is: read, and mended, by its conductor.

Nova starts an instance from the connection_info that it stored, so that must
name the file that QEMU has open. It is computed from that file and not asked
of Cinder, which knows of it only when a snapshot is over, if at all; a start
in between would use the old file, and Nova itself asks Cinder wherever it
moves an instance to another host.

As in nova-compute there is no access to a database. Nova is imported only
with this module, and its options are in its own configuration
(``oslo_config.cfg.CONF``), which nobody else uses in an agent's process.
When, and what follows, is decided in :mod:`nova_ext.agent.transition`.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

from nova_ext import bus, exception, patience
from nova_ext.agent.job import Job
from nova_ext.agent.transition import Record

# isort: split
# NOTE: after `bus`, which says that there is no eventlet.
from nova import config as nova_config
from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova.compute import vm_states
from nova.conductor import rpcapi
from nova.objects import base

LOG = logging.getLogger(__name__)

# For the answer to one message, and for all that is asked at once.
_TIMEOUT_SECONDS = 5
_LIMIT_SECONDS = 10.0


class Unreachable(Exception):
    """The conductor could not be asked; says why."""


class Nova:
    """Nova's records of the volumes of this host.

    :param files: of Nova's configuration, as nova-compute is given them
    :ivar trouble: why the conductor cannot be asked at present; empty if it
        can, as far as is known
    :raises: oslo_config.cfg.Error, and :data:`nova_ext.bus.UNUSABLE`
    """

    def __init__(self, files: Sequence[str]) -> None:
        nova_config.parse_args(
            ['nova-ext-agent', *(f'--config-file={path}' for path in files)],
            configure_db=False,
        )
        conf = nova_config.CONF
        self._host = conf.host
        objects.register_all()
        base.NovaObject.indirection_api = rpcapi.ConductorAPI()
        # NOTE: an option that is known only now.
        conf.set_override('rpc_response_timeout', _TIMEOUT_SECONDS)
        self.trouble = ''
        self._asking = threading.Lock()
        self._stuck: futures.Future[Any] | None = None

    def fence(self, job: Job) -> None:
        """Make sure that Nova can be told of the file, and now is idle.

        :raises: :class:`nova_ext.exception.NovaExtException`
        """
        try:
            device, instance = self._ask(
                lambda context: (
                    _device(context, job),
                    _instance(context, job),
                )
            )
        except Unreachable as error:
            raise exception.NovaUnavailable(
                snapshot_id=job.snapshot_id, reason=str(error)
            ) from None
        reason = None
        if device is None or instance is None:
            reason = 'Nova has no record of it as attached there'
        elif _pointed(device.connection_info, job) is None:
            reason = (
                'what Nova stores of it names no file, so that Nova cannot '
                'be told of another'
            )
        elif instance.host != self._host:
            reason = (
                f'Nova has the instance on host {instance.host}, and '
                f'[DEFAULT] host in [nova_ext_agent] nova_config_file is '
                f'{self._host}'
            )
        if reason:
            raise exception.UnsupportedDisk(
                volume_id=job.volume_id,
                instance_id=job.instance_id,
                reason=reason,
            )
        if instance.task_state is not None:
            # The words are Nova's.
            raise exception.InstanceInvalidState(
                instance_id=job.instance_id,
                state=f'in task_state {instance.task_state}',
                method='volume_snapshot_create',
            )

    def refresh(self, job: Job, used: bool) -> Record:
        """What Nova stores of a volume, and where it is wrong and the job's
        active layer is `used`, have it store that.
        """
        not_after = time.monotonic() + _LIMIT_SECONDS
        try:
            return self._ask(
                lambda context: self._refresh(context, job, used, not_after)
            )
        except Unreachable:
            return Record.UNKNOWN

    def _refresh(
        self, context: Any, job: Job, used: bool, not_after: float
    ) -> Record:
        device = _device(context, job)
        pointed = device and _pointed(device.connection_info, job)
        if device is None or pointed is None:
            return Record.GONE
        right = json.loads(device.connection_info) == pointed
        if (
            used
            and not right
            and self._is_here(_instance(context, job))
            and time.monotonic() < not_after
        ):
            device.connection_info = json.dumps(pointed)
            device.save()
            right = True
            LOG.info(
                'Nova starts instance %s from %s from now on',
                job.instance_id,
                job.after[0],
            )
        # NOTE: what began before may have read what was stored before; what
        # begins from now on reads what is stored now.
        instance = _instance(context, job)
        # NOTE: the row of what is deleted is the last to go, with nothing
        # more to be done about it.
        if instance is None or instance.vm_state == vm_states.DELETED:
            return Record.GONE
        if instance.task_state is not None:
            return Record.BUSY
        if self._is_here(instance):
            return Record.RIGHT if right else Record.WRONG
        # NOTE: of one that was shelved nobody uses any file.
        unused = instance.host is None
        return Record.GONE if right or unused else Record.ELSEWHERE

    def _is_here(self, instance: Any) -> bool:
        return instance is not None and instance.host == self._host

    def _ask(self, function: Callable[[Any], Any]) -> Any:
        """``function(context)``, in bounded time.

        :raises: :class:`Unreachable`
        """
        # NOTE: each of those who ask in vain holds one of the threads that
        # all jobs share, hence one at a time.
        alone = self._asking.acquire(blocking=False)
        try:
            stuck = self._stuck is not None and not self._stuck.done()
            if self.trouble and (stuck or not alone):
                raise Unreachable(self.trouble)
            # NOTE: while the broker cannot be connected oslo.messaging waits
            # without end, whatever the timeout of the call.
            asked = self._stuck = patience.begin(
                lambda: function(nova_context.get_admin_context())
            )
            answer = asked.result(_LIMIT_SECONDS)
        except (
            futures.TimeoutError,
            bus.messaging.MessagingException,
            nova_exception.NovaException,
        ) as error:
            if not self.trouble:
                LOG.warning('nova-conductor cannot be asked: %r', error)
            self.trouble = (
                f'nova-conductor cannot be asked ({type(error).__name__}). '
                'Look whether it runs, and at transport_url in '
                '[nova_ext_agent] nova_config_file'
            )
            raise Unreachable(self.trouble) from error
        finally:
            if alone:
                self._asking.release()
        self.trouble = ''
        return answer


def _device(context: Any, job: Job) -> Any:
    """The block device mapping; None if there is none any more."""
    try:
        return objects.BlockDeviceMapping.get_by_volume_and_instance(
            context, job.volume_id, job.instance_id
        )
    except nova_exception.VolumeBDMNotFound:
        return None


def _instance(context: Any, job: Job) -> Any:
    """The instance; None if there is none any more."""
    try:
        return objects.Instance.get_by_uuid(
            context, job.instance_id, expected_attrs=[]
        )
    except nova_exception.InstanceNotFound:
        return None


def _pointed(stored: str | None, job: Job) -> dict[str, Any] | None:
    """A connection_info that names the active layer; None if none can."""
    info = json.loads(stored or '{}')
    data = info.get('data')
    if not data or not data.get('name'):
        return None
    path = job.after[0]
    data = {**data, 'name': os.path.basename(path), 'format': job.format}
    if data.get('device_path'):
        data['device_path'] = os.path.join(
            os.path.dirname(data['device_path']), data['name']
        )
    return {**info, 'data': data}
