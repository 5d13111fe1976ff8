"""The Engine.IO v4 server under python-socketio's: requests, and what they begin.

It takes the place of python-engineio's server, from which it has what is not about
connections: options, origins, cookies, the async mode's primitives. Sockets belong to
the loop, those of polls that wait too.

Source: Engine.IO protocol, version 4 (github.com/socketio/engine.io-protocol).
"""

from __future__ import annotations

import base64
import os
import sys
import threading
import time
import urllib.parse
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import engineio

from ...brokers.peers import Peers
from ...logs import logger
from ...metrics import OFF, Metrics
from ..bearing import NOTHING, Bearing, may_use
from . import frames, handshake, packets, taking
from .connection import Connection
from .environ import slim
from .forwarding import Forwarding
from .holding import Holding
from .loop import Loop
from .packets import Frame
from .poller import create
from .polling import Polling
from .probes import Probe
from .replies import (
    BAD_METHOD,
    BAD_REQUEST,
    FORBIDDEN,
    UNKNOWN_TRANSPORT,
    UNSUPPORTED_VERSION,
    Refusal,
    Reply,
    too_many,
    unknown_sid,
)
from .requests import body_of
from .session import Session
from .sessions import Full, Limits, Reason, Sessions
from .timeline import Timeline

log = logger(__name__)

# Bytes of a session's id, a multiple of 3, and how many ids are drawn at once.
_ID_BYTES = 15
_IDS = 256


class Engine(engineio.Server):  # type: ignore[misc]
    """An Engine.IO server that owns its sockets.

    Made by :meth:`replace`. Requests run in the HTTP server's threads, what comes by
    WebSocket in the loop's; handlers must hand over.
    """

    _limits: Limits
    _switch_interval: float | None
    _metrics: Metrics
    _peers: Peers | None
    _bearing: Bearing
    _full: Callable[[str], None] | None
    _looks: list[tuple[float, Callable[[], None]]]

    @classmethod
    def replace(
        cls,
        server: Any,
        *,
        limits: Limits,
        switch_interval: float | None,
        peers: Peers | None = None,
        bearing: Bearing = NOTHING,
        metrics: Metrics = OFF,
    ) -> Engine:
        """Put an engine in the place of a Socket.IO server's Engine.IO server.

        Args:
            server: The Socket.IO server; its options and handlers are kept.
            switch_interval: What ``sys.setswitchinterval`` is given in the processes
                that serve; None leaves it alone.
            peers: Other processes, whose sessions' requests may come here.
            bearing: Tells other processes what such a request bears.
        """
        stock = server.eio
        made = cls.__new__(cls)
        made.__dict__.update(stock.__dict__)
        made._limits = limits
        made._switch_interval = switch_interval
        made._metrics = metrics
        made._peers = peers
        made._bearing = bearing
        made._full = None
        made._looks = []
        made._begin()
        _engines.add(made)
        server.eio = made
        return made

    def _begin(self) -> None:
        """Have no connections; also in a child, where the parent's are the parent's."""
        self._ids: deque[str] = deque()
        self._starting = threading.Lock()  # guards the loop's beginning
        self._sessions = Sessions(
            self._limits,
            ping_interval=self.ping_interval,
            ping_timeout=self.ping_timeout,
            draw_id=self.generate_id,
            heard=self._heard,
            ended=lambda sid, why: self._trigger_event("disconnect", sid, why),
            lost=self._lost_some,
            now=time.monotonic,
            metrics=self._metrics,
        )
        self.sockets = self._sessions.open
        self._holding = Holding(
            self._sessions,
            spawn=self.start_background_task,
            create_event=self.create_event,
            max_bytes=self.max_http_buffer_size,
        )
        # The loop asks each client for a sign of life, and so ends polls before that.
        patience = self.ping_interval + self.ping_timeout
        self._polling = Polling(
            self._sessions,
            started=self._started,
            take=self._take,
            headers=self._cors_headers,
            create_event=self.create_event,
            patience=patience,
            bearing=self._bearing,
            metrics=self._metrics,
        )
        self._forwarding = None
        if self._peers is not None:
            self._forwarding = self._polling.forwarding = Forwarding(
                self._peers,
                self._polling.serve,
                self._sessions.end_lost,
                limit=self._limits.connections,
                patience=patience,
                spawn=self.start_background_task,
                sleep=self.sleep,
                now=time.monotonic,
                metrics=self._metrics,
            )

    def on_full(self, full: Callable[[str], None]) -> None:
        """Call a function with the id of each session that loses publications.

        It must hand over, as it is called by whoever writes, who may hold locks. In
        the end :meth:`accept_again` is to be called, or the session ended.
        """
        self._full = full

    def every(self, seconds: float, look: Callable[[], None]) -> None:
        """Call a function each so many seconds, in the loop's thread, while it runs.

        To be said before the first connection; the function must not block.
        """
        self._looks.append((seconds, look))

    def hand_back(self) -> None:
        """Have what waits here for other processes answered soon: this one ends."""
        if self._forwarding is not None:
            self._forwarding.hand_back()

    @property
    def open_sockets(self) -> int:
        """How many have not gone yet, those that were closed included."""
        loop = self._sessions.loop
        return 0 if loop is None else loop.sockets

    def _heard(self, sid: str, data: str | bytes) -> None:
        self.handlers["message"](sid, data)

    def _lost_some(self, sid: str) -> None:
        if self._full is not None:
            self._full(sid)

    def _started(self) -> Loop:
        """Return the process's loop; it starts with the first connection."""
        loop = self._sessions.loop
        if loop is None:
            with self._starting:
                loop = self._sessions.loop
                if loop is None:
                    loop = self._start()
        return loop

    def _start(self) -> Loop:
        loop = self._sessions.start(create(self.async_mode, self.sleep))
        self._probes: Timeline[Probe] = loop.timeline(self._limits.upgrade, Probe.end)
        for seconds, look in self._looks:
            _repeat(loop, seconds, look)
        if self._switch_interval is not None and self.async_mode == "threading":
            sys.setswitchinterval(self._switch_interval)
        self.start_background_task(loop.run)
        return loop

    # -- what python-socketio calls ----------------------------------------------------
    def send(self, sid: str, data: Any) -> None:
        """Send a message to a client."""
        self.send_packet(sid, engineio.packet.Packet(engineio.packet.MESSAGE, data))

    def send_packet(self, sid: str, pkt: Any) -> None:
        """Send a packet to a client; nothing happens if it has gone."""
        session = self.sockets.get(sid)
        if session is not None:
            self._sessions.write((session,), (packets.encoded(pkt),))

    def disconnect(self, sid: str | None = None) -> None:
        """End a connection, or all."""
        if sid is None:
            self._sessions.close_all()
        elif (session := self.sockets.get(sid)) is not None:
            session.close()

    def shutdown(self) -> None:
        """End the loop and all connections."""
        self._sessions.stop()

    def generate_id(self) -> str:
        """Return a new session's id: 120 random bits, as URLs can hold them.

        Where there are other processes, this one's name stands before them.
        """
        # A few hundred are drawn at once: each draw gives the interpreter's lock away.
        try:
            return self._ids.pop()
        except IndexError:
            drawn = base64.urlsafe_b64encode(os.urandom(_ID_BYTES * _IDS)).decode()
            length = len(drawn) // _IDS
            owner = "" if self._forwarding is None else self._forwarding.name
            new = [owner + drawn[i : i + length] for i in range(0, len(drawn), length)]
            first = new.pop()
            self._ids.extend(new)
            return first

    def _get_socket(self, sid: str) -> Session:
        try:
            return self.sockets[sid]
        except KeyError:
            raise KeyError("Session not found") from None

    # -- what the outlet calls ---------------------------------------------------------
    def write(
        self,
        sessions: Iterable[Session],
        out: Sequence[Frame],
        *,
        droppable: bool = False,
    ) -> None:
        """Let frames go out to sessions, in this order; never blocks.

        Args:
            droppable: Whether a client that does not keep up may lose them.
        """
        self._sessions.write(sessions, out, droppable=droppable)

    def accept_again(self, sid: str) -> None:
        """Take publications again for a session that has lost some."""
        self._sessions.accept_again(sid)

    # -- requests ----------------------------------------------------------------------
    def handle_request(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer a request; in the HTTP server's thread."""
        # Also where it is refused: the next request of the same connection comes after
        # it, and what is not read may cost the client the answer.
        body = body_of(environ, self.max_http_buffer_size)
        try:
            reply = self._answer(environ, start_response, body)
        except Refusal as refusal:
            log.debug("A request was refused: %s", refusal)
            reply = refusal.reply()
        if not isinstance(reply, Reply):
            return reply
        data = reply.body.encode()
        headers = reply.head()
        if self.http_compression and len(data) >= self.compression_threshold:
            offered = environ.get("HTTP_ACCEPT_ENCODING", "").split(",")
            for name in (part.split(";")[0].strip() for part in offered):
                if name in self.compression_methods:
                    data = getattr(self, f"_{name}")(data)
                    headers.append(("Content-Encoding", name))
                    break
        headers += self._cors_headers(environ)
        headers.append(("Content-Length", str(len(data))))
        start_response(reply.status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [data]

    def _answer(
        self,
        environ: dict[str, Any],
        start_response: Callable[..., Any],
        body: bytes | None,
    ) -> Reply | Iterable[bytes]:
        self._check_origin(environ)
        method = environ["REQUEST_METHOD"]
        if method == "OPTIONS":
            return Reply("")
        query = urllib.parse.parse_qs(environ.get("QUERY_STRING", ""))
        if "j" in query:
            raise Refusal(BAD_REQUEST, "JSONP is not supported")
        transport = query.get("transport", [""])[0]
        if transport not in self.transports:
            raise Refusal(UNKNOWN_TRANSPORT, "Transport unknown")
        if query.get("EIO", ["4"] if "sid" in query else []) != ["4"]:
            raise Refusal(UNSUPPORTED_VERSION, "Unsupported protocol version")
        if "sid" not in query:
            if method != "GET":
                raise Refusal(BAD_METHOD, "Bad handshake method")
            if transport == "websocket":
                return self._upgrade(environ, start_response, None)
            return self._open_polling(environ)
        sid = query["sid"][0]
        if transport == "websocket":
            return self._upgrade(environ, start_response, self._find(sid, environ))
        if method not in ("GET", "POST"):
            raise Refusal(BAD_METHOD, "Bad method")
        return self._polling.answer(environ, start_response, sid, body)

    def _check_origin(self, environ: dict[str, Any]) -> None:
        origin = environ.get("HTTP_ORIGIN")
        if self.cors_allowed_origins == [] or not origin:
            return
        allowed = self._cors_allowed_origins(environ)
        if allowed is not None and origin not in allowed:
            self._log_error_once(f"{origin} is not an accepted origin.", "bad-origin")
            raise Refusal(FORBIDDEN, "Not an accepted origin.")

    def _find(self, sid: str, environ: dict[str, Any]) -> Session:
        session = self._sessions.find(sid)
        if session is None:
            raise unknown_sid()
        if not may_use(session.bond, environ):
            self._metrics.count("unborne_total")
            raise unknown_sid()
        return session

    # -- opening -----------------------------------------------------------------------
    def _open(self, environ: dict[str, Any]) -> Session:
        """Register a new session; the handler of connects is asked."""
        if self._peers is None and environ.get("wsgi.multiprocess"):
            self._log_error_once(
                "The server says that it runs several processes of this application, "
                "and LIVEPUSH_MESSAGE_QUEUE is not set: what one of them commits is "
                "not shown by the others. Set it to a Redis URL, or run one process "
                "with threads.",
                "several-processes",
            )
        self._started()
        try:
            session = self._sessions.add()
        except Full:
            self._log_error_once(
                "There are as many connections as LIVEPUSH_MAX_CONNECTIONS allows "
                f"({self._limits.connections}); one more was refused.",
                "too-many-connections",
            )
            raise too_many() from None
        answer = self._trigger_event("connect", session.sid, slim(environ))
        if answer is not None and answer is not True:
            self._sessions.remove(session)
            raise Refusal(FORBIDDEN, "Refused", "401 UNAUTHORIZED")
        self._sessions.begin(session)
        return session

    def _opening(self, session: Session, upgrades: list[str]) -> Frame:
        told = {
            "sid": session.sid,
            "upgrades": upgrades,
            "pingInterval": round(self.ping_interval * 1000),
            "pingTimeout": round(self.ping_timeout * 1000),
            "maxPayload": self.max_http_buffer_size,
        }
        return Frame(packets.OPEN + engineio.packet.Packet.json.dumps(told))

    def _open_polling(self, environ: dict[str, Any]) -> Reply:
        if self._forwarding is not None:
            self._forwarding.enter()
        session = self._open(environ)
        may_upgrade = self.allow_upgrades and "websocket" in self.transports
        upgrades = ["websocket"] if may_upgrade else []
        headers: tuple[tuple[str, str], ...] = ()
        if self.cookie:
            made = self.cookie
            if not isinstance(made, dict):
                made = {"name": made, "path": "/", "SameSite": "Lax"}
            headers = (("Set-Cookie", self._generate_sid_cookie(session.sid, made)),)
        return Reply(self._opening(session, upgrades).text, headers)

    def _upgrade(
        self,
        environ: dict[str, Any],
        start_response: Callable[..., Any],
        session: Session | None,
    ) -> Iterable[bytes]:
        problem = handshake.check(environ)
        if problem is not None:
            raise Refusal(BAD_REQUEST, problem, *handshake.refusal(problem))
        held = taking.find(environ)
        if held is None:
            self._log_error_once(
                "The server that runs this application shows no socket, so there are "
                "no WebSockets: clients poll. Use gunicorn (gthread or gevent), or "
                "LIVEPUSH_ENGINE = 'stock' if python-engineio knows that server.",
                "no-socket",
            )
            raise Refusal(
                BAD_REQUEST,
                "The server that runs this application has no WebSockets for it; "
                "connect by polling",
            )
        loop = self._started()
        opened = self._open(environ) if session is None else None
        hello = handshake.response(environ)
        if opened is not None:
            hello += self._opening(opened, []).wire
        if held.encrypted:
            self._holding.serve(held.socket, hello, opened, session)
            return held.end(start_response, taking.SWITCHED)
        try:
            sock = self._take(held)
        except Refusal:
            if opened is not None:
                self._sessions.close(opened, Reason.TRANSPORT_ERROR)
            raise
        decoder = frames.Decoder(self.max_http_buffer_size)
        if opened is not None:
            connection = opened.websocket = Connection(sock, decoder, opened)
            wanted = True
        else:
            assert session is not None
            probe = Probe(self._sessions, session, loop, sock, decoder)
            connection = probe.connection
            wanted = probe.begin()
            if wanted:
                self._probes.add(probe)
            else:
                connection.owner = None
        loop.own(connection, hello)
        if not wanted or (opened is not None and opened.closed):
            loop.close(connection)  # it is one too many, or was ended meanwhile
        return held.end(start_response, taking.SWITCHED)

    def _take(self, held: taking.Held) -> Any:
        """Take a request's socket.

        Raises:
            Refusal: There is no descriptor for it.
        """
        try:
            return taking.take(held.socket)
        except OSError as error:
            self._log_error_once(
                f"A connection was refused ({error}): each takes a file descriptor; "
                "raise the limit (ulimit -n), or lower LIVEPUSH_MAX_CONNECTIONS.",
                "no-descriptor",
            )
            raise too_many() from error


def _repeat(loop: Loop, seconds: float, look: Callable[[], None]) -> None:
    def due(_: None) -> None:
        line.add(None)
        look()

    line: Timeline[None] = loop.timeline(seconds, due)
    line.add(None)


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _begin_again() -> None:
    for engine in _engines:
        engine._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_again)
