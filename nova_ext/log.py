# SPDX-License-Identifier: Apache-2.0
"""The log of a process, with a short way for what is said of a request.

oslo.log writes it, in its format. Half of what that takes is a copy of all
that is known of the caller, of which the usual format shows six values. What
is logged is said where it happens. Whoever says it, a message is one line.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from oslo_config import cfg
from oslo_context import context
from oslo_log import formatters, log

from nova_ext import plain

LOG = logging.getLogger(__name__)

# Attributes of a record or a context by which oslo.log says more.
_INSTANCE = frozenset({'instance', 'instance_uuid', 'resource_uuid'})

# The formats for which there is a short way: those of oslo.log.
_FORMATS = {
    'logging_context_format_string': (
        '%(asctime)s.%(msecs)03d %(process)d %(levelname)s %(name)s '
        '[%(global_request_id)s %(request_id)s %(user_identity)s] '
        '%(instance)s%(message)s'
    ),
    'logging_user_identity_format': (
        '%(user)s %(project)s %(domain)s %(system_scope)s %(user_domain)s '
        '%(project_domain)s'
    ),
}


class Formatter(formatters.ContextFormatter):
    """See oslo.log; the lines are the same, if nothing would break them."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        super().__init__(
            project='nova_ext', datefmt=conf.log_date_format, config=conf
        )
        self._usual = bool(self.datefmt) and all(
            conf[name] == text for name, text in _FORMATS.items()
        )
        self._last = 0, ''

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        who = record.__dict__.get('context', context.get_current())
        # NOTE: libraries log what a broker or another service has said.
        text = record.getMessage()
        if not plain.is_plain(text):
            text = plain.made_plain(text)
            record.msg, record.args = text, ()
        if (
            not self._usual
            or record.levelno != logging.INFO
            or _is_more(record, who)
        ):
            return super().format(record)
        # NOTE: what is not known is None in the one place, and - in others.
        return (
            f'{self._second(record)}.'
            f'{int(record.msecs):03d} {record.process} {record.levelname} '
            f'{record.name} [{who.global_request_id} {who.request_id} '
            f'{who.user_id or "-"} {who.project_id or "-"} '
            f'{who.domain_id or "-"} {who.system_scope or "-"} '
            f'{who.user_domain_id or "-"} {who.project_domain_id or "-"}] '
            f'{text}'
        )

    def _second(self, record: logging.LogRecord) -> str:
        """When a record was made, to the second."""
        number, text = self._last
        if number != int(record.created):
            number = int(record.created)
            text = self.formatTime(record, self.datefmt)
            self._last = number, text
        return text


def _is_more(record: logging.LogRecord, who: Any) -> bool:
    """Whether the line has more than who asked, and what is said."""
    return bool(
        record.exc_info
        or record.stack_info
        or not (who and who.request_id)
        or not _INSTANCE.isdisjoint(record.__dict__)
        or getattr(who, 'resource_uuid', None)
        or getattr(who, 'instance_uuid', None)
        or getattr(who, 'instance', None)
    )


def setup(conf: cfg.ConfigOpts) -> None:
    """Start the log, as the options of oslo.log say."""
    log.setup(conf, 'nova_ext')
    # NOTE: at DEBUG it writes down what Keystone answers to a login, with a
    # catalog of all services.
    logging.getLogger('keystoneauth.identity.v3').setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:
        if type(handler.formatter) is formatters.ContextFormatter:
            handler.setFormatter(Formatter(conf))


def failure(words: str) -> None:
    """Say why a command ends: in the log, and to who has started it."""
    LOG.error('%s', words)
    handlers = logging.getLogger().handlers
    if any(isinstance(handler, logging.FileHandler) for handler in handlers):
        print(words, file=sys.stderr)
