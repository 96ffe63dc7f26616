# SPDX-License-Identifier: Apache-2.0
"""The files that a configuration comes from: found, read, and looked at.

Which options there are is in :mod:`nova_ext.conf`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata

from oslo_config import cfg
from oslo_log import log

from nova_ext import conf as nova_ext_conf
from nova_ext import log as nova_ext_log

LOG = logging.getLogger(__name__)

# Options that hold a password, and URLs that have one in them.
_PASSWORD = re.compile(
    rb'^[ \t]*([a-z_]*(password|secret|token)[ \t]*[=:][ \t]*\S'
    rb'|[a-z_]+[ \t]*[=:][ \t]*[^#\n]*://[^/\n]*:[^/\n]+@)',
    re.MULTILINE | re.IGNORECASE,
)


def setup(
    conf: cfg.ConfigOpts,
    argv: Sequence[str],
    config_files: Sequence[str] | None = None,
    description: str | None = None,
) -> cfg.ConfigOpts:
    """Read the configuration of a process of ours and start its log.

    :param argv: command-line arguments without the program's name
    :param config_files: instead of those found in the usual directories
    :param description: what ``--help`` says that the process is for
    :raises: oslo_config.cfg.Error for what can't be read or is not known
    """
    log.register_options(conf)
    nova_ext_conf.register_opts(conf)
    read(
        conf,
        argv,
        config_files,
        version=metadata.version('nova_ext'),
        description=description,
    )
    try:
        nova_ext_log.setup(conf)
    except (log.LogConfigError, OSError, ValueError) as error:
        raise cfg.Error(
            f'the log cannot be kept as [DEFAULT] says: {error}. Look at '
            'log_file, log_config_append and default_log_levels'
        ) from error
    check(conf)
    name_exposed_files(conf)
    return conf


def read(
    conf: cfg.ConfigOpts,
    argv: Sequence[str],
    config_files: Sequence[str] | None = None,
    **said: str | None,
) -> None:
    """Read the files and the command line of a process of ours.

    :param said: what ``--version`` and ``--help`` say
    :raises: oslo_config.cfg.Error for what can't be read or is not known
    """
    files = None if config_files is None else list(config_files)
    try:
        conf(list(argv), 'nova_ext', default_config_files=files, **said)
    except cfg.ConfigFilesPermissionDeniedError as error:
        raise cfg.Error(
            f'this user may not read {", ".join(error.config_files)}. Let '
            'one of its groups read that, or run this as a user who may'
        ) from error
    except UnicodeError as error:
        raise cfg.Error(
            f'a configuration file is no text in UTF-8: {error}'
        ) from error
    except OSError as error:
        raise cfg.Error(
            f'a configuration file cannot be read: {error}'
        ) from error


def check(conf: cfg.ConfigOpts) -> None:
    """Return if each of our options has a value that it takes.

    :raises: oslo_config.cfg.Error
    """
    for option, reason in invalid(conf):
        raise cfg.Error(
            f'{option} cannot be used: {reason}. Write a value that it takes, '
            'or take it out'
        )


def invalid(conf: cfg.ConfigOpts) -> Iterator[tuple[str, str]]:
    """Our options with values that they do not take, and why they do not."""
    for group, options in nova_ext_conf.list_opts():
        for option in options:
            try:
                getattr(conf[group.name], option.dest)
            except cfg.Error as error:
                # NOTE: before it stands what names neither group nor file.
                _, _, reason = str(error).rpartition(' is not valid: ')
                yield f'[{group.name}] {option.name}', reason


def name_exposed_files(conf: cfg.ConfigOpts) -> None:
    """Warn of the configuration files whose passwords all may read."""
    for path in exposed_files(conf):
        LOG.warning(
            '%s has a password in it, and everybody on this host may read '
            'it. Run "chmod o-rwx" on it.',
            path,
        )


def exposed_files(conf: cfg.ConfigOpts) -> list[str]:
    """The configuration files whose passwords everybody may read."""
    found = []
    for path in paths(conf):
        with contextlib.suppress(OSError), open(path, 'rb') as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & stat.S_IROTH and _PASSWORD.search(file.read()):
                found.append(path)
    return found


def paths(conf: cfg.ConfigOpts) -> list[str]:
    """The files that were read, in this order."""
    below = [
        str(path)
        for directory in conf.config_dir or ()
        for path in sorted(pathlib.Path(directory).glob('*.conf'))
    ]
    return [*(conf.config_file or ()), *below]


def find_paste_file(conf: cfg.ConfigOpts) -> str:
    """The path of the PasteDeploy file.

    :raises: oslo_config.cfg.ConfigFilesNotFoundError
    """
    name = conf.nova_ext.api_paste_config
    package = pathlib.Path(__file__).resolve().parent
    for path in (
        conf.find_file(name),
        os.path.join(sys.prefix, 'etc', 'nova_ext', name),
        str(package.parent / 'etc' / 'nova_ext' / name),
    ):
        if path and os.path.isfile(path):
            return os.path.abspath(path)
    raise cfg.ConfigFilesNotFoundError([name])
