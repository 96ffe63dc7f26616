# SPDX-License-Identifier: Apache-2.0
"""Chains as libvirt, the headers and QEMU's locks tell them."""

from __future__ import annotations

import os
import pathlib
from unittest import mock

import pytest

from nova_ext.virt import chain, image
from tests.unit.virt import qcow2

VOLUME = '4a3cb1b4-6b5f-4a51-9f2b-0f0a3b1d3f5e'
SHARE = '/var/lib/nova/mnt/5a1e'

# As libvirt 9 writes it for a running guest after one snapshot.
RUNNING = f"""
<domain type='kvm' id='3'>
  <name>instance-00000001</name>
  <uuid>8a0c7b0e-3c1e-4b8e-a0f5-3a1f8f6a2e10</uuid>
  <metadata>
    <nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>
      <nova:name>server</nova:name>
    </nova:instance>
  </metadata>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' discard='unmap'/>
      <source file='/var/lib/nova/instances/8a/disk' index='3'/>
      <backingStore type='file' index='4'>
        <format type='raw'/>
        <source file='/var/lib/nova/instances/_base/0a'/>
        <backingStore/>
      </backingStore>
      <target dev='vda' bus='virtio'/>
      <alias name='virtio-disk0'/>
    </disk>
    <disk type='file' device='disk' snapshot='external'>
      <driver name='qemu' type='qcow2' cache='none' io='native'/>
      <source file='{SHARE}/volume-{VOLUME}.s1' index='8'/>
      <backingStore type='file' index='2'>
        <format type='raw'/>
        <source file='{SHARE}/volume-{VOLUME}'/>
        <backingStore/>
      </backingStore>
      <target dev='vdb' bus='virtio'/>
      <serial>{VOLUME}</serial>
      <alias name='ua-{VOLUME}'/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw'/>
      <source protocol='rbd' name='volumes/volume-2' index='1'>
        <host name='192.0.2.1' port='6789'/>
      </source>
      <target dev='vdc' bus='virtio'/>
      <serial>rbd-volume</serial>
    </disk>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw'/>
      <source dev='/dev/sdb' index='5'/>
      <backingStore/>
      <target dev='vdd' bus='virtio'/>
      <serial>iscsi-volume</serial>
    </disk>
    <disk type='file' device='cdrom'>
      <driver name='qemu' type='raw'/>
      <target dev='sda' bus='sata'/>
      <readonly/>
    </disk>
    <channel type='unix'>
      <source mode='bind' path='/run/agent.sock'/>
      <target type='virtio' name='org.qemu.guest_agent.0' state='{{agent}}'/>
    </channel>
    <channel type='spicevmc'>
      <target type='virtio' name='com.redhat.spice.0' state='connected'/>
    </channel>
  </devices>
</domain>
"""

# A definition at rest names no layer below, or ends the list.
SHUT_OFF = f"""
<domain type='kvm'>
  <name>instance-00000002</name>
  <uuid>b9c0a8a2-8b1c-4b8e-8f8e-9a2f8f6a2e11</uuid>
  <devices>
    <disk type='file' device='disk'>
      <source file='{SHARE}/volume-{VOLUME}'/>
      <target dev='vdb' bus='virtio'/>
      <serial>{VOLUME}</serial>
    </disk>
  </devices>
</domain>
"""


def _disk(xml: str, target: str = 'vdb') -> chain.Disk:
    (found,) = (d for d in chain.parse(xml).disks if d.target == target)
    return found


def _with(inside: str, disk_type: str = 'file', driver: str = 'raw') -> str:
    return (
        '<domain><uuid>u</uuid><name>n</name><devices>'
        f"<disk type='{disk_type}'><driver name='qemu' type='{driver}'/>"
        f"{inside}<target dev='vdb'/></disk></devices></domain>"
    )


def test_a_running_guest_after_a_snapshot() -> None:
    domain = chain.parse(RUNNING.format(agent='connected'))
    assert domain.uuid == '8a0c7b0e-3c1e-4b8e-a0f5-3a1f8f6a2e10'
    assert domain.name == 'instance-00000001'
    assert domain.number == 3
    assert [disk.target for disk in domain.disks] == [
        *('vda', 'vdb', 'vdc', 'vdd', 'sda')
    ]
    assert _disk(RUNNING) == chain.Disk(
        target='vdb',
        serial=VOLUME,
        type='file',
        layers=(
            chain.Layer(f'{SHARE}/volume-{VOLUME}.s1', 'qcow2'),
            chain.Layer(f'{SHARE}/volume-{VOLUME}', 'raw'),
        ),
        readonly=False,
        encrypted=False,
        busy=False,
    )


def test_a_guest_of_nova_that_has_a_rescue_disk_is_rescued() -> None:
    running = RUNNING.format(agent='connected')
    rescued = running.replace('instances/8a/disk', 'instances/8a/disk.rescue')
    assert rescued != running
    assert not chain.parse(running).rescued
    assert chain.parse(rescued).rescued
    assert not chain.parse(rescued.replace('openstack.org', 'x.org')).rescued


def test_a_disk_without_a_serial_has_none() -> None:
    assert _disk(RUNNING, 'vda').serial is None


@pytest.mark.parametrize(
    ('target', 'disk_type'),
    [('vdc', 'network'), ('vdd', 'block'), ('sda', 'file')],
)
def test_what_is_not_made_of_files_has_no_layers(
    target: str, disk_type: str
) -> None:
    disk = _disk(RUNNING, target)
    assert (disk.type, disk.layers) == (disk_type, ())


def test_a_guest_that_is_off_may_name_the_active_layer_only() -> None:
    domain = chain.parse(SHUT_OFF)
    assert (domain.agent, domain.number) == (None, None)
    (disk,) = domain.disks
    assert disk.layers == (chain.Layer(f'{SHARE}/volume-{VOLUME}', 'raw'),)


def test_a_chain_of_files_ends_where_something_else_begins() -> None:
    disk = _disk(
        _with(
            "<source file='/a'/><backingStore type='block'>"
            "<format type='raw'/><source dev='/dev/sdb'/></backingStore>",
            driver='qcow2',
        )
    )
    assert disk.layers == (chain.Layer('/a', 'qcow2'),)


def test_a_layer_of_unsaid_format_has_no_format() -> None:
    disk = _disk(
        _with(
            "<source file='/a'/><backingStore type='file'>"
            "<source file='/b'/></backingStore>",
            driver='qcow2',
        )
    )
    assert disk.layers[1] == chain.Layer('/b', '')


@pytest.mark.parametrize(
    ('inside', 'what'),
    [
        ("<source file='/a'/><readonly/>", 'readonly'),
        ("<source file='/a'/><encryption format='luks'/>", 'encrypted'),
        (
            "<source file='/a'><encryption format='luks'><secret/>"
            '</encryption></source>',
            'encrypted',
        ),
        ("<source file='/a'/><mirror type='file' job='copy'/>", 'busy'),
        ("<source file='/a'/><shareable/>", 'special'),
        ("<source file='/a'/><transient/>", 'special'),
        ("<source file='/a'><slices/></source>", 'special'),
        (
            "<source file='/a'/><backingStore type='file'><source file='/b'>"
            '<slices/></source></backingStore>',
            'special',
        ),
    ],
)
def test_what_forbids_a_snapshot_is_seen(inside: str, what: str) -> None:
    disk = _disk(_with(inside))
    said = {
        name: bool(getattr(disk, name))
        for name in ('readonly', 'encrypted', 'busy', 'special')
    }
    assert said == {name: name == what for name in said}


@pytest.mark.parametrize('state', ['connected', 'disconnected'])
def test_the_state_of_the_guest_agent(state: str) -> None:
    assert chain.parse(RUNNING.format(agent=state)).agent == state


def test_another_channel_is_no_guest_agent() -> None:
    other = RUNNING.replace('org.qemu.guest_agent.0', 'org.other.0')
    assert chain.parse(other).agent is None


def test_of_a_guest_that_is_off_no_agent_is_connected() -> None:
    stored = RUNNING.replace(" state='{agent}'", '')
    assert chain.parse(stored).agent == 'disconnected'


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('volume-1', '/share/volume-1'),
        ('./volume-1', '/share/./volume-1'),
        ('/share/volume-1', '/share/volume-1'),
        ('sub/../volume-1', '/share/sub/../volume-1'),
        ('sub/volume:1', '/share/sub/volume:1'),
        ('with blank', '/share/with blank'),
        # The kernel, which QEMU leaves it to, follows links before `..`.
        ('link/../volume-1', '/share/link/../volume-1'),
    ],
)
def test_a_backing_name_leads_where_qemu_would_go(
    name: str, expected: str
) -> None:
    assert chain.backing_path('/share/overlay', name, '/share') == expected


@pytest.mark.parametrize(
    'name',
    [
        'json:{"driver":"file","filename":"/share/volume-1"}',
        'nbd://192.0.2.1/x',
        'file:volume-1',
        'ssh:x',
        'volume\n1',
        'volume\x001',
        'volume\udcff',
        '\x1b[2J',
    ],
)
def test_a_backing_name_that_is_no_plain_file_is_refused(name: str) -> None:
    with pytest.raises(image.NotAnImage, match='is not a plain file') as error:
        chain.backing_path('/share/overlay', name, '/share')
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    'name', ['/etc/shadow', '../other/volume-1', '/share2/volume-1', '/', '..']
)
def test_a_backing_name_that_leads_out_is_refused(name: str) -> None:
    with pytest.raises(image.NotAnImage, match='leads out of /share'):
        chain.backing_path('/share/overlay', name, '/share')


def _layer(path: pathlib.Path, layer_format: str = 'qcow2') -> chain.Layer:
    return chain.Layer(str(path), layer_format)


@pytest.fixture
def stack(tmp_path: pathlib.Path) -> list[pathlib.Path]:
    """base (raw) <- middle <- top, top first."""
    base, middle, top = (tmp_path / n for n in ('base', 'middle', 'top'))
    base.write_bytes(bytes(4096))
    qcow2.make(middle, backing=b'base')
    qcow2.make(top, backing=b'middle', backing_format=b'qcow2')
    return [top, middle, base]


def test_headers_tell_the_whole_chain(stack: list[pathlib.Path]) -> None:
    assert chain.headers(_layer(stack[0])) == tuple(map(str, stack))


def test_a_raw_image_is_never_read_as_a_header(tmp_path: pathlib.Path) -> None:
    # A guest can write a header into its raw disk, naming any file.
    qcow2.make(tmp_path / 'base', backing=b'/etc/shadow')
    active = qcow2.make(tmp_path / 'active', backing=b'base')
    base = str(tmp_path / 'base')
    assert chain.headers(_layer(active)) == (str(active), base)
    assert chain.headers(_layer(tmp_path / 'base', 'raw')) == (base,)


def test_a_layer_of_unsaid_format_ends_the_chain(
    tmp_path: pathlib.Path,
) -> None:
    qcow2.make(tmp_path / 'base', backing=b'/etc/shadow')
    active = qcow2.make(
        tmp_path / 'active', backing=b'base', backing_format=None
    )
    assert chain.headers(_layer(active)) == (
        str(active),
        str(tmp_path / 'base'),
    )


def test_a_loop_of_headers_has_an_end(tmp_path: pathlib.Path) -> None:
    qcow2.make(tmp_path / 'a', backing=b'b', backing_format=b'qcow2')
    qcow2.make(tmp_path / 'b', backing=b'a', backing_format=b'qcow2')
    with pytest.raises(image.NotAnImage, match='no end'):
        chain.headers(_layer(tmp_path / 'a'))


def test_a_link_leads_to_no_other_directory(
    stack: list[pathlib.Path], tmp_path: pathlib.Path
) -> None:
    share, elsewhere = tmp_path / 'share', tmp_path / 'elsewhere'
    for directory in (share, elsewhere):
        directory.mkdir()
    for path in stack:
        path.rename(share / path.name)
    for name in ('base', 'middle', 'top'):
        (share / name).rename(elsewhere / name)
        (share / name).symlink_to(elsewhere / name)
        with pytest.raises(image.NotAnImage, match='leads out of'):
            chain.headers(_layer(share / 'top'))
        (share / name).unlink()
        (elsewhere / name).rename(share / name)
    (share / 'base').rename(share / 'kept')
    (share / 'base').symlink_to('kept')
    assert len(chain.headers(_layer(share / 'top'))) == 3


def test_a_chain_as_deep_as_libvirt_s_is_read_and_no_deeper(
    tmp_path: pathlib.Path,
) -> None:
    qcow2.make(tmp_path / '0', backing=b'')
    for number in range(1, 201):
        qcow2.make(
            tmp_path / str(number),
            backing=b'%d' % (number - 1),
            backing_format=b'qcow2',
        )
    assert len(chain.headers(_layer(tmp_path / '199'))) == 200
    with pytest.raises(image.NotAnImage, match='more than 200 layers'):
        chain.headers(_layer(tmp_path / '200'))


def test_no_header_makes_us_read_more_than_headers(
    tmp_path: pathlib.Path,
) -> None:
    entries = (32 << 20) // 8
    names = [f'layer-{n}' for n in range(8)]
    for below, name in zip(['base', *names], names, strict=False):
        qcow2.make(
            tmp_path / name,
            backing=below.encode(),
            backing_format=b'raw' if below == 'base' else b'qcow2',
            l1_entries=entries,
        )
        os.truncate(tmp_path / name, qcow2.L1_OFFSET + entries * 8)
    (tmp_path / 'base').touch()
    read, really = [], os.pread

    def pread(*arguments: int) -> bytes:
        read.append(really(*arguments))
        return read[-1]

    with mock.patch.object(os, 'pread', pread):
        found = chain.headers(chain.Layer(f'{tmp_path}/{names[-1]}', 'qcow2'))
    assert len(found) == len(names) + 1
    assert sum(map(len, read)) < len(names) << 13


def test_no_layer_may_have_its_data_elsewhere(
    stack: list[pathlib.Path],
) -> None:
    qcow2.make(stack[1], backing=b'base', features=image.DATA_FILE)
    with pytest.raises(image.NotAnImage, match='an external data file'):
        chain.headers(_layer(stack[0]))


def test_a_chain_with_a_hole_is_no_chain(stack: list[pathlib.Path]) -> None:
    stack[1].unlink()
    with pytest.raises(FileNotFoundError):
        chain.headers(_layer(stack[0]))


def _observed(*layers: chain.Layer) -> chain.Disk:
    return chain.Disk('vdb', VOLUME, 'file', layers, False, False, False)


def _layers(stack: list[pathlib.Path]) -> tuple[chain.Layer, ...]:
    top, middle, base = stack
    return _layer(top), _layer(middle), _layer(base, 'raw')


def test_libvirt_and_the_headers_agree(stack: list[pathlib.Path]) -> None:
    names = tuple(map(str, stack))
    seen = chain.observe(_observed(*_layers(stack)), '/not/there')
    assert (seen.domain, seen.headers, seen.agree) == (names, names, True)
    nothing = image.Locks(False, False)
    assert seen.open == dict.fromkeys((*names, '/not/there'), nothing)


def test_libvirt_and_the_headers_disagree(stack: list[pathlib.Path]) -> None:
    top, middle, base = _layers(stack)
    for named in ((top, base), (top,), (top, middle), (top, base, middle)):
        assert not chain.observe(_observed(*named)).agree
    qcow2.make(stack[0], backing=b'base')
    assert not chain.observe(_observed(top, middle, base)).agree


def test_names_may_differ_where_the_files_are_the_same(
    stack: list[pathlib.Path], tmp_path: pathlib.Path
) -> None:
    (tmp_path / 'mount').symlink_to('.')
    qcow2.make(
        stack[0],
        backing=os.fsencode(tmp_path / 'mount' / 'middle'),
        backing_format=b'qcow2',
    )
    seen = chain.observe(_observed(*_layers(stack)))
    assert seen.headers != seen.domain
    assert seen.agree
    assert chain.same_files(seen.headers, seen.domain)


def test_other_files_of_the_same_names_are_not_the_same(
    stack: list[pathlib.Path], tmp_path: pathlib.Path
) -> None:
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    for path in stack:
        (elsewhere / path.name).write_bytes(path.read_bytes())
    layers = (_layer(elsewhere / path.name) for path in stack)
    assert not chain.observe(_observed(_layer(stack[0]), *layers)).agree


def test_a_definition_whose_file_is_gone_does_not_agree(
    stack: list[pathlib.Path],
) -> None:
    top, _, base = _layers(stack)
    gone = chain.Layer('/not/there', 'raw')
    assert not chain.observe(_observed(top, gone, base)).agree


@pytest.mark.parametrize(
    ('said', 'found'), [('raw', 'qcow2'), ('qcow2', 'raw')]
)
def test_two_formats_of_one_file_are_refused(
    tmp_path: pathlib.Path, said: str, found: str
) -> None:
    qcow2.make(tmp_path / 'base', backing=b'')
    active = qcow2.make(
        tmp_path / 'active', backing=b'base', backing_format=found.encode()
    )
    disk = _observed(_layer(active), _layer(tmp_path / 'base', said))
    with pytest.raises(image.NotAnImage, match=f'as {said}, and the header'):
        chain.observe(disk)
    disk = _observed(_layer(active), _layer(tmp_path / 'base', found))
    assert chain.observe(disk).agree


def test_a_header_without_the_format_of_what_is_below_is_vague(
    stack: list[pathlib.Path],
) -> None:
    assert not chain.observe(_observed(*_layers(stack))).vague
    qcow2.make(stack[1], backing=b'base', backing_format=None)
    assert chain.observe(_observed(*_layers(stack))).vague


@pytest.mark.parametrize(
    'xml',
    [
        '',
        'x',
        '<domain>',
        '<domain><uuid>&none;</uuid></domain>',
        '<!DOCTYPE d [<!ENTITY a "1">]><domain>&b;</domain>',
        '<domain>\x00</domain>',
        # A tenth of a kilobyte that would be three gigabytes.
        '<!DOCTYPE d [<!ENTITY a0 "lol">'
        + ''.join(
            f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10)
        )
        + ']><domain><uuid>&a9;</uuid></domain>',
    ],
)
def test_what_is_no_definition_is_refused(xml: str) -> None:
    with pytest.raises(ValueError, match='not XML'):
        chain.parse(xml)


def test_no_file_is_read_into_a_definition(tmp_path: pathlib.Path) -> None:
    secret = tmp_path / 'secret'
    secret.write_text('secret')
    with pytest.raises(ValueError, match='not XML'):
        chain.parse(
            f'<!DOCTYPE d [<!ENTITY x SYSTEM "file://{secret}">]>'
            '<domain><uuid>&x;</uuid></domain>'
        )
