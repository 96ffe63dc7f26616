# SPDX-License-Identifier: Apache-2.0
"""Our errors: their words, their bases, and that they survive a journey."""

from __future__ import annotations

import inspect
import re

import pytest

from nova_ext import exception
from nova_ext.agent import wire

BASES = (
    exception.Invalid,
    exception.Forbidden,
    exception.NotFound,
    exception.Unavailable,
    exception.Failed,
)
ERRORS = [
    error
    for _, error in inspect.getmembers(exception, inspect.isclass)
    if issubclass(error, exception.NovaExtException)
    and error not in (exception.NovaExtException, *BASES)
]


def _arguments(error: type[exception.NovaExtException]) -> dict[str, object]:
    names = re.findall(r'%\((\w+)\)s', error.msg_fmt)
    return {name: f'<{name} 100% é>' for name in names}


@pytest.mark.parametrize('error', ERRORS, ids=lambda error: error.__name__)
def test_each_error_says_what_it_is_given(
    error: type[exception.NovaExtException],
) -> None:
    arguments = _arguments(error)
    assert arguments
    raised = error(**arguments)
    for value in arguments.values():
        assert str(value) in str(raised)
    assert raised.kwargs == arguments
    assert '%(' not in str(raised)


@pytest.mark.parametrize('error', ERRORS, ids=lambda error: error.__name__)
def test_an_argument_that_is_missing_is_noticed(
    error: type[exception.NovaExtException],
) -> None:
    with pytest.raises(KeyError):
        error()


@pytest.mark.parametrize('error', ERRORS, ids=lambda error: error.__name__)
def test_each_error_has_one_base(
    error: type[exception.NovaExtException],
) -> None:
    assert len([base for base in BASES if issubclass(error, base)]) == 1


@pytest.mark.parametrize('error', ERRORS, ids=lambda error: error.__name__)
def test_each_error_is_the_same_at_the_other_side_of_a_process(
    error: type[exception.NovaExtException],
) -> None:
    sent = error(**_arguments(error))
    with pytest.raises(exception.NovaExtException) as caught:
        wire.parse_reply(wire.error(sent))
    assert type(caught.value) is error
    assert str(caught.value) == str(sent)


@pytest.mark.parametrize('error', ERRORS, ids=lambda error: error.__name__)
def test_no_argument_is_a_secret(
    error: type[exception.NovaExtException],
) -> None:
    assert not {'token', 'password', 'content'} & set(_arguments(error))


# The text that clients of Nova know; ours may say more after it.
@pytest.mark.parametrize(
    ('error', 'text'),
    [
        (
            exception.VolumeNotAttached(volume_id='v'),
            'No volume Block Device Mapping with id v.',
        ),
        (
            exception.VolumeIsMultiAttach(volume_id='v'),
            'Block Device Mapping v is a multi-attach volume and is not '
            'valid for this operation.',
        ),
        (
            exception.InstanceInvalidState(
                instance_id='i', state='in vm_state s', method='m'
            ),
            'Instance i in vm_state s. Cannot m while the instance is in '
            'this state.',
        ),
        (
            exception.PolicyNotAuthorized(action='a'),
            "Policy doesn't allow a to be performed.",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_words_of_nova_are_kept(
    error: exception.NovaExtException, text: str
) -> None:
    assert str(error).startswith(text)
