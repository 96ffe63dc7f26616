# SPDX-License-Identifier: Apache-2.0
"""The filter for the api-paste.ini of Nova: who asks is known there already.

It stands behind Nova's ``keystonecontext``. The policy that is asked is
Nova's, and the options are in a configuration of our own, so that nothing of
Nova's is changed by it. Nova is not imported here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

from oslo_config import cfg

from nova_ext import conf as nova_ext_conf
from nova_ext import config, context, exception
from nova_ext.api import app, router, wsgi

_CONTEXT = 'nova.context'


class Context(context.RequestContext):
    """The caller as Nova knows it."""

    def can(self, action: str) -> None:
        """See :meth:`nova_ext.context.RequestContext.can`."""
        if not self.origin.can(action, target={}, fatal=False):
            raise exception.PolicyNotAuthorized(action=action)


# An option of [nova_ext_nova] → what is refused while it is on.
_GUARDS = {
    'refuse_paths': exception.InvalidFileName,
    'refuse_bad_delete_info': exception.InvalidDeleteInfo,
    'refuse_multi_attach': exception.VolumeIsMultiAttach,
    'wrap_not_found': exception.ResourceNotFound,
}


class Identified:
    """Takes who asks from Nova's context."""

    def __init__(self, resource: wsgi.Resource) -> None:
        self._resource = resource

    def __call__(
        self, req: wsgi.Request, **arguments: Any
    ) -> Callable[..., Iterable[bytes]]:
        found = req.environ.get(_CONTEXT)
        if found is None:
            return wsgi.Fault(
                500,
                'This filter stands before keystonecontext in the pipeline '
                "of Nova's api-paste.ini; it belongs behind it.",
            )
        req.environ[wsgi.CONTEXT] = Context(
            user_id=found.user_id,
            project_id=found.project_id,
            roles=found.roles,
            request_id=found.request_id,
            global_request_id=found.global_id,
            overwrite=False,
            origin=found,
        )
        return self._resource(req, **arguments)


class Unguarded:
    """Leaves to Nova what is refused by a guard that is off.

    Each of them refuses before anything is begun.

    :param behind: the application of Nova
    """

    def __init__(
        self,
        resource: Identified,
        behind: router.Application,
        options: cfg.GroupAttr,
    ) -> None:
        self._resource = resource
        self._behind = behind
        self._off = tuple(
            refusal
            for name, refusal in _GUARDS.items()
            if not getattr(options, name)
        )

    def __call__(
        self, req: wsgi.Request, **arguments: Any
    ) -> Callable[..., Iterable[bytes]]:
        response = self._resource(req, **arguments)
        # NOTE: webob has put the body back that it read.
        kind = getattr(response, 'kind', None)
        if kind and issubclass(kind, self._off):
            return self._behind
        return response


def filter_factory(
    global_conf: dict[str, str], **local_conf: str
) -> Callable[[router.Application], router.Application]:
    """Paste factory: Nova's pipeline with this resource served by us.

    :param local_conf: options of the groups ``nova_ext`` and
        ``nova_ext_nova``, which win over those of nova.conf, and
        ``config_file`` for a file of our own
    :raises: oslo_config.cfg.Error
    """
    conf = _configure(cfg.CONF, **local_conf)
    is_nova = conf.nova_ext.compute_api == 'nova'
    if is_nova:
        backend = importlib.import_module('nova_ext.compute.nova')
        conf.set_default(
            'max_microversion', backend.max_microversion(), group='nova_ext'
        )
    resource = Identified(app.resource(conf))

    def mounted(behind: router.Application) -> router.Application:
        served = resource
        if is_nova:
            served = Unguarded(resource, behind, conf.nova_ext_nova)
        return router.Router(served, fallback=behind)

    return mounted


def _configure(
    process: cfg.ConfigOpts, config_file: str | None = None, **options: str
) -> cfg.ConfigOpts:
    """A configuration of our own, from the same files as the process's."""
    conf = cfg.ConfigOpts()
    nova_ext_conf.register_opts(conf)
    conf.set_default('compute_api', 'nova', group='nova_ext')
    files = [config_file] if config_file else process.config_file
    conf(
        [],
        project='nova_ext',
        default_config_files=files or [],
        default_config_dirs=[] if config_file else process.config_dir or [],
    )
    config.name_exposed_files(conf)
    for name, value in options.items():
        nova_ext_conf.override(conf, name, value)
    config.check(conf)
    return conf
