"""How an application's connections are served: by the engine, or by stock drivers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any

import socketio

from ..brokers.peers import Peers
from ..config import Config
from ..logs import logger
from ..metrics import OFF, Metrics
from .bearing import NOTHING, Bearing, StockGuard
from .clients import index_rooms
from .engine.outlet import EngineOutlet
from .engine.server import Engine
from .engine.sessions import Limits
from .engine.workers import Workers
from .fanout import Outlet, StockOutlet
from .mailbox import Mailboxes

log = logger(__name__)

Spawn = Callable[[Callable[[], object]], object]
# Ends a connection's subscriptions and calls the function when that is done.
Evict = Callable[[str, Callable[[], None]], None]


@dataclass(frozen=True, slots=True)
class Link:
    """The connections of one application.

    Args:
        outlet: Where frames go.
        spawn: Runs what connections send.
        spawn_first: Runs what they begin with, which waits for nothing of the former.
        spawn_answers: Runs what they answer to calls of the server: a handler, which
            ``spawn`` runs, may be waiting for it.
        evict_by: Says by what function connections that lose publications are told.
        every: Calls a function each so many seconds while there are connections.
        open_sockets: How many sockets are not ended yet, though their connections may
            be closed; 0 where nobody knows.
        hand_back: Has polls that wait here for other processes answered soon.
    """

    outlet: Outlet
    spawn: Spawn
    spawn_first: Spawn
    spawn_answers: Spawn
    evict_by: Callable[[Evict], None]
    every: Callable[[float, Callable[[], None]], None]
    open_sockets: Callable[[], int]
    hand_back: Callable[[], None]


def link(
    server: socketio.Server,
    settings: Config,
    peers: Peers | None = None,
    metrics: Metrics = OFF,
    *,
    bearing: Bearing = NOTHING,
) -> Link:
    """Set up how the connections of a Socket.IO server are served.

    Args:
        peers: The application's other processes.
        bearing: Says what the requests of a session must bear.
    """
    index_rooms(server.manager)
    background = server.start_background_task
    if settings.engine == "stock":
        stock = server.eio.start_background_task
        # As the engine does.
        server.eio.start_background_task = lambda target, *args, **kwargs: stock(
            Context().run, target, *args, **kwargs
        )
        StockGuard(server.eio, metrics)
        return Link(
            StockOutlet(server),
            background,
            background,
            background,
            evict_by=lambda evict: None,
            every=StockTicks(server).every,
            open_sockets=lambda: 0,
            hand_back=lambda: None,
        )
    engine = Engine.replace(
        server,
        limits=Limits(
            connections=settings.max_connections,
            send_bytes=settings.send_buffer_bytes,
            messages=settings.max_messages_per_second,
            upgrade=settings.upgrade_timeout,
            connect=settings.connect_timeout,
        ),
        switch_interval=settings.switch_interval,
        peers=peers,
        bearing=bearing,
        metrics=metrics,
    )
    outlet = EngineOutlet(server, engine)

    # One thread tells all who lose publications: a thousand may in the same moment.
    losers = Mailboxes(background, limit=settings.max_connections)

    def evict_by(evict: Evict) -> None:
        def tell(eio_sid: str) -> None:
            accept = partial(engine.accept_again, eio_sid)
            sid = outlet.sid_of(eio_sid)
            if sid is None:
                accept()
            else:
                evict(sid, accept)

        def full(eio_sid: str) -> None:
            if not losers.put("", partial(tell, eio_sid)):
                engine.disconnect(eio_sid)

        engine.on_full(full)

    spawn = spawn_first = spawn_answers = background
    if server.async_mode == "threading":
        handlers = Workers(settings.handler_threads, "livepush-handler", lanes=2)
        spawn, spawn_first = handlers.run, partial(handlers.run, lane=1)
        spawn_answers = Workers(1, "livepush-answers").run
    return Link(
        outlet,
        spawn,
        spawn_first,
        spawn_answers,
        evict_by=evict_by,
        every=engine.every,
        open_sockets=lambda: engine.open_sockets,
        hand_back=engine.hand_back,
    )


class StockTicks:
    """Calls functions from time to time beside stock drivers, which have no loop.

    One thread or greenlet, begun by a connection that comes, while there are any.

    Args:
        server: The Socket.IO server; it learns of connections by its Engine.IO server,
            to be made before whoever else does.
    """

    def __init__(self, server: socketio.Server) -> None:
        self._server = server
        self._looks: list[tuple[float, Callable[[], None]]] = []
        self._on_connect = server.eio.handlers["connect"]
        self._lock = threading.Lock()  # guards the process in which they are called
        self._running: int | None = None
        server.eio.on("connect", self._connected)

    def every(self, seconds: float, look: Callable[[], None]) -> None:
        """Call a function each so many seconds while there are connections."""
        self._looks.append((seconds, look))

    def _connected(self, eio_sid: str, environ: dict[str, Any]) -> Any:
        with self._lock:
            # A server may fork after the application was set up.
            begins = bool(self._looks) and self._running != os.getpid()
            if begins:
                self._running = os.getpid()
        if begins:
            self._server.start_background_task(self._run)
        return self._on_connect(eio_sid, environ)

    def _run(self) -> None:
        every = min(seconds for seconds, _ in self._looks)
        passed = [0.0 for _ in self._looks]
        while True:
            self._server.sleep(every)
            for number, (seconds, look) in enumerate(self._looks):
                passed[number] += every
                if passed[number] >= seconds:
                    passed[number] = 0.0
                    try:
                        look()
                    except Exception:
                        log.exception("Looking after connections failed")
            with self._lock:
                if not self._server.eio.sockets:
                    self._running = None
                    return
