# SPDX-License-Identifier: Apache-2.0
"""A process that answers requests for the benchmark, and says what they cost.

Run by the Python of a virtualenv, never imported by us:

    python -I peer.py KIND

KIND is the name of a function below; of configuration files the environment
variables of each tell. A line on standard output says what loading has cost.
Each line on standard input names a method of Requests and orders requests, and
is answered by a line with what that returns. Nothing listens here: WSGI
applications are called. A WSGI server takes `application` instead, of the kind
that NOVA_EXT_BENCHMARK names. What is compared with what is not here.
"""

import cProfile
import datetime
import json
import os
import signal
import sys
import time
import uuid

# Of the wall, by which the kernel can be so exact; who does not run is seen
# once when they do again.
_SAMPLE_SECONDS = 0.0005

# What an identity service says of the callers; others are nobody.
TOKENS = {'a-token': ('service', 'admin'), 'a-reader': ('reader',)}


def token_data(*roles):
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
                {'id': uuid.uuid4().hex, 'name': name} for name in roles
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
    """The least that can be done: a token is checked, input is read."""
    import webob
    import webob.dec
    from keystonemiddleware import auth_token

    @webob.dec.wsgify
    def app(req):
        if req.method == 'DELETE':
            json.loads(req.GET['delete_info'])
            return webob.Response(status=204)
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


def shipped():
    """Our pipeline with the backend that its configuration names."""
    from nova_ext.cmd.wsgi import application

    return application


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
    return shipped()


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


def trivial():
    """What costs next to nothing."""

    def app(environ, start_response):
        start_response('200 OK', [('Content-Length', '0')])
        return []

    return app


def behind_ours():
    """The same behind our filter, as it is in Nova's pipelines."""
    from nova_ext.api import nova

    return nova.filter_factory({})(trivial())


def placement():
    """Placement's, in front of no database."""
    sys.argv[1:] = []
    from placement import db_api
    from placement.objects import resource_provider as objects

    class Provider(objects.ResourceProvider):
        """Is wherever it is looked for, and stored nowhere."""

        def create(self):
            self.generation = 0

        def destroy(self):
            """Do nothing."""

        @classmethod
        def get_by_uuid(cls, context, uuid):
            return cls(context, uuid=uuid, name=uuid, generation=0)

    objects.ResourceProvider = Provider
    db_api.configure = lambda conf: None
    from placement import deploy

    deploy.update_database = lambda conf: None
    from placement.wsgi.api import application

    return application


def application_of(kind):
    """The application, where Keystone knows the tokens of above."""
    from keystonemiddleware.auth_token import _identity

    known = {name: token_data(*roles) for name, roles in TOKENS.items()}

    def verify_token(self, token, *arguments, **keywords):
        return known[token]

    _identity.IdentityServer.verify_token = verify_token
    return globals()[kind]()


class Requests:
    """Sends requests to an application, as orders have them."""

    def __init__(self, app):
        self._apps = {'': app}

    def cost(self, order):
        """CPU seconds that an order took, and how large the process is.

        `stub` says whether Nova's own compute API is not asked, `bodies` what
        is sent in turn instead of one `body`, `app` the function of above that
        makes what is asked instead.
        """
        if order['app'] not in self._apps:
            self._apps[order['app']] = globals()[order['app']]()
        if order.get('stub') is not None:
            self._stub(order['stub'])
        bodies = order['bodies'] or [order['body']]
        orders = [{**order, 'body': body} for body in bodies]
        for _ in range(order['warm_up']):
            self._send(order)
        began = time.process_time()
        for number in range(order['count']):
            self._send(orders[number % len(orders)])
        return {**size(), 'seconds': time.process_time() - began}

    def profile(self, order):
        """File and line of each function → CPU seconds in it and below."""
        profile = cProfile.Profile(time.process_time)
        profile.runcall(self.cost, order)
        return {
            f'{one.code.co_filename}:{one.code.co_firstlineno}': one.totaltime
            for one in profile.getstats()
            if not isinstance(one.code, str)
        }

    def start(self, order):
        """Package → how many looks in between found it at work, or what it
        called or imported that is of none of `packages`, while `app` was made;
        those that found none of them are for ''.
        """
        found = dict.fromkeys(order['packages'], 0)

        def look(number, frame):
            while frame:
                name = frame.f_globals.get('__name__', '').partition('.')[0]
                if name in found:
                    break
                frame = frame.f_back
            found[name if frame else ''] += 1

        signal.signal(signal.SIGALRM, look)
        signal.setitimer(signal.ITIMER_REAL, _SAMPLE_SECONDS, _SAMPLE_SECONDS)
        self._apps[order['app']] = globals()[order['app']]()
        signal.setitimer(signal.ITIMER_REAL, 0)
        return found

    def _send(self, order):
        import webob

        req = webob.Request.blank(
            order['path'], method=order['method'], headers=order['headers']
        )
        if order['token']:
            req.headers['X-Auth-Token'] = order['token']
        if order['body']:
            req.content_type = 'application/json'
            req.body = order['body'].encode()
        # NOTE: get_response would copy the request's environ.
        status, _, answer = req.call_application(self._apps[order['app']])
        text = b''.join(answer)
        if not status.startswith(order['status']):
            raise SystemExit(f'{order}: {status} {text.decode()}')

    def _stub(self, on):
        from nova.compute import api

        for name in ('volume_snapshot_create', 'volume_snapshot_delete'):
            kept = f'_kept_{name}'
            if not hasattr(api.API, kept):
                setattr(api.API, kept, getattr(api.API, name))
            does = (lambda *a: None) if on else getattr(api.API, kept)
            setattr(api.API, name, does)


def size():
    """KiB in memory, and how many modules are loaded."""
    with open('/proc/self/status') as file:
        lines = dict(line.split(':', 1) for line in file)
    return {
        'memory': int(lines['VmRSS'].split()[0]),
        'modules': len(sys.modules),
    }


if 'NOVA_EXT_BENCHMARK' in os.environ:
    application = application_of(os.environ['NOVA_EXT_BENCHMARK'])
elif __name__ == '__main__':
    requests = Requests(application_of(sys.argv[1]))
    print(json.dumps({**size(), 'seconds': time.process_time()}), flush=True)
    for line in sys.stdin:
        name, order = json.loads(line)
        print(json.dumps(getattr(requests, name)(order)), flush=True)
