# SPDX-License-Identifier: Apache-2.0
"""Which looks the doctor takes, in which order, and how they are shown."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import warnings
from collections.abc import Iterator

from oslo_config import cfg

from nova_ext import cinder, config
from nova_ext.cmd.doctor import agents, files, hypervisor, reports, settings
from nova_ext.cmd.doctor.finding import Finding

# Of how many volumes Cinder is asked on which host they are.
_VOLUMES = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said on the command line."""
    parser.add_argument(
        '--host',
        action='append',
        default=[],
        help='a host whose agent is asked by the message bus; may be repeated',
    )
    for name, path in (('paste', files.PASTE), ('cinder-conf', files.CINDER)):
        parser.add_argument(
            f'--{name}', type=pathlib.Path, help=f'instead of {path}'
        )
    parser.add_argument(
        '--json', action='store_true', help='as a document for scripts'
    )


def run(conf: cfg.ConfigOpts, options: argparse.Namespace) -> int:
    """Print each finding; exit status 1 if something is wrong."""
    findings = []
    # What a library logs is said by the finding, or of no use here.
    logging.lastResort = logging.NullHandler()
    warnings.simplefilter('ignore')
    for found in examine(conf, options):
        findings.append(found)
        if not options.json:
            print(found, flush=True)
    if options.json:
        shown = [dataclasses.asdict(found) for found in findings]
        print(json.dumps(shown, indent=2))
    return 1 if any(found.state == 'wrong' for found in findings) else 0


def examine(
    conf: cfg.ConfigOpts, options: argparse.Namespace
) -> Iterator[Finding]:
    """All that can be seen from here, as it is seen."""
    yield from settings.check(conf)
    # What reads them would only say so again.
    if any(config.invalid(conf)):
        return
    cinder.register_opts(conf)
    bus = conf.nova_ext.compute_api == 'rpc'
    fencing = conf.nova_ext.compute_api == 'nova' and (
        conf.nova_ext_cinder.auth_type
    )
    reporting = conf.nova_ext_agent.reports == 'cinder' or bus or fencing
    if conf.nova_ext.auth_strategy == 'keystone':
        yield from reports.check_login(conf, 'keystone_authtoken', False)
    if conf.nova_ext.compute_api != 'nova':
        yield files.check_policy(conf)
    hosts = list(options.host)
    if reporting:
        yield from reports.check_login(conf, cinder.GROUP.name)
        yield from reports.check_cinder(conf)
    if bus:
        known, findings = reports.hosts(conf, _VOLUMES)
        hosts += [host for host in known if host not in hosts]
        yield from findings
    if conf.nova_ext_agent.rpc and conf.nova_ext_agent.host not in hosts:
        hosts.append(conf.nova_ext_agent.host)
    if bus or conf.nova_ext_agent.rpc or options.host:
        yield from agents.check_bus(conf, hosts)
    if conf.nova_ext_agent.reports or conf.nova_ext.compute_api == 'libvirt':
        yield from agents.check_own(conf)
        yield from hypervisor.check_libvirt(conf)
    yield from _check_files(options)


def _check_files(options: argparse.Namespace) -> Iterator[Finding]:
    path = options.paste or files.PASTE
    if options.paste or _mentions_us(path):
        yield from files.check_paste(path)
    path = options.cinder_conf or files.CINDER
    if options.cinder_conf or os.access(path, os.R_OK):
        yield from files.check_cinder(path)


def _mentions_us(path: pathlib.Path) -> bool:
    with contextlib.suppress(OSError):
        return 'nova_ext' in path.read_text(errors='replace')
    return False
