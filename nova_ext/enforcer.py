# SPDX-License-Identifier: Apache-2.0
"""The enforcer of oslo.policy, with its slow parts done once per change.

It searches the directories of the configuration for each question, and asks
each part of a rule for its signature. Here the files are searched when one of
them has changed, and rules that only ask for roles become functions of the
roles. What is decided is never remembered. Which rules there are is in
:mod:`nova_ext.policies`.
"""

from __future__ import annotations

import itertools
import logging
import os
import stat
from collections.abc import Callable, Mapping
from typing import Any

from oslo_config import cfg
from oslo_context import context
from oslo_policy import policy

from nova_ext import exception

LOG = logging.getLogger(__name__)

# What is another when a file is, or a directory or a file in it.
Stamp = tuple[object, ...]

# The lower-case roles of a caller → whether a rule allows it.
Decide = Callable[[frozenset[str]], bool]


def _type(text: str) -> type:
    return type(policy.RuleDefault('name', text).check)


_ROLE, _RULE = _type('role:name'), _type('rule:name')
_TRUE, _FALSE = _type('@'), _type('!')


class Enforcer(policy.Enforcer):
    """See oslo.policy; the answers are the same.

    But a file that somebody has named must be there: for oslo.policy all
    rules are the defaults without it, though it may have said stricter ones.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        super().__init__(conf)
        # What was there when it was last read, and where nothing was.
        self._seen: tuple[dict[str, Stamp], list[str]] | None = None
        # Whether what was read last is not what is in the files.
        self._broken = False
        self._places = directories(conf)
        self._compiled: dict[str, Decide | None] = {}
        place = conf.get_location('policy_file', 'oslo_policy')
        self._is_named = place.location.is_user_controlled

    def load_rules(self, force_reload: bool = False) -> None:
        """Read what has changed since the last time.

        Rules that cannot be read leave all as it was.

        :raises: ValueError, OSError if there are none yet
        """
        if force_reload or not self.use_conf or self._is_changed():
            # NOTE: looked at before anything is read: what is written
            # meanwhile is a change for the next request.
            seen = self._look()
            kept = policy.Rules(dict(self.rules), self.rules.default_rule)
            try:
                self._read(force_reload or self._broken)
                self._refuse_cycles()
            except (ValueError, OSError) as error:
                if self._seen is None:
                    raise
                LOG.error(
                    'The policy stays as it was. What [oslo_policy] '
                    'policy_file says cannot be used: %s',
                    error,
                )
                self.rules, self._broken = kept, True
            else:
                self._broken = False
            # NOTE: of half of the rules another thread may have made some.
            self._compiled = {}
            self._seen = seen

    def allows(self, action: str, caller: context.RequestContext) -> bool:
        """Whether the rule of `action` allows it to a caller.

        :raises: oslo_policy.policy.PolicyNotRegistered,
            :class:`nova_ext.exception.PolicyUnavailable`
        """
        if action not in self.registered_rules:
            raise policy.PolicyNotRegistered(action)
        self.load_rules()
        # NOTE: taken once: what another thread reads meanwhile has a new one.
        known = self._compiled
        if action not in known:
            known[action] = compiled(self.rules, action)
        decide = known[action]
        if decide is None:
            return self.slowly_allows(action, caller)
        scopes = self.registered_rules[action].scope_types
        scope = 'project'
        if caller.system_scope:
            scope = 'system'
        elif caller.domain_id:
            scope = 'domain'
        return not (scopes and scope not in scopes) and decide(
            frozenset(role.lower() for role in caller.roles)
        )

    def slowly_allows(
        self, action: str, caller: context.RequestContext
    ) -> bool:
        """The same, asked of oslo.policy."""
        # NOTE: as in Nova, `is_admin` is among what a rule may ask for.
        creds = {**caller.to_policy_values(), 'is_admin': caller.is_admin}
        try:
            creds['is_admin'] = self.enforce('context_is_admin', {}, creds)
            # NOTE: an empty target, as in Nova: the resource belongs to no
            # project, any service may ask for any volume.
            return bool(self.authorize(action, {}, creds))
        except (OSError, RuntimeError) as error:
            # Those of a rule with a URL: no connection, no answer in time.
            reason = f'{type(error).__name__}: {error}'
        LOG.error('The policy of %s cannot be asked: %s', action, reason)
        raise exception.PolicyUnavailable(action=action)

    def _read(self, anew: bool) -> None:
        path = self.conf.find_file(self.policy_file)
        if self._is_named and not path:
            raise ValueError(
                'it is not there. Write it, or take the option out to have '
                'the rules as they are by default'
            )
        # NOTE: oslo.policy takes one for a file without rules.
        if path and os.path.isdir(path):
            raise ValueError('it is a directory')
        try:
            super().load_rules(anew)
        except cfg.ConfigFilesPermissionDeniedError as error:
            names = ', '.join(error.config_files)
            raise OSError(f'this user may not read {names}') from error
        except (AttributeError, TypeError) as error:
            # oslo.policy's of YAML that is something else.
            raise ValueError('its lines are not NAME: "RULE"') from error

    def _refuse_cycles(self) -> None:
        for name in self.registered_rules:
            if found := cycle(self.rules, name):
                raise ValueError(f'rules ask for each other: {found}')

    def _is_changed(self) -> bool:
        """Whether anything else is there than what was last read."""
        if self._seen is None:
            return True
        present, absent = self._seen
        # NOTE: most are places where nothing is, for which this is the
        # cheapest question.
        return any(map(os.access, absent, itertools.repeat(os.F_OK))) or any(
            _stamp(path) != stamp for path, stamp in present.items()
        )

    def _look(self) -> tuple[dict[str, Stamp], list[str]]:
        """What is where `find_file` of the configuration searches.

        Nothing is searched for after it is found.
        """
        present: dict[str, Stamp] = {}
        absent = []
        # NOTE: a file that was found once is not searched for again.
        for name in (
            self.policy_path or self.policy_file,
            *self.conf.oslo_policy.policy_dirs,
        ):
            for place in self._places:
                path = os.path.join(place, name)
                directory = os.path.dirname(path)
                if not os.access(directory, os.F_OK):
                    absent.append(directory)
                    continue
                stamp = _stamp(path)
                if stamp is not None:
                    present[path] = stamp
                    break
                absent.append(path)
        return present, list(dict.fromkeys(absent))


def directories(conf: cfg.ConfigOpts) -> list[str]:
    """Where `find_file` of a configuration searches, in this order."""
    snap = [os.environ.get(name) for name in ('SNAP_COMMON', 'SNAP')]
    project = conf.project
    found = [
        *(conf.config_dir or ()),
        *(os.path.dirname(path) for path in reversed(conf.config_file or ())),
        *([f'~/.{project}'] if project else ()),
        '~',
        *([f'/etc/{project}'] if project else ()),
        '/etc',
        *(f'{path}/etc/{project}' for path in snap if path and project),
    ]
    return list(
        dict.fromkeys(
            os.path.abspath(os.path.expanduser(path or '.')) for path in found
        )
    )


def cycle(
    rules: Mapping[str, Any], name: str, above: tuple[str, ...] = ()
) -> str:
    """Which rules that this one asks for ask for each other; '' if none.

    :param above: the names of the rules that this one is a part of
    """
    if name in above:
        return ' > '.join([*above[above.index(name) :], name])
    try:
        waiting = [rules[name]]
    except KeyError:
        return ''
    while waiting:
        check = waiting.pop()
        if type(check) is _RULE:
            if found := cycle(rules, check.match, (*above, name)):
                return found
        elif type(check) is policy.NotCheck:
            waiting.append(check.rule)
        elif type(check) in (policy.AndCheck, policy.OrCheck):
            waiting += check.rules
    return ''


def compiled(
    rules: Mapping[str, Any], name: str, above: frozenset[str] = frozenset()
) -> Decide | None:
    """A rule as a function; None if it asks for more than roles.

    :param above: the names of the rules that this one is a part of
    """
    if name in above:
        return None
    try:
        check = rules[name]
    except KeyError:
        # oslo.policy refuses what has no rule.
        return lambda roles: False
    return _compile(rules, check, above | {name})


def _compile(
    rules: Mapping[str, Any], check: Any, above: frozenset[str]
) -> Decide | None:
    kind = type(check)
    if kind in (_TRUE, _FALSE):
        return lambda roles: kind is _TRUE
    if kind is _RULE:
        return compiled(rules, check.match, above)
    if kind is _ROLE and '%' not in check.match:
        role = check.match.lower()
        return lambda roles: role in roles
    if kind is policy.NotCheck:
        part = _compile(rules, check.rule, above)
        return part and (lambda roles: not part(roles))
    if kind not in (policy.AndCheck, policy.OrCheck):
        return None
    parts = [_compile(rules, part, above) for part in check.rules]
    if None in parts:
        return None
    combine = all if kind is policy.AndCheck else any
    return lambda roles: combine(part(roles) for part in parts)


def _stamp(path: str, inside: bool = True) -> Stamp | None:
    """That of what is there; None if nothing is.

    :param inside: whether that of a directory is that of what is in it
    """
    try:
        found = os.stat(path)
        if inside and stat.S_ISDIR(found.st_mode):
            return tuple(
                (name, _stamp(os.path.join(path, name), inside=False))
                for name in sorted(os.listdir(path))
            )
    except OSError:
        return None
    content = (found.st_mtime_ns, found.st_size, found.st_ino)
    return *content, found.st_mode, found.st_uid, found.st_gid
