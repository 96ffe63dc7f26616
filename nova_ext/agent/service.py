# SPDX-License-Identifier: Apache-2.0
"""The agent as a process: its lock, its socket, its start and its end.

Whatever a request means is the manager's business.
"""

from __future__ import annotations

import fcntl
import importlib
import logging
import os
import pathlib
import queue
import threading
from collections.abc import Mapping
from typing import Any

from oslo_config import cfg

from nova_ext import cinder
from nova_ext.agent import (
    admission,
    dispatch,
    hypervisor,
    journal,
    listener,
    manager,
    outside,
    peers,
    reporter,
    systemd,
)
from nova_ext.virt import host, image

LOG = logging.getLogger(__name__)

_STOP, _RELOAD = 'stop', 'reload'
# Seconds, after those for who waits, for the steps of jobs that are under way.
_END_SECONDS = 20.0


class StartFailed(RuntimeError):
    """The agent can't start; says what mends it."""


class Service:
    """The agent of this host, from lock to socket.

    :raises: :class:`StartFailed`
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        options = conf.nova_ext_agent
        self._conf = conf
        self._stop_wait = options.stop_wait
        # NOTE: a signal handler may put something into this kind of queue.
        self._orders: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._socket = options.socket
        try:
            self._peers = peers.Peers(options.socket_group)
        except LookupError as error:
            raise StartFailed(
                f'[nova_ext_agent] socket_group cannot be used: {error}'
            ) from None
        self._state_dir = pathlib.Path(options.state_dir)
        # NOTE: the order of a start: lock, journal, connect, recover, and
        # only then serve, or a request would meet a job of before.
        self._lock = self._take_lock()
        nova = self._nova(conf) if options.nova_config_file else None
        self._files = image.Files(options.file_timeout)
        self._metrics = self._load_metrics() if options.metrics_port else None
        self._journal = self._open_journal()
        self._host = host.Host(options.libvirt_uri, self._wake)
        self._hypervisor = hypervisor.Hypervisor(
            self._host,
            self._files,
            options.quiesce,
            options.freeze_limit,
            options.bandwidth,
        )
        self._admission = admission.Admission(
            self._host,
            self._files,
            options.create_deadline,
            options.delete_deadline,
            options.cancel_late,
            options.quiesce,
            nova=nova is not None,
        )
        self._manager = manager.Manager(
            self._hypervisor,
            self._admission,
            self._journal,
            self._reports(conf),
            options.reply_wait,
            options.history_days * 86400.0,
            nova,
        )
        self._dispatcher = (
            self._metrics.dispatcher(self._manager)
            if self._metrics
            else dispatch.Dispatcher(self._manager)
        )
        self._failure = ''
        self._bus = self._join_bus(conf) if options.rpc else None

    def serve(self) -> None:
        """Recover, then answer until :meth:`stop` is called.

        :raises: :class:`nova_ext.exception.HypervisorUnavailable`,
            :class:`StartFailed`
        """
        self._manager.start()
        self._server = self._listen()
        self._status = f'Listening on {self._socket}'
        LOG.info('%s', self._status)
        threading.Thread(target=self._obey, daemon=True).start()
        if self._bus is not None:
            self._bus.start()
        if self._metrics is not None:
            self._serve_metrics(self._conf.nova_ext_agent)
        systemd.ready(self._status)
        try:
            self._server.serve_forever(poll_interval=0.2)
        finally:
            self._end()
        if self._failure:
            raise StartFailed(self._failure)

    def stop(self) -> None:
        """End :meth:`serve` soon; from any thread or signal handler."""
        self._orders.put(_STOP)

    def reload(self) -> None:
        """Read the options again that may change; from any of these, too."""
        self._orders.put(_RELOAD)

    def _obey(self) -> None:
        while self._orders.get() == _RELOAD:
            systemd.reloading()
            self._reload()
            systemd.ready(self._status)
        self._server.shutdown()

    def _end(self) -> None:
        """Answer those who wait, and end, in a time that is bounded."""
        systemd.stopping('Answering those who wait')
        for seconds, act in (
            (self._stop_wait, self._manager.hurry),
            (self._stop_wait + _END_SECONDS, self._give_up),
        ):
            timer = threading.Timer(seconds, act)
            timer.daemon = True
            timer.start()
        # NOTE: whoever took it away shall not keep us from the rest.
        pathlib.Path(self._socket).unlink(missing_ok=True)
        if self._bus is not None:
            self._bus.stop()
        self._server.server_close()
        self._manager.stop()
        self._host.close()
        self._journal.close()
        self._lock.close()

    def _give_up(self) -> None:
        LOG.error(
            'Something under way does not come back, and is left. What is '
            'unfinished is in the journal.'
        )
        logging.shutdown()
        os._exit(1)

    def _reload(self) -> None:
        try:
            self._conf.mutate_config_files()
            options = self._conf.nova_ext_agent
            # Before one is set all are read, which raises for a bad one.
            self._apply({name: options[name] for name in options})
        except (cfg.Error, ValueError, OSError) as error:
            LOG.error('All options stay as they were: %s', error)
            return
        except SystemExit:
            # NOTE: oslo.config's way with what a command line may have, too.
            LOG.error(
                'All options stay as they were: one that is an option of the '
                'command line, too, has a bad value, which the standard error '
                'output names'
            )
            return
        # It leaves out what is secret.
        self._conf.log_opt_values(LOG, logging.DEBUG)

    def _apply(self, options: Mapping[str, Any]) -> None:
        self._stop_wait = options['stop_wait']
        self._files.timeout = options['file_timeout']
        self._hypervisor.quiesce_mode = options['quiesce']
        self._hypervisor.freeze_limit = options['freeze_limit']
        self._hypervisor.bandwidth = options['bandwidth']
        self._admission.quiesce_mode = options['quiesce']
        self._admission.create_limit = options['create_deadline']
        self._admission.delete_limit = options['delete_deadline']
        self._admission.cancel_late = options['cancel_late']
        self._manager.reply_wait = options['reply_wait']

    def _wake(self, instance_id: str) -> None:
        # NOTE: the connection is made, and events come, a little before the
        # manager that wants them exists.
        if hasattr(self, '_manager'):
            self._manager.wake(instance_id)

    def _take_lock(self) -> Any:
        try:
            self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = open(self._state_dir / 'lock', 'a')  # noqa: SIM115
        except OSError as error:
            raise StartFailed(
                f'[nova_ext_agent] state_dir cannot be used: {error}'
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise StartFailed(
                f'another agent uses {self._state_dir}. One host has one '
                'agent; give a second one for tests its own [nova_ext_agent] '
                'state_dir.'
            ) from None
        return lock

    def _open_journal(self) -> journal.Journal:
        path = self._state_dir / 'journal.sqlite'
        try:
            if self._metrics:
                return self._metrics.journal(path, self._files.look)
            return journal.Journal(path)
        except journal.UNUSABLE as error:
            raise StartFailed(
                f'[nova_ext_agent] state_dir: the journal {path} cannot be '
                f'used: {error}'
            ) from error

    def _load_metrics(self) -> Any:
        try:
            metrics = importlib.import_module('nova_ext.agent.metrics')
        except ImportError as error:
            raise StartFailed(
                f'[nova_ext_agent] metrics_port is set, and {error}. Install '
                'nova_ext[metrics].'
            ) from error
        return metrics.Metrics()

    def _serve_metrics(self, options: cfg.ConfigOpts.GroupAttr) -> None:
        where = f'{options.metrics_address}:{options.metrics_port}'
        try:
            self._metrics.serve(options.metrics_address, options.metrics_port)
        except OSError as error:
            # NOTE: jobs matter more than numbers.
            LOG.error(
                '[nova_ext_agent] metrics_address and metrics_port (%s) '
                'cannot be listened on, so there are no metrics: %s',
                where,
                error,
            )
        else:
            LOG.info('Metrics are at http://%s/metrics', where)

    def _join_bus(self, conf: cfg.ConfigOpts) -> Any:
        try:
            rpc = importlib.import_module('nova_ext.agent.rpc')
        except ImportError as error:
            raise StartFailed(
                f'[nova_ext_agent] rpc is true, and {error}. Install '
                'nova_ext[rpc].'
            ) from error
        try:
            return rpc.Server(conf, self._dispatcher, self._fail)
        except rpc.bus.UNUSABLE as error:
            raise StartFailed(
                f'[DEFAULT] transport_url cannot be used: {error}'
            ) from error

    def _nova(self, conf: cfg.ConfigOpts) -> outside.Records:
        try:
            bdm = importlib.import_module('nova_ext.agent.nova_bdm')
        except ImportError as error:
            raise StartFailed(
                f'[nova_ext_agent] nova_config_file is set, and {error}. '
                'Install nova_ext[libvirt,rpc] where nova-compute is.'
            ) from error
        try:
            return bdm.Nova(conf.nova_ext_agent.nova_config_file)
        except (cfg.Error, OSError, *bdm.bus.UNUSABLE) as error:
            raise StartFailed(
                f'[nova_ext_agent] nova_config_file cannot be used: {error}'
            ) from error

    def _fail(self, reason: str) -> None:
        self._failure = reason
        self.stop()

    def _reports(self, conf: cfg.ConfigOpts) -> manager.Reports:
        reports = conf.nova_ext_agent.reports
        if reports is None:
            raise StartFailed(
                'where to report is not said. Set [nova_ext_agent] reports '
                'to "cinder" and fill [nova_ext_cinder], or to "none" for '
                'demos and tests.'
            )
        if reports == 'none':
            LOG.warning('Nothing is reported to Cinder (reports = none)')
            return reporter.Silence()
        return reporter.Reporter(cinder.Cinder(conf))

    def _listen(self) -> listener.Server:
        path = self._socket
        try:
            # The lock is ours, so a socket here is left from the dead.
            pathlib.Path(path).unlink(missing_ok=True)
            mask = os.umask(0o117)
            try:
                return listener.Server(path, self._dispatcher, self._peers)
            finally:
                os.umask(mask)
        except OSError as error:
            raise StartFailed(
                f'[nova_ext_agent] socket {path} cannot be used: {error}'
            ) from error
