# SPDX-License-Identifier: Apache-2.0
"""The API reference says what the code does.

Routes, schemas, fault names and policy rules are compared with the sources
of ``api-ref/``, as text: neither Sphinx nor docutils is needed here. That
the pages build without a warning is the business of ``api-ref/build.py``.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import pathlib
import re
from typing import Any

import jsonschema
import pytest
import yaml

from nova_ext import policies
from nova_ext.api import router, schemas, wsgi
from tests.unit.test_openapi import openapi

ROOT = pathlib.Path(__file__).resolve().parents[2] / 'api-ref'
SOURCE = ROOT / 'source'
RESOURCE = SOURCE / 'os-assisted-volume-snapshots.inc'
SAMPLES = SOURCE / 'samples' / 'os-assisted-volume-snapshots'

MOUNT = '/v2.1'
ERRORS = {400, 401, 403, 404, 406, 413, 415, 500, 503}

# Which schema a sample is of, by the form of its name.
SCHEMAS = {
    r'create(-.+)?-req\.json': schemas.CREATE,
    r'create(-.+)?-resp\.json': schemas.CREATE_RESPONSE,
    r'delete-info-.+\.json': schemas.DELETE_INFO,
    r'fault-\d+(-.+)?\.json': schemas.FAULT,
    r'keystone-fault-401\.json': openapi.KEYSTONE_FAULT,
}


@dataclasses.dataclass(frozen=True)
class Section:
    """One ``rest_method`` and what is written up to the next of them.

    `parameters` has one dict, name to key, for each ``rest_parameters``;
    `statuses` pairs of a status and its key.
    """

    method: str
    url: str
    text: str
    parameters: tuple[dict[str, str], ...]
    statuses: tuple[tuple[int, str], ...]
    samples: tuple[str, ...]


def _directives(text: str, name: str) -> list[str]:
    """What follows each ``.. name::``, its indented lines included."""
    pattern = rf'^\.\. {name}::((?:.*\n)(?:[ ]+.*\n|\n(?=[ ]))*)'
    return re.findall(pattern, text, re.MULTILINE)


def _samples(text: str) -> tuple[str, ...]:
    return tuple(
        block.split()[0] for block in _directives(text, 'literalinclude')
    )


def _parameters(block: str) -> dict[str, str]:
    arguments, _, content = block.strip().partition('\n')
    assert arguments == 'parameters.yaml'
    pairs: dict[str, str] = {}
    for item in yaml.safe_load(content):
        pairs.update(item)
    return pairs


def _statuses(block: str) -> list[tuple[int, str]]:
    arguments, _, content = block.strip().partition('\n')
    assert arguments.split()[1:] == ['status.yaml']
    found = []
    for item in yaml.safe_load(content):
        found += (
            item.items() if isinstance(item, dict) else [(item, 'default')]
        )
    return found


def _sections() -> list[Section]:
    text = RESOURCE.read_text(encoding='utf-8')
    starts = [
        match.start()
        for match in re.finditer(r'^\.\. rest_method::', text, re.MULTILINE)
    ]
    sections = []
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        part = text[start:end]
        method, url = _directives(part, 'rest_method')[0].split()
        sections.append(
            Section(
                method,
                url,
                part,
                tuple(
                    _parameters(block)
                    for block in _directives(part, 'rest_parameters')
                ),
                tuple(
                    pair
                    for block in _directives(part, 'rest_status_code')
                    for pair in _statuses(block)
                ),
                _samples(part),
            )
        )
    return sections


def _section(method: str, project: bool) -> Section:
    found = [
        section
        for section in _sections()
        if section.method == method
        and ('{project_id}' in section.url) is project
    ]
    assert len(found) == 1
    return found[0]


def _load(name: str) -> Any:
    return json.loads((SAMPLES / name).read_text(encoding='utf-8'))


def _yaml(name: str) -> Any:
    return yaml.safe_load((SOURCE / name).read_text(encoding='utf-8'))


def _sample_names() -> list[str]:
    return sorted(path.name for path in SAMPLES.iterdir())


def _anonymous(path: str) -> str:
    """A path whose placeholders have no names, except for the project."""
    return re.sub(r'\{(?!project_id)\w+\}', '{}', path)


def _valid(schema: dict[str, Any], instance: object) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(instance)


def _without(instance: dict[str, Any], path: list[str]) -> dict[str, Any]:
    """A copy of `instance` that lacks the member at `path`."""
    changed = copy.deepcopy(instance)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    return changed


def test_there_are_samples_of_every_kind() -> None:
    kinds = {
        pattern
        for pattern in SCHEMAS
        for name in _sample_names()
        if re.fullmatch(pattern, name)
    }
    assert kinds == set(SCHEMAS)


@pytest.mark.parametrize('name', _sample_names())
def test_sample_fits_its_schema(name: str) -> None:
    fitting = [
        schema
        for pattern, schema in SCHEMAS.items()
        if re.fullmatch(pattern, name)
    ]
    assert len(fitting) == 1, 'the name says of which schema it is'
    jsonschema.Draft202012Validator.check_schema(fitting[0])
    jsonschema.Draft202012Validator(fitting[0]).validate(_load(name))


@pytest.mark.parametrize(
    'name', [name for name in _sample_names() if name.startswith('fault-')]
)
def test_fault_sample_is_what_its_name_says(name: str) -> None:
    status = int(name.split('-')[1].removesuffix('.json'))
    ((envelope, fault),) = _load(name).items()
    assert fault['code'] == status
    assert envelope == wsgi.FAULT_NAMES.get(status, 'computeFault')


def test_each_error_has_a_sample() -> None:
    statuses = {
        int(re.split(r'[-.]', name)[1])
        for name in _sample_names()
        if name.startswith('fault-')
    }
    assert statuses == ERRORS


@pytest.mark.parametrize('project', ['', '/{project_id}'])
@pytest.mark.parametrize('route', router.ROUTES, ids=lambda r: r.action)
def test_each_route_has_a_section_with_a_sample(
    route: router.Route, project: str
) -> None:
    path = _anonymous(MOUNT + project + route.path)
    found = [
        section
        for section in _sections()
        if (section.method, _anonymous(section.url)) == (route.method, path)
    ]
    assert len(found) == 1
    assert found[0].samples


def test_each_section_has_a_route() -> None:
    routes = {
        (route.method, _anonymous(MOUNT + project + route.path))
        for route in router.ROUTES
        for project in ('', '/{project_id}')
    }
    sections = _sections()
    assert sections
    for section in sections:
        assert (section.method, _anonymous(section.url)) in routes


def test_each_sample_is_shown_and_is_there() -> None:
    shown = {
        sample
        for path in SOURCE.glob('*.inc')
        for sample in _samples(path.read_text(encoding='utf-8'))
    }
    there = {
        str(path.relative_to(SOURCE)) for path in SAMPLES.parent.rglob('*.*')
    }
    assert shown == there


def test_the_parameters_are_those_that_are_used() -> None:
    used = {
        key
        for section in _sections()
        for table in section.parameters
        for key in table.values()
    }
    assert used == set(_yaml('parameters.yaml'))


def test_the_causes_are_those_that_are_used() -> None:
    used = {pair for section in _sections() for pair in section.statuses}
    known = {
        (status, reason)
        for status, reasons in _yaml('status.yaml').items()
        for reason in reasons
    }
    assert used == known


@pytest.mark.parametrize(
    ('method', 'success'), [('POST', 200), ('DELETE', 204)]
)
def test_each_status_has_its_cause(method: str, success: int) -> None:
    section = _section(method, project=True)
    statuses = [status for status, _ in section.statuses]
    assert len(statuses) == len(set(statuses))
    assert set(statuses) == {success} | ERRORS


@pytest.mark.parametrize('project', [True, False])
def test_create_asks_for_what_the_schema_asks_for(project: bool) -> None:
    table = _section('POST', project).parameters[0]
    known = _yaml('parameters.yaml')
    sample = _load('create-with-id-req.json')
    documented = set()
    for name, key in table.items():
        if known[key]['in'] != 'body':
            continue
        path = ['snapshot', *name.split('.')]
        if name == 'snapshot':
            path = ['snapshot']
        documented.add(tuple(path))
        left = _without(sample, path)
        assert _valid(schemas.CREATE, left) is not known[key]['required']
    members = sample['snapshot']
    assert documented == {
        ('snapshot',),
        *(('snapshot', key) for key in members),
        *(('snapshot', 'create_info', key) for key in members['create_info']),
    }
    properties = schemas.CREATE['properties']['snapshot']['properties']
    assert set(members) == set(properties)
    assert set(members['create_info']) == set(
        properties['create_info']['properties']
    )


@pytest.mark.parametrize('project', [True, False])
def test_delete_asks_for_what_the_schema_asks_for(project: bool) -> None:
    table = _section('DELETE', project).parameters[0]
    known = _yaml('parameters.yaml')
    sample = _load('delete-info-commit.json')
    documented = set()
    for name, key in table.items():
        if not name.startswith('delete_info.'):
            continue
        member = name.removeprefix('delete_info.')
        documented.add(member)
        left = _without(sample, [member])
        valid = _valid(schemas.DELETE_INFO, left)
        assert valid is not known[key]['required']
    assert documented == set(sample)
    assert documented == set(schemas.DELETE_INFO['properties'])


@pytest.mark.parametrize('project', [True, False])
def test_create_answers_what_the_schema_says(project: bool) -> None:
    known = _yaml('parameters.yaml')
    table = _section('POST', project).parameters[-1]
    body = [key for key in table if known[table[key]]['in'] == 'body']
    answer = schemas.CREATE_RESPONSE['properties']['snapshot']['properties']
    assert set(body) == {'snapshot', *answer}
    assert 'volumeId' in answer


def test_both_spellings_of_the_volume_id_are_explained() -> None:
    for section in _sections():
        if section.method == 'POST':
            assert 'volume_id' in section.parameters[0]
            assert 'volumeId' in section.parameters[-1]
    description = _yaml('parameters.yaml')['volumeId_resp']['description']
    assert '``volume_id``' in description
    assert '``volumeId``' in description


@pytest.mark.parametrize('stem', ['create', 'create-with-id'])
def test_samples_of_request_and_answer_belong_together(stem: str) -> None:
    asked = _load(f'{stem}-req.json')['snapshot']
    answered = _load(f'{stem}-resp.json')['snapshot']
    info = asked['create_info']
    assert answered == {
        'id': info.get('id', info['snapshot_id']),
        'volumeId': asked['volume_id'],
    }


@pytest.mark.parametrize('method', ['POST', 'DELETE'])
def test_headers_of_versions_and_request_ids_are_listed(method: str) -> None:
    section = _section(method, project=True)
    sent, received = (
        {name.lower() for name in table} for table in section.parameters
    )
    both = {header.lower() for header in wsgi.VERSION_HEADERS}
    both.add('x-openstack-request-id')
    assert both <= sent
    assert both | {'x-compute-request-id', 'vary'} <= received


def test_fault_names_are_listed() -> None:
    text = (SOURCE / 'conventions.inc').read_text(encoding='utf-8')
    listed = {}
    for codes, name in re.findall(
        r'^ {3}\* - ([\d, ]+)\n {5}- ``(\w+)``$', text, re.MULTILINE
    ):
        for code in codes.split(','):
            listed[int(code)] = name
    assert listed == {
        status: wsgi.FAULT_NAMES.get(status, 'computeFault')
        for status in ERRORS
    }


@pytest.mark.parametrize(
    'rule', policies.list_rules(), ids=lambda rule: rule.name
)
def test_policy_rules_are_listed_with_their_defaults(rule: Any) -> None:
    text = (SOURCE / 'conventions.inc').read_text(encoding='utf-8')
    row = f'- ``{rule.name}``\n     - ``{rule.check_str}``\n'
    assert row in text


@pytest.mark.parametrize(
    'path',
    [
        path
        for path in sorted(ROOT.rglob('*'))
        if path.suffix in ('.inc', '.rst', '.yaml', '.py', '.css')
        and 'build' not in path.relative_to(ROOT).parts
    ],
    ids=lambda path: path.name,
)
def test_lines_fit_79_columns(path: pathlib.Path) -> None:
    lines = path.read_text(encoding='utf-8').splitlines()
    assert [line for line in lines if len(line) > 79] == []
