# SPDX-License-Identifier: Apache-2.0
"""Requests for a nova-api that runs. What they are answered is in tests."""

from __future__ import annotations

import json
from typing import Any

import requests

PATH = '/os-assisted-volume-snapshots'
SNAPSHOT = '421752a6-acf6-4b2d-bc7a-119f9148cd8c'


class Client:
    """A user with a token."""

    def __init__(self, url: str, token: str = 'token-of-a-service') -> None:
        self.url = url
        self._session = requests.Session()
        # A proxy that the environment names cannot reach our loopback.
        self._session.trust_env = False
        self._session.headers['X-Auth-Token'] = token
        # What faults look like depends on it.
        del self._session.headers['Accept']

    def send(self, method: str, path: str, **more: Any) -> requests.Response:
        """Send any request; its path is with the version."""
        return self._session.request(
            method, self.url + path, timeout=30, **more
        )

    def post(
        self, body: object, path: str = f'/v2.1{PATH}', **more: str
    ) -> requests.Response:
        """Send a body: bytes as they are, all else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body)
        headers = {'Content-Type': 'application/json', **more}
        return self.send('POST', path, data=data, headers=headers)

    def create(
        self, volume_id: str, path: str = f'/v2.1{PATH}', **info: str
    ) -> requests.Response:
        """Ask for a snapshot, with more or other keys in create_info."""
        create_info = {
            'snapshot_id': SNAPSHOT,
            'type': 'qcow2',
            'new_file': f'volume-{volume_id}.{SNAPSHOT}',
        }
        snapshot = {
            'volume_id': volume_id,
            'create_info': {**create_info, **info},
        }
        return self.post({'snapshot': snapshot}, path)

    def delete(
        self,
        delete_info: object,
        path: str = f'/v2.1{PATH}/{SNAPSHOT}',
        **headers: str,
    ) -> requests.Response:
        """Send a delete_info: a string as it is, all else as JSON."""
        if not isinstance(delete_info, str):
            delete_info = json.dumps(delete_info)
        query = {'delete_info': delete_info}
        return self.send('DELETE', path, params=query, headers=headers)

    def merge(
        self, volume_id: str, target: str | None = None
    ) -> requests.Response:
        """Ask for a commit into `target`, or for a pull."""
        return self.delete(merge_info(volume_id, target))


def merge_info(volume_id: str, target: str | None = None) -> dict[str, Any]:
    """What Cinder sends as delete_info."""
    return {
        'volume_id': volume_id,
        'type': 'qcow2',
        'file_to_merge': target and f'volume-{volume_id}.{SNAPSHOT}',
        'merge_target_file': target,
    }
