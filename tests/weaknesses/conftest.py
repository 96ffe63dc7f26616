# SPDX-License-Identifier: Apache-2.0
"""The table of weaknesses W1 to W32: its fixtures, and its last line.

A row is closed for a backend if all its tests passed there, or if it cannot
occur. A run of all in which a row has no test, and no reason for that in
rows.py, fails. What the rows are is said by the tests, by their names and
docstrings. Those of the backend ``nova`` are in tests/nova.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata

import pytest

from nova_ext.compute import api as compute
from nova_ext.virt.private import PrivateLibvirtd

pytest.register_assert_rewrite('tests.weaknesses.sites')

from tests.fixtures.rabbitmq import RabbitMQ  # noqa: E402
from tests.integration.test_delete import Share  # noqa: E402
from tests.weaknesses.rows import IMPOSSIBLE, OPEN, ROWS  # noqa: E402
from tests.weaknesses.sites import SITES, Site  # noqa: E402

# What tox gives.
WHOLE = ['tests/weaknesses', 'tests/nova/test_guards.py']
# In the order of the last line; those that are built may be more.
_BACKENDS = ('libvirt', 'rpc', 'nova')
_NAME = re.compile(r'test_w(\d\d)_')
_OUTCOMES = ('passed', 'failed', 'error', 'skipped', 'xfailed', 'xpassed')
_Row = tuple[str, int]
_rows = pytest.StashKey[dict[str, _Row]]()


@pytest.fixture(scope='module', params=SITES)
def site(
    request: pytest.FixtureRequest,
    libvirtd: PrivateLibvirtd,
    rabbitmq: RabbitMQ,
) -> Site:
    """Each backend in turn."""
    return Site(request.param, libvirtd, rabbitmq.url)


@pytest.fixture
def share(site: Site) -> Iterator[Share]:
    """A guest that writes, and its volume as cinder-volume sees it."""
    with site.share() as share:
        yield share


def _backends() -> list[str]:
    """Those of the last line, and whatever else can be chosen."""
    return list(dict.fromkeys([*_BACKENDS, *_built()]))


def _built() -> list[str]:
    found = metadata.entry_points(group=compute.NAMESPACE)
    return sorted({entry_point.name for entry_point in found})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Note which test belongs to which row, before any is deselected."""
    rows = config.stash.setdefault(_rows, {})
    for item in items:
        match = _NAME.match(item.name)
        callspec = getattr(item, 'callspec', None)
        if match and callspec and 'site' in callspec.params:
            rows[item.nodeid] = callspec.params['site'], int(match[1])
        elif match and item.nodeid.startswith('tests/nova/'):
            rows[item.nodeid] = 'nova', int(match[1])


def _missing(config: pytest.Config) -> list[str]:
    """Rows of built backends that have no test, unless some were chosen."""
    if config.args != WHOLE:
        return []
    there = set(config.stash.get(_rows, {}).values())
    for reasons in (OPEN, IMPOSSIBLE):
        there |= {(name, row) for name in reasons for row in reasons[name]}
    return [
        f'{backend} W{row}'
        for backend in _built()
        for row in ROWS
        if (backend, row) not in there
    ]


def _closed(config: pytest.Config, backend: str) -> int:
    """How many rows have tests that were run and all passed."""
    stats = config.pluginmanager.get_plugin('terminalreporter').stats
    rows: dict[_Row, bool] = {}
    for outcome in _OUTCOMES:
        for report in stats.get(outcome, ()):
            row = config.stash[_rows].get(report.nodeid)
            if row is not None:
                rows[row] = rows.get(row, True) and outcome == 'passed'
    for number in IMPOSSIBLE.get(backend, ()):
        rows[backend, number] = True
    return sum(good for row, good in rows.items() if row[0] == backend)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.OK and _missing(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    if config.option.collectonly or _rows not in config.stash:
        return
    words = []
    for backend in _backends():
        closed = 'closed' if not words else ''
        text = f'{backend} {_closed(config, backend)} of {len(ROWS)} {closed}'
        built = '' if backend in _built() else ' (not built yet)'
        words.append(text.strip() + built)
    if missing := _missing(config):
        print('without a test:', ', '.join(missing))
    print('weaknesses:', ', '.join(words))
