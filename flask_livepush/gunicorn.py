"""Gunicorn's hooks: a worker that leaves drains first; and a worker for eventlet.

In ``gunicorn.conf.py``::

    from flask_livepush.gunicorn import post_worker_init

    worker_class = "gthread"
    threads = 16

Gunicorn takes the hook by its name. A configuration that has one of its own calls ours
in it, with the worker. When a worker ends, for SIGTERM, a reload or ``max_requests``,
it stops listening, drains as :mod:`flask_livepush.draining` says, and gives gunicorn
its signs of life until that is done.

This module is imported by gunicorn's master, before workers are monkey-patched: it must
import nothing that keeps what is patched.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.gthread import ThreadWorker

from . import draining
from .draining import Drain, Draining

# Seconds between two signs of life of a worker that drains.
_BEAT = 0.1
# Seconds in which clients are asked to go when nobody else serves them until a new
# worker has begun, which is when this one has ended.
_ALONE = 1.0
# Threads below which it is said that views wait for each other.
_FEW_THREADS = 4


def post_worker_init(worker: Any) -> None:
    """Check the worker's configuration, and let it drain when it ends.

    What can't work stops gunicorn with a sentence; what is unwise is a warning.
    """
    if draining.is_off():
        # Whatever is at fault, or was changed because of it, must not stop the site.
        worker.log.warning("LIVEPUSH_ENABLED is False: this worker pushes nothing.")
        return
    applications = draining.of_this_process()
    errors, warnings = problems(worker, applications)
    for sentence in warnings:
        worker.log.warning("%s", sentence)
    if errors:
        for sentence in errors:
            worker.log.error("%s", sentence)
        sys.exit(Arbiter.APP_LOAD_ERROR)
    _Leaving(worker)


def problems(worker: Any, applications: list[Draining]) -> tuple[list[str], list[str]]:
    """Return sentences about a worker's configuration: what can't work, what is unwise.

    Args:
        applications: Those that were set up in it.
    """
    cfg, kind = worker.cfg, worker.cfg.worker_class_str
    errors: list[str] = []
    warnings: list[str] = []
    if not isinstance(worker, (ThreadWorker, AsyncWorker)):
        errors.append(
            f"worker_class is {kind!r}; flask_livepush can't work with it"
            + (
                ": one slow view stops everything of a process: while it runs, nobody "
                "connects and no poll is answered."
                if kind == "sync"
                else "."
            )
            + " Use worker_class = 'gthread' with threads = 16, or 'gevent'."
        )
        return errors, warnings
    if not applications:
        warnings.append(
            "No LivePush was set up when the application was loaded, so nothing of its "
            "configuration was checked. Make the application in the module that "
            "gunicorn imports."
        )
    for each in applications:
        settings = each.config
        expected = _mode(worker)
        if each.async_mode != expected:
            remedy = f"choose the worker_class for {each.async_mode}"
            if cfg.preload_app and expected != "threading":
                remedy = (
                    f"preload_app loads the application before {expected} has patched "
                    f"the process: leave preload_app out, or patch it at the top of "
                    "gunicorn.conf.py"
                )
            errors.append(
                f"worker_class is {kind!r}, but the application was set up for "
                f"{each.async_mode}; {remedy}."
            )
        if cfg.workers > 1 and settings.message_queue is None:
            errors.append(
                f"workers is {cfg.workers} and LIVEPUSH_MESSAGE_QUEUE is not set, so "
                "that what one worker commits would not be shown by the others. Set it "
                "to a Redis URL, or use workers = 1."
            )
        if expected == "threading" and settings.engine == "stock":
            warnings.append(
                f"threads is {cfg.threads}, and with LIVEPUSH_ENGINE = 'stock' each "
                "connection holds one; nobody else is served when they are used up. "
                "Leave LIVEPUSH_ENGINE out, or have more threads than clients."
            )
        if cfg.graceful_timeout < settings.drain_seconds:
            warnings.append(
                f"graceful_timeout is {cfg.graceful_timeout} and "
                f"LIVEPUSH_DRAIN_SECONDS {settings.drain_seconds:g}: gunicorn would "
                "kill workers before their clients have gone. Use graceful_timeout = "
                f"{settings.drain_seconds + 5:g} or more."
            )
    if isinstance(worker, ThreadWorker) and cfg.threads < _FEW_THREADS:
        warnings.append(
            f"threads is {cfg.threads}: views that wait keep all others waiting. Use "
            "threads = 16."
        )
    return errors, warnings


def _mode(worker: Any) -> str:
    if isinstance(worker, EventletWorker):
        return "eventlet"
    return "threading" if isinstance(worker, ThreadWorker) else "gevent"


class _Leaving:
    """The end of one worker; made in its process, before it runs.

    Args:
        worker: Its ``run`` and ``notify`` are replaced: gunicorn calls the latter all
            the time, also when it has decided, for whatever reason, that it ends.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._run = worker.run
        self._notify = worker.notify
        self._drain: Drain | None = None
        self._told = False
        worker.run = self.run
        worker.notify = self.notify
        if isinstance(worker, ThreadWorker):
            if hasattr(worker, "set_accept_enabled"):
                self._set_accept_enabled = worker.set_accept_enabled
                worker.set_accept_enabled = self.set_accept_enabled
            else:
                self._is_parent_alive = worker.is_parent_alive
                worker.is_parent_alive = self.is_parent_alive
        signal.signal(signal.SIGTERM, self.terminate)
        # As gunicorn has it: requests are not disturbed.
        signal.siginterrupt(signal.SIGTERM, False)

    def terminate(self, number: int, frame: FrameType | None) -> None:
        """Take a SIGTERM: it may have interrupted anything, also a thread's start."""
        self._told = True
        self._worker.handle_exit(number, frame)
        if isinstance(self._worker, AsyncWorker):
            # To begin a greenlet takes no lock; a worker of threads wakes up by itself.
            self._begin()

    def notify(self) -> None:
        """Give the sign of life; begin to drain when the worker is about to end."""
        self._notify()
        if not self._worker.alive:
            self._begin()

    def run(self) -> None:
        """Serve, and then live on until the worker is drained."""
        if hasattr(self, "_is_parent_alive"):
            self._wake_up_by_signals()
        self._run()
        drain = self._begin()
        while not drain.done:
            self._notify()
            drain.wait(_BEAT)

    def _begin(self) -> Drain:
        if self._drain is None:
            alone = self._worker.cfg.workers == 1 and not self._told
            self._drain = draining.begin(within=_ALONE if alone else None)
        return self._drain

    def set_accept_enabled(self, enabled: bool) -> None:
        """Begin or stop to listen; a worker of threads, which calls it when it ends.

        It would keep its sockets, without looking, until it has ended: where no other
        process listens, who connects meanwhile would wait for nothing. So they are
        closed, and who has connected already is served, not reset. Green workers close
        theirs themselves.
        """
        worker = self._worker
        if worker.alive:
            self._set_accept_enabled(enabled)
            return
        self._set_accept_enabled(False)
        for listener in worker.sockets:
            accepted = -1
            while accepted < worker.nr_conns:
                accepted = worker.nr_conns
                worker.accept(listener)
            listener.close()
        # So that it does not begin again with what is closed.
        worker.sockets = []

    # -- gunicorn 21 to 24 -------------------------------------------------------------

    def _wake_up_by_signals(self) -> None:
        """Let a worker of threads see at once that it is to end, not in a second."""
        pipe = self._worker.PIPE[0]

        def read(_: Any) -> None:
            with suppress(OSError):
                os.read(pipe, 4096)

        self._worker.poller.register(pipe, selectors.EVENT_READ, read)

    def is_parent_alive(self) -> bool:
        """Stop to listen, and begin to drain, when a worker of threads is to end.

        It asks after each look at its sockets, also the last one. After that it takes
        no more requests.
        """
        worker = self._worker
        if not worker.alive and worker.sockets:
            for listener in worker.sockets:
                worker.poller.unregister(listener)
                accepted = -1
                while accepted < worker.nr_conns:
                    accepted = worker.nr_conns
                    worker.accept(listener.getsockname(), listener)
                listener.close()
            worker.sockets = []
            # What those who had connected have sent by now.
            for key, _ in worker.poller.select(0):
                key.data(key.fileobj)
            self._begin()
        return bool(self._is_parent_alive())


class EventletWorker(AsyncWorker):  # type: ignore[misc]
    """Gunicorn's worker for eventlet; experimental.

    Gunicorn 26 removed its own, and eventlet itself discourages new use. It builds on
    what gunicorn keeps for gevent, which may change with any version; gthread is the
    better choice. ``worker_class = "flask_livepush.gunicorn.EventletWorker"``.
    """

    def init_process(self) -> None:
        """Patch the process, and serve."""
        import eventlet

        eventlet.monkey_patch()
        # Python's socket.sendfile refuses sockets that never block, as eventlet's are.
        self.cfg.set("sendfile", False)
        super().init_process()

    def timeout_ctx(self) -> Any:
        """Return what ends the wait for the next request of a connection."""
        import eventlet

        return eventlet.Timeout(self.cfg.keepalive or None, False)

    def is_already_handled(self, respiter: Any) -> bool:
        """Say whether a request was answered by other means, as WebSockets are."""
        from eventlet import wsgi

        if getattr(wsgi.WSGI_LOCAL, "already_handled", False):
            wsgi.WSGI_LOCAL.already_handled = False
            raise StopIteration
        return bool(super().is_already_handled(respiter))

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Take a SIGQUIT; not in its handler, which must not wait."""
        import eventlet

        eventlet.spawn(super().handle_quit, sig, frame)

    def handle_usr1(self, sig: int, frame: Any) -> None:
        """Take a SIGUSR1; the same."""
        import eventlet

        eventlet.spawn(super().handle_usr1, sig, frame)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve a connection, in a greenlet of its own."""
        if self.cfg.is_ssl:
            from gunicorn.sock import ssl_wrap_socket

            client = ssl_wrap_socket(client, self.cfg)
        super().handle(listener, client, addr)

    def run(self) -> None:
        """Serve until the worker is to end, and then what is in flight."""
        import eventlet
        from eventlet.greenio import GreenSocket
        from eventlet.hubs import trampoline

        pool = eventlet.GreenPool(self.worker_connections)
        listeners = [GreenSocket(listener.sock) for listener in self.sockets]
        acceptors = [eventlet.spawn(self._accept, each, pool) for each in listeners]
        while self.alive:
            self.notify()
            # Signals write into it: eventlet would sleep on.
            with suppress(eventlet.Timeout, BlockingIOError):
                trampoline(self.PIPE[0], read=True, timeout=1.0)
                os.read(self.PIPE[0], 4096)
            if self.ppid != os.getppid():
                self.log.info("Parent changed, shutting down: %s", self)
                break
        for acceptor in acceptors:
            acceptor.kill()
        for listener in listeners:
            listener.setblocking(False)
            with suppress(OSError):  # nobody else has connected
                while True:
                    client, addr = listener.accept()
                    client = GreenSocket(client)
                    pool.spawn_n(self.handle, _Address(listener), client, addr)
            listener.close()
        end = time.monotonic() + self.cfg.graceful_timeout
        while pool.running() and time.monotonic() < end:
            self.notify()
            eventlet.sleep(0.1)

    def _accept(self, listener: Any, pool: Any) -> None:
        import eventlet

        address = _Address(listener)
        while True:
            try:
                client, addr = listener.accept()
            except OSError as error:
                self.log.debug("A connection was not accepted: %s", error)
                eventlet.sleep(0.1)
                continue
            pool.spawn_n(self.handle, address, client, addr)


class _Address:
    """Where a socket listened: who is served asks it, also when it is closed."""

    def __init__(self, listener: Any) -> None:
        self._name = listener.getsockname()

    def getsockname(self) -> Any:
        return self._name
