# SPDX-License-Identifier: Apache-2.0
"""A process that answers requests for post.py, and says what CPU it took.

Run by the Python of a virtualenv, never imported:

    python -I post_process.py KIND

KIND is `floor`, `ours` or `nova`; of the others' configuration files their
own environment variables tell. Each line on standard input orders requests,
and is answered by a line with the CPU seconds that they took. Nothing listens
here: WSGI applications are called. What is compared with what is in post.py.
"""

import datetime
import json
import sys
import time
import uuid

import webob
import webob.dec
from keystonemiddleware.auth_token import _identity

TOKEN = 'a-token'


def token_data():
    """What Keystone says of a token, with a catalog as clouds have it."""
    end = datetime.datetime.now(datetime.timezone.utc)
    end += datetime.timedelta(hours=1)
    services = ('identity', 'compute', 'image', 'network', 'block-storage')
    return {
        'token': {
            'methods': ['password'],
            'expires_at': end.strftime('%Y-%m-%dT%H:%M:%S.%fZ'),
            'issued_at': '2026-01-01T00:00:00.000000Z',
            'audit_ids': ['0123456789abcdefghijkl'],
            'user': {
                'id': uuid.uuid4().hex,
                'name': 'cinder',
                'domain': {'id': 'default', 'name': 'Default'},
            },
            'project': {
                'id': '6f70656e737461636b20636f6d707574',
                'name': 'service',
                'domain': {'id': 'default', 'name': 'Default'},
            },
            'roles': [
                {'id': uuid.uuid4().hex, 'name': name}
                for name in ('service', 'admin')
            ],
            'catalog': [
                {
                    'id': uuid.uuid4().hex,
                    'type': service,
                    'name': service,
                    'endpoints': [
                        {
                            'id': uuid.uuid4().hex,
                            'interface': interface,
                            'region': 'RegionOne',
                            'region_id': 'RegionOne',
                            'url': f'http://{service}.example.org/v3',
                        }
                        for interface in ('public', 'internal', 'admin')
                    ],
                }
                for service in services
            ],
        }
    }


def floor():
    """The least that can be done: a token is checked, a body is read."""
    from keystonemiddleware import auth_token

    @webob.dec.wsgify
    def app(req):
        snapshot = json.loads(req.body)['snapshot']
        answer = {
            'snapshot': {
                'id': snapshot['create_info']['snapshot_id'],
                'volumeId': snapshot['volume_id'],
            }
        }
        return webob.Response(
            json.dumps(answer).encode(), content_type='application/json'
        )

    return auth_token.AuthProtocol(
        app,
        {
            'auth_type': 'none',
            'www_authenticate_uri': 'http://keystone.example.org',
        },
    )


def ours():
    """Our pipeline as it is shipped, in front of what does nothing."""
    from nova_ext.compute import api

    class ComputeAPI(api.ComputeAPI):
        def volume_snapshot_create(self, context, volume_id, create_info):
            """Do nothing."""

        def volume_snapshot_delete(
            self, context, volume_id, snapshot_id, delete_info
        ):
            """Do nothing."""

        def check(self):
            return 'well'

    api.load = ComputeAPI
    from nova_ext.cmd.wsgi import application

    return application


def nova():
    """Nova's, whatever its api-paste.ini has, in front of no message bus."""
    # Nova reads the command line as its own when it is imported.
    sys.argv[1:] = []
    from nova.wsgi.osapi_compute import application
    from oslo_messaging._drivers import impl_fake

    def send(self, *arguments, **keywords):
        """Drop it."""

    impl_fake.FakeDriver.send = send
    return application


class Requests:
    """Sends requests to an application, as orders have them."""

    def __init__(self, app):
        self._app = app

    def cpu(self, order):
        """CPU seconds that an order took.

        `stub` says whether Nova's own compute API is not asked.
        """
        if order.get('stub') is not None:
            self._stub(order['stub'])
        body = order['body'].encode()
        wanted = order['status']
        for _ in range(order['warm_up']):
            self._send(order, body, wanted)
        began = time.process_time()
        for _ in range(order['count']):
            self._send(order, body, wanted)
        return time.process_time() - began

    def _send(self, order, body, wanted):
        req = webob.Request.blank(order['path'], method=order['method'])
        req.headers['X-Auth-Token'] = TOKEN
        if body:
            req.content_type = 'application/json'
            req.body = body
        # NOTE: get_response would copy the request's environ.
        status, _, answer = req.call_application(self._app)
        text = b''.join(answer)
        if not status.startswith(wanted):
            raise SystemExit(f'{order}: {status} {text.decode()}')

    def _stub(self, on):
        from nova.compute import api

        if not hasattr(self, '_novas'):
            self._novas = api.API.volume_snapshot_create
        api.API.volume_snapshot_create = (
            (lambda *arguments: None) if on else self._novas
        )


if __name__ == '__main__':
    kind = sys.argv[1]
    known = token_data()
    _identity.IdentityServer.verify_token = lambda *args, **kwargs: known
    requests = Requests({'floor': floor, 'ours': ours, 'nova': nova}[kind]())
    print('ready', flush=True)
    for line in sys.stdin:
        print(requests.cpu(json.loads(line)), flush=True)
