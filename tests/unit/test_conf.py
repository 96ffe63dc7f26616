# SPDX-License-Identifier: Apache-2.0
"""Our options in more than one configuration of a process."""

from __future__ import annotations

from oslo_config import cfg

from nova_ext import cinder
from nova_ext import conf as nova_ext_conf


def test_two_configurations_share_nothing() -> None:
    one, other = cfg.ConfigOpts(), cfg.ConfigOpts()
    for conf in (one, other):
        nova_ext_conf.register_opts(conf)
        cinder.register_opts(conf)
    one.set_default('compute_api', 'nova', group='nova_ext')
    one.register_opt(cfg.StrOpt('auth-url'), group='nova_ext_cinder')
    for conf in (one, other):
        conf([], project='nova_ext', default_config_files=[])
    assert other.nova_ext.compute_api == 'libvirt'
    assert 'auth_url' not in other.nova_ext_cinder
