# SPDX-License-Identifier: Apache-2.0
"""What the API reference shows as a request is answered as it shows.

Each sample of a request is sent, and for each sample of a fault a request
that provokes it, to the shipped application. What the pages say beside the
samples is compared with the code in tests/unit/test_api_ref.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import webob
import yaml
from keystoneauth1 import loading
from oslo_config import cfg

from nova_ext import cinder, exception, fence
from nova_ext.api import wsgi
from tests.fixtures import pages
from tests.fixtures.app import RecordingAPI
from tests.fixtures.cinder import PROJECT_ID, CinderDouble
from tests.functional import fixtures
from tests.functional.doors import Answer, Door

# WebOb keeps a body of more than 10 KiB in a file that it leaves to the
# garbage collector.
pytestmark = pytest.mark.filterwarnings('ignore:unclosed file')

_SOURCE = pages.ROOT / 'api-ref' / 'source'
_SAMPLES = _SOURCE / 'samples' / 'os-assisted-volume-snapshots'
PATH = '/v2.1/os-assisted-volume-snapshots'

# Sample of a fault → what is asked otherwise than create-req.json, or where.
PROVOKED: dict[str, dict[str, Any]] = {
    'fault-400-body.json': {'type': 'raw'},
    'fault-400-volume.json': {},
    'fault-401.json': {
        'door': 'http_basic',
        'Authorization': 'Basic Y2luZGVyOndyb25n',
    },
    'fault-403.json': {'X-Auth-Token': 'token-of-a-member'},
    'fault-404.json': {'path': f'{PATH}/'},
    'fault-406.json': {'OpenStack-API-Version': 'compute 2.105'},
    'fault-413.json': {'new_file': fixtures.TOO_LARGE},
    'fault-415.json': {'Content-Type': 'application/xml'},
    'fault-500.json': {},
    'fault-503.json': {},
    'keystone-fault-401.json': {'X-Auth-Token': 'token-that-expired'},
}
# Answers that are made before a version is known have none, the page says.
_WITHOUT_VERSION = (401, 404, 413)
_OF_A_VERSION = (*wsgi.VERSION_HEADERS, 'Vary')
_FORMS = {
    'Content-Type': 'application/json(; charset=UTF-8)?',
    'x-openstack-request-id': 'req-[0-9a-f-]{36}',
    'x-compute-request-id': 'req-[0-9a-f-]{36}',
    'OpenStack-API-Version': r'compute 2\.\d+',
    'X-OpenStack-Nova-API-Version': r'2\.\d+',
    'Vary': 'OpenStack-API-Version, X-OpenStack-Nova-API-Version',
}


def _sample(name: str) -> Any:
    return json.loads((_SAMPLES / name).read_text('utf-8'))


def _names(pattern: str) -> list[str]:
    return sorted(path.name for path in _SAMPLES.glob(pattern))


def _stated(method: str) -> set[str]:
    """The headers that the page has for an answer."""
    page = pages.PAGES['os-assisted-volume-snapshots.inc']
    section = re.split(rf'\.\. rest_method::\s+{method} ', page)[1]
    table = section.split('.. rest_parameters:: parameters.yaml\n')[2]
    known = pages.TABLES['parameters.yaml']
    return {
        name
        for item in yaml.safe_load(table.split('\n\n')[0])
        for name, key in item.items()
        if known[key]['in'] == 'header'
    }


def _check_headers(answer: Answer, method: str) -> None:
    stated = _stated(method)
    assert stated == set(_FORMS)
    there = {name.lower(): value for name, value in answer.headers.items()}
    for name in stated:
        value = there.get(name.lower())
        if answer.status in _WITHOUT_VERSION and name in _OF_A_VERSION:
            assert value is None, name
        else:
            assert re.fullmatch(_FORMS[name], value or ''), (name, value)


@pytest.fixture(autouse=True)
def backend() -> Iterator[type[RecordingAPI]]:
    """The backend behind the doors, which refuses nothing."""
    errors = dict(RecordingAPI.errors)
    RecordingAPI.calls.clear()
    RecordingAPI.errors.clear()
    yield RecordingAPI
    RecordingAPI.errors.update(errors)


def _ask(door: Door, path: str, **options: Any) -> Answer:
    return door.ask(webob.Request.blank(path, **options).environ)


def _create(
    doors: dict[str, Door], request: dict[str, Any], **changes: Any
) -> Answer:
    """Send a request; what of `changes` it has no member for is a header."""
    door = doors[changes.pop('door', 'keystone')]
    path = changes.pop('path', PATH)
    info = request['snapshot']['create_info']
    info |= {name: changes.pop(name) for name in {*info} & {*changes}}
    headers = {'Content-Type': 'application/json', **changes}
    body = json.dumps(request).encode()
    return _ask(door, path, method='POST', body=body, headers=headers)


@pytest.mark.parametrize('name', _names('*-req.json'))
def test_a_creation_is_answered_as_its_sample(
    doors: dict[str, Door], backend: type[RecordingAPI], name: str
) -> None:
    request = _sample(name)
    answer = _create(doors, request)
    assert answer.status == 200
    _check_headers(answer, 'POST')
    shown = _sample(name.replace('-req', '-resp'))
    assert answer.body == json.dumps(shown).encode()
    ((method, arguments),) = [(c.method, c.arguments) for c in backend.calls]
    assert method == 'create'
    snapshot = request['snapshot']
    assert arguments == (snapshot['volume_id'], snapshot['create_info'])


@pytest.mark.parametrize('name', _names('delete-info-*.json'))
def test_a_deletion_with_a_sample_is_taken(
    doors: dict[str, Door], backend: type[RecordingAPI], name: str
) -> None:
    info = _sample(name)
    request = webob.Request.blank(f'{PATH}/snapshot', method='DELETE')
    request.GET['delete_info'] = json.dumps(info)
    answer = doors['keystone'].ask(request.environ)
    assert (answer.status, answer.body) == (204, b'')
    _check_headers(answer, 'DELETE')
    ((method, arguments),) = [(c.method, c.arguments) for c in backend.calls]
    assert method == 'delete'
    assert arguments == (info['volume_id'], 'snapshot', info)


def test_each_sample_of_a_fault_is_provoked() -> None:
    assert sorted(PROVOKED) == _names('*fault-*.json')


def _cause(shown: str) -> str:
    """How libvirt said it, which test_create.py compares with a real one."""
    return shown.partition(' Cause: ')[2]


def _refused_by_cinder(snapshot_id: str) -> exception.NovaExtException:
    """What a Cinder says to a user of ours who lacks the role."""
    with CinderDouble('token') as double:
        double.add_token('token', roles=['service'], project_id=PROJECT_ID)
        double.add_snapshot(snapshot_id, 'volume')
        conf, group = cfg.ConfigOpts(), cinder.GROUP.name
        cinder.register_opts(conf)
        plugin = loading.get_auth_plugin_conf_options('admin_token')
        conf.register_opts(plugin, group=group)
        conf([], default_config_files=[])
        conf.set_override('auth_type', 'admin_token', group)
        conf.set_override('endpoint', double.endpoint, group)
        conf.set_override('token', 'token', group)
        with pytest.raises(exception.CinderUnavailable) as refused:
            fence.put_up(cinder.Cinder(conf), snapshot_id, fence.CREATING)
    return refused.value


@pytest.mark.parametrize('name', PROVOKED)
def test_a_fault_is_answered_as_its_sample(
    doors: dict[str, Door], backend: type[RecordingAPI], name: str
) -> None:
    shown = _sample(name)
    ((_, fault),) = shown.items()
    request = _sample('create-req.json')
    volume_id = request['snapshot']['volume_id']
    snapshot_id = request['snapshot']['create_info']['snapshot_id']
    if name == 'fault-400-volume.json':
        error = exception.VolumeNotAttached(volume_id=volume_id)
        backend.errors[volume_id] = error
    elif name == 'fault-500.json':
        backend.errors[volume_id] = exception.SnapshotFailed(
            snapshot_id=snapshot_id, reason=_cause(fault['message'])
        )
    elif name == 'fault-503.json':
        backend.errors[volume_id] = _refused_by_cinder(snapshot_id)
    answer = _create(doors, request, **PROVOKED[name])
    assert json.loads(answer.body) == shown
    assert answer.status == fault['code']
    assert f'-{answer.status}' in name
    _check_headers(answer, 'POST')
    if answer.status == 401:
        assert 'WWW-Authenticate' in answer.headers
    assert len(backend.calls) == len(backend.errors)
