# SPDX-License-Identifier: Apache-2.0
"""nova-ext-manage doctor, where all is well, and where something is not."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from unittest import mock

import libvirt
import pytest
from oslo_config import cfg

from nova_ext import cinder
from nova_ext import conf as nova_ext_conf
from nova_ext.cmd.doctor import access, agents, hypervisor, reports
from nova_ext.virt import host as virt_host
from nova_ext.virt.private import PrivateLibvirtd
from tests.fixtures.cinder import Attachment, CinderDouble, Request
from tests.fixtures.cinder_rows import Answer, Identity
from tests.fixtures.cinder_rules import unauthorized
from tests.fixtures.fleet import BusHost
from tests.fixtures.host import Host, short_directory
from tests.fixtures.serve import write_config
from tests.fixtures.servers import free_port

if TYPE_CHECKING:
    from tests.fixtures.keystone import Account, Accounts, Keystone
    from tests.fixtures.rabbitmq import RabbitMQ

pytest_plugins = [
    *('tests.fixtures.host', 'tests.fixtures.keystone'),
    'tests.fixtures.rabbitmq',
]

Groups = Mapping[str, Mapping[str, object]]


def doctor(
    directory: pathlib.Path, groups: Groups, *arguments: str
) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Exit status, and the findings by what was looked at."""
    config = write_config(directory / 'doctor.conf', groups)
    done = subprocess.run(
        [
            *(sys.executable, '-m', 'nova_ext.cmd.manage'),
            *('--config-file', config, 'doctor', '--json', *arguments),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found: dict[str, list[dict[str, str]]] = {}
    for one in json.loads(done.stdout):
        found.setdefault(one['subject'], []).append(one)
    return done.returncode, found


def _states(found: dict[str, list[dict[str, str]]], subject: str) -> list[str]:
    return [one['state'] for one in found.get(subject, [])]


class KeystoneCinder(CinderDouble):
    """A Cinder that asks Keystone who its callers are."""

    def __init__(self, keystone: Keystone) -> None:
        self._keystone = keystone
        super().__init__('token')

    def _token(self, request: Request) -> Identity | Answer:
        token = request.headers.get('X-Auth-Token', '')
        answer = self._keystone._session.get(
            f'{self._keystone.url}/auth/tokens',
            headers={'X-Subject-Token': token},
            raise_exc=False,
        )
        if answer.status_code != 200:
            return unauthorized()
        said = answer.json()['token']
        roles = frozenset(role['name'] for role in said['roles'])
        return Identity(said['project']['id'], roles)


def _reporting(
    keystone: Keystone, account: Account, endpoint: str, **options: str
) -> dict[str, dict[str, object]]:
    known = keystone.authtoken(account)
    login = {name.partition('.')[2]: one for name, one in known.items()}
    del login['www_authenticate_uri']
    return {
        'nova_ext_agent': {
            **{'reports': 'cinder', 'socket': '/nowhere/agent.sock'},
            'libvirt_uri': 'test:///default',
        },
        'keystone_authtoken': login,
        'nova_ext_cinder': {
            **login,
            'endpoint_override': endpoint,
            'timeout': '20',
            **options,
        },
    }


def test_login_and_role(
    keystone: Keystone, accounts: Accounts, tmp_path: pathlib.Path
) -> None:
    as_said = 'Keystone, as [nova_ext_cinder] says'
    with KeystoneCinder(keystone) as double:
        groups = _reporting(keystone, accounts.nova, double.endpoint)
        _, found = doctor(tmp_path, groups)
        assert _states(found, as_said) == ['ok']
        assert 'admin' in found[as_said][0]['says']
        assert _states(found, 'Keystone, as [keystone_authtoken] says') == [
            'ok'
        ]
        assert _states(found, 'Cinder') == ['ok']
        assert not [name for name in found if name.startswith('clock')]

        groups = _reporting(keystone, accounts.service, double.endpoint)
        status, found = doctor(tmp_path, groups)
        assert status == 1
        assert _states(found, as_said) == ['ok']
        assert _states(found, 'Cinder') == ['wrong']
        assert 'role admin' in found['Cinder'][0]['mend']

        groups['nova_ext_cinder']['password'] = 'not-this-one'
        status, found = doctor(tmp_path, groups)
        assert _states(found, as_said) == ['wrong']
        assert 'not-this-one' not in str(found)

    status, found = doctor(
        tmp_path, _reporting(keystone, accounts.nova, double.endpoint)
    )
    assert status == 1
    assert (_states(found, as_said), _states(found, 'Cinder')) == (
        ['ok'],
        ['wrong'],
    )
    nowhere = f'http://127.0.0.1:{free_port()}/v3'
    groups = _reporting(
        keystone, accounts.nova, double.endpoint, auth_url=nowhere
    )
    status, found = doctor(tmp_path, groups)
    assert _states(found, as_said) == ['wrong']
    assert nowhere in found[as_said][0]['says']
    assert 'auth_url' in found[as_said][0]['mend']


def test_clocks_that_differ(
    keystone: Keystone, accounts: Accounts, tmp_path: pathlib.Path
) -> None:
    with KeystoneCinder(keystone) as double:
        groups = _reporting(keystone, accounts.nova, double.endpoint)
        path = write_config(tmp_path / 'doctor.conf', groups)
        conf = cfg.ConfigOpts()
        cinder.register_opts(conf)
        conf([], default_config_files=[str(path)])
        with mock.patch.object(reports, 'time', autospec=True) as clock:
            clock.time.side_effect = lambda: time.time() + 300
            found = [
                *reports.check_login(conf, 'nova_ext_cinder'),
                *reports.check_cinder(conf),
            ]
    assert [(one.subject, one.state) for one in found] == [
        ('Keystone, as [nova_ext_cinder] says', 'ok'),
        ('clock of Keystone', 'wrong'),
        ('Cinder', 'ok'),
        ('clock of Cinder', 'wrong'),
    ]
    assert '300 s behind' in found[1].says or '301 s' in found[1].says


def test_a_host_that_is_well_and_then_is_not(host: Host) -> None:
    groups: dict[str, Any] = host.configuration()
    groups['nova_ext'] = {'auth_strategy': 'noauth'}
    status, found = doctor(host.directory, groups)
    assert status == 0, found
    assert _states(found, 'agent of this host') == ['ok']
    assert '0 jobs under way' in found['agent of this host'][0]['says']
    assert _states(found, 'libvirt') == ['ok']
    assert '1 volumes' in found['libvirt'][0]['says']
    assert _states(found, 'share, for the agent') == ['ok']
    if host.user:
        assert _states(found, 'user of the agent') == ['unknown']
        assert _states(found, 'libvirt, for the agent') == ['ok']
    host.stop_agent()
    groups['nova_ext_agent']['libvirt_uri'] = 'qemu+unix:///session?socket=/'
    status, found = doctor(host.directory, groups)
    assert status == 1
    for subject in ('agent of this host', 'libvirt'):
        assert _states(found, subject) == ['wrong']
        assert found[subject][0]['mend']
    host.start_agent()


def test_an_attachment_that_names_another_file(host: Host) -> None:
    """Cinder says that all is done, and has others use what it was before."""
    attachment = Attachment(
        host.guest.uuid,
        'this-host',
        connection_info={'name': host.volume.name},
    )
    host.double.add_volume(host.volume_id, attachment)
    groups: dict[str, Any] = host.configuration()
    groups['nova_ext'] = {'auth_strategy': 'noauth'}
    assert _states(doctor(host.directory, groups)[1], 'attachments') == ['ok']
    snapshot_id, overlay = host.snapshot(), host.overlay()
    host.create(snapshot_id, overlay.name)
    host.double.set_snapshot(snapshot_id, 'available', '100%')
    host.wait_for_last_state('DONE')
    warning = f'{host.volume_id} use {host.volume.name}, and instance'
    assert host.log().count(warning) == 1
    status, found = doctor(host.directory, groups)
    assert status == 1
    (wrong,) = found['attachments']
    for words in (host.volume.name, overlay.name):
        assert words in wrong['says']
    assert f'{host.guest.uuid} {host.volume_id}' in wrong['mend']
    attachment.connection_info = {'name': overlay.name}
    second, other = host.snapshot(), host.overlay(overlay)
    host.create(second, other.name)
    attachment.connection_info = {'name': other.name}
    host.double.set_snapshot(second, 'available', '100%')
    host.wait_for_last_state('DONE')
    assert doctor(host.directory, groups)[0] == 0
    assert host.log().count('would start it from') == 1


def test_the_bus_and_who_listens_there(
    libvirtd: PrivateLibvirtd, rabbitmq: RabbitMQ
) -> None:
    with short_directory() as directory:
        host = BusHost(directory, libvirtd, rabbitmq, 'host-of-doctor')
        with host.running():
            host.double.add_volume(
                host.volume_id, Attachment(host.guest.uuid, host.name)
            )
            groups: dict[str, Any] = host.configuration()
            groups['nova_ext'] = {
                'auth_strategy': 'noauth',
                'compute_api': 'rpc',
            }
            groups['nova_ext_rpc'] = {'silence': 2}
            # Whom Cinder names is asked, and whoever is said.
            status, found = doctor(directory, groups, '--host', 'nobody')
            assert status == 1
            assert _states(found, 'broker') == ['ok']
            assert _states(found, 'agent of host host-of-doctor') == ['ok']
            assert _states(found, 'agent of host nobody') == ['wrong']
            status, found = doctor(directory, groups)
            assert status == 0, found

            url = groups['DEFAULT']['transport_url']
            wrong = url.replace(rabbitmq.password, 'secret-word')
            gone = url.replace(str(rabbitmq.port), str(free_port()))
            for bad, words in (
                (wrong, 'does not let us in'),
                (gone, 'refused'),
            ):
                groups['DEFAULT']['transport_url'] = bad
                begun = time.monotonic()
                status, found = doctor(directory, groups)
                assert time.monotonic() - begun < 120
                assert status == 1
                assert _states(found, 'broker') == ['wrong']
                assert words in found['broker'][0]['says']
                assert 'transport_url' in found['broker'][0]['mend']
                assert 'secret-word' not in str(found)


@pytest.mark.parametrize(
    ('model', 'user'),
    [('dac', (64055, 108)), ('apparmor', None), ('none', None)],
)
def test_as_whom_qemu_runs(
    libvirtd: PrivateLibvirtd, model: str, user: tuple[int, int] | None
) -> None:
    connection = mock.create_autospec(libvirt.virConnect, instance=True)
    connection.getCapabilities.return_value = f"""
        <capabilities><host><secmodel><model>{model}</model><doi>0</doi>
        <baselabel type='kvm'>+1:+1</baselabel>
        <baselabel type='qemu'>+64055:+108</baselabel>
        </secmodel></host></capabilities>"""
    host = virt_host.Host(libvirtd.uri)
    assert host.qemu_user() is None
    with mock.patch.object(host, 'connect', return_value=connection):
        assert host.qemu_user() == user
    host.close()


@pytest.mark.parametrize(
    ('qemu', 'state'),
    [((64055, 108), 'ok'), ((33, 33), 'wrong'), (None, 'unknown')],
)
def test_an_agent_that_is_the_user_of_qemu(
    qemu: tuple[int, int] | None, state: str
) -> None:
    who = qemu and access.Who(qemu[0], (qemu[1],))
    found = hypervisor._check_user(access.Who(33, (33,)), who)
    assert found.state == state
    assert found.mend or state != 'wrong'


@pytest.mark.parametrize(
    'url',
    ['nothing://u:secret-word@h/', 'rabbit://u:secret-word@h:port/', 'x'],
)
def test_a_bus_that_cannot_be(tmp_path: pathlib.Path, url: str) -> None:
    path = write_config(
        tmp_path / 'doctor.conf',
        {
            'DEFAULT': {'transport_url': url},
            'nova_ext_cinder': {'auth_type': 'none', 'endpoint': 'http://h'},
        },
    )
    conf = cfg.ConfigOpts()
    nova_ext_conf.register_opts(conf)
    conf([], default_config_files=[str(path)])
    (found,) = agents.check_bus(conf, ['host'])
    assert found.state == 'wrong'
    assert 'secret-word' not in str(found)


def test_lines_for_people(tmp_path: pathlib.Path) -> None:
    config = write_config(
        tmp_path / 'nova_ext.conf',
        {
            'nova_ext': {'auth_strategy': 'noauth', 'compute_api': 'nova'},
            'nova_ext_agent': {'state_dir': tmp_path},
        },
    )
    paste = tmp_path / 'api-paste.ini'
    paste.write_text('[app:other]\n')
    done = subprocess.run(
        [
            *(sys.executable, '-m', 'nova_ext.cmd.manage'),
            *('--config-file', config, 'doctor', '--paste', paste),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith(f'WRONG   {paste}: ')
    assert ' -> ' in line
    assert done.stderr == ''
