# SPDX-License-Identifier: Apache-2.0
"""Keystone and Cinder: whether we may log in, and report."""

from __future__ import annotations

import time
from collections.abc import Iterator

from oslo_config import cfg

from nova_ext import cinder, identity
from nova_ext.cmd.doctor.finding import Finding, ok, skew, unknown, wrong

_ROLE = (
    'give the user of [nova_ext_cinder] the role admin in its project, or '
    'another one that the policy context_is_admin of Cinder accepts'
)


def check_login(
    conf: cfg.ConfigOpts, group: str, needed: bool = True
) -> Iterator[Finding]:
    """Whether Keystone knows the credentials of a group of options.

    :param needed: whether they must be there
    """
    subject = f'Keystone, as [{group}] says'
    try:
        credentials = identity.Credentials(conf, group)
        if not credentials.url:
            yield ok(subject, 'it is not asked')
            return
        before = time.time()
        clock, after = credentials.time(), time.time()
        roles = credentials.roles()
    except identity.NoAnswer as error:
        if isinstance(error, identity.Unsaid) and not needed:
            yield unknown(subject, f'{error}, which is right without an API')
            return
        yield wrong(
            subject,
            f'it does not let us in: {error}',
            'look at auth_type, auth_url, username, password and '
            f'project_name of [{group}], and at whether Keystone runs',
        )
        return
    yield ok(
        subject, f'it gives us the roles {", ".join(sorted(roles)) or "-"}'
    )
    if clock is not None:
        yield from skew('Keystone', clock, before, after)


def check_cinder(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Whether Cinder takes us for one who may report."""
    before = time.time()
    try:
        able, clock = cinder.Cinder(conf).is_administrator()
    except (cinder.NoAnswer, identity.NoAnswer, cfg.Error) as error:
        yield wrong(
            'Cinder',
            f'it cannot be asked: {error}',
            'look at [nova_ext_cinder] (endpoint_override, region_name, '
            'valid_interfaces), at the catalog, and at whether Cinder runs',
        )
        return
    if able:
        yield ok('Cinder', 'it takes us for an administrator')
    else:
        yield wrong(
            'Cinder',
            'it hides from us what belongs to other projects, so that no '
            'snapshot of theirs can be reported',
            _ROLE,
        )
    if clock is not None:
        yield from skew('Cinder', clock, before, time.time())


def hosts(conf: cfg.ConfigOpts, limit: int) -> tuple[list[str], list[Finding]]:
    """The hosts that have volumes, and why they are not known.

    :param limit: how many volumes Cinder is asked for
    """
    try:
        return sorted(cinder.Cinder(conf).hosts(limit)), []
    except (cinder.NoAnswer, cfg.Error) as error:
        return [], [unknown('hosts', f'Cinder does not say which: {error}')]
