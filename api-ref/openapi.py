# SPDX-License-Identifier: Apache-2.0
"""Write the OpenAPI document: what the routes and the schemas of the code say.

``python api-ref/openapi.py`` writes ``source/openapi.json``. The words are
those of ``source/parameters.yaml`` and ``source/status.yaml``.
"""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import yaml

from nova_ext.api import router, schemas, wsgi

SOURCE = pathlib.Path(__file__).resolve().parent / 'source'
TARGET = SOURCE / 'openapi.json'

Node = dict[str, Any]

_PLAIN = r'\x00-\x1f\x7f-\x9f'
_FORMATS: dict[str, Node] = {
    'plain-text': {'pattern': f'^[^{_PLAIN}]+$'},
    # NOTE: the code counts bytes, which a schema can't.
    'file-name': {
        'pattern': rf'^(?!\.\.?$)[^/{_PLAIN}]+$',
        'maxLength': 255,
    },
}
# Action → its success, the schemas of its body and of its answer.
_ACTIONS: dict[str, tuple[int, Node | None, Node | None]] = {
    'create': (200, schemas.CREATE, schemas.CREATE_RESPONSE),
    'delete': (204, None, None),
}
KEYSTONE_FAULT: Node = {
    'type': 'object',
    'properties': {
        'error': {
            'type': 'object',
            'properties': {
                'code': {'const': 401},
                'title': {'type': 'string'},
                'message': {'type': 'string'},
            },
            'required': ['code', 'title', 'message'],
        }
    },
    'required': ['error'],
}


def _yaml(name: str) -> Any:
    return yaml.safe_load((SOURCE / name).read_text('utf-8'))


_PARAMETERS, _STATUSES = _yaml('parameters.yaml'), _yaml('status.yaml')


def _plain(text: str) -> str:
    """Our reStructuredText as Markdown."""
    text = re.sub(r'`([^`]+)`_', r'\1', text.strip())
    return text.replace('``', '`')


def _portable(schema: Node) -> Node:
    """A schema whose formats are known to everybody."""
    found: Node = {}
    for key, value in schema.items():
        if key == 'format':
            found |= _FORMATS[value]
        elif key != '$schema':
            found[key] = _portable(value) if isinstance(value, dict) else value
    return found


def _parameter(key: str, name: str, **schema: Any) -> Node:
    described = _PARAMETERS[key]
    found = {
        'name': name,
        'in': described['in'],
        'required': described['required'],
        'description': _plain(described['description']),
    }
    return found | (schema or {'schema': {'type': 'string'}})


# NOTE: no pattern, since what it says of other services is ignored.
_VERSION: Node = {
    'type': 'string',
    'examples': ['compute 2.1', 'compute latest'],
}


def _answer(status: int, reason: str, schema: Node | None) -> Node:
    headers = {
        name: {'schema': {'type': 'string'}}
        for name in ('x-openstack-request-id', 'x-compute-request-id')
    }
    found: Node = {
        'description': _plain(
            _STATUSES[status].get(reason) or _STATUSES[status]['default']
        ),
        'headers': headers,
    }
    if schema:
        found['content'] = {'application/json': {'schema': schema}}
        if status == 200:
            found['content'][wsgi.VENDOR_JSON] = {'schema': schema}
    return found


def _fault(status: int) -> Node:
    fault: Node = {'$ref': '#/components/schemas/fault'}
    return {'anyOf': [fault, KEYSTONE_FAULT]} if status == 401 else fault


def _operation(route: router.Route, project: bool) -> Node:
    status, body, answer = _ACTIONS[route.action]
    parameters = [
        _parameter(
            'openstack_api_version', wsgi.VERSION_HEADERS[0], schema=_VERSION
        )
    ]
    if project:
        parameters.append(
            _parameter(
                'project_id',
                'project_id',
                schema={
                    'type': 'string',
                    'pattern': f'^{router.PROJECT_ID}$',
                },
            )
        )
    if route.action == 'delete':
        parameters += [
            _parameter(
                'snapshot_id_path',
                'id',
                schema={'type': 'string', 'pattern': rf'^[^/{_PLAIN}]+$'},
            ),
            _parameter(
                'delete_info',
                'delete_info',
                content={
                    'application/json': {
                        'schema': _portable(schemas.DELETE_INFO)
                    }
                },
            ),
        ]
    errors = [
        code
        for code, reasons in _STATUSES.items()
        if code >= 400 and {route.action, 'default'} & {*reasons}
    ]
    found: Node = {
        'operationId': route.action + ('_in_project' if project else ''),
        'parameters': parameters,
        'responses': {
            str(status): _answer(
                status, route.action, answer and _portable(answer)
            ),
            **{
                str(code): _answer(code, route.action, _fault(code))
                for code in errors
            },
        },
    }
    if body:
        found['requestBody'] = {
            'required': True,
            'content': {'application/json': {'schema': _portable(body)}},
        }
    return found


def document() -> Node:
    """The document, as JSON has it."""
    paths: dict[str, Node] = {}
    for route in router.ROUTES:
        for prefix in ('', '/{project_id}'):
            operation = _operation(route, bool(prefix))
            path = paths.setdefault(f'/v2.1{prefix}{route.path}', {})
            path[route.method.lower()] = operation
    return {
        'openapi': '3.1.0',
        'info': {
            'title': 'Assisted volume snapshots of the OpenStack Compute API',
            'version': '2.1',
            'license': {'name': 'Apache-2.0', 'identifier': 'Apache-2.0'},
        },
        'servers': [{'url': '/'}],
        'security': [{'token': []}, {'basic': []}],
        'paths': paths,
        'components': {
            'schemas': {'fault': _portable(schemas.FAULT)},
            'securitySchemes': {
                'token': {
                    'type': 'apiKey',
                    'in': 'header',
                    'name': 'X-Auth-Token',
                },
                'basic': {'type': 'http', 'scheme': 'basic'},
            },
        },
    }


def text() -> str:
    """What the file has to be."""
    return json.dumps(document(), indent=1) + '\n'


if __name__ == '__main__':
    TARGET.write_text(text(), 'utf-8')
