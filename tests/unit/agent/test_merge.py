# SPDX-License-Identifier: Apache-2.0
"""What a DELETE means, and what speaks against it."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from nova_ext import exception
from nova_ext.agent import merge
from nova_ext.agent.job import Kind
from nova_ext.virt import image
from tests.unit.agent import jobs

CHAIN = ('/share/v.s3', '/share/v.s2', '/share/v.s1', '/share/v')
PULL = merge.Request(Kind.PULL, 'v.s1', None)
COMMIT = merge.Request(Kind.COMMIT, 'v', 'v.s1')


@pytest.mark.parametrize(
    ('info', 'request_'),
    [
        ({'file_to_merge': 'v.s1', 'merge_target_file': None}, PULL),
        (
            {'file_to_merge': None, 'merge_target_file': None},
            merge.Request(Kind.PULL, None, None),
        ),
        ({'file_to_merge': 'v.s1', 'merge_target_file': 'v'}, COMMIT),
    ],
)
def test_the_forms_of_a_request(
    info: dict[str, Any], request_: merge.Request
) -> None:
    assert merge.translate('volume', info) == request_


@pytest.mark.parametrize(
    ('info', 'words'),
    [
        ({}, 'does not say file_to_merge'),
        ({'file_to_merge': None}, 'does not say merge_target_file'),
        ({'merge_target_file': 'v'}, 'does not say file_to_merge'),
        ({'file_to_merge': None, 'merge_target_file': 'v'}, 'needs a file'),
    ],
)
def test_a_form_that_is_none(info: dict[str, Any], words: str) -> None:
    with pytest.raises(exception.SnapshotNotInChain, match=words):
        merge.translate('volume', info)


@pytest.mark.parametrize(
    ('chain', 'asked'),
    [
        ((*CHAIN[:3], '/share/cache/v'), COMMIT),
        (
            (CHAIN[0], '/share/cache/v'),
            merge.Request(Kind.PULL, None, None),
        ),
    ],
)
def test_a_base_that_volumes_share_is_left_alone(
    chain: tuple[str, ...], asked: merge.Request
) -> None:
    with pytest.raises(exception.SnapshotNotInChain, match='may share it'):
        merge.wanted('volume', chain, asked)


def test_above_a_base_that_volumes_share_all_is_well() -> None:
    chain = (*CHAIN[:3], '/share/cache/v')
    asked = merge.Request(Kind.PULL, 'v', None)
    assert merge.wanted('volume', (*CHAIN[:2], chain[3]), asked) == (
        CHAIN[0],
        chain[3],
    )


NOTES = {'active': 'v.s3', 'id-3': 'v.s3', 'id-2': 'v.s2', 'id-1': 'v.s1'}


@pytest.mark.parametrize(
    ('notes', 'words'),
    [
        ({}, None),
        (NOTES, None),
        ({'active': 'v.s3'}, None),
        # A pull that Cinder did not take note of.
        (NOTES | {'id-2': 'v.gone'}, 'v.gone for snapshot id-2'),
        # A switch that it did not take note of.
        (NOTES | {'active': 'v.s2'}, 'v.s2 for the active file'),
        (NOTES | {'active': 'v.s4'}, 'v.s4 for the active file'),
    ],
)
def test_what_cinder_takes_the_chain_for(
    notes: dict[str, str], words: str | None
) -> None:
    if words is None:
        merge.check_notes('volume', CHAIN, notes, PULL)
        return
    with pytest.raises(exception.SnapshotNotInChain, match=words):
        merge.check_notes('volume', CHAIN, notes, PULL)


def test_below_an_overlay_that_cinder_does_not_count() -> None:
    notes = NOTES | {'active': 'v.s2', 'id-3': 'v.s2'}
    merge.check_notes('volume', CHAIN, notes, COMMIT)
    with pytest.raises(exception.SnapshotNotInChain, match='v.s2 for the'):
        merge.check_notes('volume', CHAIN, notes, PULL)


@pytest.mark.parametrize(
    'text', ['', '[]', '{', 'null', '{"active": 1}', '{"active": null}']
)
def test_notes_that_cannot_be_read_are_not_passed_over(
    tmp_path: pathlib.Path, text: str
) -> None:
    path = tmp_path / 'volume-v.info'
    path.write_text(text)
    with pytest.raises(image.NotAnImage, match='cannot be read'):
        merge._notes(str(path))
    path.write_text(json.dumps(NOTES))
    assert merge._notes(str(path)) == NOTES


def test_a_snapshot_is_not_merged_away_in_two_ways() -> None:
    known = jobs.delete(base='v', top='v.s1')
    merge.check_same(known, COMMIT)
    for asked in (PULL, merge.Request(Kind.COMMIT, 'v.s1', 'v.s2')):
        with pytest.raises(exception.SnapshotMerged, match='lose another'):
            merge.check_same(known, asked)
