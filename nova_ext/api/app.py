# SPDX-License-Identifier: Apache-2.0
"""The paste factories: the app, the same as a filter, and how they are put
together.

Nothing is read at import and no business rule is here. The configuration is
the process's, ``oslo_config.cfg.CONF``, which whoever starts the process has
read; below the factories it is passed as an argument.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from oslo_config import cfg
from paste import deploy

from nova_ext import conf as nova_ext_conf
from nova_ext import config
from nova_ext.api import assisted_volume_snapshots, router, wsgi
from nova_ext.compute import api as compute


def resource(conf: cfg.ConfigOpts) -> wsgi.Resource:
    """The resource before the backend that `conf` names."""
    nova_ext_conf.register_opts(conf)
    controller = assisted_volume_snapshots.AssistedVolumeSnapshotsController(
        compute.load(conf)
    )
    return wsgi.Resource(
        controller, wsgi.Microversions(conf.nova_ext.max_microversion)
    )


def app_factory(
    global_conf: dict[str, str], **local_conf: str
) -> router.Application:
    """Paste factory of the stand-alone app: what is not ours is a 404.

    :raises: oslo_config.cfg.Error
    """
    _check_section(local_conf)
    return router.Router(resource(cfg.CONF))


def filter_factory(
    global_conf: dict[str, str], **local_conf: str
) -> Callable[[router.Application], router.Application]:
    """Paste factory of the filter: what is not ours passes untouched.

    :raises: oslo_config.cfg.Error
    """
    _check_section(local_conf)
    return lambda app: router.Router(resource(cfg.CONF), fallback=app)


def _check_section(options: dict[str, str]) -> None:
    if options:
        raise cfg.Error(
            f'The section of nova_ext in the paste file has {sorted(options)}'
            ', and takes no options: those of [nova_ext] belong into the '
            'configuration file.'
        )


class Mount:
    """Sends a request to the application with the longest prefix.

    :param apps: prefix without a slash at its end → application; a prefix
        with ``/+`` matches only paths that have something after it
    """

    def __init__(self, apps: dict[str, router.Application]) -> None:
        self._apps = sorted(
            apps.items(), key=lambda item: len(item[0]), reverse=True
        )

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        path = environ.get('PATH_INFO', '')
        # NOTE: clients that join URLs carelessly send it; Nova takes it.
        if '//' in path:
            path = re.sub('/{2,}', '/', path)
        for prefix, app in self._apps:
            mount = prefix.removesuffix('/+')
            rest = path[len(mount) :]
            if not path.startswith(mount) or rest[:1] not in ('', '/'):
                continue
            if prefix != mount and rest in ('', '/'):
                continue
            environ['SCRIPT_NAME'] = environ.get('SCRIPT_NAME', '') + mount
            environ['PATH_INFO'] = rest
            return app(environ, start_response)
        return router.not_found(environ, start_response)


def mount_factory(
    loader: Any, global_conf: dict[str, str], **local_conf: str
) -> router.Application:
    """Paste composite: each key is a path prefix, its value an app's name.

    Filters that only this prefix has are named before it. An app that is
    mounted twice is loaded once.
    """
    apps: dict[str, router.Application] = {}
    mounts = {}
    for prefix, names in local_conf.items():
        *filters, name = names.split()
        if name not in apps:
            apps[name] = loader.get_app(name, global_conf=global_conf)
        mounts[prefix.rstrip('/')] = _filtered(
            apps[name], loader, filters, global_conf
        )
    return Mount(mounts)


def _filtered(
    app: router.Application,
    loader: Any,
    filters: Sequence[str],
    global_conf: dict[str, str],
) -> router.Application:
    for name in reversed(filters):
        app = loader.get_filter(name, global_conf=global_conf)(app)
    return app


def pipeline_factory(
    loader: Any, global_conf: dict[str, str], **local_conf: str
) -> router.Application:
    """Paste composite: the pipeline that ``auth_strategy`` names.

    Each key is a strategy, its value the names of filters and at last an app.
    """
    nova_ext_conf.register_opts(cfg.CONF)
    *filters, app_name = local_conf[cfg.CONF.nova_ext.auth_strategy].split()
    app = loader.get_app(app_name, global_conf=global_conf)
    return _filtered(app, loader, filters, global_conf)


def load(conf: cfg.ConfigOpts) -> router.Application:
    """The application of the PasteDeploy file that `conf` names.

    :raises: oslo_config.cfg.ConfigFilesNotFoundError, LookupError
    """
    path = config.find_paste_file(conf)
    return deploy.loadapp(f'config:{path}', name='nova_ext')
