# SPDX-License-Identifier: Apache-2.0
"""Whether Cinder would have a guest use the file that it has open."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from oslo_config import cfg

from nova_ext import cinder
from nova_ext.cmd.doctor.finding import Finding, ok, unknown, wrong

if TYPE_CHECKING:
    from nova_ext.virt import host

_SUBJECT = 'attachments'


def check(
    conf: cfg.ConfigOpts,
    volumes: Mapping[str, Sequence[host.Attachment]],
) -> Iterator[Finding]:
    """Compare the attachments in Cinder with the active layers.

    :param volumes: id → where it is attached on this host
    """
    try:
        snapshots = cinder.Cinder(conf)
    except cfg.Error:
        return  # It is said by the look at Cinder.
    right = 0
    for volume_id, attachments in volumes.items():
        active = {
            attachment.guest.uuid: os.path.basename(layer.path)
            for attachment in attachments
            for layer in attachment.disk.layers[:1]
            if layer.path
        }
        if not active:
            continue
        try:
            told = {*snapshots.attached_files(volume_id)}
        except cinder.NoAnswer as error:
            yield unknown(_SUBJECT, f'Cinder does not say: {error}')
            return
        if told <= {*active.values()}:
            right += bool(told)
            continue
        instance_id = next(iter(active))
        yield wrong(
            _SUBJECT,
            f'Cinder has one of volume {volume_id} use '
            f'{", ".join(sorted(told))}, and instance {instance_id} uses '
            f'{active[instance_id]}; started on another host it would use the '
            'former',
            'unless a snapshot of it is being made now: do not migrate or '
            'shelve the instance; stop it, run "nova-manage volume_attachment '
            f'refresh {instance_id} {volume_id} CONNECTOR_FILE", and start it',
        )
    if right:
        yield ok(_SUBJECT, f'those of {right} volumes name the active file')
