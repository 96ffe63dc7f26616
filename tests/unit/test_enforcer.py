# SPDX-License-Identifier: Apache-2.0
"""Our enforcer against that of oslo.policy: each rule, each change of a file.

The slow way is asked afresh each time, by an enforcer that has seen nothing.
"""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oslo_config import cfg
from oslo_policy import policy

from nova_ext import context, enforcer, policies

CALLERS: tuple[dict[str, Any], ...] = tuple(
    {'roles': roles, **scope}
    for roles, scope in itertools.product(
        (
            *([], ['service'], ['admin'], ['Admin'], ['SERVICE', 'reader']),
            *(['reader'], ['services'], ['a%b'], ['']),
        ),
        (
            {},
            {'system_scope': 'all'},
            {'domain_id': 'default'},
            {'project_id': 'p', 'is_admin': True},
            {'project_id': 'p', 'user_id': 'u'},
        ),
    )
)
RULES: tuple[dict[str, str], ...] = (
    {},
    *(
        {policies.CREATE: text}
        for text in (
            *('', '@', '!', '[]', 'not role:admin', 'role:admin or !'),
            *('role:admin and role:service', 'not (role:admin or role:x)'),
            *('is_admin:True', 'project_id:p', 'user_id:u or role:reader'),
            *('rule:nothing', 'rule:admin_api'),
            *('not rule:nothing', 'role:%(role)s', 'role:', 'role:Reader'),
            *("'p':project_id", 'True:is_admin', 'system_scope:all'),
            *('is_admin:False', 'is_admin:None'),
        )
    ),
    {'context_is_admin': 'role:reader'},
    {'context_is_admin': 'is_admin:True', policies.CREATE: 'is_admin:True'},
    {'context_is_admin': 'is_admin:False', policies.CREATE: 'is_admin:True'},
    {'context_is_admin': 'rule:admin_api', 'service_api': '!'},
    {'default': 'role:reader', policies.CREATE: 'rule:nothing'},
    {'default': '@', 'service_or_admin': 'rule:nothing'},
)
SLOW = {'is_admin:True', 'project_id:p', 'role:%(role)s', 'system_scope:all'}


def _conf(directory: pathlib.Path) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    (directory / 'nova_ext.conf').touch()
    conf(
        [],
        project='nova_ext',
        default_config_files=[str(directory / 'nova_ext.conf')],
    )
    return conf


def _context(caller: dict[str, Any]) -> context.RequestContext:
    return context.RequestContext(**caller)


def _creds(caller: dict[str, Any]) -> dict[str, Any]:
    asking = _context(caller)
    return {**asking.to_policy_values(), 'is_admin': asking.is_admin}


def _slowly(conf: cfg.ConfigOpts, action: str, caller: dict[str, Any]) -> Any:
    """As a service without our enforcer asks, and Nova does."""
    theirs = policy.Enforcer(conf)
    theirs.register_defaults(policies.list_rules())
    creds = _creds(caller)
    try:
        creds['is_admin'] = theirs.enforce('context_is_admin', {}, creds)
        theirs.authorize(action, {}, creds, do_raise=True)
    except (policy.PolicyNotAuthorized, policy.InvalidScope):
        return False
    except Exception as error:
        return type(error)
    return True


def _ours(ours: enforcer.Enforcer, action: str, caller: dict[str, Any]) -> Any:
    try:
        return ours.allows(action, _context(caller))
    except Exception as error:
        return type(error)


def _write(path: pathlib.Path, rules: dict[str, str]) -> None:
    """Rules in a file that is newer than any before, as oslo.policy asks."""
    path.write_text(
        ''.join(f'{name!r}: {text!r}\n' for name, text in rules.items())
        or '{}'
    )
    _write.time += 10
    os.utime(path, (_write.time, _write.time))


_write.time = 2**31


@pytest.mark.parametrize('rules', RULES, ids=str)
def test_every_rule_says_the_same(
    tmp_path: pathlib.Path, rules: dict[str, str]
) -> None:
    conf = _conf(tmp_path)
    _write(tmp_path / 'policy.yaml', rules)
    ours = policies.init(conf)
    for action in (policies.CREATE, policies.DELETE):
        for caller in CALLERS:
            expected = _slowly(conf, action, caller)
            assert _ours(ours, action, caller) == expected, caller


def test_rules_of_roles_are_not_asked_of_oslo_policy(
    tmp_path: pathlib.Path,
) -> None:
    for text, slow in (
        ('rule:service_or_admin', False),
        ('not (role:admin and @) or !', False),
        *((text, True) for text in SLOW),
    ):
        _write(tmp_path / 'policy.yaml', {policies.CREATE: text})
        ours = policies.init(_conf(tmp_path))
        with mock.patch.object(
            ours, 'slowly_allows', autospec=True, return_value=True
        ) as slowly:
            ours.allows(policies.CREATE, _context({'roles': ['service']}))
        assert slowly.called is slow, text


_rule = st.recursive(
    st.sampled_from(
        (
            *('role:a', 'role:B', 'rule:one', 'rule:two', 'rule:none', '@'),
            *('!', 'is_admin:True', 'rule:context_is_admin'),
        )
    ),
    lambda inner: st.one_of(
        st.builds('not ({})'.format, inner),
        st.builds('({} and {})'.format, inner, inner),
        st.builds('({} or {})'.format, inner, inner),
    ),
)


# A busy machine takes its time.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rules=st.fixed_dictionaries(
        {policies.CREATE: _rule, 'one': _rule, 'two': _rule}
    ),
    roles=st.lists(st.sampled_from(('a', 'A', 'b', 'admin', 'x'))),
)
def test_arbitrary_rules_say_the_same(
    rules: dict[str, str], roles: list[str]
) -> None:
    parsed = policy.Rules.from_dict(
        {'context_is_admin': 'role:admin', **rules}
    )
    decide = enforcer.compiled(parsed, policies.CREATE)
    if decide is None:
        return
    conf = cfg.ConfigOpts()
    conf([], project='nova_ext', default_config_files=[])
    theirs = policy.Enforcer(conf, rules=parsed, use_conf=False)
    expected = theirs.enforce(policies.CREATE, {}, {'roles': roles})
    assert decide(frozenset(role.lower() for role in roles)) is expected


CREATED = {'roles': ['reader']}
READERS = {policies.CREATE: 'role:reader'}


def _steps(directory: pathlib.Path) -> Iterator[None]:
    """Changes of files, one by one."""
    main, more = directory / 'policy.yaml', directory / 'policy.d'
    yield
    more.mkdir()
    yield
    _write(more / 'a.yaml', READERS)
    yield
    _write(more / 'b.yaml', {policies.CREATE: '!'})
    yield
    _write(more / 'b.yaml', {policies.CREATE: '@'})
    yield
    (more / 'b.yaml').unlink()
    _write(more / 'c.yaml', {policies.CREATE: 'role:admin'})
    yield
    _write(main, READERS)
    yield
    _write(main, {policies.CREATE: 'role:service'})
    yield
    _write(more / 'c.yaml', {})
    yield
    _write(directory / 'other', READERS)
    (directory / 'other').rename(main)
    yield
    _write(main, {policies.CREATE: 'role:member'})
    yield


def test_every_change_of_a_file_is_seen_at_once(
    tmp_path: pathlib.Path,
) -> None:
    ours, seen = policies.init(_conf(tmp_path)), set()
    theirs = policy.Enforcer(_conf(tmp_path))
    theirs.register_defaults(policies.list_rules())
    for number, _ in enumerate(_steps(tmp_path)):
        answers = []
        for caller in CALLERS:
            creds = _creds(caller)
            creds['is_admin'] = theirs.enforce('context_is_admin', {}, creds)
            expected = bool(theirs.authorize(policies.CREATE, {}, creds))
            answers.append(_ours(ours, policies.CREATE, caller))
            assert answers[-1] is expected, (number, caller)
        seen.add(tuple(answers))
    assert len(seen) > 4


def test_a_part_that_is_broken_leaves_all_as_it_was(
    tmp_path: pathlib.Path,
) -> None:
    main, more = tmp_path / 'policy.yaml', tmp_path / 'policy.d' / 'one.yaml'
    more.parent.mkdir()
    nobody, all_ = {policies.CREATE: '!'}, {policies.CREATE: '@'}
    _write(main, {})
    _write(more, nobody)
    ours = policies.init(_conf(tmp_path))
    asked = policies.CREATE, _context(CREATED)
    assert not ours.allows(*asked)
    # What is whole of it is not used without the rest.
    _write(main, all_)
    cycle = '{"service_api": "rule:service_api"}'
    for broken in ('{', cycle, 'rules', '[1]', '{"service_api": 1}'):
        more.write_text(broken)
        assert not ours.allows(*asked)
        assert not ours.slowly_allows(*asked)
    _write(more, nobody)
    assert not ours.allows(*asked)
    _write(more, {})
    _write(main, all_)
    assert ours.allows(*asked)


def test_a_file_that_appears_where_none_was_is_seen(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    conf = cfg.ConfigOpts()
    conf([], project='nova_ext', default_config_files=[])
    ours = policies.init(conf)
    assert ours.allows(policies.CREATE, _context(CREATED)) is False
    # Of a directory that is not there, either.
    more = tmp_path / '.nova_ext' / 'policy.d'
    more.mkdir(parents=True)
    assert ours.allows(policies.CREATE, _context(CREATED)) is False
    _write(more / 'a.yaml', READERS)
    assert ours.allows(policies.CREATE, _context(CREATED)) is True
    more.joinpath('a.yaml').unlink()
    _write(tmp_path / 'policy.yaml', READERS)
    assert ours.allows(policies.CREATE, _context(CREATED)) is True


def test_without_a_change_nothing_is_read(tmp_path: pathlib.Path) -> None:
    _write(tmp_path / 'policy.yaml', READERS)
    conf = _conf(tmp_path)
    ours = policies.init(conf)
    ours.allows(policies.CREATE, _context(CREATED))
    with (
        mock.patch.object(
            conf, 'find_file', autospec=True, side_effect=AssertionError
        ),
        mock.patch('builtins.open', side_effect=AssertionError),
    ):
        assert ours.allows(policies.CREATE, _context(CREATED)) is True


def test_files_are_looked_for_where_the_configuration_does(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ('SNAP', 'SNAP_COMMON', 'HOME'):
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / 'conf.d').mkdir()
    conf = cfg.ConfigOpts()
    (tmp_path / 'files').mkdir()
    (tmp_path / 'files' / 'a.conf').touch()
    conf(
        [
            *('--config-file', str(tmp_path / 'files' / 'a.conf')),
            *('--config-dir', str(tmp_path / 'conf.d')),
        ],
        project='nova_ext',
    )
    asked: list[str] = []

    def exists(path: str) -> bool:
        asked.append(path)
        return False

    with mock.patch('os.path.exists', exists):
        conf.find_file('policy.yaml')
    assert [
        os.path.join(path, 'policy.yaml')
        for path in enforcer.directories(conf)
    ] == list(dict.fromkeys(asked))
