# SPDX-License-Identifier: Apache-2.0
"""The page of error messages has each message, in the words of the code."""

from __future__ import annotations

import ast
import http.client
import inspect
import pathlib
import re

import pytest

from nova_ext import exception
from nova_ext.api import filters, wsgi

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'api-ref' / 'source' / 'messages.rst').read_text('utf-8')

ERRORS = [
    error
    for _, error in inspect.getmembers(exception, inspect.isclass)
    if issubclass(error, exception.NovaExtException)
    and 'msg_fmt' in vars(error)
    and error is not exception.NovaExtException
]
_HEADING = r'^({}.*)\n{}{{3,}}\n'


def _parts(text: str, line: str) -> dict[str, str]:
    """What stands below each heading that is underlined with `line`."""
    pieces = re.split(_HEADING.format('', line), text, flags=re.MULTILINE)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


STATUSES = _parts(PAGE, '=')
MESSAGES = {
    name: (status, text)
    for status, part in STATUSES.items()
    for name, text in _parts(part, '-').items()
}


def _literals(text: str) -> set[str]:
    """What stands between double backquotes, with placeholders unnamed."""
    return {
        re.sub(r'\{\w+\}', '{}', ' '.join(found.split()))
        for found in re.findall(r'``([^`]+)``', text)
    }


def _template(node: ast.expr) -> str | None:
    """The text of a literal, with placeholders unnamed."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return ''.join(
            str(part.value) if isinstance(part, ast.Constant) else '{}'
            for part in node.values
        )
    return None


def _calls(path: str, names: set[str]) -> set[str]:
    """The texts with which a module calls these names."""
    tree = ast.parse((ROOT / 'nova_ext' / path).read_text('utf-8'))
    return {
        text
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names
        for argument in node.args
        if (text := _template(argument)) is not None
    }


def _returned(path: str) -> set[str]:
    tree = ast.parse((ROOT / 'nova_ext' / path).read_text('utf-8'))
    return {
        text
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Return | ast.Tuple)
        for value in ast.iter_child_nodes(node)
        if isinstance(value, ast.expr)
        if (text := _template(value)) is not None
    }


@pytest.mark.parametrize('error', ERRORS, ids=lambda error: error.__name__)
def test_each_error_is_there_under_its_status(
    error: type[exception.NovaExtException],
) -> None:
    status, text = MESSAGES[error.__name__]
    arguments = {
        name: '{}' for name in re.findall(r'%\((\w+)\)', error.msg_fmt)
    }
    assert error.msg_fmt % arguments in _literals(text)
    assert ':Cause: ' in text
    assert ':Mend: ' in text
    expected = wsgi.status_of(error(**arguments))
    name = wsgi.FAULT_NAMES.get(expected, 'computeFault')
    assert status == f'{expected} {name}'


def test_no_other_error_is_there() -> None:
    known = {error.__name__ for error in ERRORS}
    assert {name for name in MESSAGES if re.fullmatch(r'\S+', name)} == known


def test_what_the_api_itself_says_is_there() -> None:
    said = {*filters.MESSAGES.values(), wsgi.UNEXPECTED}
    for path in ('wsgi', 'router', 'filters', 'nova'):
        said |= _calls(f'api/{path}.py', {'HTTPFault', 'Fault', 'wsgi.Fault'})
    assert len(said) > 10
    assert said - _literals(PAGE) == set()


def test_what_the_server_itself_says_is_there() -> None:
    page = _literals(STATUSES['Of nova-ext-serve itself'])
    said = _calls('cmd/http.py', {'wsgi.Fault'})
    assert said == {
        '{}. Nothing was done.',
        'There are too many connections; try again.',
    }
    said |= _returned('cmd/http.py') - {''}
    # Those of the library, for lines that are no request.
    said |= {http.client.responses[code] for code in (400, 408, 414, 431, 505)}
    assert len(said) > 15
    assert said - page == set()


def test_why_an_overlay_is_refused_is_there() -> None:
    reasons = _returned('agent/overlay.py')
    reasons |= _calls('virt/image.py', {'NotAnImage'})
    assert len(reasons) > 15
    # Of Block Storage's notes, which are no overlay.
    reasons.remove('it has more than {} bytes')
    assert reasons - _literals(MESSAGES['InvalidOverlay'][1]) == set()
