# SPDX-License-Identifier: Apache-2.0
"""Arbitrary requests, as hypothesis strategies.

Most are valid ones with something wrong in them, since pure noise is refused
at the door. What they are answered is not said here.
"""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import urllib.parse
from typing import Any

from hypothesis import strategies as st

from tests.functional import documents

CREATE = {
    'snapshot': {
        'volume_id': '521752a6-acf6-4b2d-bc7a-119f9148cd8c',
        'create_info': {
            'snapshot_id': '421752a6-acf6-4b2d-bc7a-119f9148cd8c',
            'type': 'qcow2',
            'new_file': 'volume-521752a6.421752a6',
            'id': 'any',
        },
    }
}
DELETE_INFO = {
    'volume_id': '521752a6-acf6-4b2d-bc7a-119f9148cd8c',
    'type': 'qcow2',
    'file_to_merge': 'volume-521752a6',
    'merge_target_file': None,
}
COLLECTION = '/os-assisted-volume-snapshots'
MEMBER = COLLECTION + '/421752a6'


@dataclasses.dataclass(frozen=True)
class Request:
    """What a server hands to an application, below the version mount.

    `headers` are by their names in an environ; `path` and their values are
    bytes as latin-1, as PEP 3333 wants them. Of a body in chunks the length
    is not known, but the server says where it ends.
    """

    method: str
    path: str
    query: str = ''
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b''
    in_chunks: bool = False

    def environ(self) -> dict[str, Any]:
        length = {'CONTENT_LENGTH': str(len(self.body))}
        if self.in_chunks:
            length = {'HTTP_TRANSFER_ENCODING': 'chunked'}
        return {
            'REQUEST_METHOD': self.method,
            'SCRIPT_NAME': '',
            'PATH_INFO': self.path,
            'QUERY_STRING': self.query,
            'SERVER_NAME': 'localhost',
            'SERVER_PORT': '8774',
            'SERVER_PROTOCOL': 'HTTP/1.1',
            'REMOTE_ADDR': '127.0.0.1',
            'wsgi.version': (1, 0),
            'wsgi.url_scheme': 'http',
            'wsgi.input': io.BytesIO(self.body),
            'wsgi.errors': sys.stderr,
            'wsgi.multithread': True,
            'wsgi.multiprocess': False,
            'wsgi.run_once': False,
            'wsgi.input_terminated': self.in_chunks,
            **length,
            **self.headers,
        }


bodies = st.one_of(
    st.builds(documents.dumped, documents.mutations(CREATE), st.booleans()),
    st.builds(documents.dumped, documents.values, st.booleans()),
    st.binary(max_size=40),
    documents.deep,
    documents.odd_json,
)


def _quoted(document: Any, ascii_only: bool) -> str:
    return urllib.parse.quote(documents.dumped(document, ascii_only))


_infos = st.one_of(
    st.builds(_quoted, documents.mutations(DELETE_INFO), st.booleans()),
    st.builds(_quoted, documents.values, st.booleans()),
    st.builds(
        urllib.parse.quote,
        st.one_of(
            documents.deep,
            documents.odd_json.filter(lambda body: len(body) < 9000),
        ),
    ),
    st.text('{}[]":,%+&=;#0aF\xff \0', max_size=12),
    st.sampled_from(('%', '%F', '%FF', '%zz', '%00', '%ED%A0%80')),
)
_pairs = st.builds(
    '{}{}'.format,
    st.sampled_from(('delete_info=',) * 6 + ('', 'extra=', '%FF=', '=', '&')),
    _infos,
)
queries = st.lists(_pairs, min_size=1, max_size=3).map('&'.join)

# NOTE: a server lets no line break and no NUL in a header pass.
_latin = st.text(
    st.characters(
        max_codepoint=255, exclude_characters='\r\n\0', codec='latin-1'
    ),
    max_size=16,
)
_types = (
    'application/json',
    'application/vnd.openstack.compute+json',
    'application/json; charset=utf-16',
    'application/json; charset="',
    'text/plain',
    'application/xml',
    'multipart/form-data; boundary=',
    'application/x-www-form-urlencoded',
    '*/*',
    ';',
)
_versions = (
    'compute 2.75',
    'compute latest',
    'compute 2.' + '9' * 5000,
    'compute ²',
    'compute 2.1, , compute',
    'latest',
    '2.1',
    '0.0',
    ',',
    '',
)
_lengths = (
    *('', '0', '-1', '-' + '9' * 30, '1', '2', '7', '99999', '9' * 5000),
    *('abc', ' 5 ', '+5', '5, 5', '0x10', '1e3', '²', '1_0'),
)
_named = {
    'CONTENT_TYPE': _types,
    'CONTENT_LENGTH': _lengths,
    'HTTP_ACCEPT': (*_types, 'application/json;q=x', '*/*;q=-1', ',,'),
    'HTTP_OPENSTACK_API_VERSION': _versions,
    'HTTP_X_OPENSTACK_NOVA_API_VERSION': _versions,
    'HTTP_X_OPENSTACK_REQUEST_ID': ('req-1', 'req-' + 'a' * 36),
    'HTTP_HOST': ('', ':', '[', 'a:b:c', 'localhost:99999', 'é', '/'),
    'HTTP_ORIGIN': ('null', '*', 'https://horizon.example.org'),
    'HTTP_TRANSFER_ENCODING': ('chunked', 'gzip, chunked'),
    'HTTP_EXPECT': ('100-continue',),
    'HTTP_RANGE': ('bytes=0-', 'bytes=5-1'),
    'HTTP_IF_NONE_MATCH': ('*', '"'),
    'HTTP_X_HTTP_METHOD_OVERRIDE': ('DELETE', 'POST'),
    'HTTP_X_ROLES': ('admin', ','),
    'HTTP_X_USER_ID': ('1',),
    'HTTP_X_USER': ('admin', ''),
    'HTTP_X_PROJECT_ID': ('0f0f0f0f',),
    'HTTP_X_IDENTITY_STATUS': ('Confirmed', 'Invalid'),
    'HTTP_X_SERVICE_CATALOG': ('[', '[]', '[1]', 'null'),
    'HTTP_X_IS_ADMIN_PROJECT': ('True', ''),
    'HTTP_X_FORWARDED_FOR': ('127.0.0.1', 'x'),
    'HTTP_X_FORWARDED_PREFIX': ('/x', 'x'),
    'HTTP_FORWARDED': ('for=127.0.0.1;host=', ';;,='),
    'HTTP_COOKIE': ('a=b', '=;='),
    'HTTP_AUTHORIZATION': ('Basic', 'Basic =', 'Basic //8=', 'Bearer x', ''),
    'HTTP_X_AUTH_TOKEN': ('', ' ', 'token-of-a-member', 'nobody-issued-this'),
    'HTTP_X_SERVICE_TOKEN': ('', 'token-of-a-service', 'x'),
}


@st.composite
def headers(draw: st.DrawFn) -> dict[str, str]:
    """Up to four headers of the environ with odd values."""
    names = draw(st.lists(st.sampled_from(sorted(_named)), max_size=4))
    return {
        name: draw(st.one_of(st.sampled_from(_named[name]), _latin))
        for name in names
    }


def _latin_1(path: str) -> str:
    return path.encode('utf-8', 'surrogatepass').decode('latin-1')


_segments = st.one_of(
    st.sampled_from(
        ('os-assisted-volume-snapshots', '421752a6', '0f0f0f0f', '', '.', '..')
        + ('os-assisted-volume-snapshots.json', '0F0F', 'x' * 3000, '%2F')
    ),
    documents.text.map(_latin_1),
    _latin,
)
paths = st.one_of(
    st.lists(_segments, max_size=4).map(lambda all: '/' + '/'.join(all)),
    st.builds('{}{}'.format, st.sampled_from((COLLECTION, MEMBER)), _segments),
    _latin,
)
methods = st.one_of(
    st.sampled_from(
        ('GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE')
    ),
    st.text('ABCDEFGHIJKLMNOPQRSTUVWXYZ-', min_size=1, max_size=8),
)

creates = st.builds(
    Request,
    st.just('POST'),
    st.just(COLLECTION),
    body=bodies,
    in_chunks=st.booleans(),
)
deletes = st.builds(Request, st.just('DELETE'), st.just(MEMBER), queries)
headed_creates = st.builds(
    Request,
    st.just('POST'),
    st.just(COLLECTION),
    headers=headers(),
    body=st.sampled_from((json.dumps(CREATE).encode(), b'', b'{}')),
)
headed_deletes = st.builds(
    Request,
    st.just('DELETE'),
    st.just(MEMBER),
    st.just('delete_info=' + _quoted(DELETE_INFO, True)),
    headers(),
)
pathed = st.builds(Request, methods, paths)
everything = st.builds(
    Request,
    methods,
    paths,
    st.one_of(st.just(''), queries),
    headers(),
    bodies,
    st.booleans(),
)
