# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, in the words that a caller of the API reads.

Each class has a message format and takes its arguments by keyword, so that an
error can cross a process border as its name and arguments and be the same
error on the other side. Its text is one line and plain. The bases say whose
the cause is; HTTP statuses are not here but in one table in
:mod:`nova_ext.api.wsgi`. No token, password or file content may ever be an
argument.
"""

from __future__ import annotations

from nova_ext import plain


class NovaExtException(Exception):
    """Base of all our errors.

    :param kwargs: the arguments of ``msg_fmt``; JSON-serialisable
    """

    msg_fmt = 'An unknown error occurred.'

    def __init__(self, **kwargs: object) -> None:
        self.kwargs = kwargs
        # NOTE: libvirt's words, and those of other hosts, can have lines.
        super().__init__(plain.made_plain(self.msg_fmt % kwargs))


class Invalid(NovaExtException):
    """The request, or the state of what it names, is the cause."""


class Forbidden(NovaExtException):
    """The caller may not do this."""


class NotFound(NovaExtException):
    """What the request names is not there."""


class Unavailable(NovaExtException):
    """Something that we need can't be reached; nothing was started."""


class Failed(NovaExtException):
    """The hypervisor tried and failed for a reason of its own."""


class InvalidInput(Invalid):
    msg_fmt = '%(reason)s'


class InvalidFileName(InvalidInput):
    """A file is not named by one plain path component (W12)."""


class InvalidDeleteInfo(InvalidInput):
    """``delete_info`` is missing or is not what it has to be (W13, W16)."""


class PolicyNotAuthorized(Forbidden):
    msg_fmt = "Policy doesn't allow %(action)s to be performed."


class ResourceNotFound(NotFound):
    msg_fmt = '%(reason)s'


class JobNotFound(NotFound):
    msg_fmt = (
        'There is no job %(job_id)s here. "nova-ext-manage job list --all" '
        'shows those that are.'
    )


class VolumeNotAttached(Invalid):
    # NOTE: the first sentence is Nova's, which clients may look for.
    msg_fmt = (
        'No volume Block Device Mapping with id %(volume_id)s. No instance '
        'of this host has a disk whose serial is that volume id.'
    )


class VolumeIsMultiAttach(Invalid):
    msg_fmt = (
        'Block Device Mapping %(volume_id)s is a multi-attach volume and is '
        'not valid for this operation.'
    )


class InstanceInvalidState(Invalid):
    msg_fmt = (
        'Instance %(instance_id)s %(state)s. Cannot %(method)s while the '
        'instance is in this state.'
    )


class UnsupportedDisk(Invalid):
    msg_fmt = (
        'Volume %(volume_id)s of instance %(instance_id)s cannot be '
        'snapshotted this way: %(reason)s'
    )


class InvalidOverlay(Invalid):
    msg_fmt = (
        'new_file %(new_file)s cannot become the active layer of volume '
        '%(volume_id)s: %(reason)s'
    )


class BlockJobExists(Invalid):
    msg_fmt = (
        'Volume %(volume_id)s of instance %(instance_id)s is busy: '
        '%(reason)s. Try again when that has ended.'
    )


class SnapshotExists(Invalid):
    msg_fmt = (
        'Snapshot %(snapshot_id)s is known here already with another '
        '%(difference)s. A new snapshot needs an id of its own.'
    )


class LayerChanged(Invalid):
    msg_fmt = (
        'The active layer of volume %(volume_id)s is not %(expected)s any '
        'more, as it was when the request was accepted; nothing was changed'
    )


class SnapshotNotInChain(Invalid):
    msg_fmt = (
        'The backing chain of volume %(volume_id)s does not allow this '
        'merge: %(reason)s'
    )


class SnapshotMerged(Invalid):
    msg_fmt = (
        'Snapshot %(snapshot_id)s was merged away already (%(known)s); this '
        'request (%(asked)s) would lose another snapshot of volume '
        '%(volume_id)s. Cinder did not take note of the first: in the file '
        'volume-%(volume_id)s.info remove the line of this snapshot, put '
        '%(active)s where %(doomed)s stands, and delete the snapshot again.'
    )


class SnapshotNotAwaited(Invalid):
    msg_fmt = (
        'Cinder does not await this for snapshot %(snapshot_id)s, so nothing '
        'was started: it answered %(answer)s.'
    )


class GuestAgentRequired(Invalid):
    msg_fmt = (
        'Instance %(instance_id)s cannot be quiesced: %(reason)s. Option '
        '[nova_ext_agent] quiesce is "required"; mend the guest agent or set '
        'it to "auto".'
    )


class PolicyUnavailable(Unavailable):
    msg_fmt = (
        'Whether the policy allows %(action)s cannot be said now: a server '
        'that one of its rules asks cannot be asked.'
    )


class ServiceUnavailable(Unavailable):
    msg_fmt = 'The service cannot be used now: %(reason)s'


class HostUnavailable(Unavailable):
    msg_fmt = 'The agent of host %(host)s cannot be reached: %(reason)s'


class HypervisorUnavailable(Unavailable):
    msg_fmt = 'libvirt at %(uri)s cannot be reached: %(reason)s'


class ShareUnavailable(Unavailable):
    msg_fmt = (
        'The directory %(directory)s of volume %(volume_id)s cannot be used '
        'by the agent: %(reason)s'
    )


class CinderUnavailable(Unavailable):
    msg_fmt = (
        'Cinder cannot be told about snapshot %(snapshot_id)s, so nothing '
        'was started: %(reason)s'
    )


class NovaUnavailable(Unavailable):
    msg_fmt = (
        'Nova could not be told about snapshot %(snapshot_id)s, so nothing '
        'was started: %(reason)s'
    )


class NovaNotConfigured(Unavailable):
    msg_fmt = (
        "Instance %(instance_id)s is Nova's, which starts it from the file "
        'that it has stored. After a snapshot Nova must be told of the new '
        'one: set [nova_ext_agent] nova_config_file to the configuration of '
        'nova-compute.'
    )


class RequestExpired(Unavailable):
    msg_fmt = (
        'The request for snapshot %(snapshot_id)s came too late and was not '
        'started; the clocks of the API and of the agent must agree (NTP).'
    )


class ClocksDiffer(Unavailable):
    msg_fmt = (
        'The request for snapshot %(snapshot_id)s was not started: it may be '
        'started for %(ahead)s s from now, by the clock of this agent, and '
        'the API waits for %(limit)s s. The clocks of both must agree (NTP), '
        'and [nova_ext_agent] reply_wait must be the same.'
    )


class JobStateUnknown(Unavailable):
    msg_fmt = (
        'What became of volume %(volume_id)s cannot be known now: %(reason)s'
    )


class AgentBusy(Unavailable):
    msg_fmt = 'The agent of this host cannot do that now: %(reason)s'


class HypervisorError(Failed):
    """libvirt or QEMU refused or failed; ``code`` is a VIR_ERR number."""

    msg_fmt = 'libvirt failed (%(code)s): %(reason)s'


class SnapshotFailed(Failed):
    msg_fmt = (
        'Snapshot %(snapshot_id)s was not made; the instance still uses the '
        'file it used before. Cause: %(reason)s'
    )


class MergeFailed(Failed):
    msg_fmt = (
        'Snapshot %(snapshot_id)s was not merged away, and no file may be '
        'removed. It can be half merged: do not use it, delete it again. '
        'Cause: %(reason)s'
    )
