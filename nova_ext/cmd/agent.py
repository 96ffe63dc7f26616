# SPDX-License-Identifier: Apache-2.0
"""nova-ext-agent: the agent of this hypervisor, until SIGTERM.

At SIGHUP it reads again the options that may change while it runs.
"""

from __future__ import annotations

import importlib
import signal
import sys

from oslo_config import cfg

from nova_ext import cinder, config, exception, log

_DESCRIPTION = (
    'The agent of this hypervisor: makes and merges snapshots by libvirt, '
    'until SIGTERM. At SIGHUP it reads again the options that may change.'
)


def main() -> int:
    """Run the agent; exit status 1 if it can't start."""
    # NOTE: it has just begun to read what it would be told to read again.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        service = importlib.import_module('nova_ext.agent.service')
    except ModuleNotFoundError as error:
        sys.exit(
            f'nova-ext-agent cannot start: {error}. Install nova_ext[libvirt].'
        )
    # NOTE: that of the process is Nova's, where Nova is asked.
    conf = cfg.ConfigOpts()
    cinder.register_opts(conf)
    try:
        config.setup(conf, sys.argv[1:], description=_DESCRIPTION)
        agent = service.Service(conf)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: agent.stop())
        signal.signal(signal.SIGHUP, lambda *_: agent.reload())
        agent.serve()
    except (
        cfg.Error,
        service.StartFailed,
        exception.NovaExtException,
    ) as error:
        failure = str(error)
    else:
        return 0
    # NOTE: where an exception is handled, oslo.log says once more what it is.
    log.failure(f'nova-ext-agent cannot start: {failure}')
    return 1


if __name__ == '__main__':
    sys.exit(main())
