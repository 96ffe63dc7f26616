# SPDX-License-Identifier: Apache-2.0
"""Our options in the configuration files: names and values that are none."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from importlib import metadata

from oslo_config import cfg

from nova_ext import cinder, config
from nova_ext import conf as nova_ext_conf
from nova_ext.cmd.doctor.finding import Finding, wrong
from nova_ext.compute import api as compute

# NOTE: which options that of Cinder has depends on its auth_type.
_OPEN = cinder.GROUP.name
_PREFIX = nova_ext_conf.API_GROUP.name


def check(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """What of ours is written in the files and counts for nothing, or less.

    :param conf: with our options, and read
    """
    values = list(config.invalid(conf))
    for option, reason in values:
        mend = 'write a value that it takes, or take it out'
        yield wrong(option, reason, mend)
    backends = sorted(metadata.entry_points(group=compute.NAMESPACE).names)
    if not values and conf.nova_ext.compute_api not in backends:
        yield wrong(
            '[nova_ext] compute_api',
            f'there is no backend {conf.nova_ext.compute_api}',
            f'write one of {", ".join(backends)}',
        )
    for path in config.paths(conf):
        sections: dict[str, dict[str, list[str]]] = {}
        # What cannot be read has been said already.
        with contextlib.suppress(cfg.Error, OSError):
            cfg.ConfigParser(path, sections).parse()
        for section, keys in sections.items():
            yield from _check_names(path, section, keys)


def _check_names(
    path: str, section: str, keys: Iterable[str]
) -> Iterator[Finding]:
    known = {
        group.name: [option.dest for option in options]
        for group, options in nova_ext_conf.list_opts()
    }
    if not section.startswith(_PREFIX) or section == _OPEN:
        return
    if section not in known:
        yield wrong(
            f'[{section}]',
            f'{path} has it, and there is no such group',
            _instead(section, [*known, _OPEN], '[{}]'),
        )
        return
    for key in keys:
        if key not in known[section]:
            yield wrong(
                f'[{section}] {key}',
                f'{path} has it, and there is no such option',
                _instead(key, known[section], '{}'),
            )


def _instead(name: str, known: list[str], form: str) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f'write {form.format(near[0])}' if near else 'take it out'
