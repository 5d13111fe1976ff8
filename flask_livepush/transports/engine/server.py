"""The Engine.IO v4 server under python-socketio's: sessions, polling, upgrades.

It takes the place of python-engineio's server, from which it has what is not about
connections: options, origins, cookies, the async mode's primitives. WebSockets belong
to the loop; a poll waits in its request's thread.

Source: Engine.IO protocol, version 4 (github.com/socketio/engine.io-protocol).
"""

from __future__ import annotations

import base64
import logging
import os
import sys
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import engineio

from ...metrics import OFF, Metrics
from ...protocol.pace import Pace
from . import frames, handshake, packets, taking
from .environ import slim
from .held import HeldWebSocket
from .loop import LINGER, Loop, WebSocket
from .packets import Frame, PacketError
from .poller import create
from .session import Session
from .timeline import Timeline

log = logging.getLogger(__name__)

# Packets of one request.
_MAX_PACKETS = 1024
# Bytes of a request's body that are read and thrown away past what is allowed, and how
# many at a time. What is longer costs the client its connection.
_DISCARDED = 4 * 1024 * 1024
_CHUNK = 65_536
# Bytes of a session's id, a multiple of 3, and how many ids are drawn at once.
_ID_BYTES = 15
_IDS = 256
# Messages of one connection, a second, that may come at once.
_BURST = 5

# Engine.IO's error codes: github.com/socketio/engine.io, lib/server.ts
_UNKNOWN_TRANSPORT = 0
_UNKNOWN_SID = 1
_BAD_METHOD = 2
_BAD_REQUEST = 3
_FORBIDDEN = 4
_UNSUPPORTED_VERSION = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine bounds.

    Args:
        connections: How many there may be.
        send_bytes: What may wait for one.
        messages: What one may send, a second.
        upgrade: Seconds from a WebSocket's opening to the end of its probe.
        connect: Seconds from a connection's opening until it has entered a namespace.
    """

    connections: int
    send_bytes: int
    messages: float
    upgrade: float
    connect: float


class _Refusal(Exception):
    def __init__(
        self,
        code: int,
        message: str,
        status: str = "400 BAD REQUEST",
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.headers = tuple(headers)


@dataclass(frozen=True, slots=True)
class _Reply:
    body: str
    headers: tuple[tuple[str, str], ...] = ()
    status: str = "200 OK"
    type: str = "text/plain; charset=UTF-8"


class _Probe:
    """A WebSocket that wants to take over a session that polls."""

    __slots__ = ("answered", "session", "websocket")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.websocket: WebSocket | None = None
        self.answered = False


class Engine(engineio.Server):  # type: ignore[misc]
    """An Engine.IO server that owns its sockets.

    Made by :meth:`replace`. Requests run in the HTTP server's threads, what comes by
    WebSocket in the loop's; handlers must hand over.
    """

    _limits: Limits
    _switch_interval: float | None
    _metrics: Metrics
    _full: Callable[[str], None] | None
    # Whether it was said what WebSockets cost that their server keeps.
    _holds: bool

    @classmethod
    def replace(
        cls,
        server: Any,
        *,
        limits: Limits,
        switch_interval: float | None,
        metrics: Metrics = OFF,
    ) -> Engine:
        """Put an engine in the place of a Socket.IO server's Engine.IO server.

        Args:
            server: The Socket.IO server; its options and handlers are kept.
            switch_interval: What ``sys.setswitchinterval`` is given in the processes
                that serve; None leaves it alone.
        """
        stock = server.eio
        made = cls.__new__(cls)
        made.__dict__.update(stock.__dict__)
        made._limits = limits
        made._switch_interval = switch_interval
        made._metrics = metrics
        made._full = None
        made._holds = False
        made._begin()
        server.eio = made
        return made

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._ids: deque[str] = deque()
        self.sockets: dict[str, Session] = {}
        # Guards the sessions' fields that say so, and the loop's beginning.
        self._lock = threading.Lock()
        self._loop: Loop | None = None
        # Sessions that are closed and have not been told yet.
        self._leaving: dict[str, Session] = {}

    def on_full(self, full: Callable[[str], None]) -> None:
        """Call a function with the id of each session that loses publications.

        It must hand over, as it is called by whoever writes, who may hold locks. In
        the end :meth:`accept_again` is to be called, or the session ended.
        """
        self._full = full

    # -- the loop ----------------------------------------------------------------------
    def _started(self) -> Loop:
        """Return the process's loop; it starts with the first connection."""
        if self._loop is None or self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    self._begin()  # the parent's sockets are the parent's
                if self._loop is None:
                    self._loop = self._start()
        return self._loop

    def _start(self) -> Loop:
        loop = Loop(
            create(self.async_mode, self.sleep),
            now=time.monotonic,
            limit=self._limits.send_bytes,
            stall=self.ping_timeout,
            received=self._received,
            full=lambda websocket: self._lost_some(websocket.owner),
            gone=self._gone,
        )
        line = loop.timeline
        self._pings: Timeline[Session] = line(self.ping_interval, self._ask)
        self._pongs: Timeline[tuple[Session, int]] = line(
            self.ping_timeout, self._check_answer
        )
        self._connects: Timeline[Session] = line(
            self._limits.connect, self._check_connected
        )
        self._probes: Timeline[_Probe] = line(self._limits.upgrade, self._end_probe)
        self._farewells: Timeline[Session] = line(self.ping_timeout, self._forget)
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
            self.write((session,), (packets.encoded(pkt),))

    def disconnect(self, sid: str | None = None) -> None:
        """End a connection, or all."""
        found = [self.sockets.get(sid)] if sid is not None else [*self.sockets.values()]
        for session in found:
            if session is not None:
                session.close()

    def shutdown(self) -> None:
        """End the loop and all connections."""
        self.disconnect()
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop()

    def generate_id(self) -> str:
        """Return a new session's id: 120 random bits, as URLs can hold them."""
        # A few hundred are drawn at once: each draw gives the interpreter's lock away.
        try:
            return self._ids.pop()
        except IndexError:
            drawn = base64.urlsafe_b64encode(os.urandom(_ID_BYTES * _IDS)).decode()
            length = len(drawn) // _IDS
            new = [drawn[i : i + length] for i in range(0, len(drawn), length)]
            first = new.pop()
            self._ids.extend(new)
            return first

    def _get_socket(self, sid: str) -> Session:
        try:
            return self.sockets[sid]
        except KeyError:
            raise KeyError("Session not found") from None

    # -- out ---------------------------------------------------------------------------
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
        websockets = []
        for session in sessions:
            websocket = session.websocket
            if websocket is not None:
                websockets.append(websocket)
            else:
                self._write_polling(session, out, droppable)
        loop = self._loop
        if websockets and loop is not None:
            data = out[0].wire if len(out) == 1 else b"".join(f.wire for f in out)
            if len(websockets) == 1 and not droppable:
                loop.send(websockets[0], data)
            else:
                loop.write(websockets, data, droppable=droppable)

    def _write_polling(
        self, session: Session, out: Sequence[Frame], droppable: bool
    ) -> None:
        loses = False
        with self._lock:
            websocket = session.websocket  # it may have got one meanwhile
            if websocket is None and not session.closed:
                loses = not session.put(out, droppable, self._limits.send_bytes)
                if session.poll is not None:
                    session.poll.set()
        if websocket is not None:
            self.write((session,), out, droppable=droppable)
        elif loses and droppable:
            self._lost_some(session)
        elif loses:
            self._close(session, self.reason.TRANSPORT_ERROR)

    def _lost_some(self, owner: Any) -> None:
        if isinstance(owner, Session) and self._full is not None:
            self._full(owner.sid)

    def accept_again(self, sid: str) -> None:
        """Take publications again for a session that has lost some."""
        session = self.sockets.get(sid)
        if session is None:
            return
        with self._lock:
            session.lossy = False
            websocket = session.websocket
        if websocket is not None and self._loop is not None:
            self._loop.accept_again(websocket)

    # -- requests ----------------------------------------------------------------------
    def handle_request(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer a request; in the HTTP server's thread."""
        # Also where it is refused: the next request of the same connection comes after
        # it, and what is not read may cost the client the answer.
        body = self._read_body(environ)
        try:
            reply = self._answer(environ, start_response, body)
        except _Refusal as refusal:
            log.debug("A request was refused: %s", refusal)
            error = {"code": refusal.code, "message": str(refusal)}
            told = engineio.packet.Packet.json.dumps(error)
            reply = _Reply(told, refusal.headers, refusal.status, "application/json")
        if not isinstance(reply, _Reply):
            return reply
        data = reply.body.encode()
        headers = [("Content-Type", reply.type), ("Cache-Control", "no-store")]
        headers += reply.headers
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
    ) -> _Reply | Iterable[bytes]:
        self._check_origin(environ)
        method = environ["REQUEST_METHOD"]
        if method == "OPTIONS":
            return _Reply("")
        query = urllib.parse.parse_qs(environ.get("QUERY_STRING", ""))
        transport = query.get("transport", [""])[0]
        if transport not in self.transports:
            raise _Refusal(_UNKNOWN_TRANSPORT, "Transport unknown")
        if query.get("EIO", ["4"] if "sid" in query else []) != ["4"]:
            raise _Refusal(_UNSUPPORTED_VERSION, "Unsupported protocol version")
        if "sid" not in query:
            if method != "GET":
                raise _Refusal(_BAD_METHOD, "Bad handshake method")
            if transport == "websocket":
                return self._upgrade(environ, start_response, None)
            return self._open_polling(environ)
        session = self._find(query["sid"][0])
        if transport == "websocket":
            return self._upgrade(environ, start_response, session)
        if session.upgraded:
            raise _Refusal(_BAD_REQUEST, "The session is connected by WebSocket")
        if method == "GET":
            return self._poll(session)
        if method == "POST":
            return self._take_body(session, body)
        raise _Refusal(_BAD_METHOD, "Bad method")

    def _check_origin(self, environ: dict[str, Any]) -> None:
        origin = environ.get("HTTP_ORIGIN")
        if self.cors_allowed_origins == [] or not origin:
            return
        allowed = self._cors_allowed_origins(environ)
        if allowed is not None and origin not in allowed:
            self._log_error_once(f"{origin} is not an accepted origin.", "bad-origin")
            raise _Refusal(_FORBIDDEN, "Not an accepted origin.")

    def _find(self, sid: str) -> Session:
        session = self.sockets.get(sid) or self._leaving.get(sid)
        if session is None:
            raise _Refusal(_UNKNOWN_SID, "Session ID unknown")
        return session

    # -- opening -----------------------------------------------------------------------
    def _open(self, environ: dict[str, Any]) -> Session:
        """Register a new session; the handler of connects is asked."""
        self._started()
        if len(self.sockets) >= self._limits.connections:
            self._log_error_once(
                "There are as many connections as LIVEPUSH_MAX_CONNECTIONS allows "
                f"({self._limits.connections}); one more was refused.",
                "too-many-connections",
            )
            self._metrics.count("drops_total", "too_many")
            raise _too_many()
        rate = self._limits.messages
        pace = Pace(rate, max(1, int(rate * _BURST)))
        session = Session(self.generate_id(), pace, self._close)
        self.sockets[session.sid] = session
        answer = self._trigger_event("connect", session.sid, slim(environ))
        if answer is not None and answer is not True:
            del self.sockets[session.sid]
            raise _Refusal(_FORBIDDEN, "Refused", "401 UNAUTHORIZED")
        self._pings.add(session)
        self._connects.add(session)
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

    def _open_polling(self, environ: dict[str, Any]) -> _Reply:
        session = self._open(environ)
        may_upgrade = self.allow_upgrades and "websocket" in self.transports
        upgrades = ["websocket"] if may_upgrade else []
        headers: tuple[tuple[str, str], ...] = ()
        if self.cookie:
            made = self.cookie
            if not isinstance(made, dict):
                made = {"name": made, "path": "/", "SameSite": "Lax"}
            headers = (("Set-Cookie", self._generate_sid_cookie(session.sid, made)),)
        return _Reply(self._opening(session, upgrades).text, headers)

    def _upgrade(
        self,
        environ: dict[str, Any],
        start_response: Callable[..., Any],
        session: Session | None,
    ) -> Iterable[bytes]:
        problem = handshake.check(environ)
        if problem is not None:
            raise _Refusal(_BAD_REQUEST, problem, *handshake.refusal(problem))
        held = taking.find(environ)
        if held is None:
            self._log_error_once(
                "The server that runs this application shows no socket, so there are "
                "no WebSockets: clients poll. Use gunicorn (gthread or gevent), or "
                "LIVEPUSH_ENGINE = 'stock' if python-engineio knows that server.",
                "no-socket",
            )
            raise _Refusal(
                _BAD_REQUEST,
                "The server that runs this application has no WebSockets for it; "
                "connect by polling",
            )
        loop = self._started()
        opened = self._open(environ) if session is None else None
        if held.encrypted:
            self._hold(environ, held, opened, session)
            return held.end(start_response)
        try:
            sock = taking.take(held.socket)
        except OSError as error:
            if opened is not None:
                self._close(opened, self.reason.TRANSPORT_ERROR)
            self._log_error_once(
                f"A WebSocket was refused ({error}): each takes a file descriptor; "
                "raise the limit (ulimit -n), or lower LIVEPUSH_MAX_CONNECTIONS.",
                "no-descriptor",
            )
            raise _too_many() from error
        decoder = frames.Decoder(self.max_http_buffer_size)
        hello = handshake.response(environ)
        if opened is not None:
            websocket = WebSocket(sock, decoder, opened)
            hello += self._opening(opened, []).wire
            opened.websocket = websocket
        else:
            websocket = self._probing(sock, decoder, session)
        loop.own(websocket, hello)
        if websocket.owner is None or (opened is not None and opened.closed):
            loop.close(websocket)  # it is one too many, or was ended meanwhile
        return held.end(start_response)

    def _probing(
        self, sock: Any, decoder: frames.Decoder, session: Session | None
    ) -> WebSocket:
        """Return a WebSocket that may take a session over; one at a time may."""
        assert session is not None
        probe = _Probe(session)
        websocket = probe.websocket = WebSocket(sock, decoder, probe)
        with self._lock:
            free = session.probe is None and not (session.upgraded or session.closed)
            if free:
                session.probe = websocket
        if free:
            self._probes.add(probe)
        else:
            websocket.owner = None
        return websocket

    # -- WebSockets that their server keeps: the request's thread ----------------------
    def _hold(
        self,
        environ: dict[str, Any],
        held: taking.Held,
        opened: Session | None,
        session: Session | None,
    ) -> None:
        """Serve a WebSocket until it ends."""
        if not self._holds:
            self._holds = True
            log.warning(
                "This process encrypts WebSockets itself, so each takes two threads; "
                "let a proxy in front do that, and they take none."
            )
        sock = HeldWebSocket(
            held.socket,
            frames.Decoder(self.max_http_buffer_size),
            stall=self.ping_timeout,
            now=time.monotonic,
        )
        try:
            sock.send(handshake.response(environ))
            if opened is not None:
                sock.send(self._opening(opened, []).wire)
                opened.held = sock
            elif session is not None and self._try_out(session, sock):
                opened = session
            if opened is not None:
                self._serve(opened, sock)
            else:
                self._part(sock)
                sock.drain(LINGER)
        except OSError as error:
            log.debug("A WebSocket broke: %s", error)
        finally:
            if opened is not None:
                self._close(opened, self.reason.TRANSPORT_CLOSE)
            sock.abort()

    def _try_out(self, session: Session, sock: HeldWebSocket) -> bool:
        """Let a WebSocket take a session over; say whether it did."""
        with self._lock:
            if session.probe is not None or session.upgraded or session.closed:
                return False
            session.probe = sock
        wanted = ["2probe", packets.UPGRADE]
        try:
            for _, payload in sock.messages(within=self._limits.upgrade):
                if payload != wanted.pop(0):
                    sock.code = frames.PROTOCOL_ERROR
                    return False
                if not wanted:
                    break
                sock.send(Frame("3probe").wire)
                self._write_polling(session, [_NOOP], False)
        except frames.FrameError as error:
            sock.code = error.code
            return False
        finally:
            with self._lock:
                session.probe = None
                poll = session.poll
                over = bool(wanted) or session.closed
                if not over:
                    session.held = sock
                    session.poll = None
                    waiting = session.waiting
                    session.waiting = [i for i in waiting if i[0] is not _NOOP]
        if not over and poll is not None:
            poll.set()
        return not over

    def _serve(self, session: Session, sock: HeldWebSocket) -> None:
        read, written = self.create_event(), self.create_event()
        self.start_background_task(self._write_held, session, sock, read, written)
        try:
            for opcode, payload in sock.messages():
                self._frame(session, opcode, payload)
                if session.closed:
                    break
        except frames.FrameError as error:
            log.debug("A client broke the WebSocket protocol: %s", error)
            sock.code = error.code
            sock.ended = True
        finally:
            self._close(session, self.reason.TRANSPORT_CLOSE)
            read.set()
            sock.drain(LINGER)
            sock.abort()
            written.wait(self.ping_timeout)  # the server may close the socket now

    def _write_held(
        self, session: Session, sock: HeldWebSocket, read: Any, written: Any
    ) -> None:
        """Write what waits until the session is closed; a thread of its own."""
        try:
            while True:
                with self._lock:
                    batch, event = session.take(), None
                    if not batch and not session.closed:
                        event = session.poll = self.create_event()
                if event is not None:
                    event.wait(self.ping_interval + self.ping_timeout)
                elif batch and not sock.ended:
                    sock.send(b"".join(frame.wire for frame in batch))
                else:
                    break
            self._part(sock)
            read.wait(LINGER)  # until the client has ended it too
        except OSError as error:
            log.debug("A WebSocket broke: %s", error)
        finally:
            if not read.is_set():
                sock.abort()
            written.set()

    def _part(self, sock: HeldWebSocket) -> None:
        sock.send(frames.encode(frames.CLOSE, frames.close_payload(sock.code)))
        sock.finish()

    # -- polling -----------------------------------------------------------------------
    def _poll(self, session: Session) -> _Reply:
        event = None
        with self._lock:
            if session.upgraded:
                raise _Refusal(_BAD_REQUEST, "The session is connected by WebSocket")
            twice = session.poll is not None
            if not twice:
                batch = session.take()
                if session.closed:
                    self._leaving.pop(session.sid, None)
                elif session.probe is not None:
                    batch = batch or [_NOOP]
                elif not batch:
                    event = session.poll = self.create_event()
        if twice:
            self._close(session, self.reason.TRANSPORT_ERROR)
            raise _Refusal(_BAD_REQUEST, "The session is polled already")
        if event is not None:
            event.wait(self.ping_interval + self.ping_timeout)
            with self._lock:
                if session.poll is event:
                    session.poll = None
                # What waits is no more for a poll once it has a WebSocket of this kind.
                batch = [_NOOP] if session.held is not None else session.take()
        if not batch:
            # The loop asks a client that polls more often than that.
            raise _Refusal(_BAD_REQUEST, "The session has ended")
        return _Reply(packets.join(batch))

    def _take_body(self, session: Session, body: bytes | None) -> _Reply:
        if session.closed:
            raise _Refusal(_UNKNOWN_SID, "Session ID unknown")
        try:
            if body is None:
                raise PacketError("The request is too large.")
            for kind, data in packets.split(body.decode(), limit=_MAX_PACKETS):
                if not session.pace.allows(time.monotonic()):
                    self._too_fast(session)
                    raise PacketError("The client sends too much.")
                self._take(session, kind, data)
        except (PacketError, UnicodeDecodeError) as error:
            self._close(session, self.reason.TRANSPORT_ERROR)
            status = "400 BAD REQUEST" if body is not None else "413 TOO LARGE"
            raise _Refusal(_BAD_REQUEST, "Bad request", status) from error
        return _Reply("ok")

    def _read_body(self, environ: dict[str, Any]) -> bytes | None:
        """Return the body of a request; None: it is too large, and thrown away."""
        limit = self.max_http_buffer_size
        try:
            size = int(environ.get("CONTENT_LENGTH") or 0)
        except ValueError:
            return None
        if size < 0:
            return None
        if not size and "chunked" in environ.get("HTTP_TRANSFER_ENCODING", ""):
            size = _DISCARDED
        stream = environ["wsgi.input"]
        body: bytes = stream.read(min(size, limit + 1)) if size else b""
        if len(body) <= limit:
            return body
        left = min(size - len(body), _DISCARDED)
        while left > 0 and (data := stream.read(min(left, _CHUNK))):
            left -= len(data)
        return None

    # -- in: the loop's thread, or a request's -----------------------------------------
    def _received(
        self, websocket: WebSocket, opcode: int, payload: str | bytes
    ) -> None:
        owner = websocket.owner
        if isinstance(owner, _Probe):
            self._probed(owner, websocket, opcode, payload)
        elif owner is not None:  # else it is one too many, and being closed
            self._frame(owner, opcode, payload)

    def _frame(self, session: Session, opcode: int, payload: Any) -> None:
        """Take a frame of a session's WebSocket."""
        if not session.pace.allows(time.monotonic()):
            self._too_fast(session)
        elif opcode == frames.TEXT:
            try:
                self._take(session, *packets.of_text(payload))
            except PacketError as error:
                log.debug("A client broke the Engine.IO protocol: %s", error)
                self._close(session, self.reason.TRANSPORT_ERROR)
        elif opcode == frames.BINARY:
            self._message(session, payload)
        elif opcode == frames.PING:
            self.write((session,), (packets.control(frames.PONG, payload),))

    def _take(self, session: Session, kind: str, data: str | bytes) -> None:
        """Take a packet.

        Raises:
            PacketError: It is none that a client may send now.
        """
        if kind == packets.MESSAGE:
            self._message(session, data)
        elif kind == packets.PONG:
            if session.answered < session.asked:
                session.answered = session.asked
                self._pings.add(session)
        elif kind == packets.CLOSE:
            self._close(session, self.reason.CLIENT_DISCONNECT)
        else:
            raise PacketError("The packet comes at the wrong time.")

    def _message(self, session: Session, data: str | bytes) -> None:
        if session.closed:
            return
        try:
            self.handlers["message"](session.sid, data)
        except Exception as error:  # noqa: BLE001
            # Handlers hand over; what fails here is decoding what a client sent.
            log.debug("A client broke the Socket.IO protocol: %r", error)
            self._close(session, self.reason.TRANSPORT_ERROR)

    def _too_fast(self, session: Session) -> None:
        if not session.closed:
            log.warning("A client sends faster than it may; it is closed")
            self._metrics.count("drops_total", "too_fast")
            self._close(session, self.reason.TRANSPORT_ERROR)

    def _probed(
        self, probe: _Probe, websocket: WebSocket, opcode: int, payload: str | bytes
    ) -> None:
        loop, session = self._started(), probe.session
        if payload == "2probe" and not probe.answered:
            probe.answered = True
            loop.write((websocket,), Frame("3probe").wire)
            self._write_polling(session, [_NOOP], False)  # ends the poll in flight
        elif payload == packets.UPGRADE and probe.answered:
            self._complete(session, websocket)
        else:
            loop.close(websocket, frames.PROTOCOL_ERROR)

    def _complete(self, session: Session, websocket: WebSocket) -> None:
        """Let a WebSocket take over what its session waits for."""
        with self._lock:
            session.probe = None
            if session.closed:
                closed = True
            else:
                closed = False
                waiting = [f for f in session.take() if f is not _NOOP]
                websocket.owner = session
                if waiting and self._loop is not None:
                    data = b"".join(frame.wire for frame in waiting)
                    self._loop.write((websocket,), data)
                # What it has lost is not told yet: nothing may come after the hole.
                websocket.lossy |= session.lossy
                session.websocket = websocket
                if session.poll is not None:
                    session.waiting.append((_NOOP, False))
                    session.poll.set()
        if closed and self._loop is not None:
            self._loop.close(websocket)

    # -- time: the loop's thread -------------------------------------------------------
    def _ask(self, session: Session) -> None:
        if not session.closed:
            session.asked += 1
            self._pongs.add((session, session.asked))
            self.write((session,), (_PING,))

    def _check_answer(self, question: tuple[Session, int]) -> None:
        session, number = question
        if session.answered < number:
            self._close(session, self.reason.PING_TIMEOUT)

    def _check_connected(self, session: Session) -> None:
        if not session.entered:
            self._close(session, self.reason.TRANSPORT_CLOSE)

    def _end_probe(self, probe: _Probe) -> None:
        websocket = probe.websocket
        if (
            websocket is not None
            and websocket.owner is probe
            and self._loop is not None
        ):
            self._loop.close(websocket, frames.PROTOCOL_ERROR)

    def _forget(self, session: Session) -> None:
        self._leaving.pop(session.sid, None)

    # -- the end -----------------------------------------------------------------------
    def _gone(self, owner: Any, why: str) -> None:
        """Take notice that a WebSocket is no more; the loop's thread."""
        if isinstance(owner, _Probe):
            with self._lock:
                if owner.session.probe is owner.websocket:
                    owner.session.probe = None
        else:
            self._close(owner, self.reason.TRANSPORT_CLOSE)

    def _close(self, session: Session, reason: str) -> None:
        """End a session, once; called by any thread."""
        by_client = reason == self.reason.CLIENT_DISCONNECT
        with self._lock:
            if session.closed:
                return
            session.closed = True
            websocket, probe, poll = session.websocket, session.probe, session.poll
            if websocket is None:
                if session.held is None or not by_client:
                    session.waiting.append((_NOOP if by_client else _CLOSE, False))
                if (
                    poll is None
                    and session.held is None
                    and reason == self.reason.SERVER_DISCONNECT
                ):
                    self._leaving[session.sid] = session  # it has something to fetch
            self.sockets.pop(session.sid, None)
        if poll is not None:
            poll.set()
        loop = self._loop  # None: it was stopped, and ends its sockets by itself
        if websocket is not None and loop is not None:
            if websocket.owner is not None and not by_client:
                loop.write((websocket,), _CLOSE.wire)
            loop.close(websocket)
        elif session.sid in self._leaving:
            self._farewells.add(session)
        if isinstance(probe, HeldWebSocket):
            probe.abort()
        elif probe is not None and loop is not None:
            loop.close(probe)
        self._trigger_event("disconnect", session.sid, reason)


def _too_many() -> _Refusal:
    return _Refusal(_FORBIDDEN, "Too many connections", "503 SERVICE UNAVAILABLE")


_NOOP = Frame(packets.NOOP)
_CLOSE = Frame(packets.CLOSE)
_PING = Frame(packets.PING)
