# SPDX-License-Identifier: Apache-2.0
"""The compute abstraction: what the API asks of whoever does the work.

Backends are found by entry point (namespace ``nova_ext.compute``), so that
none is imported, with what it needs, before it is chosen.
"""

from __future__ import annotations

import abc
from importlib import metadata
from typing import Any

from oslo_config import cfg
from stevedore import driver
from stevedore import exception as stevedore_exception

from nova_ext import context as nova_ext_context

NAMESPACE = 'nova_ext.compute'


class ComputeAPI(abc.ABC):
    """One backend. Its methods may be called by many threads at once.

    :param conf: the configuration of the process
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self.conf = conf

    @abc.abstractmethod
    def volume_snapshot_create(
        self,
        context: nova_ext_context.RequestContext,
        volume_id: str,
        create_info: dict[str, Any],
    ) -> None:
        """Switch the instance that uses a volume to its new active layer.

        :param create_info: ``snapshot_id``, ``type`` and ``new_file``, and
            perhaps ``id``
        :raises: :class:`nova_ext.exception.NovaExtException`
        """

    @abc.abstractmethod
    def volume_snapshot_delete(
        self,
        context: nova_ext_context.RequestContext,
        volume_id: str,
        snapshot_id: str,
        delete_info: dict[str, Any],
    ) -> None:
        """Begin to merge a layer of the volume's chain away.

        :param delete_info: ``volume_id``, and perhaps ``type``,
            ``file_to_merge`` and ``merge_target_file``
        :raises: :class:`nova_ext.exception.NovaExtException`
        """

    @abc.abstractmethod
    def check(self) -> str:
        """Say in a few words that all that is needed can be reached.

        :raises: :class:`nova_ext.exception.Unavailable`
        """


def load(conf: cfg.ConfigOpts) -> ComputeAPI:
    """The backend that ``[nova_ext] compute_api`` names.

    :raises: oslo_config.cfg.Error for a name that no entry point has, and
        where what the backend needs is not installed
    """
    name = conf.nova_ext.compute_api
    try:
        return driver.DriverManager(
            NAMESPACE, name, invoke_on_load=True, invoke_args=(conf,)
        ).driver
    except stevedore_exception.NoMatches as error:
        known = sorted(metadata.entry_points(group=NAMESPACE).names)
        raise cfg.Error(
            f'[nova_ext] compute_api is {name}, which is none of '
            f'{", ".join(known)}.'
        ) from error
    except ModuleNotFoundError as error:
        mend = (
            'Install nova_ext[rpc]'
            if name == 'rpc'
            else 'Run this in the Python environment that has it'
        )
        raise cfg.Error(
            f'[nova_ext] compute_api is {name}, and {error}. {mend}.'
        ) from error
