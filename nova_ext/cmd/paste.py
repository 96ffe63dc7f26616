# SPDX-License-Identifier: Apache-2.0
"""What an api-paste.ini of Nova lacks to have the resource served by us.

The file is only read. What the lines do is in nova_ext/api/nova.py.
"""

from __future__ import annotations

import configparser
import dataclasses
from collections.abc import Iterator

FILTER = 'egg:nova_ext#nova'
_FACTORY = 'nova.api.auth:pipeline_factory'
_APP = 'nova.api.openstack.compute:APIRouterV21.factory'
_CONTEXT = 'nova.api.auth:NovaKeystoneContext.factory'
_NAME = 'assisted_volume_snapshots'


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is wrong at one place, and what should stand there.

    :ivar section: without brackets
    :ivar line: the line as it should be; empty if none mends it
    """

    section: str
    problem: str
    line: str = ''

    def __str__(self) -> str:
        mend = f'\n    [{self.section}]\n    {self.line}' if self.line else ''
        return f'[{self.section}]: {self.problem}.{mend}'


def check(text: str) -> list[Finding]:
    """What is missing or wrong in an api-paste.ini; empty if nothing is.

    :param text: the content of the file
    :raises: configparser.Error if it is no such file
    """
    parser = configparser.RawConfigParser(strict=False)
    # PasteDeploy tells keys by case.
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read_string(text)
    apps = _sections(parser, 'app', _APP)
    if not apps:
        return [
            Finding(
                'composite:osapi_compute',
                f'no app has the factory {_APP}, so this is not the '
                'api-paste.ini of a Nova that is supported',
            )
        ]
    ours = [
        name
        for name in parser.sections()
        if name.startswith('filter:') and parser[name].get('use') == FILTER
    ]
    name = ours[0].partition(':')[2] if ours else _NAME
    findings = []
    if not ours:
        findings.append(
            Finding(
                f'filter:{name}', 'the filter is not there', f'use = {FILTER}'
            )
        )
    contexts = _sections(parser, 'filter', _CONTEXT)
    for section, key, words in _pipelines(parser, apps):
        findings += _check_pipeline(section, key, words, name, contexts)
    return findings


def _sections(
    parser: configparser.RawConfigParser, kind: str, factory: str
) -> set[str]:
    """Names of the sections of a kind that have a factory."""
    return {
        section.partition(':')[2]
        for section in parser.sections()
        if section.startswith(f'{kind}:')
        and parser[section].get(f'paste.{kind}_factory') == factory
    }


def _pipelines(
    parser: configparser.RawConfigParser, apps: set[str]
) -> Iterator[tuple[str, str, list[str]]]:
    """Section, key and words of each pipeline that ends in such an app."""
    for section in parser.sections():
        for key, value in parser[section].items():
            if words := value.split():
                # Nova without Keystone, until Nova 31, is for tests only.
                if words[-1] in apps and key not in ('use', '/', 'noauth2'):
                    yield section, key, words


def _check_pipeline(
    section: str,
    key: str,
    words: list[str],
    name: str,
    contexts: set[str],
) -> Iterator[Finding]:
    *filters, app = words
    others = [word for word in filters if word != name]
    line = f'{key} = {" ".join([*others, name, app])}'
    if filters.count(name) != 1:
        what = 'twice' if name in filters else 'not'
        yield Finding(section, f'the filter is {what} in the pipeline', line)
    elif not contexts & {*filters[: filters.index(name)]}:
        if contexts & {*filters}:
            problem = (
                'the filter must stand behind the one that tells who asks'
            )
            yield Finding(section, problem, line)
        else:
            yield Finding(
                section,
                f'no filter has the factory {_CONTEXT}, so nobody says who '
                'asks',
            )
