# SPDX-License-Identifier: Apache-2.0
"""What became of a job: libvirt, the headers and QEMU's locks side by side.

A chain counts as one or the other only where all three agree. "Cannot be
known" is an answer of its own. Nothing is changed and nothing decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nova_ext import exception
from nova_ext.agent.job import Job, Kind
from nova_ext.agent.transition import Chain
from nova_ext.virt import chain, image

if TYPE_CHECKING:
    from nova_ext.virt import guest, host


def look(
    job: Job,
    virt_host: host.Host,
    files: image.Files,
    over: Callable[[guest.Guest, chain.Domain], None] | None = None,
) -> Chain:
    """The chain of a job now. Doubts, whatever their cause, are UNKNOWN.

    :param over: called before files are read, if the guest has a process and
        no block job on the disk
    """
    try:
        described = virt_host.described(job.worker_id)
        if described is None and job.worker_id != job.instance_id:
            described = virt_host.described(job.instance_id)
        found, domain = described or (None, None)
        disk = disk_of(job, domain) if domain else None
        has_process = domain is not None and domain.number is not None
        if found and disk and has_process:
            if job.kind is Kind.ACTIVE and disk.committed == job.after[0]:
                return Chain.READY
            if found.block_job(job.target) or disk.busy:
                return Chain.RUNNING
            if found.is_occupied():
                return Chain.UNKNOWN
        if over and found and domain and has_process:
            over(found, domain)
        seen = files.look(job.before[0], _compare, job, disk, has_process)
        if seen is Chain.AFTER and found and has_process:
            return _next_start(job, found)
        return seen
    except (exception.NovaExtException, image.NotAnImage, OSError):
        return Chain.UNKNOWN


def _next_start(job: Job, found: guest.Guest) -> Chain:
    """Whether the next start of a guest would undo what was done."""
    # NOTE: where libvirtd was killed in the call its two definitions differ
    # for ever. Nova writes them anew for each start.
    stored = found.stored()
    if stored.of_nova:
        return Chain.AFTER
    for disk in stored.disks:
        if disk.serial == job.volume_id and disk.layers:
            paths = [layer.path for layer in disk.layers]
            if paths[0] != job.after[0]:
                return Chain.OTHER
            return Chain.STALE if {*job.doomed} & {*paths} else Chain.AFTER
    return Chain.AFTER


def disk_of(job: Job, domain: chain.Domain) -> chain.Disk | None:
    """The disk of a job; None if the guest does not have it any more."""
    # A stand-in is made for the disk, which has no serial there.
    serial = job.volume_id if domain.uuid == job.instance_id else None
    for disk in domain.disks:
        if (disk.serial, disk.target) == (serial, job.target):
            return disk
    return None


def _compare(job: Job, disk: chain.Disk | None, has_process: bool) -> Chain:
    if disk is None:
        # The guest is gone, or the disk was detached; its files are not.
        return _compare_files(job)
    seen = chain.observe(disk, *job.before, *job.after)
    if has_process:
        return verdict(job, seen)
    if any(locks.opened for locks in seen.open.values()):
        return Chain.UNKNOWN
    if seen.same(seen.headers, job.after):
        return Chain.AFTER
    if seen.same(seen.headers, job.before) and not _used(job):
        return Chain.BEFORE
    return Chain.OTHER


def _compare_files(job: Job) -> Chain:
    for path in {*job.before, *job.after}:
        try:
            if image.locks(path).opened:
                return Chain.UNKNOWN
        except FileNotFoundError:
            continue
    if job.overlay:
        # NOTE: an overlay that nobody wrote to is worth what is below it.
        return Chain.AFTER if _used(job) else Chain.BEFORE
    headers = chain.headers(chain.Layer(job.before[0], 'qcow2'))
    if chain.same_files(headers, job.after):
        return Chain.AFTER
    if chain.same_files(headers, job.before):
        return Chain.BEFORE
    return Chain.OTHER


def _used(job: Job) -> bool:
    """Whether a guest wrote to the new file of a create."""
    return bool(
        job.overlay and image.read_qcow2(job.overlay, link=True).holds_data
    )


def verdict(job: Job, seen: chain.Seen) -> Chain:
    """What a look at the disk of a guest with a process amounts to."""
    if _is(job.after, job.before, seen):
        return Chain.AFTER
    # NOTE: where libvirtd died in the call QEMU may have the new file open,
    # and locked, without having been told to use it. Had it been, it would
    # have given up its lock for writing on what is below.
    others = () if job.overlay else job.after
    if _is(job.before, others, seen):
        return Chain.BEFORE
    return Chain.OTHER


def _is(
    wanted: tuple[str, ...], other: tuple[str, ...], seen: chain.Seen
) -> bool:
    """Whether all three say that the chain is `wanted`, and only that."""
    # NOTE: one file can have two names, as a header and libvirt give it.
    if not (seen.same(seen.headers, wanted) and seen.agree):
        return False
    active, *below = wanted
    files = [seen.files[path] for path in wanted]
    return (
        seen.open[active].writable
        and all(
            seen.open[path].opened and not seen.open[path].writable
            for path in below
        )
        and not any(
            seen.open[path].opened
            for path in other
            if seen.files[path] not in files
        )
    )
