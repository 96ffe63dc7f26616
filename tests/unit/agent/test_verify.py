# SPDX-License-Identifier: Apache-2.0
"""Of three witnesses all must agree before a chain is said to be anything."""

from __future__ import annotations

import itertools
from dataclasses import astuple
from typing import Any

import pytest

from nova_ext.agent import verify
from nova_ext.agent.job import Job, Kind
from nova_ext.agent.transition import Chain
from nova_ext.virt import chain, image
from tests.unit.agent import fakes, jobs

OFF = image.Locks(False, False)
READ = image.Locks(True, False)
WRITE = image.Locks(True, True)

V, B, S = '/share/v', '/share/base', '/share/v.s'
S1, S2 = '/share/v.s1', '/share/v.s2'


def _seen(
    headers: tuple[str, ...],
    domain: tuple[str, ...] | None = None,
    files: dict[str, Any] | None = None,
    **locks: image.Locks,
) -> chain.Seen:
    paths = {'v': V, 'base': B, 's': S, 's1': S1, 's2': S2}
    found = {paths[name]: lock for name, lock in locks.items()}
    named = headers if domain is None else domain
    all_paths = {*headers, *named, *found}
    return chain.Seen(
        named, headers, {p: p for p in all_paths} | (files or {}), found
    )


CREATE = jobs.create()
BEFORE, AFTER = CREATE.before, CREATE.after

VERDICTS = [
    # The two good ones.
    (_seen(BEFORE, v=WRITE, base=READ, s=OFF), Chain.BEFORE),
    (_seen(AFTER, s=WRITE, v=READ, base=READ), Chain.AFTER),
    # libvirt says otherwise than the headers.
    (_seen(AFTER, BEFORE, s=WRITE, v=READ, base=READ), Chain.OTHER),
    (_seen(BEFORE, AFTER, v=WRITE, base=READ, s=OFF), Chain.OTHER),
    (_seen(AFTER, (S, V), s=WRITE, v=READ, base=READ), Chain.OTHER),
    # QEMU has something else open than both say.
    (_seen(AFTER, s=OFF, v=WRITE, base=READ), Chain.OTHER),
    (_seen(BEFORE, v=READ, base=READ, s=WRITE), Chain.OTHER),
    # It was opened for a switch that was not made.
    (_seen(BEFORE, v=WRITE, base=READ, s=READ), Chain.BEFORE),
    (_seen(BEFORE, v=WRITE, base=READ, s=WRITE), Chain.BEFORE),
    (_seen(AFTER, s=WRITE, v=WRITE, base=READ), Chain.OTHER),
    (_seen(AFTER, s=WRITE, v=READ, base=WRITE), Chain.OTHER),
    # It does not have open what it must have.
    (_seen(AFTER, s=WRITE, v=OFF, base=READ), Chain.OTHER),
    (_seen(AFTER, s=WRITE, v=READ, base=OFF), Chain.OTHER),
    (_seen(AFTER, s=READ, v=READ, base=READ), Chain.OTHER),
    (_seen(AFTER, s=OFF, v=OFF, base=OFF), Chain.OTHER),
    (_seen(BEFORE, v=OFF, base=OFF, s=OFF), Chain.OTHER),
    (_seen(BEFORE, v=READ, base=READ, s=OFF), Chain.OTHER),
    # Neither chain.
    (_seen((V,), v=WRITE, base=OFF, s=OFF), Chain.OTHER),
    (_seen((S, B), s=WRITE, v=OFF, base=READ), Chain.OTHER),
]


@pytest.mark.parametrize(('seen', 'expected'), VERDICTS)
def test_the_verdict_on_a_create(seen: chain.Seen, expected: Chain) -> None:
    assert verify.verdict(CREATE, seen) is expected


@pytest.mark.parametrize(
    'locks', list(itertools.product((OFF, READ, WRITE), repeat=3))
)
@pytest.mark.parametrize('headers', [BEFORE, AFTER])
def test_no_locks_but_the_right_ones_prove_anything(
    headers: tuple[str, ...], locks: tuple[image.Locks, ...]
) -> None:
    s, v, base = locks
    expected = {
        (AFTER, (WRITE, READ, READ)): Chain.AFTER,
        **{
            (BEFORE, (new, WRITE, READ)): Chain.BEFORE
            for new in (OFF, READ, WRITE)
        },
    }.get((headers, locks), Chain.OTHER)
    seen = _seen(headers, s=s, v=v, base=base)
    assert verify.verdict(CREATE, seen) is expected


COMMIT = jobs.delete()
PULL = jobs.delete(kind=Kind.PULL)


@pytest.mark.parametrize('job', [COMMIT, PULL])
@pytest.mark.parametrize(
    ('seen', 'expected'),
    [
        (_seen((S2, S1, V), s2=WRITE, s1=READ, v=READ), Chain.BEFORE),
        (_seen((S2, V), s2=WRITE, s1=OFF, v=READ), Chain.AFTER),
        # Merged by all accounts, and QEMU still has the doomed file.
        (_seen((S2, V), s2=WRITE, s1=READ, v=READ), Chain.OTHER),
        # While it is committed into, the base is written to.
        (_seen((S2, S1, V), s2=WRITE, s1=READ, v=WRITE), Chain.OTHER),
        (_seen((S2, V), s2=WRITE, s1=OFF, v=WRITE), Chain.OTHER),
        # The merge is done and a header does not say so yet.
        (_seen((S2, S1, V), (S2, V), s2=WRITE, s1=OFF, v=READ), Chain.OTHER),
        (_seen((S2, V), (S2, S1, V), s2=WRITE, s1=OFF, v=READ), Chain.OTHER),
    ],
)
def test_the_verdict_on_a_delete(
    job: Job, seen: chain.Seen, expected: Chain
) -> None:
    assert verify.verdict(job, seen) is expected


def test_one_file_of_two_names_is_one_file() -> None:
    other = '/mount/v'
    seen = _seen(
        (S, other, B), (S, V, B), files={other: V, V: V}, s=WRITE, base=READ
    )
    seen.open[other] = seen.open[V] = READ
    assert verify.verdict(CREATE, seen) is Chain.AFTER


class Scene:
    """A volume `v` on `base`, about to get the overlay `s`."""

    def __init__(self, share: fakes.Share) -> None:
        self.share = share
        share.raw('base')
        share.qcow2('v', 'base')
        share.qcow2('s', 'v', 'qcow2')
        self.job = jobs.create(
            volume_id=fakes.VOLUME,
            instance_id=fakes.INSTANCE,
            before=(share.path('v'), share.path('base')),
            after=(share.path('s'), share.path('v'), share.path('base')),
        )
        self.guest = fakes.Guest(share.disk('v', 'base'))
        self.host = fakes.Host(self.guest)
        share.open('v', 'base')

    def look(self) -> Chain:
        return verify.look(self.job, self.host, image.Files(5.0))  # type: ignore[arg-type]

    def switch(self) -> None:
        self.guest.disks = (self.share.disk('s', 'v', 'base'),)
        self.share.open('s', 'v', 'base')

    def stop(self) -> None:
        self.guest.number = None
        self.guest.said_state = 'shut off'
        self.share.opened = {}


@pytest.fixture
def scene(share: fakes.Share) -> Scene:
    return Scene(share)


def test_before_and_after_a_switch(scene: Scene) -> None:
    assert scene.look() is Chain.BEFORE
    scene.switch()
    assert scene.look() is Chain.AFTER


def test_a_block_job_is_one_by_either_account(scene: Scene) -> None:
    scene.guest.jobs = {fakes.TARGET: object()}
    assert scene.look() is Chain.RUNNING
    scene.guest.jobs = {'vda': object()}
    assert scene.look() is Chain.BEFORE
    (disk,) = scene.guest.disks
    scene.guest.disks = (chain.Disk(**{**vars(disk), 'busy': True}),)
    assert scene.look() is Chain.RUNNING


def test_what_libvirt_is_in_the_middle_of_is_not_known(scene: Scene) -> None:
    scene.guest.occupied = True
    assert scene.look() is Chain.UNKNOWN


@pytest.mark.parametrize('what', ['host', 'describe', 'block_job'])
@pytest.mark.parametrize('error', [fakes.unreachable(), fakes.refusal()])
def test_an_error_of_libvirt_is_no_knowledge(
    scene: Scene, what: str, error: Exception
) -> None:
    if what == 'host':
        scene.host.error = error
    else:
        scene.guest.errors[what] = error
    assert scene.look() is Chain.UNKNOWN


def test_a_file_that_cannot_be_read_is_no_knowledge(scene: Scene) -> None:
    (scene.share.directory / 'v').write_bytes(b'junk')
    assert scene.look() is Chain.UNKNOWN


def test_a_hung_share_is_no_knowledge(scene: Scene) -> None:
    class Hung(image.Files):
        def look(self, *args: Any) -> Any:
            raise image.ShareHung('it hangs')

    found = verify.look(scene.job, scene.host, Hung(1.0))  # type: ignore[arg-type]
    assert found is Chain.UNKNOWN


def test_another_disk_with_the_same_serial_is_not_looked_at(
    scene: Scene,
) -> None:
    decoy = scene.share.disk('s', 'v', 'base')
    decoy = chain.Disk(**{**vars(decoy), 'target': 'vdc'})
    scene.guest.disks = (decoy, *scene.guest.disks)
    assert scene.look() is Chain.BEFORE


def test_a_guest_that_is_off_is_told_by_its_definition(scene: Scene) -> None:
    scene.stop()
    assert scene.look() is Chain.BEFORE
    scene.guest.disks = (scene.share.disk('s', 'v', 'base'),)
    assert scene.look() is Chain.AFTER


def test_of_a_guest_that_is_off_libvirt_may_know_one_file(
    scene: Scene,
) -> None:
    scene.stop()
    scene.guest.disks = (fakes.disk((scene.share.path('s'), 'qcow2')),)
    assert scene.look() is Chain.AFTER


def test_a_guest_that_is_off_and_whose_files_are_open_is_not_known(
    scene: Scene,
) -> None:
    # It is about to start, or has not ended: QEMU is the truth.
    scene.stop()
    scene.share.open('s')
    assert scene.look() is Chain.UNKNOWN


def test_a_written_overlay_under_an_old_definition_is_neither(
    scene: Scene,
) -> None:
    # The guest ran on it, and libvirt forgot, killed in the call.
    scene.stop()
    scene.share.qcow2('s', 'v', 'qcow2', l1=(1 << 63, 0))
    assert scene.look() is Chain.OTHER


@pytest.mark.parametrize('gone', ['guest', 'disk'])
def test_without_a_guest_the_files_tell(scene: Scene, gone: str) -> None:
    if gone == 'guest':
        scene.host.guests.clear()
    else:
        scene.guest.disks = ()
    scene.share.opened = {}
    # An overlay that nobody wrote to is worth what is below it.
    assert scene.look() is Chain.BEFORE
    scene.share.qcow2('s', 'v', 'qcow2', l1=(1 << 63, 0))
    assert scene.look() is Chain.AFTER
    # Whoever has them open may be the guest, out of libvirt's sight.
    for name in ('s', 'v', 'base'):
        scene.share.opened = {name: False}
        assert scene.look() is Chain.UNKNOWN


def test_without_a_guest_and_an_overlay_it_is_not_known(scene: Scene) -> None:
    scene.host.guests.clear()
    scene.share.opened = {}
    (scene.share.directory / 's').unlink()
    assert scene.look() is Chain.UNKNOWN


def test_without_a_guest_a_merge_is_told_by_the_header(
    share: fakes.Share,
) -> None:
    share.raw('v')
    share.qcow2('s1', 'v')
    share.qcow2('s2', 's1', 'qcow2')
    before = tuple(share.path(name) for name in ('s2', 's1', 'v'))
    job = jobs.delete(before=before, after=(before[0], before[2]))

    def look() -> Chain:
        return verify.look(job, fakes.Host(), image.Files(5.0))  # type: ignore[arg-type]

    assert look() is Chain.BEFORE
    share.qcow2('s2', 'v')
    assert look() is Chain.AFTER
    share.raw('other')
    share.qcow2('s2', 'other')
    assert look() is Chain.OTHER


def test_a_next_start_that_would_undo_it_is_no_success(scene: Scene) -> None:
    switched = scene.share.disk('s', 'v', 'base').layers
    scene.share.qcow2('s', 'v', 'qcow2')
    scene.guest.disks = (fakes.disk(*map(astuple, switched)),)
    scene.share.open('s', 'v', 'base')
    assert scene.look() is Chain.AFTER
    for layers, of_nova, expected in (
        (switched, False, Chain.AFTER),
        # libvirtd was killed in the call.
        (switched[1:], False, Chain.OTHER),
        # Nova writes the definition anew.
        (switched[1:], True, Chain.AFTER),
    ):
        disk = fakes.disk(*map(astuple, layers))
        scene.guest.next_start = chain.Domain(
            scene.guest.uuid, 'guest', (disk,), None, of_nova
        )
        assert scene.look() is expected


def test_a_next_start_on_what_was_merged_is_stale(scene: Scene) -> None:
    scene.share.qcow2('s', 'base')
    merged = scene.share.disk('s', 'base').layers
    scene.guest.disks = (fakes.disk(*map(astuple, merged)),)
    scene.share.open('s', 'base')
    before = scene.share.disk('s', 'v', 'base').layers
    job = jobs.delete(
        before=tuple(layer.path for layer in before),
        after=tuple(layer.path for layer in merged),
        instance_id=fakes.INSTANCE,
        volume_id=fakes.VOLUME,
    )
    for layers, expected in (
        (merged, Chain.AFTER),
        (merged[:1], Chain.AFTER),
        (before, Chain.STALE),
        (before[1:], Chain.OTHER),
    ):
        disk = fakes.disk(*map(astuple, layers))
        scene.guest.next_start = chain.Domain(
            scene.guest.uuid, 'guest', (disk,), None
        )
        assert verify.look(job, scene.host, image.Files(5.0)) is expected  # type: ignore[arg-type]
