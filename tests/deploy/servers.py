# SPDX-License-Identifier: Apache-2.0
"""WSGI servers and front ends on loopback, unprivileged, with the shipped
samples: only paths, ports and accounts of them are replaced.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shlex
import sys
from collections.abc import Iterator, Mapping

from tests.fixtures.servers import (
    ServerProcess,
    free_port,
    server_environment,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAMPLES = ROOT / 'etc' / 'nova_ext'
PAGE = ROOT / 'api-ref' / 'source' / 'deployment.rst'

# What is served: the module, as each server names it.
MODULE = 'nova_ext.cmd.wsgi:application'
_MODULES = '/usr/lib/apache2/modules'
_NOBODY = 65534


def sample(name: str, replaced: Mapping[str, str]) -> str:
    """A sample of etc/, in which each of these texts was found and replaced.

    :raises AssertionError: a text is not in it
    """
    text = (SAMPLES / name).read_text('utf-8')
    for old, new in replaced.items():
        assert old in text, f'{name} has no {old}'
        text = text.replace(old, new)
    return text


def command(module: str, port: int) -> list[str]:
    """The command for gunicorn that the page shows."""
    found = re.search(
        r'^ +\$ (gunicorn(?:.*\\\n)*.*)$', PAGE.read_text(), re.M
    )
    assert found
    text = found[1].replace('\\\n', ' ')
    assert MODULE in text
    assert '127.0.0.1:8774' in text
    return shlex.split(text.replace(MODULE, module).replace('8774', str(port)))


class Started:
    """How a test starts servers: in this directory, until its end."""

    def __init__(
        self, directory: pathlib.Path, stack: contextlib.ExitStack
    ) -> None:
        self._directory = directory
        self._stack = stack

    def _start(
        self, name: str, argv: list[str], port: int, **environment: str
    ) -> str:
        # NOTE: the pool of a front end must not use root's rights, which
        # nobody's own server would have.
        prefix = (
            ['unshare', '--user', f'--map-user={_NOBODY}']
            + [f'--map-group={_NOBODY}']
            if os.geteuid() == 0
            else []
        )
        self._stack.enter_context(
            ServerProcess(
                [*prefix, *argv],
                port=port,
                log=self._directory / f'{name}.log',
                env=server_environment(
                    PYTHONPATH=str(ROOT),
                    NOVA_EXT_SERVED_BY=name,
                    HOME=str(self._directory),
                    **environment,
                ),
                cwd=self._directory,
            )
        )
        return f'http://127.0.0.1:{port}'

    def _write(self, name: str, text: str) -> str:
        path = self._directory / name
        path.write_text(text)
        return str(path)

    def uwsgi(
        self, module: str, name: str = 'uwsgi', **environment: str
    ) -> str:
        """The URL of uWSGI with uwsgi.ini."""
        port = free_port()
        ini = self._write(
            f'{name}.ini',
            sample('uwsgi.ini', {MODULE: module, '8774': str(port)}),
        )
        argv = [f'{sys.prefix}/bin/uwsgi', '--ini', ini]
        return self._start(name, argv, port, **environment)

    def gunicorn(self, module: str, **environment: str) -> str:
        """The URL of gunicorn with the command of the page."""
        port = free_port()
        argv = command(module, port)
        argv[0] = f'{sys.prefix}/bin/gunicorn'
        return self._start('gunicorn', argv, port, **environment)

    def mod_wsgi(self, module: str, **environment: str) -> str:
        """The URL of Apache httpd with apache-wsgi.conf."""
        port = free_port()
        file = str(ROOT / module.partition(':')[0].replace('.', '/')) + '.py'
        packages = '/opt/nova_ext/lib/python3.11/site-packages/nova_ext/cmd'
        text = sample(
            'apache-wsgi.conf',
            {
                f'{packages}/wsgi.py': file,
                packages: os.path.dirname(file),
                'user=nova_ext_api group=nova_ext_api ': '',
                'python-home=/opt/nova_ext': f'python-home={sys.prefix} '
                f'python-path={ROOT}',
                '8774': str(port),
            },
        )
        # NOTE: Debian's own directory for it is root's.
        text = f'WSGISocketPrefix {self._directory}/wsgi\n{text}'
        return self._apache('mod_wsgi', ['wsgi'], text, port, **environment)

    def apache(self, ours: str, other: str) -> str:
        """The URL of Apache httpd with apache-routing.conf."""
        port = free_port()
        text = sample(
            'apache-routing.conf',
            {'127.0.0.1:8774': ours, '127.0.0.1:8780': other},
        )
        text = (
            f'Listen 127.0.0.1:{port}\n<VirtualHost *:{port}>\n{text}'
            '</VirtualHost>\n'
        )
        modules = ['headers', 'proxy', 'proxy_http', 'rewrite']
        return self._apache('apache', modules, text, port)

    def _apache(
        self,
        name: str,
        modules: list[str],
        text: str,
        port: int,
        **environment: str,
    ) -> str:
        loaded = ''.join(
            f'LoadModule {module}_module {_MODULES}/mod_{module}.so\n'
            for module in ['mpm_event', 'authz_core', *modules]
        )
        conf = self._write(
            f'{name}.conf',
            f'ServerName 127.0.0.1\nPidFile {self._directory}/{name}.pid\n'
            f'DefaultRuntimeDir {self._directory}\nErrorLog /dev/stderr\n'
            f'{loaded}{text}',
        )
        argv = ['/usr/sbin/apache2', '-D', 'FOREGROUND', '-f', conf]
        return self._start(name, argv, port, **environment)

    def nginx(self, ours: str, other: str) -> str:
        """The URL of nginx with nginx-routing.conf."""
        port = free_port()
        text = sample(
            'nginx-routing.conf',
            {'127.0.0.1:8774': ours, '127.0.0.1:8780': other},
        )
        temporary = ''.join(
            f'{kind}_temp_path {self._directory}/{kind};\n'
            for kind in ('client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi')
        )
        conf = self._write(
            'nginx.conf',
            f'daemon off;\npid {self._directory}/nginx.pid;\n'
            'error_log stderr;\nevents {}\nhttp {\naccess_log off;\n'
            f'{temporary}server {{\nlisten 127.0.0.1:{port};\n{text}}}\n}}\n',
        )
        argv = ['/usr/sbin/nginx', '-e', 'stderr', '-c', conf]
        return self._start('nginx', argv, port)


@contextlib.contextmanager
def starting(directory: pathlib.Path) -> Iterator[Started]:
    """Servers that end with this context."""
    with contextlib.ExitStack() as stack:
        yield Started(directory, stack)
