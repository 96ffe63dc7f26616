# SPDX-License-Identifier: Apache-2.0
"""What an api-paste.ini of Nova lacks to have the resource served by us.

The file is only read. What the lines do is in nova_ext/api/nova.py.
"""

from __future__ import annotations

import configparser
import dataclasses
from collections.abc import Iterator

from oslo_config import cfg

from nova_ext import conf as nova_ext_conf
from nova_ext import config

_FILTER = 'egg:nova_ext#nova'
_OURS = {
    ('use', _FILTER),
    ('paste.filter_factory', 'nova_ext.api.nova:filter_factory'),
}
_FACTORY = 'nova.api.auth:pipeline_factory'
_APP = 'nova.api.openstack.compute:APIRouterV21.factory'
_CONTEXT = 'nova.api.auth:NovaKeystoneContext.factory'
_NAME = 'assisted_volume_snapshots'
_SHIPPED = 'have it there, as in the api-paste.ini that Nova ships'


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is wrong at one place, and what should stand there.

    :ivar section: without brackets
    :ivar line: the line as it should be; empty if no line mends it
    :ivar mend: what mends it where no line does
    """

    section: str
    problem: str
    line: str = ''
    mend: str = ''

    def __str__(self) -> str:
        mend = f' -> {self.mend}'
        if self.line:
            mend = f'.\n    [{self.section}]\n    {self.line}'
        return f'[{self.section}]: {self.problem}{mend}'


def check(text: str, here: str = '.') -> list[Finding]:
    """What is missing or wrong in an api-paste.ini; empty if nothing is.

    :param text: the content of the file
    :param here: its directory, which is ``%(here)s`` in it
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
                mend="name Nova's own, of a release that is supported",
            )
        ]
    ours = [
        name
        for name in parser.sections()
        if name.startswith('filter:') and _OURS & {*parser[name].items()}
    ]
    name = ours[0].partition(':')[2] if ours else _NAME
    findings = []
    if not ours:
        findings.append(
            Finding(
                f'filter:{name}', 'the filter is not there', f'use = {_FILTER}'
            )
        )
    for section in ours:
        findings += _check_options(parser, section, here)
    contexts = _sections(parser, 'filter', _CONTEXT)
    for section, key, words in _pipelines(parser, apps):
        findings += _check_pipeline(section, key, words, apps, name, contexts)
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


def _check_options(
    parser: configparser.RawConfigParser, section: str, here: str
) -> Iterator[Finding]:
    """What in the section of our filter keeps Nova from starting."""
    conf = cfg.ConfigOpts()
    nova_ext_conf.register_opts(conf)
    for key, value in parser[section].items():
        # NOTE: those of DEFAULT are not given to a filter.
        if (key, value) in _OURS or key in parser.defaults():
            continue
        value = value.replace('%(here)s', here)
        mend = 'write a value that it takes, or take the line out'
        try:
            if key != 'config_file':
                nova_ext_conf.override(conf, key, value)
            elif value:
                mend = (
                    'write the file so that the user of nova-api can read it, '
                    'or take the line out to have nova.conf read'
                )
                config.read(cfg.ConfigOpts(), [], [value])
        except (cfg.Error, ValueError) as error:
            problem = f'Nova does not start with "{key} = {value}": {error}'
            yield Finding(section, problem, mend=mend)


def _pipelines(
    parser: configparser.RawConfigParser, apps: set[str]
) -> Iterator[tuple[str, str, list[str]]]:
    """Section, key and words of each pipeline that has such an app."""
    for section in parser.sections():
        for key, value in parser[section].items():
            words = value.split()
            # Nova without Keystone, until Nova 31, is for tests only.
            if apps & {*words} and key not in ('use', '/', 'noauth2'):
                yield section, key, words


def _check_pipeline(
    section: str,
    key: str,
    words: list[str],
    apps: set[str],
    name: str,
    contexts: set[str],
) -> Iterator[Finding]:
    (app, *_) = (word for word in words if word in apps)
    others = [word for word in words if word not in (name, app)]
    line = f'{key} = {" ".join([*others, name, app])}'
    if words.count(name) != 1:
        what = 'twice' if name in words else 'not'
        yield Finding(section, f'the filter is {what} in the pipeline', line)
    elif not contexts:
        problem = f'no filter has the factory {_CONTEXT}'
        problem += ', so nobody says who asks'
        yield Finding(section, problem, mend=_SHIPPED)
    elif not contexts & {*words}:
        problem = f'{" or ".join(sorted(contexts))} is not in the pipeline'
        problem += ', so nobody says who asks'
        yield Finding(section, problem, mend=_SHIPPED)
    elif not contexts & {*words[: words.index(name)]}:
        problem = 'the filter must stand behind the one that tells who asks'
        yield Finding(section, problem, line)
    elif words[-2:] != [name, app]:
        problem = f'the filter must stand right before {app}, the last word'
        yield Finding(section, problem, line)
