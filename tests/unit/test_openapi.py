# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document is what the routes and schemas make it today."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import re

import jsonschema

from nova_ext.api import router, schemas

ROOT = pathlib.Path(__file__).resolve().parents[2] / 'api-ref'
SAMPLES = ROOT / 'source' / 'samples' / 'os-assisted-volume-snapshots'

_spec = importlib.util.spec_from_file_location('openapi', ROOT / 'openapi.py')
assert _spec
assert _spec.loader
openapi = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(openapi)


def test_it_is_current() -> None:
    assert openapi.TARGET.read_text('utf-8') == openapi.text(), (
        'run "python api-ref/openapi.py"'
    )


def test_each_route_is_there() -> None:
    paths = openapi.document()['paths']
    assert {
        (method.upper(), path) for path in paths for method in paths[path]
    } == {
        (route.method, f'/v2.1{project}{route.path}')
        for route in router.ROUTES
        for project in ('', '/{project_id}')
    }


def test_its_schemas_are_valid_and_the_samples_fit() -> None:
    path = openapi.document()['paths']['/v2.1/os-assisted-volume-snapshots']
    content = path['post']['requestBody']['content']['application/json']
    jsonschema.Draft202012Validator.check_schema(content['schema'])
    for sample in SAMPLES.glob('create*-req.json'):
        jsonschema.validate(json.loads(sample.read_text()), content['schema'])


def test_its_patterns_say_what_our_formats_say() -> None:
    formats = {
        'plain-text': schemas.is_plain_text,
        'file-name': schemas.is_file_name,
    }
    texts = [
        *('a', 'a b', '.', '..', '...', '.a', 'a/b', '/', '-', '\u00e9'),
        *(f'a{chr(number)}' for number in range(0xA1)),
    ]
    for name, check in formats.items():
        pattern = openapi._FORMATS[name]['pattern']
        for text in texts:
            found = re.search(pattern.replace('$', r'\Z'), text)
            assert bool(found) is check(text), (name, text)
