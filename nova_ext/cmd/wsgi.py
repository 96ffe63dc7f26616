# SPDX-License-Identifier: Apache-2.0
"""The WSGI application, for uwsgi, gunicorn or mod_wsgi to import.

Which configuration files are read is said by the environment variable
OS_NOVA_EXT_CONFIG_FILES (paths with ``;`` between them); without it those in
the usual directories are.
"""

from __future__ import annotations

import os

from oslo_config import cfg

from nova_ext import config
from nova_ext.api import app, router


def init_application() -> router.Application:
    """Read the configuration and load the shipped pipeline."""
    files = os.environ.get('OS_NOVA_EXT_CONFIG_FILES')
    # NOTE: no arguments: those of this process are the WSGI server's.
    conf = config.setup(cfg.CONF, [], files.split(';') if files else None)
    return app.load(conf)


application = init_application()
