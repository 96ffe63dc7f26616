# SPDX-License-Identifier: Apache-2.0
"""The samples in etc/nova_ext are installed, and start what there is."""

from __future__ import annotations

import configparser
import pathlib
import re
from importlib import metadata

import pytest

from nova_ext import conf

ROOT = pathlib.Path(__file__).parents[2]
SAMPLES = ROOT / 'etc' / 'nova_ext'


def _read(path: pathlib.Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, delimiters='=')
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    # As systemd does, a line that ends so goes on in the next.
    parser.read_string(path.read_text().replace('\\\n', ''))
    return parser


def test_each_sample_is_installed() -> None:
    installed = _read(ROOT / 'setup.cfg')['options.data_files']['etc/nova_ext']
    there = {f'etc/nova_ext/{path.name}' for path in SAMPLES.iterdir()}
    made = {name for name in there if name.endswith('.sample')}
    assert set(installed.split()) == there - made


@pytest.mark.parametrize('name', ['genconfig', 'genpolicy'])
def test_a_sample_is_made_where_tox_says(name: str) -> None:
    section = _read(ROOT / 'tox.ini')[f'testenv:{name}']
    words = section['commands'].split()
    made = words[words.index('--output-file') + 1]
    assert made == section['description']
    assert SAMPLES == (ROOT / made).parent


def test_the_units_start_what_is_installed() -> None:
    setup = _read(ROOT / 'setup.cfg')['options.entry_points']
    agent = _read(SAMPLES / 'nova-ext-agent.service')['Service']
    command = agent['ExecStart'].split()[0].rpartition('/')[2]
    assert f'\n{command} = ' in setup['console_scripts']
    api = _read(SAMPLES / 'nova-ext-api.service')['Service']
    module, _, name = api['ExecStart'].split()[-1].partition(':')
    source = ROOT.joinpath(*module.split('.')).with_suffix('.py')
    assert f'\n{name} = ' in source.read_text()


def test_systemd_waits_longer_than_the_agent_takes_to_end() -> None:
    unit = _read(SAMPLES / 'nova-ext-agent.service')['Service']
    (option,) = (o for o in conf.agent_opts if o.name == 'stop_wait')
    assert int(unit['TimeoutStopSec']) >= option.default + 20 + 5
    assert unit['Type'] == 'notify'


def test_the_samples_are_for_one_python_environment() -> None:
    for unit in ('agent', 'api'):
        section = _read(SAMPLES / f'nova-ext-{unit}.service')['Service']
        assert section['ExecStart'].startswith('/opt/nova_ext/bin/')
    assert 'python-home=/opt/nova_ext ' in (
        (SAMPLES / 'apache-wsgi.conf').read_text()
    )


@pytest.mark.parametrize(
    ('name', 'pattern'),
    [
        ('nginx-routing.conf', r'^proxy_read_timeout (\d+)s;$'),
        ('apache-routing.conf', r'^ProxyTimeout (\d+)$'),
        ('nova-ext-api.service', r' --timeout (\d+) '),
    ],
)
def test_who_is_before_the_api_waits_longer_than_it(
    name: str, pattern: str
) -> None:
    text = (SAMPLES / name).read_text()
    (seconds,) = re.findall(pattern, text, re.MULTILINE)
    (option,) = (o for o in conf.agent_opts if o.name == 'reply_wait')
    assert int(seconds) >= option.type.max + 20


def test_the_unit_has_the_limits_of_the_page() -> None:
    page = ROOT.joinpath('api-ref', 'source', 'deployment.rst').read_text()
    (shown,) = re.findall(r'\$ gunicorn((?:.*\\\n)+.*)', page)
    unit = _read(SAMPLES / 'nova-ext-api.service')['Service']['ExecStart']
    for option in re.findall(r'--[a-z-]+ \d[\d.:]*', shown):
        assert f'{option} ' in unit


def test_what_the_paste_file_names_has_a_name_of_its_own() -> None:
    """For files of operators, who write "egg:nova_ext#NAME"."""
    named = {
        target
        for target in re.findall(
            r'^paste\.\w+ = (\S+)$',
            (SAMPLES / 'api-paste.ini').read_text(),
            re.M,
        )
        if target.startswith('nova_ext')
    }
    groups = ('app', 'composite', 'filter')
    points = {
        point.value: point.name
        for group in groups
        for point in metadata.entry_points(group=f'paste.{group}_factory')
        if point.value.startswith('nova_ext')
    }
    assert named <= points.keys()
    others = {points[value] for value in points.keys() - named}
    assert others == {'assisted_volume_snapshots', 'nova'}
