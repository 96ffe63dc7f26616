# SPDX-License-Identifier: Apache-2.0
"""What README.rst and the API reference show or state has something behind it.

Commands and figures: see backing.py. Options: they exist, and the samples of
configuration are taken. Environments of tox and commands of ours: likewise.
"""

from __future__ import annotations

import ast
import configparser
import re
from collections.abc import Iterator

import pytest
from oslo_config import cfg, generator

from tests.fixtures import pages
from tests.functional import backing

SETUP = configparser.ConfigParser(delimiters='=')
SETUP.read(pages.ROOT / 'setup.cfg')
TOX = configparser.RawConfigParser()
TOX.read(pages.ROOT / 'tox.ini')

# Sections of paste.ini, of other services, of a reader's own.
_FOREIGN = re.compile(r'(composite|filter|pipeline):')
# What is not an option of ours or of a library that we list, with its owner.
_NOT_OURS = {
    # cinder.conf
    ('nova', 'auth_type'),
    # nova.conf
    ('DEFAULT', 'host'),
}
_FIGURE = re.compile(r'(?<![\w./#`-])(?<!step )\d[\d.]*(?:%|\b)(?![\w`])')


def _commands() -> list[pages.Block]:
    return [block for block in pages.blocks() if not block.is_configuration]


def _key(block: pages.Block) -> tuple[str, str]:
    return block.page, block.text.splitlines()[0]


def test_each_command_is_run_or_has_a_reason_why_not() -> None:
    known = {*backing.RUN, *backing.NOT_RUN}
    assert len(known) == len(backing.RUN) + len(backing.NOT_RUN)
    assert {_key(block) for block in _commands()} == known


@pytest.mark.parametrize(('page', 'line'), backing.RUN)
def test_the_test_of_a_command_reads_the_page(page: str, line: str) -> None:
    test = pages.ROOT / backing.RUN[page, line]
    assert page in test.read_text('utf-8')


def _without_what_is_backed(page: str) -> str:
    text = pages.prose(page)
    for figure in backing.FIGURES.get(page, {}):
        assert figure in text, figure
        text = text.replace(figure, '')
    return text


@pytest.mark.parametrize('page', pages.PAGES)
def test_each_figure_has_what_prints_it(page: str) -> None:
    if page in backing.OF_ONE_COMMAND:
        return
    found = [
        figure
        for figure in _FIGURE.findall(_without_what_is_backed(page))
        # What an answer's status is, test_api_ref.py compares.
        if not re.fullmatch(r'[2345]\d\d|0', figure)
    ]
    assert found == []


def _sections() -> set[str]:
    """Those of the benchmark, without what its imports need."""
    tree = ast.parse((pages.ROOT / 'tests/benchmark/__main__.py').read_text())
    (value,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) == '_SECTIONS'
    )
    assert isinstance(value, ast.Dict)
    return {ast.literal_eval(key) for key in value.keys if key}


@pytest.mark.parametrize('page', backing.OF_ONE_COMMAND)
def test_each_figure_is_beside_the_name_of_what_prints_it(page: str) -> None:
    """Of a table it is in the paragraph before it."""
    named: dict[str, list[str]] = {}
    before: list[str] = []
    for paragraph in pages.paragraphs(page):
        names = re.findall(r'``(?:-- )?--only (\w+)``', paragraph)
        if not paragraph.startswith('==='):
            before = names
        if re.search(r'\d', re.sub(r'``[^`]+``', '', paragraph)):
            named[paragraph] = before
    assert [text for text, names in named.items() if not names] == []
    assert {name for names in named.values() for name in names} == _sections()


def _backing() -> Iterator[str]:
    for figures in backing.FIGURES.values():
        yield from figures.values()
    yield from backing.OF_ONE_COMMAND.values()


@pytest.mark.parametrize('what', sorted({*_backing()}))
def test_what_is_behind_a_figure_is_there(what: str) -> None:
    if what.startswith('tox -e '):
        assert f'testenv:{what.split()[2]}' in TOX
    elif '/' in what:
        assert (pages.ROOT / what).exists()
    else:
        assert what.startswith('documents of ')


@pytest.mark.parametrize('page', pages.PAGES)
def test_each_environment_of_tox_is_one(page: str) -> None:
    for name in re.findall(r'tox -e\s+([a-z0-9-]+)', pages.PAGES[page]):
        assert f'testenv:{name}' in TOX, name


@pytest.mark.parametrize('page', pages.PAGES)
def test_each_command_or_unit_of_ours_is_one(page: str) -> None:
    known = SETUP['options.entry_points']['console_scripts']
    samples = pages.ROOT / 'etc' / 'nova_ext'
    for name in re.findall(r'\bnova-ext-[a-z]+\b', pages.PAGES[page]):
        unit = samples / f'{name}.service'
        assert f'{name} =' in known or unit.exists(), name


@pytest.mark.parametrize('page', pages.PAGES)
def test_each_file_that_is_named_is_there(page: str) -> None:
    for name in re.findall(
        r'``((?:etc|tests|api-ref|nova_ext|\.ci|releasenotes)/[^`*\s]*)``',
        pages.PAGES[page],
    ):
        made = name.endswith('.sample') or name.startswith('api-ref/build')
        path = pages.ROOT / name
        assert made or path.exists(), name


@pytest.fixture(scope='module')
def options() -> dict[str, dict[str, cfg.Opt]]:
    """Group → name → option, of all that the sample is made of."""
    config = pages.ROOT / 'etc' / 'nova_ext' / 'config-generator.conf'
    namespaces = re.findall(r'^namespace = (\S+)$', config.read_text(), re.M)
    known: dict[str, dict[str, cfg.Opt]] = {}
    for _, groups in generator._list_opts(namespaces):
        for group, listed in groups:
            name = getattr(group, 'name', group) or 'DEFAULT'
            for option in listed:
                known.setdefault(name, {})[option.dest] = option
    # Those of the plugin that the samples choose.
    known['keystone_authtoken'] |= {
        name: option
        for name, option in known['nova_ext_cinder'].items()
        if name not in known['keystone_authtoken']
    }
    return known


@pytest.mark.parametrize(
    'block',
    [
        block
        for block in pages.blocks()
        if block.is_configuration and not _FOREIGN.match(block.text[1:])
    ],
    ids=lambda block: block.page,
)
def test_each_sample_of_configuration_is_taken(
    block: pages.Block, options: dict[str, dict[str, cfg.Opt]]
) -> None:
    parser = configparser.RawConfigParser(default_section='', strict=True)
    parser.read_string(block.text)
    assert parser.sections()
    for section in parser.sections():
        for name, value in parser[section].items():
            option = options[section][name]
            if value != '...':
                option.type(value)


@pytest.mark.parametrize('page', pages.PAGES)
def test_each_option_that_is_named_exists(
    page: str, options: dict[str, dict[str, cfg.Opt]]
) -> None:
    text = ' '.join(pages.PAGES[page].split())
    for group, name in re.findall(r'``\[(\w+)\] (\w+)', text):
        if (group, name) not in _NOT_OURS:
            assert name in options[group], f'[{group}] {name}'
    for group in re.findall(r'``\[(nova_ext\w*)\]``', text):
        assert group in options
