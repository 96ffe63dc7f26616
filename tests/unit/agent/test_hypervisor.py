# SPDX-License-Identifier: Apache-2.0
"""What libvirt is asked for, for each kind of job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from unittest import mock

import pytest

from nova_ext import exception
from nova_ext.agent import verify
from nova_ext.agent.hypervisor import Hypervisor
from nova_ext.agent.job import Job, Kind
from nova_ext.agent.transition import Chain
from nova_ext.virt import image
from tests.unit.agent import fakes, jobs

HERE = {
    'instance_id': fakes.INSTANCE,
    'target': fakes.TARGET,
    'volume_id': fakes.VOLUME,
}
S2, S1, V = '/share/v.s2', '/share/v.s1', '/share/v'


def now(guest: fakes.Guest) -> str:
    """The process that a guest has."""
    return guest.describe().process


@pytest.fixture
def guest() -> fakes.Guest:
    return fakes.Guest(
        fakes.disk(target='vda', serial=None),
        fakes.disk(),
        fakes.disk(target='vdc', serial='other'),
    )


@pytest.fixture
def host(guest: fakes.Guest) -> fakes.Host:
    return fakes.Host(guest)


@pytest.fixture
def hypervisor(host: fakes.Host) -> Hypervisor:
    return Hypervisor(host, image.Files(5.0), 'auto', 10.0, 7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ('job', 'call'),
    [
        # Every other disk is named, lest it be switched too.
        (
            jobs.create(**HERE),
            ('snapshot', 'vdb', '/share/v.s', ['vda', 'vdc']),
        ),
        (jobs.delete(**HERE), ('commit', 'vdb', V, S1, 7)),
        (jobs.delete(**HERE, kind=Kind.PULL), ('pull', 'vdb', V, 7)),
        (
            jobs.delete(**HERE, kind=Kind.PULL, before=(S2, V), after=(S2,)),
            ('pull', 'vdb', None, 7),
        ),
    ],
)
def test_each_kind_is_one_call(
    hypervisor: Hypervisor, guest: fakes.Guest, job: Job, call: object
) -> None:
    hypervisor.start(job)
    assert guest.calls == [call]


def test_a_guest_that_is_gone_is_asked_for_nothing(
    hypervisor: Hypervisor, host: fakes.Host
) -> None:
    host.guests.clear()
    with pytest.raises(exception.VolumeNotAttached):
        hypervisor.start(jobs.create(**HERE))


def test_the_guest_is_frozen_for_the_switch_only(
    hypervisor: Hypervisor, guest: fakes.Guest
) -> None:
    guest.agent = 'connected'
    guest.errors['snapshot'] = fakes.refusal('no space')
    with pytest.raises(exception.HypervisorError, match='no space'):
        hypervisor.start(jobs.create(**HERE))
    assert [name for name, *_ in guest.calls] == [
        *('freeze', 'snapshot', 'thaw')
    ]
    guest.calls.clear()
    hypervisor.start(jobs.delete(**HERE))
    assert [name for name, *_ in guest.calls] == ['commit']


def test_a_merge_is_not_begun_in_another_process(
    hypervisor: Hypervisor, guest: fakes.Guest
) -> None:
    mine = now(guest)
    with pytest.raises(exception.JobStateUnknown, match='started anew'):
        hypervisor.start(jobs.delete(**HERE, process=f'not {mine}'))
    assert guest.calls == []
    hypervisor.start(jobs.delete(**HERE, process=mine))
    assert [name for name, *_ in guest.calls] == ['commit']


def test_an_operator_says_how_fast_a_merge_may_be(
    hypervisor: Hypervisor, guest: fakes.Guest
) -> None:
    for kind in (Kind.PULL, Kind.COMMIT):
        hypervisor.start(jobs.delete(**HERE, kind=kind), 7)
        assert guest.calls.pop()[-1] == 7


def test_a_job_that_cannot_be_cancelled_is_looked_at_again(
    hypervisor: Hypervisor, guest: fakes.Guest, host: fakes.Host
) -> None:
    hypervisor.cancel(jobs.delete(**HERE))
    assert guest.calls == [('cancel', 'vdb')]
    guest.errors['cancel'] = fakes.refusal('it has no active block job')
    hypervisor.cancel(jobs.delete(**HERE))
    host.error = fakes.unreachable()
    hypervisor.cancel(jobs.delete(**HERE))
    host.error = None
    host.guests.clear()
    hypervisor.cancel(jobs.delete(**HERE))
    assert len(guest.calls) == 2


def test_a_look_is_a_verification(hypervisor: Hypervisor) -> None:
    job = jobs.create(**HERE)
    with mock.patch.object(verify, 'look', autospec=True) as look:
        look.return_value = Chain.OTHER
        assert hypervisor.look(job) is Chain.OTHER
    assert look.call_args.args[0] is job


def test_a_check_needs_libvirt(
    hypervisor: Hypervisor, host: fakes.Host
) -> None:
    hypervisor.check()
    host.error = fakes.unreachable()
    with pytest.raises(exception.HypervisorUnavailable):
        hypervisor.check()


class Looks:
    """In place of looks at files: what libvirt says is asked all the same.

    :ivar chain: what each is said to have found
    """

    def __init__(self) -> None:
        self.chain = Chain.AFTER

    def __call__(
        self,
        job: Job,
        host: fakes.Host,
        files: image.Files,
        over: Callable[..., None] | None = None,
    ) -> Chain:
        try:
            described = host.described(job.worker_id)
        except exception.NovaExtException:
            return Chain.UNKNOWN
        if over and described and described[1].number is not None:
            over(*described)
        return self.chain


@pytest.fixture(autouse=True)
def synced() -> Iterator[list[str]]:
    """The files that the kernel was made to write out."""
    paths: list[str] = []
    with mock.patch.object(
        image, 'sync', autospec=True, side_effect=paths.append
    ):
        yield paths


@pytest.fixture
def looks() -> Iterator[Looks]:
    looks = Looks()
    with mock.patch.object(verify, 'look', autospec=True, side_effect=looks):
        yield looks


@pytest.mark.parametrize(
    'chain', [chain for chain in Chain if chain is not Chain.STALE]
)
def test_what_was_merged_is_on_disk_before_it_counts(
    hypervisor: Hypervisor,
    guest: fakes.Guest,
    looks: Looks,
    synced: list[str],
    chain: Chain,
) -> None:
    job = jobs.delete(**HERE, kind=Kind.PULL)
    looks.chain = chain
    assert hypervisor.look(job) is chain
    assert guest.calls == [('flush', 'vdb')]
    assert synced == []
    # The other kinds leave nothing in the memory of a living QEMU, nor does
    # a disk that it was told to close; but perhaps in that of the kernel.
    for other, files in (
        (jobs.create(**HERE), []),
        (jobs.delete(**HERE), [S2, V]),
    ):
        synced.clear()
        assert hypervisor.look(other) is chain
        assert synced == files
    guest.disks = ()
    assert hypervisor.look(job) is chain
    assert synced == [S2, V, S2]
    assert guest.calls == [('flush', 'vdb')]


@pytest.mark.parametrize('kind', [Kind.PULL, Kind.COMMIT])
def test_what_another_process_merged_is_not_sure_to_be_on_disk(
    hypervisor: Hypervisor, guest: fakes.Guest, looks: Looks, kind: Kind
) -> None:
    job = jobs.delete(**HERE, kind=kind, process=now(guest))
    assert hypervisor.look(job) is Chain.AFTER
    guest.number = 2
    assert hypervisor.look(job) is Chain.UNSAFE
    # The headers are mended by hand, and libvirt shall read them then.
    assert guest.calls[-1] == ('forget_backing', 'vdb')
    guest.errors['forget_backing'] = fakes.refusal()
    assert hypervisor.look(job) is Chain.UNSAFE
    guest.number = None
    assert hypervisor.look(job) is Chain.UNSAFE
    done = job.to(job.state, flushed=True)
    assert hypervisor.look(done) is Chain.AFTER


def test_a_commit_that_cannot_be_written_out_is_not_done(
    hypervisor: Hypervisor, looks: Looks
) -> None:
    for error, chain in (
        (OSError('not now'), Chain.UNKNOWN),
        # Of that the kernel speaks once only.
        (image.NotOnDisk('no space'), Chain.UNSAFE),
    ):
        with mock.patch.object(image, 'sync', side_effect=error):
            assert hypervisor.look(jobs.delete(**HERE)) is chain
    assert hypervisor.look(jobs.delete(**HERE)) is Chain.AFTER


@pytest.mark.parametrize('error', [fakes.refusal('not running'), OSError()])
def test_a_pull_that_cannot_be_flushed_is_not_done(
    hypervisor: Hypervisor,
    guest: fakes.Guest,
    host: fakes.Host,
    looks: Looks,
    error: Exception,
) -> None:
    job = jobs.delete(**HERE, kind=Kind.PULL)
    guest.errors['flush'] = error
    assert hypervisor.look(job) is Chain.UNKNOWN
    for gone in (
        lambda: setattr(guest, 'number', None),
        host.guests.clear,
    ):
        gone()
        assert hypervisor.look(job) is Chain.UNSAFE
    host.error = fakes.unreachable()
    assert hypervisor.look(job) is Chain.UNKNOWN


def test_below_a_guest_that_is_off_a_stand_in_merges(
    hypervisor: Hypervisor, guest: fakes.Guest, host: fakes.Host
) -> None:
    guest.number = None
    job = jobs.delete(**HERE, stored=True)
    with mock.patch.object(verify, 'look', autospec=True) as look:
        look.return_value = Chain.BEFORE
        hypervisor.start(job)
    assert guest.calls == [('forget_backing', 'vdb')]
    (root,), (_, stand_in) = host.started, host.guests
    assert stand_in.uuid == job.worker_id
    assert stand_in.calls == [('commit', 'vdb', V, S1, 7)]
    # The machine, and of the disks this one as the guest has it, without
    # what would make it another attachment of the volume.
    assert root.get('type') == 'kvm'
    assert root.findtext('os/type') == 'hvm'
    (disk,) = root.findall('devices/disk')
    assert [child.tag for child in disk] == ['driver', 'source', 'target']
    assert disk.find('driver').get('cache') == 'none'  # type: ignore
    assert hypervisor.release(job)
    assert stand_in.calls[-1] == ('end',)
    stand_in.errors['end'] = fakes.refusal()
    assert not hypervisor.release(job)
    host.guests.remove(stand_in)
    assert hypervisor.release(job)


@pytest.mark.parametrize(
    'seen', [chain for chain in Chain if chain is not Chain.BEFORE]
)
def test_a_stand_in_that_opened_other_files_merges_nothing(
    hypervisor: Hypervisor, guest: fakes.Guest, host: fakes.Host, seen: Chain
) -> None:
    guest.number = None
    with mock.patch.object(verify, 'look', autospec=True, return_value=seen):
        with pytest.raises(exception.JobStateUnknown, match='did not open'):
            hypervisor.start(jobs.delete(**HERE, stored=True))
    assert host.guests[-1].calls == []


@pytest.mark.parametrize(
    ('looks', 'expected'),
    [
        ([Chain.STALE, Chain.AFTER], Chain.AFTER),
        ([Chain.STALE, Chain.STALE], Chain.OTHER),
        ([Chain.STALE, Chain.UNKNOWN], Chain.UNKNOWN),
    ],
)
def test_a_stale_definition_is_made_to_agree(
    hypervisor: Hypervisor,
    guest: fakes.Guest,
    looks: list[Chain],
    expected: Chain,
) -> None:
    job = jobs.delete(**HERE, flushed=True)
    with mock.patch.object(verify, 'look', autospec=True, side_effect=looks):
        assert hypervisor.look(job) is expected
    assert guest.calls == [('forget_backing', 'vdb')]


def test_a_stale_definition_that_cannot_be_changed(
    hypervisor: Hypervisor, guest: fakes.Guest
) -> None:
    job = jobs.delete(**HERE, flushed=True)
    for error, expected in (
        (fakes.refusal(), Chain.OTHER),
        (fakes.unreachable(), Chain.UNKNOWN),
    ):
        guest.errors = {'forget_backing': error}
        with mock.patch.object(verify, 'look', autospec=True) as look:
            look.return_value = Chain.STALE
            assert hypervisor.look(job) is expected


@pytest.mark.parametrize(
    'job', [jobs.create(**HERE), jobs.delete(**HERE, kind=Kind.PULL)]
)
def test_another_volume_at_the_target_is_left_alone(
    hypervisor: Hypervisor, guest: fakes.Guest, job: Job
) -> None:
    guest.disks = (fakes.disk(serial='another'),)
    with pytest.raises(exception.VolumeNotAttached):
        hypervisor.start(job)
    assert guest.calls == []


@pytest.mark.parametrize('stored', [False, True])
def test_a_guest_that_was_stopped_or_started_meanwhile_is_left_alone(
    hypervisor: Hypervisor, guest: fakes.Guest, stored: bool
) -> None:
    guest.number = 1 if stored else None
    with pytest.raises(exception.InstanceInvalidState, match='meanwhile'):
        hypervisor.start(jobs.create(**HERE, stored=stored))
    assert guest.calls == []


@pytest.mark.parametrize('mode', ['auto', 'never'])
@pytest.mark.parametrize('agent', ['connected', 'disconnected', None])
def test_a_guest_that_may_be_frozen_is_thawed(
    guest: fakes.Guest, host: fakes.Host, mode: str, agent: str | None
) -> None:
    guest.agent = agent
    made = Hypervisor(host, image.Files(5.0), mode, 10.0, 0)  # type: ignore[arg-type]
    made.thaw(jobs.create(**HERE))
    asked = (mode, agent) == ('auto', 'connected')
    assert guest.calls == ([('thaw', 10)] if asked else [])
    # What cannot be asked is asked no more than that.
    guest.errors['thaw'] = fakes.refusal()
    made.thaw(jobs.create(**HERE))
    host.error = fakes.unreachable()
    made.thaw(jobs.create(**HERE))
