# SPDX-License-Identifier: Apache-2.0
"""What the doctor says of files, logs and clocks, each good and bad."""

from __future__ import annotations

import grp
import json
import os
import pathlib
import socket
import stat
import tempfile
from unittest import mock

import pytest
from oslo_config import cfg

from nova_ext import cinder, config
from nova_ext import conf as nova_ext_conf
from nova_ext.cmd import manage
from nova_ext.cmd.doctor import (
    access,
    agents,
    denials,
    files,
    finding,
    reports,
    settings,
)
from tests.fixtures.bus import private_conf

# A group that www-data is not in, and which every Debian has.
BACKUP = grp.getgrgid(34).gr_name
VOLUME = '521752a6-acf6-4b2d-bc7a-119f9148cd8c'
NAME = f'/mnt/share/volume-{VOLUME}.s'
APPARMOR = (
    'audit: type=1400 audit(1700000000.1:45): apparmor="DENIED" '
    'operation="open" profile="libvirt-5f0c3a0e-98ae-4c47-9bd1-7ac4ba4b8c52" '
    f'name="{NAME}" pid=812 comm="qemu-system-x86" requested_mask="rw" '
    'denied_mask="rw" fsuid=64055 ouid=0\n'
)
SELINUX = (
    'type=AVC msg=audit(1700000000.1:45): avc:  denied  { read write } for  '
    f'pid=812 comm="qemu-kvm" name="volume-{VOLUME}.s" dev="0:45" ino=7 '
    'scontext=system_u:system_r:svirt_t:s0:c1,c2 '
    'tcontext=system_u:object_r:nfs_t:s0 tclass=file permissive=0\n'
)
# That of a file which was looked up already.
SELINUX_OPEN = SELINUX.replace('read write', 'open').replace(
    f'name="volume-{VOLUME}.s"', f'path="{NAME}"'
)
CINDER = """
[DEFAULT]
enabled_backends = nfs, lvm
nfs_snapshot_support = true
[nfs]
volume_driver = cinder.volume.drivers.nfs.NfsDriver
{}
[other]
volume_driver = cinder.volume.drivers.nfs.NfsDriver
[lvm]
volume_driver = cinder.volume.drivers.lvm.LVMVolumeDriver
"""


def test_what_somebody_else_wrote_is_a_part_of_one_line() -> None:
    found = finding.wrong('x', 'a\n\x1b[2JOK      all: is well', 'b\rc')
    assert str(found) == 'WRONG   x: a  [2JOK      all: is well -> b c'


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ('nas_secure_file_operations = false', 'nfs_snapshot_support is fal'),
        ('nfs_snapshot_support = true', 'nas_secure_file_operations is auto'),
        (
            'nfs_snapshot_support = true\nnas_secure_file_operations = true',
            'nas_secure_file_operations is true',
        ),
    ],
)
def test_a_cinder_that_makes_no_snapshots(
    tmp_path: pathlib.Path, options: str, words: str
) -> None:
    path = tmp_path / 'cinder.conf'
    path.write_text(CINDER.format(options))
    (found,) = files.check_cinder(path)
    assert found.state == 'wrong'
    assert words in found.says
    # What it says to write mends it.
    line = found.mend.partition(': ')[2]
    name = line.partition(' = ')[0]
    kept = [one for one in options.split('\n') if not one.startswith(name)]
    path.write_text(CINDER.format('\n'.join([*kept, line])))
    (found,) = files.check_cinder(path)
    assert (found.state, found.says[:1]) == ('ok', '1')


def test_a_file_that_is_none(tmp_path: pathlib.Path) -> None:
    for check in (files.check_cinder, files.check_paste):
        (found,) = check(tmp_path / 'nothing')
        assert found.state == 'wrong'


@pytest.mark.parametrize(
    ('options', 'content', 'state', 'words'),
    [
        ('policy_file = nothere.yaml', None, 'wrong', 'not there'),
        ('', '"rule": "rule:no', 'wrong', 'policy.yaml cannot be used'),
        ('', '{}', 'ok', '/policy.yaml'),
        ('', None, 'ok', 'by default'),
    ],
)
def test_the_policy_of_the_api(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: str,
    content: str | None,
    state: str,
    words: str,
) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    path = tmp_path / 'nova_ext.conf'
    text = (
        f'[nova_ext_agent]\nsocket = {tmp_path}/none\n'
        'libvirt_uri = test:///default\n'
        '[nova_ext]\nauth_strategy = noauth\ncompute_api = {}\n'
    )
    path.write_text(f'{text.format("libvirt")}[oslo_policy]\n{options}\n')
    if content:
        (tmp_path / 'policy.yaml').write_text(content)
    command = ['--config-file', str(path), 'doctor', '--json']
    manage.main(command)
    found = {one['subject']: one for one in json.loads(capsys.readouterr()[0])}
    assert found['policy']['state'] == state
    assert words in found['policy']['says']
    assert bool(found['policy']['mend']) is (state == 'wrong')
    # That of Nova is asked where it is mounted there.
    path.write_text(f'{text.format("nova")}[oslo_policy]\n{options}\n')
    manage.main(command)
    assert '"policy"' not in capsys.readouterr()[0]


@pytest.mark.parametrize(
    ('text', 'subject', 'says', 'mend'),
    [
        (
            '[nova_ext]\nport = abc',
            '[nova_ext] port',
            "'abc'",
            'a value that it takes',
        ),
        (
            '[nova_ext_agent]\nsocket = $nothere/x',
            '[nova_ext_agent] socket',
            'nothere',
            'a value that it takes',
        ),
        (
            '[nova_ext]\ncompute_api = abacus',
            '[nova_ext] compute_api',
            'abacus',
            'libvirt, nova, rpc',
        ),
        (
            '[nova_ext_agent]\nreport = cinder',
            '[nova_ext_agent] report',
            'no such option',
            'write reports',
        ),
        (
            '[nova_ext]\nxyzzy = 1',
            '[nova_ext] xyzzy',
            'no such option',
            'take it out',
        ),
        (
            '[nova_ext_agents]\nreports = cinder',
            '[nova_ext_agents]',
            'no such group',
            'write [nova_ext_agent]',
        ),
        ('[nova_ext_cinder]\nusername = x', '', '', ''),
        ('[another]\nreport = x', '', '', ''),
    ],
)
def test_an_option_that_is_none(
    tmp_path: pathlib.Path, text: str, subject: str, says: str, mend: str
) -> None:
    path = tmp_path / 'nova_ext.conf'
    path.write_text(text)
    conf = cfg.ConfigOpts()
    nova_ext_conf.register_opts(conf)
    config.read(conf, [], [str(path)])
    findings = list(settings.check(conf))
    assert len(findings) == bool(subject)
    for found in findings:
        assert (found.subject, found.state) == (subject, 'wrong')
        assert says in found.says
        assert mend in found.mend
        assert 'LocationInfo' not in str(found)


def test_what_a_wrong_value_would_break_is_not_looked_at(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / 'nova_ext.conf'
    path.write_text('[nova_ext]\nauth_strategy = foo\nport = abc\n')
    assert manage.main(['--config-file', str(path), 'doctor']) == 1
    shown = capsys.readouterr()
    assert shown.err == ''
    assert [line.partition(': ')[0] for line in shown.out.splitlines()] == [
        'WRONG   [nova_ext] auth_strategy',
        'WRONG   [nova_ext] port',
    ]


def test_a_filter_at_the_wrong_place(tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'api-paste.ini'
    text = """
[composite:openstack_compute_api_v21]
keystone = {} osapi_compute_app_v21
[filter:keystonecontext]
paste.filter_factory = nova.api.auth:NovaKeystoneContext.factory
[filter:ours]
use = egg:nova_ext#nova
[app:osapi_compute_app_v21]
paste.app_factory = nova.api.openstack.compute:APIRouterV21.factory
"""
    path.write_text(text.format('ours keystonecontext'))
    (found,) = files.check_paste(path)
    assert found.state == 'wrong'
    assert 'keystonecontext ours osapi' in found.mend
    path.write_text(text.format('keystonecontext ours'))
    (found,) = files.check_paste(path)
    assert found.state == 'ok'


@pytest.mark.parametrize(
    ('line', 'mend'),
    [
        (APPARMOR, '"/mnt/share/** rwk,"'),
        (SELINUX, 'virt_use_nfs'),
        (SELINUX_OPEN, 'virt_use_nfs'),
    ],
)
def test_a_denial_is_seen(
    tmp_path: pathlib.Path, line: str, mend: str
) -> None:
    log = tmp_path / 'audit.log'
    log.write_text(f'something\n{line}')
    (found,) = denials.check([VOLUME], [str(log)])
    assert found.state == 'wrong'
    assert mend in found.mend
    for volumes, logs in (
        ([], [str(log)]),
        (['another'], [str(log)]),
    ):
        (found,) = denials.check(volumes, logs)
        assert found.state == 'ok'
    (found,) = denials.check([VOLUME], ['/nowhere'])
    assert found.state == 'unknown'
    assert denials.check([VOLUME], ['/nowhere', str(log)])[0].state == 'wrong'


def test_a_share_that_a_user_cannot_open(tmp_path: pathlib.Path) -> None:
    # A plain user can only try as itself, and root as anybody.
    me = (65534, 65534) if os.getuid() == 0 else (os.getuid(), os.getgid())
    who = access.member(*me)
    tmp_path.parents[1].chmod(0o755)
    tmp_path.parent.chmod(0o755)
    tmp_path.chmod(0o755)
    names = {
        str(tmp_path / name): name == 'active' for name in ('active', 'b')
    }
    for path in names:
        pathlib.Path(path).touch()
        os.chown(path, *me)
        os.chmod(path, 0o400)
    found = access.check_files('share', names, who)
    assert (found.state, 'active' in found.says) == ('wrong', True)
    assert '/b' not in found.says
    os.chmod(tmp_path / 'active', 0o600)
    assert access.check_files('share', names, who).state == 'ok'
    os.chmod(tmp_path / 'b', 0)
    found = access.check_files('share', names, who)
    assert '/b' in found.says
    assert found.mend == f'chmod u+r {tmp_path}/b'


def test_what_would_let_a_user_in_is_named(tmp_path: pathlib.Path) -> None:
    # Of www-data, who is on every Debian.
    who = access.Who(33, (33,))
    file = tmp_path / 'file'
    file.touch()
    status = os.stat_result((0o750, 0, 0, 0, 0, 34, *[0] * 4))
    with mock.patch.object(os, 'stat', autospec=True, return_value=status):
        assert list(access._mends('/a/b', True, who))[-2:] == [
            'chmod g+w /a/b',
            f'usermod -aG {BACKUP} www-data',
        ]
        assert list(access._mends('/a/b', False, who))[-1:] == [
            f'usermod -aG {BACKUP} www-data'
        ]
        assert list(access._mends('/a/b', True, access.Who(0, (0,)))) == []
    assert list(access._mends(f'{file}/x', False, who))[-1].startswith(
        'look at it: '
    )


def test_nobody_is_put_into_the_group_of_root() -> None:
    modes = {
        '/a': (stat.S_IFDIR | 0o700, 0),
        '/a/b': (stat.S_IFREG | 0o640, 0),
        '/c': (stat.S_IFDIR | 0o2750, 34),
        '/c/d': (stat.S_IFREG | 0o600, 0),
    }

    def found(path: str) -> os.stat_result:
        mode, gid = modes.get(path, (stat.S_IFDIR | 0o755, 0))
        return os.stat_result((mode, 0, 0, 0, 0, gid, *[0] * 4))

    who = access.Who(33, (33,))
    with mock.patch.object(os, 'stat', autospec=True, side_effect=found):
        of_root = list(access._mends('/a/b', False, who))
        of_backup = list(access._mends('/c/d', False, who))
    assert of_root == [
        *('groupadd -rf nova_ext_share', 'chgrp nova_ext_share /a'),
        *('chmod g+x /a', 'usermod -aG nova_ext_share www-data'),
        *('groupadd -rf nova_ext_share', 'chgrp nova_ext_share /a /a/b'),
        *('chmod g+s /a', 'usermod -aG nova_ext_share www-data'),
    ]
    # What has a group already keeps it.
    assert of_backup == [
        f'usermod -aG {BACKUP} www-data',
        *(f'chgrp {BACKUP} /c /c/d', 'chmod g+s /c', 'chmod g+r /c/d'),
        f'usermod -aG {BACKUP} www-data',
    ]


OF_ROOT = (
    'have {} be of the group libvirt (unix_sock_group in libvirtd.conf or '
    'virtqemud.conf; SocketGroup where systemd makes the socket); usermod -aG '
    'libvirt www-data; then restart the agent'
)


@pytest.mark.parametrize(
    ('gid', 'mend'),
    [
        (33, ''),
        (34, f'usermod -aG {BACKUP} www-data; then restart the agent'),
        (0, OF_ROOT),
    ]
    if os.getuid() == 0
    # Who is not root can be nobody else.
    else [(os.getgid(), '')],
)
def test_a_socket_that_a_user_may_not_use(
    tmp_path: pathlib.Path, gid: int, mend: str
) -> None:
    me = (33, 33) if os.getuid() == 0 else (os.getuid(), os.getgid())
    who = access.member(*me)
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        path = f'{directory}/socket'
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen()
            os.chown(path, -1, gid)
            os.chmod(path, 0o660)
            found = access.check_call('it', lambda: _connect(path), path, who)
    assert found.state == ('wrong' if mend else 'ok')
    assert found.mend == mend.format(path)
    assert ('Permission denied' in found.says) is bool(mend)


def test_a_plain_user_asks_as_it_is(tmp_path: pathlib.Path) -> None:
    with (
        mock.patch.object(os, 'getuid', autospec=True, return_value=1),
        mock.patch.object(
            os, 'setgroups', autospec=True, side_effect=PermissionError
        ),
    ):
        found = access.check_call(
            'it', lambda: None, str(tmp_path), access.Who(1, (1,))
        )
    assert found.state == 'ok'


@pytest.mark.parametrize(
    ('content', 'states'),
    [
        ('use = egg:nova_ext#nova', ['wrong']),
        ('paste.filter_factory = nova_ext.api.nova:filter_factory', ['wrong']),
        ('use = egg:another', []),
        (None, []),
    ],
)
def test_the_paste_file_of_this_host_is_looked_at_if_we_are_in_it(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    states: list[str],
) -> None:
    paste_file, path = tmp_path / 'api-paste.ini', tmp_path / 'nova_ext.conf'
    if content is None:
        paste_file.mkdir()
    else:
        paste_file.write_text(f'[filter:x]\n{content}\n')
    monkeypatch.setattr(files, 'PASTE', paste_file)
    path.write_text('[nova_ext]\nauth_strategy = noauth\ncompute_api = nova\n')
    manage.main(['--config-file', str(path), 'doctor', '--json'])
    found = json.loads(capsys.readouterr().out)
    assert [
        one['state'] for one in found if one['subject'] == str(paste_file)
    ] == states


def test_a_socket_of_root_that_is_for_all_and_refuses() -> None:
    me = (33, 33) if os.getuid() == 0 else (os.getuid(), os.getgid())
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        path = f'{directory}/socket'
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            os.chmod(path, 0o666)
            # As polkit has it, which nothing listens for here.
            found = access.check_call(
                'it', lambda: _connect(path), path, access.member(*me)
            )
            group = os.stat(path).st_gid
    assert found.state == 'wrong'
    assert ('usermod -aG libvirt ' in found.mend) is (group == 0)


def _connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)


def test_a_user_whom_only_root_could_be(tmp_path: pathlib.Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'getuid', lambda: 12345)
        who = access.Who(1, (1,))
        found = access.check_files('share', {str(tmp_path): True}, who)
    assert (found.state, found.mend) == ('unknown', 'run this as root')


@pytest.mark.parametrize(
    ('clock', 'words'),
    [
        *((1000.0, ''), (999.0, ''), (1004.0, ''), (1030.0, '')),
        *((1091.0, '61 s ahead'), (992.0, '8 s behind')),
    ],
)
def test_a_clock_that_differs(clock: float, words: str) -> None:
    # However long the answer took.
    found = finding.skew('Cinder', clock, 1000.0, 1030.0)
    assert [words in one.says and one.state for one in found] == (
        ['wrong'] if words else []
    )


def test_a_cinder_that_cannot_be_asked_is_no_broker() -> None:
    conf = private_conf('fake://')
    cinder.register_opts(conf)
    conf.set_override('auth_type', 'abacus', 'nova_ext_cinder')
    (found,) = agents.check_bus(conf, ['host'])
    assert (found.subject, found.state) == ('broker', 'unknown')
    (found,) = reports.check_cinder(conf)
    assert found.state == 'wrong'
    _, (found,) = reports.hosts(conf, 1)
    assert found.state == 'unknown'
    assert 'abacus' in found.says
