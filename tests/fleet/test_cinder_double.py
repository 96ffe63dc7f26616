# SPDX-License-Identifier: Apache-2.0
"""The double of Cinder, with which most tests run, answers as Cinder does."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import pytest
import requests

from tests.fixtures.cinder import CinderDouble
from tests.fixtures.cinder_client import PROJECT_ID
from tests.fixtures.cinder_fleet import Fleet
from tests.fixtures.cinder_rows import Attachment

pytest_plugins = ['tests.fixtures.cinder_fleet', 'tests.fixtures.rabbitmq']

UPDATE = 'os-update_snapshot_status'
STATUSES = ('creating', 'deleting', 'available', 'error', 'error_deleting')
VERSION = 'OpenStack-API-Version'
NOBODY = str(uuid.UUID(int=7))


def _answer(
    endpoint: str,
    method: str,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, Any]:
    with requests.Session() as session:
        session.trust_env = False
        answer = session.request(
            method,
            endpoint + path,
            headers={
                'X-Auth-Token': f'admin:{PROJECT_ID}',
                'Content-Type': 'application/json',
                'Accept': 'application/json',
                **(headers or {}),
            },
            **({'data': body} if isinstance(body, str) else {'json': body}),
            timeout=60,
        )
    try:
        return answer.status_code, answer.json()
    except ValueError:
        return answer.status_code, answer.text


def _assert_same(fleet: Fleet, double: CinderDouble, *request: Any) -> None:
    """Both answer alike; of a resource the double may show less."""
    real = _answer(fleet.cinder.endpoint, *request)
    ours = _answer(double.endpoint, *request)
    assert ours[0] == real[0], (request, ours, real)
    if ours[0] != 200:
        assert ours[1] == real[1], (request, ours, real)
        return
    (kind,) = ours[1]
    for key, value in ours[1][kind].items():
        there = real[1][kind][key]
        if key == 'attachments':
            for one, other in zip(value, there, strict=True):
                other['attached_at'] = None
                assert one == other
        elif key == 'created_at':
            # Each has its own clock; Nova wants to read it.
            assert all(map(datetime.datetime.fromisoformat, (value, there)))
        elif key == 'connection_info':
            assert {**there, **value} == there, (value, there)
        else:
            assert value == there, (key, value, there)


@pytest.fixture(scope='module')
def rows(cinder_fleet: Fleet) -> dict[str, str]:
    """Ids of a volume, its attachment, its server and its snapshot."""
    client = cinder_fleet.cinder.client
    volume = client.create_volume()
    snapshot = client.create_snapshot(volume)
    client.wait_for('snapshot', snapshot, 'available')
    server = str(uuid.uuid4())
    attachment = client.attach(volume, server, 'h9')
    return {
        'volume': volume,
        'snapshot': snapshot,
        'server': server,
        'attachment': attachment,
    }


@pytest.fixture
def double(cinder_fleet: Fleet, rows: dict[str, str]) -> Any:
    """One with the same rows."""
    client = cinder_fleet.cinder.client
    client.reset_snapshot(rows['snapshot'], 'available')
    shown = client.show('snapshot', rows['snapshot'])
    assert shown is not None
    with CinderDouble() as double:
        name = f'volume-{rows["volume"]}.{rows["snapshot"]}'
        double.add_volume(
            rows['volume'],
            Attachment(
                id=rows['attachment'],
                server_id=rows['server'],
                host_name='h9',
                connection_info={'name': name, 'format': 'qcow2'},
            ),
        )
        double.add_snapshot(
            rows['snapshot'],
            rows['volume'],
            'available',
            shown['os-extended-snapshot-attributes:progress'],
        )
        yield double


@pytest.mark.parametrize('version', [None, 'volume 3.27', 'volume 3.71'])
def test_what_is_shown(
    cinder_fleet: Fleet,
    rows: dict[str, str],
    double: CinderDouble,
    version: str | None,
) -> None:
    headers = {VERSION: version} if version else None
    for kind in ('volume', 'snapshot', 'attachment'):
        for identity in (rows[kind], NOBODY):
            for project in ('', f'/{PROJECT_ID}', f'/{"e" * 32}'):
                path = f'{project}/{kind}s/{identity}'
                _assert_same(cinder_fleet, double, 'GET', path, None, headers)


@pytest.mark.parametrize('status', STATUSES)
def test_reports(
    cinder_fleet: Fleet,
    rows: dict[str, str],
    double: CinderDouble,
    status: str,
) -> None:
    snapshot = rows['snapshot']
    path = f'/snapshots/{snapshot}'
    for told in STATUSES:
        for progress in (None, '0%', '45%', '90%'):
            cinder_fleet.cinder.client.reset_snapshot(snapshot, status)
            double.set_snapshot(snapshot, status)
            report = {'status': told}
            if progress:
                report['progress'] = progress
            body = {UPDATE: report}
            _assert_same(cinder_fleet, double, 'POST', f'{path}/action', body)
            _assert_same(cinder_fleet, double, 'GET', path)


@pytest.mark.parametrize(
    'body',
    [
        {UPDATE: {}},
        {UPDATE: None},
        {UPDATE: {'status': 1}},
        {UPDATE: {'status': 'creating', 'progress': 'ninety'}},
        {UPDATE: {'status': 'creating', 'progress': '90'}},
        {UPDATE: {'status': 'creating', 'progress': '101%'}},
        {UPDATE: {'status': 'creating', 'progress': '45.5%'}},
        {UPDATE: {'status': 'creating', 'more': 1}},
        {UPDATE: {'status': 'available', 'progress': ''}},
        {'os-unknown': {}},
        {},
        [],
        'no JSON',
    ],
)
def test_malformed_reports(
    cinder_fleet: Fleet, rows: dict[str, str], double: CinderDouble, body: Any
) -> None:
    for identity in (rows['snapshot'], NOBODY):
        path = f'/snapshots/{identity}/action'
        _assert_same(cinder_fleet, double, 'POST', path, body)


@pytest.mark.parametrize(
    'headers',
    [
        {VERSION: 'volume 3.99'},
        {VERSION: 'volume x'},
        {VERSION: 'compute 2.1'},
        {VERSION: 'volume latest'},
        {'Content-Type': 'text/xml'},
    ],
)
def test_headers(
    cinder_fleet: Fleet,
    rows: dict[str, str],
    double: CinderDouble,
    headers: dict[str, str],
) -> None:
    path = f'/snapshots/{rows["snapshot"]}'
    body = {UPDATE: {'status': 'creating', 'progress': '0%'}}
    _assert_same(cinder_fleet, double, 'GET', path, None, headers)
    _assert_same(cinder_fleet, double, 'POST', f'{path}/action', body, headers)
