# SPDX-License-Identifier: Apache-2.0
"""The short way to a line against the long one, which oslo.log has."""

from __future__ import annotations

import itertools
import logging
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from oslo_config import cfg
from oslo_context import context as oslo_context
from oslo_log import formatters
from oslo_log import log as oslo_log

from nova_ext import context, log

WHO: dict[str, tuple[Any, ...]] = {
    'request_id': ('req-1', None),
    'global_request_id': ('req-2', None),
    'user_id': ('user', None),
    'project_id': ('', 'project'),
    'domain_id': ('domain', None),
    'system_scope': (None, 'all'),
    'user_domain_id': ('é\u2028', None),
    'resource_uuid': (None, 'resource'),
}


def _conf(*argv: str) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    oslo_log.register_options(conf)
    conf(list(argv), project='nova_ext', default_config_files=[])
    return conf


def _record(who: object, **more: Any) -> logging.LogRecord:
    return logging.getLogger('nova_ext.x').makeRecord(
        *('nova_ext.x', logging.INFO, 'file', 1, '%s "%s"', ('GET', '/é')),
        exc_info=more.pop('exc_info', None),
        extra={'context': who, **more},
    )


def _lines(conf: cfg.ConfigOpts, record: logging.LogRecord) -> tuple[str, str]:
    theirs = formatters.ContextFormatter(
        project='nova_ext', datefmt=conf.log_date_format, config=conf
    )
    return log.Formatter(conf).format(record), theirs.format(record)


@pytest.mark.parametrize(
    'argv',
    [
        [],
        ['--log-date-format', '%d.%m. %H:%M'],
        ['--log-date-format', ''],
        ['--debug'],
    ],
    ids=str,
)
def test_the_line_of_a_request_is_the_same(argv: list[str]) -> None:
    conf = _conf(*argv)
    for values in itertools.product(*WHO.values()):
        who = dict(zip(WHO, values, strict=True))
        for kind in (context.RequestContext, oslo_context.RequestContext):
            # Without one, oslo.context makes a request id.
            asking = kind(overwrite=False, **who)
            asking.request_id = who['request_id']
            ours, theirs = _lines(conf, _record(asking))
            assert ours == theirs, who


def test_the_lines_of_each_second_say_it() -> None:
    conf = _conf()
    formatter = log.Formatter(conf)
    for created in (1e9, 1e9 + 0.9, 1e9 + 1, 1e9 + 3600, 1e9):
        record = _record(context.RequestContext(overwrite=False))
        record.created, record.msecs = created, created % 1 * 1000
        assert formatter.format(record) == _lines(conf, record)[1]


@pytest.mark.parametrize(
    'more', [{}, {'instance': 'one'}, {'instance_uuid': 'two'}], ids=str
)
def test_the_line_of_a_job_is_the_same(more: dict[str, str]) -> None:
    """Who asked is known to the thread there, and not said by the record."""
    record = _record(None, **more)
    del record.context  # type: ignore[attr-defined]
    try:
        context.follow('req-3')
        ours, theirs = _lines(_conf(), record)
        assert ours == theirs
        assert 'req-3' in ours
        # One that says itself that nobody has asked.
        ours, theirs = _lines(_conf(), _record(None, **more))
        assert ours == theirs
        assert 'req-3' not in ours
        oslo_context._request_store.__dict__.clear()
        ours, theirs = _lines(_conf(), record)
        assert ours == theirs
    finally:
        oslo_context._request_store.__dict__.clear()


def test_nothing_that_is_logged_makes_a_line() -> None:
    record = logging.getLogger('amqp').makeRecord(
        *('amqp', logging.ERROR, 'file', 1, 'closed: %s'),
        *(('bye\n2026 INFO all is well\x1b[2J\u202e',), None),
    )
    line = log.Formatter(_conf()).format(record)
    assert not {*'\n\x1b'} & {*line}
    assert line.endswith('closed: bye 2026 INFO all is well [2J ')


def test_a_traceback_is_left_as_it_is() -> None:
    try:
        raise ValueError('why')
    except ValueError:
        record = logging.getLogger('x').makeRecord(
            *('x', logging.ERROR, 'file', 1, 'bad\n', (), sys.exc_info())
        )
    first, *rest = log.Formatter(_conf()).format(record).split('\n')
    assert first.endswith('bad : ValueError: why')
    assert len(rest) > 2


def test_another_format_is_kept_to() -> None:
    who = context.RequestContext(overwrite=False, user_name='name')
    for option, text in (
        ('logging_context_format_string', '%(user_name)s: %(message)s'),
        ('logging_user_identity_format', '%(user_name)s'),
    ):
        conf = _conf()
        conf.set_override(option, text)
        ours, theirs = _lines(conf, _record(who))
        assert ours == theirs
        assert 'name' in ours


def test_an_error_is_shown_whole() -> None:
    who = context.RequestContext(overwrite=False)
    try:
        raise ValueError('cause')
    except ValueError:
        ours, theirs = _lines(_conf(), _record(who, exc_info=sys.exc_info()))
    assert ours == theirs
    assert 'cause' in ours


def test_it_is_what_a_process_logs_with(tmp_path: pathlib.Path) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        conf = _conf('--log-file', str(tmp_path / 'log'))
        log.setup(conf)
        kinds = {type(handler.formatter) for handler in root.handlers}
        assert log.Formatter in kinds
        conf.set_override('use_json', True)
        log.setup(conf)
        kinds = {type(handler.formatter) for handler in root.handlers}
        assert log.Formatter not in kinds
    finally:
        root.handlers[:], root.level = before


@pytest.mark.parametrize(
    ('option', 'output'), [('', 'stdout'), ('use_stderr = true', 'stderr')]
)
def test_without_a_file_it_goes_where_the_page_says(
    option: str, output: str, tmp_path: pathlib.Path
) -> None:
    config = tmp_path / 'nova_ext.conf'
    config.write_text(f'[DEFAULT]\n{option}\n')
    script = (
        'import logging\n'
        'from oslo_config import cfg\n'
        'from nova_ext import config\n'
        f'config.setup(cfg.CONF, [], [{str(config)!r}])\n'
        'logging.getLogger("nova_ext").info("a line")\n'
    )
    run = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True
    )
    for name in ('stdout', 'stderr'):
        assert getattr(run, name).count('a line') == (name == output)
