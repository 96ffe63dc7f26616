# SPDX-License-Identifier: Apache-2.0
"""Cinder's HTTP interface, over keystoneauth1 with credentials of our own.

What an answer means for a job is not decided here, and nothing is retried.
The caller's token is never used: it outlives neither a merge nor a restart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import urllib.parse
from collections.abc import Sequence
from typing import Any, Protocol

from keystoneauth1 import exceptions, loading
from oslo_config import cfg
from oslo_context import context

from nova_ext import identity

GROUP = cfg.OptGroup('nova_ext_cinder', 'The reports to Cinder')

_TIMEOUT_SECONDS = 10
# The first in which an attachment can be shown.
_ATTACHMENTS = '3.27'
_PROGRESS = 'os-extended-snapshot-attributes:progress'
# What is taken out of a path on the way, even when it is quoted.
_NO_IDS = ('', '.', '..')
# What an answer of another shape than the documented one leads to.
_UNREADABLE = (KeyError, TypeError, AttributeError)


class NoAnswer(Exception):
    """Cinder, or Keystone before it, could not be asked; says why."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """An HTTP status and what Cinder said with it."""

    code: int
    message: str = ''

    def __str__(self) -> str:
        return (
            f'{self.code} ({self.message})'
            if self.message
            else (str(self.code))
        )


@dataclasses.dataclass(frozen=True)
class Row:
    """What Cinder shows of a snapshot; `progress` None if it hides it."""

    status: str
    progress: str | None


@dataclasses.dataclass(frozen=True)
class Attachment:
    """Where a volume is attached; `host` None if Cinder hides or lacks it."""

    server_id: str
    host: str | None


class Snapshots(Protocol):
    """Who is told of the states of snapshots, and can be asked."""

    def update_status(
        self, snapshot_id: str, status: str, progress: str | None
    ) -> Answer: ...

    def show(self, snapshot_id: str) -> Row | None: ...

    def attached_files(self, volume_id: str) -> tuple[str, ...]: ...

    def is_administrator(self) -> tuple[bool, float | None]: ...


def _opts() -> list[cfg.Opt]:
    opts = [
        *loading.get_auth_common_conf_options(),
        *loading.get_session_conf_options(),
        *loading.get_adapter_conf_options(include_deprecated=False),
    ]
    cfg.set_defaults(
        opts, service_type='block-storage', timeout=_TIMEOUT_SECONDS
    )
    return opts


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Make the options of this client known to `conf`."""
    # NOTE: by its name, since configurations share what is in a group object.
    conf.register_opts(_opts(), group=GROUP.name)


def list_opts() -> list[tuple[cfg.OptGroup, Sequence[cfg.Opt]]]:
    """What oslo-config-generator shows."""
    plugin = loading.get_auth_plugin_conf_options('password')
    known = _opts()
    names = {option.name for option in known}
    known += [option for option in plugin if option.name not in names]
    return [(GROUP, known)]


class Cinder:
    """The block storage service, as ``[nova_ext_cinder]`` says.

    :raises: oslo_config.cfg.Error for options that can't be used
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        register_opts(conf)
        group = GROUP.name
        try:
            auth = loading.load_auth_from_conf_options(conf, group)
        except exceptions.ClientException as error:
            raise cfg.ConfigFileValueError(
                f'[{group}] auth_type cannot be used: {error}'
            ) from None
        if auth is None:
            raise cfg.ConfigFileValueError(
                f'[{group}] auth_type is not set. Set it to "password", or '
                'to what else Cinder takes, and beside it what that wants.'
            )
        _check_urls(conf)
        session = loading.load_session_from_conf_options(
            conf, group, auth=auth
        )
        self._adapter = loading.load_adapter_from_conf_options(
            conf, group, session=session, auth=auth
        )

    def update_status(
        self, snapshot_id: str, status: str, progress: str | None
    ) -> Answer:
        """Set the status of a snapshot, and its progress unless None.

        :raises: :class:`NoAnswer`
        """
        if snapshot_id in _NO_IDS:
            return Answer(404, 'no snapshot can have this id')
        update = {'status': status}
        if progress is not None:
            update['progress'] = progress
        response = self._request(
            'POST',
            f'{_path(snapshot_id)}/action',
            json={'os-update_snapshot_status': update},
        )
        return Answer(response.status_code, _message(response))

    def show(self, snapshot_id: str) -> Row | None:
        """What Cinder shows of a snapshot; None if it knows of none.

        :raises: :class:`NoAnswer`, also for an answer that is no status
        """
        if snapshot_id in _NO_IDS:
            return None
        shown = self._show(_path(snapshot_id), 'snapshot')
        if shown is None:
            return None
        try:
            return Row(shown['status'], shown.get(_PROGRESS))
        except _UNREADABLE:
            raise NoAnswer('what it shows of the snapshot is none') from None

    def attached_files(self, volume_id: str) -> tuple[str, ...]:
        """The file that each attachment of a volume is told to use.

        Empty where Cinder knows of no volume, attachment or file.

        :raises: :class:`NoAnswer`
        """
        names = []
        try:
            for attachment in self._attachments(volume_id):
                shown = self._show(
                    _path(attachment['attachment_id'], 'attachments'),
                    'attachment',
                    microversion=_ATTACHMENTS,
                )
                told = (shown or {}).get('connection_info') or {}
                names += [str(told['name'])] if told.get('name') else []
        except _UNREADABLE:
            raise NoAnswer('what it shows of attachments is none') from None
        return tuple(names)

    def attachments(self, volume_id: str) -> tuple[Attachment, ...]:
        """Where a volume is attached; empty if nowhere, or unknown.

        :raises: :class:`NoAnswer`, also for an answer that is no volume
        """
        try:
            return tuple(
                Attachment(found['server_id'], found.get('host_name'))
                for found in self._attachments(volume_id)
            )
        except _UNREADABLE:
            raise NoAnswer('what it shows of the volume is none') from None

    def hosts(self, limit: int) -> frozenset[str]:
        """The hosts that have volumes, as far as Cinder tells us.

        :param limit: how many volumes are looked at
        :raises: :class:`NoAnswer`, also for an answer that is no volumes
        """
        volumes = self._show(
            f'/volumes/detail?all_tenants=1&status=in-use&limit={limit}',
            'volumes',
        )
        try:
            return frozenset(
                str(found['host_name'])
                for volume in volumes or ()
                for found in volume.get('attachments', ())
                if found.get('host_name')
            )
        except _UNREADABLE:
            raise NoAnswer('what it shows of volumes is none') from None

    def is_administrator(self) -> tuple[bool, float | None]:
        """Whether Cinder takes us for one, and its clock.

        One who is none is not shown snapshots of other projects, and can
        report nothing of them. Asked by what only one may see.

        :returns: the second in seconds since the epoch, None if unsaid
        :raises: :class:`NoAnswer`, also for an answer that says neither
        """
        response = self._request('GET', '/os-services?binary=cinder-scheduler')
        if response.status_code not in (200, 403):
            answer = Answer(response.status_code, _message(response))
            raise NoAnswer(f'it answered {answer}')
        return response.status_code == 200, identity.date(response)

    def _attachments(self, volume_id: str) -> Sequence[dict[str, Any]]:
        if volume_id in _NO_IDS:
            return ()
        volume = self._show(_path(volume_id, 'volumes'), 'volume') or {}
        return volume.get('attachments', ())

    def _show(self, path: str, key: str, **options: Any) -> Any:
        """The resource at a path; None if there is none."""
        response = self._request('GET', path, **options)
        if response.status_code == 404:
            return None
        try:
            return response.json()[key]
        except (*_UNREADABLE, ValueError, RecursionError):
            answer = Answer(response.status_code, _message(response))
            raise NoAnswer(f'it answered {answer}') from None

    def _request(self, method: str, path: str, **options: Any) -> Any:
        # NOTE: so that Cinder's log has the id of the request that it made.
        current = context.get_current()
        if current is not None:
            options['headers'] = {'X-OpenStack-Request-ID': current.request_id}
        try:
            # NOTE: the adapter's own, which limits nothing, has all requests
            # wait where the clock was set back since it was made.
            return self._adapter.request(
                path,
                method,
                raise_exc=False,
                rate_semaphore=contextlib.nullcontext(),
                **options,
            )
        except exceptions.ClientException as error:
            raise NoAnswer(str(error)) from error


def _check_urls(conf: cfg.ConfigOpts) -> None:
    """Refuse a password where it would be in each message about a URL."""
    for name in ('auth_url', 'endpoint', 'endpoint_override'):
        with contextlib.suppress(cfg.NoSuchOptError):
            url = conf[GROUP.name][name] or ''
            if '@' in url:
                raise cfg.ConfigFileValueError(
                    f'[{GROUP.name}] {name} has a user or a password in it, '
                    'which logs would show. Use the options username and '
                    'password, with auth_type = http_basic or password.'
                )


def _path(name: str, resource: str = 'snapshots') -> str:
    # NOTE: an id is whatever a caller sent; with our credentials it must not
    # lead to another resource.
    return f'/{resource}/{urllib.parse.quote(name, safe="")}'


def _message(response: Any) -> str:
    """The message of an error answer, cut to a line."""
    if response.status_code < 400:
        return ''
    try:
        (fault,) = response.json().values()
        text = str(fault['message'])[:200]
        # NOTE: it goes into logs.
        return ''.join(c if c.isprintable() else '?' for c in text)
    except (*_UNREADABLE, ValueError, RecursionError):
        return ''
