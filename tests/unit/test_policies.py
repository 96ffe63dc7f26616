# SPDX-License-Identifier: Apache-2.0
"""The rules and the question to them; over HTTP they are functional tests."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import socket
from unittest import mock

import pytest
from oslo_config import cfg
from oslo_policy import policy

from nova_ext import context, exception, policies


@pytest.fixture
def enforcer() -> policy.Enforcer:
    conf = cfg.ConfigOpts()
    conf([], project='nova_ext', default_config_files=[])
    return policies.init(conf)


def _allowed(enforcer: policy.Enforcer, action: str, **identity: object):
    asking = context.RequestContext(enforcer=enforcer, **identity)
    try:
        asking.can(action)
    except exception.PolicyNotAuthorized as refused:
        assert action in str(refused)
        return False
    return True


def test_names_and_defaults_are_those_of_nova() -> None:
    rules = {rule.name: rule for rule in policies.list_rules()}
    base = 'os_compute_api:os-assisted-volume-snapshots'
    assert {name: rule.check_str for name, rule in rules.items()} == {
        'context_is_admin': 'role:admin',
        'admin_api': 'is_admin:True',
        'service_api': 'role:service',
        'service_or_admin': 'rule:service_api or rule:context_is_admin',
        f'{base}:create': 'rule:service_or_admin',
        f'{base}:delete': 'rule:service_or_admin',
    }
    for action in (policies.CREATE, policies.DELETE):
        assert rules[action].scope_types == ['project']
        (operation,) = rules[action].operations
        assert operation['path'].startswith('/os-assisted-volume-snapshots')
    assert all(rule.description for rule in rules.values())


@pytest.mark.parametrize('action', [policies.CREATE, policies.DELETE])
@pytest.mark.parametrize(
    ('identity', 'allowed'),
    [
        ({'roles': ['service']}, True),
        ({'roles': ['admin']}, True),
        ({'roles': ['Admin']}, True),
        ({'roles': ['reader', 'service']}, True),
        ({'roles': ['manager', 'member', 'reader']}, False),
        ({'roles': []}, False),
        ({'roles': ['services', 'administrator']}, False),
        ({'roles': ['admin'], 'system_scope': 'all'}, False),
        ({'roles': ['service'], 'domain_id': 'default'}, False),
        ({'roles': [], 'service_roles': ['service', 'admin']}, False),
        ({'roles': [], 'is_admin': True}, False),
    ],
)
def test_who_is_allowed(
    enforcer: policy.Enforcer,
    action: str,
    identity: dict[str, object],
    allowed: bool,
) -> None:
    assert _allowed(enforcer, action, **identity) is allowed


def test_an_action_without_a_rule_is_an_error(
    enforcer: policy.Enforcer,
) -> None:
    with pytest.raises(policy.PolicyNotRegistered):
        _allowed(enforcer, 'os_compute_api:other', roles=['admin'])


def test_a_context_without_a_policy_may_do_nothing() -> None:
    asking = context.RequestContext(roles=['admin', 'service'])
    with pytest.raises(exception.PolicyNotAuthorized):
        asking.can(policies.CREATE)


def test_the_refusal_does_not_say_who_was_refused(
    enforcer: policy.Enforcer,
) -> None:
    asking = context.RequestContext(
        enforcer=enforcer, user_id='secret', auth_token='secret'
    )
    with pytest.raises(exception.PolicyNotAuthorized) as caught:
        asking.can(policies.CREATE)
    assert 'secret' not in str(caught.value)
    # Nor would a traceback in a log.
    assert caught.value.__suppress_context__


def test_the_tools_get_an_enforcer_with_our_rules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is installed on this machine is not for all to read.
    monkeypatch.setattr(cfg, 'find_config_files', lambda *_, **__: [])
    tools = policies.get_enforcer()
    assert set(tools.registered_rules) == {
        rule.name for rule in policies.list_rules()
    }


def test_an_enforcer_does_not_share_its_rules(
    enforcer: policy.Enforcer,
) -> None:
    enforcer.registered_rules[policies.CREATE]._check_str = '!'
    rules = {rule.name: rule.check_str for rule in policies.list_rules()}
    assert rules[policies.CREATE] == 'rule:service_or_admin'


def test_a_file_that_cannot_be_used_is_named_at_the_start(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / 'policy.yaml'
    path.write_text('"rule": "rule:no')
    with pytest.raises(cfg.Error, match=str(path)):
        policies.load(_reading(path))


@pytest.mark.parametrize('name', ['policy.yaml', 'other.yaml', '/a/b.yaml'])
def test_a_file_that_somebody_named_must_be_there(
    tmp_path: pathlib.Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    with pytest.raises(cfg.Error) as raised:
        policies.load(_told(tmp_path, f'policy_file = {name}'))
    assert f'policy_file {name} ' in str(raised.value)
    assert 'take the option out' in str(raised.value)
    # Of the default nobody said that it is there.
    enforcer = policies.load(_told(tmp_path, ''))
    assert _allowed(enforcer, policies.CREATE, roles=['service'])


def test_a_file_that_is_taken_away_still_counts(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / 'other.yaml'
    path.write_text(json.dumps({policies.CREATE: 'role:reader'}))
    enforcer = policies.load(_told(tmp_path, 'policy_file = other.yaml'))
    path.unlink()
    assert not _allowed(enforcer, policies.CREATE, roles=['service'])
    assert _allowed(enforcer, policies.CREATE, roles=['reader'])
    assert 'The policy stays as it was' in caplog.text
    path.write_text('{}')
    assert _allowed(enforcer, policies.CREATE, roles=['service'])


def test_a_file_that_may_not_be_read_any_more_changes_nothing(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / 'policy.yaml'
    path.write_text(json.dumps({policies.CREATE: 'role:reader'}))
    enforcer = policies.load(_reading(path))
    path.write_text('{}')
    os.utime(path, (2**31, 2**31))
    # As for a user whom its mode keeps out, which root is not.
    denied = PermissionError(errno.EACCES, 'Permission denied')
    with mock.patch('builtins.open', side_effect=denied):
        assert not _allowed(enforcer, policies.CREATE, roles=['service'])
        with pytest.raises(cfg.Error, match=f'policy_file {path} cannot be u'):
            policies.load(_reading(path))
    assert _allowed(enforcer, policies.CREATE, roles=['reader'])
    assert f'this user may not read {path}' in caplog.text
    path.chmod(0o640)
    assert _allowed(enforcer, policies.CREATE, roles=['service'])


def test_a_directory_is_no_file_of_rules(tmp_path: pathlib.Path) -> None:
    with pytest.raises(cfg.Error, match='it is a directory'):
        policies.load(_reading(tmp_path))


def _told(directory: pathlib.Path, line: str) -> cfg.ConfigOpts:
    config = directory / 'nova_ext.conf'
    config.write_text(f'[oslo_policy]\n{line}\n')
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(config)])
    return conf


def _reading(path: pathlib.Path) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[])
    policies.init(conf)
    conf.set_override('policy_file', str(path), 'oslo_policy')
    return conf


@pytest.mark.parametrize(
    ('rules', 'cycle'),
    [
        (
            {
                'context_is_admin': 'rule:service_api',
                'service_api': 'rule:context_is_admin',
            },
            'context_is_admin > service_api > context_is_admin',
        ),
        (
            {'service_api': 'role:x or (not rule:service_api and @)'},
            'service_api > service_api',
        ),
        (
            {'service_api': 'rule:a', 'a': 'not rule:b', 'b': 'rule:a'},
            'a > b > a',
        ),
    ],
)
def test_rules_that_are_parts_of_each_other_are_named(
    tmp_path: pathlib.Path, rules: dict[str, str], cycle: str
) -> None:
    path = tmp_path / 'policy.yaml'
    path.write_text(json.dumps(rules))
    with pytest.raises(cfg.Error) as raised:
        policies.load(_reading(path))
    assert str(path) in str(raised.value)
    assert cycle in str(raised.value)


def test_what_no_action_of_ours_asks_for_may_be_wrong(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / 'policy.yaml'
    path.write_text('{"os_compute_api:x": "rule:os_compute_api:x"}')
    conf = _reading(path)
    assert _allowed(policies.load(conf), policies.CREATE, roles=['service'])


def test_a_rule_that_is_not_there_is_named_in_the_log(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / 'policy.yaml'
    path.write_text('service_or_admin: rule:nothere')
    enforcer = policies.load(_reading(path))
    assert not _allowed(enforcer, policies.CREATE, roles=['admin'])
    (line,) = (r.getMessage() for r in caplog.records)
    assert "['service_or_admin']" in line


@pytest.mark.parametrize('scheme', ['http', 'https'])
def test_a_server_that_a_rule_asks_and_that_is_away_is_said_so(
    tmp_path: pathlib.Path, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / 'policy.yaml'
    # Bound and not listening.
    with socket.socket() as closed:
        closed.bind(('127.0.0.1', 0))
        url = f'{scheme}://127.0.0.1:{closed.getsockname()[1]}/secret'
        path.write_text(json.dumps({'service_or_admin': url}))
        enforcer = policies.load(_reading(path))
        with pytest.raises(exception.PolicyUnavailable) as caught:
            _allowed(enforcer, policies.CREATE, roles=['admin'])
    assert policies.CREATE in str(caught.value)
    assert 'secret' not in str(caught.value)
    assert 'refused' in caplog.text
