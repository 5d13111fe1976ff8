"""How an application's connections are served: by the engine, or by stock drivers."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from functools import partial

import socketio

from ..brokers.peers import Peers
from ..config import Config
from ..metrics import OFF, Metrics
from .clients import index_rooms
from .engine.outlet import EngineOutlet
from .engine.server import Engine
from .engine.sessions import Limits
from .engine.workers import Workers
from .fanout import Outlet, StockOutlet
from .mailbox import Mailboxes

Spawn = Callable[[Callable[[], object]], object]
# Ends a connection's subscriptions and calls the function when that is done.
Evict = Callable[[str, Callable[[], None]], None]


@dataclass(frozen=True, slots=True)
class Link:
    """The connections of one application.

    Args:
        outlet: Where frames go.
        spawn: Runs what connections send.
        spawn_answers: Runs what they answer to calls of the server: a handler, which
            ``spawn`` runs, may be waiting for it.
        evict_by: Says by what function connections that lose publications are told.
        every: Calls a function each so many seconds while there are connections; stock
            drivers don't.
        open_sockets: How many sockets are not ended yet, though their connections may
            be closed; 0 where nobody knows.
        hand_back: Has polls that wait here for other processes answered soon.
    """

    outlet: Outlet
    spawn: Spawn
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
) -> Link:
    """Set up how the connections of a Socket.IO server are served.

    Args:
        peers: The application's other processes.
    """
    index_rooms(server.manager)
    background = server.start_background_task
    if settings.engine == "stock":
        stock = server.eio.start_background_task
        # As the engine does.
        server.eio.start_background_task = lambda target, *args, **kwargs: stock(
            Context().run, target, *args, **kwargs
        )
        return Link(
            StockOutlet(server),
            background,
            background,
            evict_by=lambda evict: None,
            every=lambda seconds, look: None,
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

    spawn = spawn_answers = background
    if server.async_mode == "threading":
        spawn = Workers(settings.handler_threads, "livepush-handler").run
        spawn_answers = Workers(1, "livepush-answers").run
    return Link(
        outlet,
        spawn,
        spawn_answers,
        evict_by=evict_by,
        every=engine.every,
        open_sockets=lambda: engine.open_sockets,
        hand_back=engine.hand_back,
    )
