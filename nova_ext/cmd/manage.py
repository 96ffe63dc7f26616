# SPDX-License-Identifier: Apache-2.0
"""nova-ext-manage: the jobs of this host's agent, for its operators.

Of jobs all is asked of the agent by its socket; the journal is not opened
here. What a paste file lacks is said by :mod:`nova_ext.cmd.paste`, and what
else is wrong in :mod:`nova_ext.cmd.doctor`.
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

from oslo_config import cfg

from nova_ext import conf as nova_ext_conf
from nova_ext import config, exception
from nova_ext.cmd import paste, show
from nova_ext.cmd.doctor import examination
from nova_ext.compute import libvirt as agent

_TIMEOUT_SECONDS = 30.0
_WATCH_SECONDS = 1.0
# As a shell has it: 128 and the number of SIGINT.
_INTERRUPTED = 130
_JSON = 'as a document for scripts'
_MOVING = (
    *('PENDING', 'RUNNING', 'VERIFYING', 'REFRESHING', 'REPORTING'),
    'CONFIRMING',
)
# Those of the journal's database.
_LAST_ID = (1 << 63) - 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='nova-ext-manage',
        description='What operators ask of this host, and tell its agent.',
    )
    parser.add_argument(
        '--version', action='version', version=metadata.version('nova_ext')
    )
    parser.add_argument(
        '--config-file',
        action='append',
        metavar='PATH',
        help='instead of those in the usual directories; may be repeated',
    )
    groups = parser.add_subparsers(
        required=True, metavar='GROUP', dest='group'
    )
    pastes = _described(
        groups, 'paste', "Nova's api-paste.ini"
    ).add_subparsers(required=True, metavar='VERB', dest='verb')
    check = _described(
        pastes, 'check', 'what it lacks for the filter, which is only said'
    )
    check.add_argument('file', type=pathlib.Path, help='its path')
    check.add_argument('--json', action='store_true', help=_JSON)
    examination.add_arguments(
        _described(groups, 'doctor', 'what is wrong, and what mends it')
    )
    verbs = _described(groups, 'job', 'the jobs of this host').add_subparsers(
        required=True, metavar='VERB', dest='verb'
    )
    add = {}
    for verb, text in (
        ('list', 'those that are not over, or need you'),
        ('show', 'one, with all that is known of it'),
        (
            'watch',
            'how far a merge is, until it is over; exit status 1 if it did '
            'not succeed',
        ),
        ('cancel', 'end a merge; the snapshot must be deleted again'),
        ('limit', 'change how fast a merge may be'),
        ('retry', 'try now, or once more, what Cinder did not take note of'),
        ('rollback', 'undo a switch that Cinder counts as failed'),
        ('abandon', 'leave a job to you; whatever it did stays as it is'),
    ):
        add[verb] = _described(verbs, verb, text)
        add[verb].add_argument('--json', action='store_true', help=_JSON)
        if verb != 'list':
            add[verb].add_argument(
                'job_id', type=_job_id, help='as in the list'
            )
    add['list'].add_argument(
        '--all', action='store_true', help='those that are over, too'
    )
    add['limit'].add_argument('bandwidth', type=int, help='MiB/s; 0: any')
    add['rollback'].add_argument(
        '--yes', action='store_true', help='do it, and not only say whether'
    )
    return parser


def _job_id(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) <= _LAST_ID):
        raise argparse.ArgumentTypeError(f'{text} is not a number of the list')
    return int(text)


def _described(
    subparsers: Any, name: str, text: str
) -> argparse.ArgumentParser:
    return subparsers.add_parser(
        name, help=text, description=f'{text[0].upper()}{text[1:]}.'
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; exit status 1 if it can't be done."""
    try:
        status = _main(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        # What was asked of the agent goes on there.
        return _INTERRUPTED
    except BrokenPipeError:
        # NOTE: who pipes this into "head" wants no more, and no traceback
        # from the flush at the end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _main(argv: Sequence[str] | None) -> int:
    options = _parser().parse_args(argv)
    if options.group == 'paste':
        return _check_paste(options)
    conf = cfg.ConfigOpts()
    try:
        nova_ext_conf.register_opts(conf)
        config.read(conf, [], options.config_file)
        if options.group == 'doctor':
            return examination.run(conf, options)
        config.check(conf)
        return _run(agent.ComputeAPI(conf), options)
    except (cfg.Error, exception.NovaExtException) as error:
        print(error, file=sys.stderr)
        return 1


def _check_paste(options: argparse.Namespace) -> int:
    try:
        findings = paste.check(
            options.file.read_text(), os.path.abspath(options.file.parent)
        )
    except (OSError, UnicodeError, configparser.Error) as error:
        print(
            f'{options.file} cannot be read: {error}. Name the paste file of '
            'nova-api, often /etc/nova/api-paste.ini, as a user who may read '
            'it',
            file=sys.stderr,
        )
        return 1
    if options.json:
        found = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps(found, indent=2))
    elif findings:
        print(*findings, sep='\n')
    else:
        print(f'{options.file} is as it should be. Restart nova-api.')
    return 1 if findings else 0


def _run(api: agent.ComputeAPI, options: argparse.Namespace) -> int:
    def ask(method: str, **arguments: Any) -> Any:
        return api.ask(method, arguments, timeout=_TIMEOUT_SECONDS)

    if options.verb == 'list':
        jobs = ask('job_list', everything=options.all)
        if options.json:
            print(json.dumps(jobs, indent=2))
        else:
            for job in jobs:
                print(_line(job))
        return 0
    if options.verb == 'rollback':
        return _roll_back(ask, options)
    if options.verb in ('cancel', 'retry', 'abandon'):
        ask(f'job_{options.verb}', job_id=options.job_id)
    elif options.verb == 'limit':
        ask('job_limit', job_id=options.job_id, bandwidth=options.bandwidth)
    job = ask('job_show', job_id=options.job_id)
    if options.verb == 'watch':
        job = _watch(ask, job, options.json)
    if options.json:
        print(json.dumps(job, indent=2))
    elif options.verb == 'show':
        for key, value in job.items():
            print(f'{key}: {value}')
    else:
        print(_line(job))
    return 1 if options.verb == 'watch' and not _is_done(job) else 0


def _roll_back(ask: Callable[..., Any], options: argparse.Namespace) -> int:
    """Show the evidence, and what came of it if it was told to."""
    found = ask('job_rollback', job_id=options.job_id, confirmed=options.yes)
    job = None
    if not options.json:
        for line in found['evidence']:
            word = 'allows it' if line['allows'] else 'FORBIDS IT'
            print(f'{word}: {line["witness"]}: {line["says"]}')
    if found['job_id'] is not None:
        job = ask('job_show', job_id=found['job_id'])
        job = _watch(ask, job, options.json)
    if options.json:
        print(json.dumps({**found, 'job': job}, indent=2))
    elif job is not None:
        print(_line(job))
    elif found['allowed']:
        print('Nothing was done yet. To do it, say --yes.')
    else:
        print('Nothing was done.')
    return 0 if found['allowed'] and (not job or _is_done(job)) else 1


def _is_done(job: dict[str, Any]) -> bool:
    return job['state'] == 'DONE'


def _watch(
    ask: Callable[..., Any], job: dict[str, Any], quiet: bool
) -> dict[str, Any]:
    """Show how far a merge is until it is over; what it came to."""
    shown = show.Progress(f'job {job["id"]}', 0, unit='bytes')
    with contextlib.nullcontext() if quiet else shown:
        while job['state'] in _MOVING:
            if job['total'] and not quiet:
                shown.update(job['done'], job['total'])
            time.sleep(_WATCH_SECONDS)
            job = ask('job_show', job_id=job['id'])
    return job


def _line(job: dict[str, Any]) -> str:
    words = (
        f'{job["id"]} {job["state"]} {job["operation"]} of snapshot '
        f'{job["snapshot_id"]} of volume {job["volume_id"]}'
    )
    return f'{words} ({job["reason"]})' if job['reason'] else words


if __name__ == '__main__':
    sys.exit(main())
