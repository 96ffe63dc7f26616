# SPDX-License-Identifier: Apache-2.0
"""Whether a request may start, and the job that it becomes."""

from __future__ import annotations

import os
from typing import Any

import pytest

from nova_ext import exception
from nova_ext.agent import merge
from nova_ext.agent.admission import Admission
from nova_ext.agent.job import Job, Kind, Operation, State
from nova_ext.virt import chain, image
from tests.unit.agent import fakes

NOW = 1000.0
INFO = {'snapshot_id': 'snapshot', 'type': 'qcow2', 'new_file': 's'}
PULL = merge.Request(Kind.PULL, None, None)
CREATE, DELETE = 'volume_snapshot_create', 'volume_snapshot_delete'


class Scene:
    """A guest on s3 <- s2 <- s1 <- v, and the overlay `s` for it."""

    def __init__(self, share: fakes.Share) -> None:
        self.share = share
        share.raw('v')
        for name, backing, backing_format in (
            ('s1', 'v', 'raw'),
            ('s2', 's1', 'qcow2'),
            ('s3', 's2', 'qcow2'),
            ('s', 's3', 'qcow2'),
        ):
            share.qcow2(name, backing, backing_format)
        self.names = ('s3', 's2', 's1', 'v')
        share.open(*self.names)
        self.guest = fakes.Guest(
            share.disk(*self.names), fakes.disk(target='vda', serial=None)
        )
        self.host = fakes.Host(self.guest)
        self.mode = 'auto'

    @property
    def admission(self) -> Admission:
        files = image.Files(5.0)
        return Admission(self.host, files, 570.0, 7000.0, True, self.mode)  # type: ignore[arg-type]

    def paths(self, *names: str) -> tuple[str, ...]:
        return tuple(self.share.path(name) for name in names)

    def create(self, new_file: str = 's') -> Job:
        info = {**INFO, 'new_file': new_file}
        return self.admission.create(fakes.VOLUME, info, NOW)

    def delete(self, **info: Any) -> Job:
        asked = merge.translate(
            fakes.VOLUME, {'merge_target_file': None, **info}
        )
        return self.admission.delete(fakes.VOLUME, 'snapshot', asked, NOW)

    def change_disk(self, **changes: Any) -> None:
        disk = self.guest.disks[0]
        self.guest.disks = (chain.Disk(**{**vars(disk), **changes}),)


@pytest.fixture
def scene(share: fakes.Share) -> Scene:
    return Scene(share)


def test_a_post_becomes_a_job(scene: Scene) -> None:
    assert scene.create() == Job(
        snapshot_id='snapshot',
        volume_id=fakes.VOLUME,
        operation=Operation.CREATE,
        kind=Kind.OVERLAY,
        instance_id=fakes.INSTANCE,
        target=fakes.TARGET,
        before=scene.paths(*scene.names),
        after=scene.paths('s', *scene.names),
        accepted_at=NOW,
        deadline=NOW + 570.0,
    )
    assert scene.guest.calls == []


@pytest.mark.parametrize('state', ['running', 'paused'])
def test_a_guest_may_be_paused(scene: Scene, state: str) -> None:
    scene.guest.said_state = state
    assert not scene.create().stored


def test_of_a_guest_that_is_off_the_definition_changes(scene: Scene) -> None:
    scene.guest.said_state, scene.guest.number = 'shut off', None
    scene.share.opened = {}
    scene.change_disk(layers=scene.guest.disks[0].layers[:1])
    job = scene.create()
    assert job.stored
    assert job.before == scene.paths(*scene.names)


def test_what_another_process_has_open_is_not_switched(scene: Scene) -> None:
    scene.guest.said_state, scene.guest.number = 'shut off', None
    scene.change_disk(layers=scene.guest.disks[0].layers[:1])
    scene.share.opened = {'v': True}
    with pytest.raises(exception.BlockJobExists, match='another process'):
        scene.create()


def test_a_definition_with_another_chain_is_refused(scene: Scene) -> None:
    scene.guest.said_state, scene.guest.number = 'shut off', None
    scene.share.opened = {}
    scene.change_disk(layers=scene.guest.disks[0].layers[:2])
    with pytest.raises(exception.JobStateUnknown, match='s2 <- s3, and'):
        scene.create()


@pytest.mark.parametrize(
    'state',
    ['shutting down', 'crashed', 'suspended to memory', 'in no state'],
)
def test_other_states_are_refused(scene: Scene, state: str) -> None:
    scene.guest.said_state = state
    for call in (scene.create, lambda: scene.delete(file_to_merge=None)):
        with pytest.raises(exception.InstanceInvalidState, match=state):
            call()


def test_a_saved_memory_image_is_refused(scene: Scene) -> None:
    scene.guest.said_state, scene.guest.number = 'shut off', None
    scene.guest.saved = True
    with pytest.raises(exception.InstanceInvalidState, match='saved memory'):
        scene.create()


def test_a_volume_must_have_one_attachment(scene: Scene) -> None:
    scene.host.guests.append(
        fakes.Guest(scene.share.disk('s3', 's2', 's1', 'v'), uuid='second')
    )
    with pytest.raises(exception.VolumeIsMultiAttach):
        scene.create()
    scene.host.guests.clear()
    with pytest.raises(exception.VolumeNotAttached):
        scene.create()
    with pytest.raises(exception.VolumeNotAttached):
        scene.delete(file_to_merge=None, merge_target_file=None)


@pytest.mark.parametrize(
    ('state', 'number'), [('shut off', 7), ('running', None)]
)
def test_a_guest_on_its_way_is_neither_on_nor_off(
    scene: Scene, state: str, number: int | None
) -> None:
    scene.guest.said_state, scene.guest.number = state, number
    for call in (scene.create, lambda: scene.delete(file_to_merge=None)):
        with pytest.raises(
            exception.InstanceInvalidState, match='started or stopped'
        ):
            call()


def test_a_volume_twice_in_one_guest_is_refused(scene: Scene) -> None:
    disk = scene.guest.disks[0]
    scene.guest.disks = (disk, chain.Disk(**{**vars(disk), 'target': 'vdc'}))
    with pytest.raises(exception.VolumeIsMultiAttach):
        scene.create()


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'layers': (), 'type': 'block'}, 'of type block'),
        ({'layers': (), 'type': 'network'}, 'of type network'),
        ({'encrypted': True}, 'it is encrypted'),
        ({'readonly': True}, 'read-only'),
        ({'special': 'it is shared'}, 'it is shared'),
    ],
)
def test_a_disk_must_be_made_of_files_that_can_be_written(
    scene: Scene, changes: dict[str, Any], words: str
) -> None:
    scene.change_disk(**changes)
    for call in (scene.create, lambda: scene.delete(file_to_merge=None)):
        with pytest.raises(exception.UnsupportedDisk, match=words):
            call()


def test_a_busy_disk_or_guest_is_refused(scene: Scene) -> None:
    scene.guest.jobs = {fakes.TARGET: object()}
    with pytest.raises(exception.BlockJobExists, match='block job'):
        scene.create()
    scene.guest.jobs = {'vda': object()}
    scene.create()
    scene.guest.working = True
    with pytest.raises(exception.BlockJobExists, match='migrated'):
        scene.create()
    scene.guest.working = False
    scene.change_disk(busy=True)
    with pytest.raises(exception.BlockJobExists, match='block job'):
        scene.create()


def test_a_guest_agent_may_be_required(scene: Scene) -> None:
    scene.mode = 'required'
    with pytest.raises(exception.GuestAgentRequired, match='no channel'):
        scene.create()
    scene.guest.agent = 'disconnected'
    with pytest.raises(exception.GuestAgentRequired, match='not connected'):
        scene.create()
    scene.guest.agent = 'connected'
    scene.create()


@pytest.mark.parametrize(
    'new_file', ['', '.', '..', '../s', '/s', 'a/s', 's/', 'a\0b']
)
def test_a_new_file_is_one_plain_name(scene: Scene, new_file: str) -> None:
    with pytest.raises(exception.InvalidOverlay, match='not a plain file'):
        scene.create(new_file)


def test_the_active_layer_is_no_overlay(scene: Scene) -> None:
    with pytest.raises(exception.InvalidOverlay, match='is the active layer'):
        scene.create('s3')


@pytest.mark.parametrize('name', ['s2', 's1', 'v'])
def test_a_layer_below_is_no_overlay(scene: Scene, name: str) -> None:
    with pytest.raises(exception.InvalidOverlay):
        scene.create(name)


def test_what_is_wrong_with_the_overlay_is_said(scene: Scene) -> None:
    with pytest.raises(exception.InvalidOverlay, match='no file absent'):
        scene.create('absent')
    scene.share.qcow2('s', 's2', 'qcow2')
    with pytest.raises(exception.InvalidOverlay, match='file is s2') as error:
        scene.create()
    assert error.value.kwargs['new_file'] == 's'


@pytest.mark.parametrize('overlay', ['s', 'absent'])
@pytest.mark.parametrize('locks', [{}, {'s3': False}, {'v': True}])
def test_an_agent_with_another_view_says_so_first(
    scene: Scene, overlay: str, locks: dict[str, bool]
) -> None:
    scene.share.opened = locks
    for call in (
        lambda: scene.create(overlay),
        lambda: scene.delete(file_to_merge=None, merge_target_file=None),
    ):
        with pytest.raises(exception.ShareUnavailable, match='no lock'):
            call()


@pytest.mark.parametrize('gone', ['s3', 's1'])
def test_an_agent_without_the_files_says_so(scene: Scene, gone: str) -> None:
    os.unlink(scene.share.path(gone))
    for call in (scene.create, lambda: scene.delete(file_to_merge=None)):
        with pytest.raises(exception.ShareUnavailable, match=f'{gone}'):
            call()


def test_a_hung_share_is_said_to_be(scene: Scene) -> None:
    class Hung(image.Files):
        def look(self, *args: Any) -> Any:
            raise image.ShareHung('the file server does not answer')

    admission = Admission(scene.host, Hung(1.0), 1.0, 1.0, True, 'auto')  # type: ignore[arg-type]
    with pytest.raises(exception.ShareUnavailable, match='does not answer'):
        admission.create(fakes.VOLUME, INFO, NOW)
    with pytest.raises(exception.ShareUnavailable, match='does not answer'):
        admission.delete(fakes.VOLUME, 'snapshot', PULL, NOW)


def test_witnesses_that_disagree_are_said_to(scene: Scene) -> None:
    scene.share.qcow2('s3', 's1', 'qcow2')
    for call in (scene.create, lambda: scene.delete(file_to_merge=None)):
        with pytest.raises(exception.JobStateUnknown, match='Make them agree'):
            call()


# What Cinder sends for s3 <- s2 <- s1 <- v, and what it means.
DELETES = [
    ('s1', None, Kind.PULL, ('s3', 's1', 'v'), 's2'),
    ('s2', 's1', Kind.COMMIT, ('s3', 's1', 'v'), 's2'),
    ('s1', 'v', Kind.COMMIT, ('s3', 's2', 'v'), 's1'),
]


@pytest.mark.parametrize(
    ('file_to_merge', 'target', 'kind', 'after', 'doomed'), DELETES
)
def test_a_delete_becomes_a_job(
    scene: Scene,
    file_to_merge: str,
    target: str | None,
    kind: Kind,
    after: tuple[str, ...],
    doomed: str,
) -> None:
    job = scene.delete(file_to_merge=file_to_merge, merge_target_file=target)
    assert job == Job(
        snapshot_id='snapshot',
        volume_id=fakes.VOLUME,
        operation=Operation.DELETE,
        kind=kind,
        base=target or file_to_merge,
        top=target and file_to_merge,
        process=scene.guest.describe().process,
        instance_id=fakes.INSTANCE,
        target=fakes.TARGET,
        before=scene.paths(*scene.names),
        after=scene.paths(*after),
        accepted_at=NOW,
        deadline=NOW + 7000.0,
    )
    assert job.doomed == scene.paths(doomed)
    assert job.state is State.PENDING
    assert scene.guest.calls == []


def test_the_only_snapshot_is_pulled_without_a_base(scene: Scene) -> None:
    scene.share.qcow2('s3', 'v')
    scene.change_disk(layers=scene.share.disk('s3', 'v').layers)
    scene.share.open('s3', 'v')
    job = scene.delete(file_to_merge=None, merge_target_file=None)
    assert (job.kind, job.after) == (Kind.PULL, scene.paths('s3'))


@pytest.mark.parametrize(
    ('info', 'words'),
    [
        # null would merge everything away, not one layer.
        (
            {'file_to_merge': None, 'merge_target_file': None},
            'exactly one layer',
        ),
        ({'file_to_merge': 'v', 'merge_target_file': None}, 'exactly one'),
        ({'file_to_merge': 's2', 'merge_target_file': None}, 'exactly one'),
        ({'file_to_merge': 's3', 'merge_target_file': None}, 'exactly one'),
        ({'file_to_merge': 's2', 'merge_target_file': 'v'}, 'exactly one'),
        ({'file_to_merge': 's2', 'merge_target_file': 's2'}, 'exactly one'),
        ({'file_to_merge': 's1', 'merge_target_file': 's2'}, 'exactly one'),
        ({'file_to_merge': 's3', 'merge_target_file': 's2'}, 'is the active'),
        ({'file_to_merge': 'x', 'merge_target_file': 'v'}, 'x is not in it'),
        ({'file_to_merge': 's1', 'merge_target_file': 'x'}, 'x is not in it'),
        ({'file_to_merge': 'x', 'merge_target_file': None}, 'x is not in it'),
    ],
)
def test_a_merge_that_is_none_is_refused(
    scene: Scene, info: dict[str, Any], words: str
) -> None:
    with pytest.raises(exception.SnapshotNotInChain, match=words):
        scene.delete(**info)


def test_a_name_that_two_layers_have_is_no_name(scene: Scene) -> None:
    os.mkdir(scene.share.path('sub'))
    os.rename(scene.share.path('v'), scene.share.path('sub/s2'))
    scene.share.qcow2('s1', 'sub/s2')
    scene.change_disk(
        layers=scene.share.disk('s3', 's2', 's1', 'sub/s2').layers
    )
    with pytest.raises(exception.SnapshotNotInChain, match='not in it once'):
        scene.delete(file_to_merge='s2', merge_target_file='s1')


def _switch_off(scene: Scene) -> None:
    scene.guest.said_state, scene.guest.number = 'shut off', None
    scene.share.open()


def test_a_merge_below_a_guest_that_is_off(scene: Scene) -> None:
    _switch_off(scene)
    # The definition may name the first file only; the headers name all.
    whole = scene.share.disk('s3', 's2', 's1', 'v').layers
    for layers in (whole[:1], whole):
        scene.change_disk(layers=layers)
        job = scene.delete(file_to_merge='s1', merge_target_file='v')
        assert job.stored
        assert job.process == ''
        assert job.worker_id != job.instance_id
        assert job.before == scene.paths('s3', 's2', 's1', 'v')
        assert job.after == scene.paths('s3', 's2', 'v')
    scene.change_disk(layers=scene.share.disk('s3', 's2', 'v').layers)
    with pytest.raises(exception.JobStateUnknown, match='virsh edit'):
        scene.delete(file_to_merge='s1', merge_target_file='v')


def test_files_of_a_guest_that_is_off_must_be_idle(scene: Scene) -> None:
    _switch_off(scene)
    scene.share.opened = {'s1': False}
    with pytest.raises(exception.BlockJobExists, match='another process'):
        scene.delete(file_to_merge='s1', merge_target_file='v')


def test_what_was_merged_is_only_looked_at_again(scene: Scene) -> None:
    done = scene.delete(file_to_merge='s2', merge_target_file='s1')
    done = done.to(State.UNCLAIMED, succeeded=True, reason='not heard')
    # What was merged away is in the chain again: it is merged anew.
    assert scene.admission.repeat(done, NOW) is None
    scene.share.qcow2('s3', 's1', 'qcow2')
    scene.change_disk(layers=scene.share.disk('s3', 's1', 'v').layers)
    scene.share.open('s3', 's1', 'v')
    again = scene.admission.repeat(done, NOW + 1)
    assert again is not None
    assert again.merged
    assert (again.state, again.succeeded) == (State.PENDING, None)
    assert (again.before, again.base, again.top) == (done.before, 's1', 's2')
    assert again.after == scene.paths('s3', 's1', 'v')
    assert again.accepted_at == NOW + 1


def test_libvirt_is_asked_by_its_own_names(scene: Scene) -> None:
    os.symlink('.', scene.share.path('mount'))
    scene.share.qcow2('s3', scene.share.path('mount/s2'), 'qcow2')
    job = scene.delete(file_to_merge='s2', merge_target_file='s1')
    assert job.doomed == scene.paths('s2')
