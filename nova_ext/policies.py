# SPDX-License-Identifier: Apache-2.0
"""Who may do what: two documented rules, with Nova's names and defaults.

An operator's policy.yaml for Nova works here unchanged.
"""

from __future__ import annotations

from oslo_config import cfg
from oslo_policy import policy

from nova_ext.enforcer import Enforcer

BASE = 'os_compute_api:os-assisted-volume-snapshots:'
CREATE = BASE + 'create'
DELETE = BASE + 'delete'

_RULES = (
    policy.RuleDefault(
        'context_is_admin', 'role:admin', 'Who counts as an administrator.'
    ),
    policy.RuleDefault(
        'admin_api',
        'is_admin:True',
        'The older name, for policy files that were written with it.',
    ),
    policy.RuleDefault(
        'service_api', 'role:service', 'What other services may do.'
    ),
    policy.RuleDefault(
        'service_or_admin',
        'rule:service_api or rule:context_is_admin',
        'What services and administrators may do.',
    ),
    policy.DocumentedRuleDefault(
        CREATE,
        'rule:service_or_admin',
        'Create an assisted volume snapshot.',
        [{'path': '/os-assisted-volume-snapshots', 'method': 'POST'}],
        scope_types=['project'],
    ),
    policy.DocumentedRuleDefault(
        DELETE,
        'rule:service_or_admin',
        'Delete an assisted volume snapshot.',
        [
            {
                'path': '/os-assisted-volume-snapshots/{snapshot_id}',
                'method': 'DELETE',
            }
        ],
        scope_types=['project'],
    ),
)


def list_rules() -> tuple[policy.RuleDefault, ...]:
    """All rules, for the oslo.policy generators."""
    return _RULES


def init(conf: cfg.ConfigOpts) -> Enforcer:
    """An enforcer of our rules with the operator's changes to them."""
    enforcer = Enforcer(conf)
    enforcer.register_defaults(_RULES)
    return enforcer


def load(conf: cfg.ConfigOpts) -> Enforcer:
    """The same, with the operator's changes read already.

    :raises: oslo_config.cfg.Error for a file that can't be used
    """
    enforcer = init(conf)
    try:
        enforcer.load_rules()
    except (ValueError, OSError) as error:
        raise cfg.Error(
            f'[oslo_policy] policy_file {conf.oslo_policy.policy_file} cannot '
            f'be used: {error}'
        ) from error
    return enforcer


def get_enforcer() -> Enforcer:
    """What the oslo.policy command-line tools call."""
    conf = cfg.ConfigOpts()
    conf([], project='nova_ext')
    return init(conf)
