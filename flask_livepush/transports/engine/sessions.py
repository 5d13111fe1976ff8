"""The sessions of one process: what goes out to them, what comes in, how they end.

It owns the loop, and knows no requests.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import engineio

from ...logs import logger
from ...metrics import OFF, Metrics
from ...protocol.pace import Pace
from . import frames, packets
from .connection import Connection
from .held import HeldWebSocket
from .loop import Loop
from .packets import GOODBYE, NOTHING, QUESTION, Frame, PacketError
from .poller import Poller
from .session import Poll, Session
from .timeline import Timeline

log = logger(__name__)

#: Why a session ends, in python-engineio's words.
Reason = engineio.Server.reason

# Messages of one connection, a second, that may come at once.
_BURST = 5


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


class Guest(Protocol):
    """What owns a connection of the loop's and is no session."""

    def received(
        self, connection: Connection, opcode: int, payload: str | bytes
    ) -> None:
        """Take what was read; in the loop's thread."""

    def gone(self) -> None:
        """Take notice that the connection is no more; in the loop's thread."""


class Full(Exception):
    """There are as many sessions as there may be."""


class Sessions:
    """Owns sessions, and the loop with their connections.

    Args:
        ping_interval: Seconds between two questions for a sign of life.
        ping_timeout: Seconds for the answer.
        draw_id: Returns a new session's id.
        heard: Called with a session's id and each message; it must hand over.
        ended: Called with a session's id and why it ended, once; it must hand over.
        lost: Called with the id of a session that begins to lose publications, by
            whoever writes, who may hold locks: it must hand over.
        now: Seconds of a clock that never falls.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        ping_interval: float,
        ping_timeout: float,
        draw_id: Callable[[], str],
        heard: Callable[[str, str | bytes], None],
        ended: Callable[[str, str], None],
        lost: Callable[[str], None],
        now: Callable[[], float],
        metrics: Metrics = OFF,
    ) -> None:
        self.limits = limits
        self.ping_interval = ping_interval
        self.ping_timeout = ping_timeout
        self._draw_id = draw_id
        self._heard = heard
        self._ended = ended
        self._lost = lost
        self.now = now
        self._metrics = metrics
        #: Those that are open, by their ids.
        self.open: dict[str, Session] = {}
        #: Guards the sessions' fields that say so. It is taken after the hub's locks
        #: and before the loop's.
        self.lock = threading.Lock()
        #: None: it has not begun, or was stopped, and ends its connections by itself.
        self.loop: Loop | None = None
        # Those that are closed and have not been told yet.
        self._leaving: dict[str, Session] = {}

    def start(self, poller: Poller) -> Loop:
        """Make the loop; the caller is to run it."""
        loop = Loop(
            poller,
            now=self.now,
            limit=self.limits.send_bytes,
            stall=self.ping_timeout,
            received=self._received,
            full=lambda connection: self._lost_some(connection.owner),
            gone=self._gone,
        )
        line = loop.timeline
        self._pings: Timeline[Session] = line(self.ping_interval, self._ask)
        self._pongs: Timeline[tuple[Session, int]] = line(
            self.ping_timeout, self._check_answer
        )
        self._connects: Timeline[Session] = line(
            self.limits.connect, self._check_connected
        )
        self._farewells: Timeline[Session] = line(self.ping_timeout, self._forget)
        self.loop = loop
        return loop

    def stop(self) -> None:
        """End the loop and all connections."""
        self.close_all()
        loop, self.loop = self.loop, None
        if loop is not None:
            loop.stop()

    # -- coming ------------------------------------------------------------------------
    def add(self) -> Session:
        """Register a new session; :meth:`begin` or :meth:`remove` must follow.

        Raises:
            Full: There are as many as there may be.
        """
        if len(self.open) >= self.limits.connections:
            self._metrics.count("drops_total", "too_many")
            raise Full
        rate = self.limits.messages
        pace = Pace(rate, max(1, int(rate * _BURST)))
        session = Session(self._draw_id(), pace, self.close)
        self.open[session.sid] = session
        return session

    def begin(self, session: Session) -> None:
        """Let a session's time run."""
        self._pings.add(session)
        self._connects.add(session)

    def remove(self, session: Session) -> None:
        """Forget a session that was refused."""
        del self.open[session.sid]

    def find(self, sid: str) -> Session | None:
        """Return a session that is open, or has something left to fetch."""
        return self.open.get(sid) or self._leaving.get(sid)

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
        connections = []
        for session in sessions:
            connection = session.websocket
            if connection is not None:
                connections.append(connection)
            else:
                self.write_waiting(session, out, droppable=droppable)
        loop = self.loop
        if connections and loop is not None:
            data = out[0].wire if len(out) == 1 else b"".join(f.wire for f in out)
            if len(connections) == 1 and not droppable:
                loop.send(connections[0], data)
            else:
                loop.write(connections, data, droppable=droppable)

    def write_waiting(
        self, session: Session, out: Sequence[Frame], *, droppable: bool = False
    ) -> None:
        """Let frames wait for whoever fetches them: a poll, or a thread that writes."""
        loses = False
        with self.lock:
            connection = session.websocket  # it may have got one meanwhile
            if connection is None and not session.closed:
                loses = not session.put(out, droppable, self.limits.send_bytes)
                if session.poll is not None and session.waiting:
                    session.poll.ready()
        if connection is not None:
            self.write((session,), out, droppable=droppable)
        elif loses and droppable:
            self._lost_some(session)
        elif loses:
            self.close(session, Reason.TRANSPORT_ERROR)

    def _lost_some(self, owner: Any) -> None:
        if isinstance(owner, Session):
            self._lost(owner.sid)

    def accept_again(self, sid: str) -> None:
        """Take publications again for a session that has lost some."""
        session = self.open.get(sid)
        if session is None:
            return
        with self.lock:
            session.lossy = False
            connection = session.websocket
        if connection is not None and self.loop is not None:
            self.loop.accept_again(connection)

    # -- polls -------------------------------------------------------------------------
    def wait(
        self,
        session: Session,
        poll: Poll,
        *,
        limit: int | None = None,
        mark: str = "",
    ) -> list[Frame] | None:
        """Return what waits for a session, or else let a poll wait for it.

        A proxy sends a poll to another process when the connection to the first breaks.
        With the same mark it is the same poll:

        1. It waits: the new one takes its place.
        2. It was answered, and nobody knows where the answer is. The client would miss
           that, so its session ends.

        Args:
            limit: Bytes of what is returned, if it is more than one frame.
            mark: What a client changes with each poll; empty: it does not.

        Returns:
            None: the poll waits; :meth:`fetch` returns the answer when it is ready.

        Raises:
            LookupError: Another poll waits already, or this one was answered. The
                session is closed.
        """
        with self.lock:
            former = session.poll
            again = mark != "" and mark == session.mark
            if session.upgraded:
                return [NOTHING]
            if (former is not None) == again:
                if former is not None:
                    session.poll = None
                    former.replaced()
                session.mark = mark
                batch = session.take(limit)
                if session.closed:
                    self._leaving.pop(session.sid, None)
                elif not batch and session.probe is not None:
                    batch = [NOTHING]
                elif not batch:
                    session.poll = poll
                    return None
                return batch
        self.close(session, Reason.TRANSPORT_ERROR)
        raise LookupError(
            "The session is polled already"
            if former is not None
            else "The poll was answered already"
        )

    def fetch(
        self, session: Session, poll: Poll, limit: int | None = None
    ) -> list[Frame]:
        """Return what a poll was told of; it waits no more.

        Nothing: it is none that waits, or there is nothing after all, and it waits on.
        """
        with self.lock:
            if session.held is not None:
                return [NOTHING]  # what waits is for its WebSocket now
            if session.poll is not poll:
                return []
            batch = session.take(limit)
            if batch:
                session.poll = None
                self._leaving.pop(session.sid, None)
            return batch

    def release(self, session: Session, poll: Poll) -> None:
        """Let a poll be answered soon, by nothing if there is nothing."""
        with self.lock:
            if session.poll is poll:
                session.waiting.append((NOTHING, False))
                poll.ready()

    def leave(self, session: Session, poll: Poll) -> None:
        """Forget a poll whose client has gone."""
        with self.lock:
            if session.poll is poll:
                session.poll = None
                session.mark = ""  # nothing was lost with it

    # -- in: the loop's thread, or a request's -----------------------------------------
    def _received(
        self, connection: Connection, opcode: int, payload: str | bytes
    ) -> None:
        owner: Session | Guest | None = connection.owner
        if isinstance(owner, Session):
            self.frame(owner, opcode, payload)
        elif owner is not None:  # else it is one too many, and being closed
            owner.received(connection, opcode, payload)

    def frame(self, session: Session, opcode: int, payload: Any) -> None:
        """Take a frame of a session's WebSocket."""
        if self._is_too_fast(session):
            return
        if opcode == frames.TEXT:
            try:
                self._take(session, *packets.of_text(payload))
            except PacketError as error:
                log.debug("A client broke the Engine.IO protocol: %s", error)
                self.close(session, Reason.TRANSPORT_ERROR)
        elif opcode == frames.BINARY:
            self._message(session, payload)
        elif opcode == frames.PING:
            self.write((session,), (packets.control(frames.PONG, payload),))

    def take(self, session: Session, found: Iterable[tuple[str, str | bytes]]) -> None:
        """Take the packets of one request.

        Raises:
            PacketError: One is none that a client may send now.
        """
        for kind, data in found:
            if self._is_too_fast(session):
                raise PacketError("The client sends too much.")
            self._take(session, kind, data)

    def _take(self, session: Session, kind: str, data: str | bytes) -> None:
        if kind == packets.MESSAGE:
            self._message(session, data)
        elif kind == packets.PONG:
            if session.answered < session.asked:
                session.answered = session.asked
                self._pings.add(session)
        elif kind == packets.CLOSE:
            self.close(session, Reason.CLIENT_DISCONNECT)
        else:
            raise PacketError("The packet comes at the wrong time.")

    def _message(self, session: Session, data: str | bytes) -> None:
        if session.closed:
            return
        try:
            self._heard(session.sid, data)
        except Exception as error:
            # Handlers hand over; what fails here is decoding what a client sent.
            log.debug("A client broke the Socket.IO protocol", exc_info=error)
            self.close(session, Reason.TRANSPORT_ERROR)

    def _is_too_fast(self, session: Session) -> bool:
        if session.pace.allows(self.now()):
            return False
        if not session.closed:
            log.warning("A client sends faster than it may; it is closed")
            self._metrics.count("drops_total", "too_fast")
            self.close(session, Reason.TRANSPORT_ERROR)
        return True

    # -- time: the loop's thread -------------------------------------------------------
    def _ask(self, session: Session) -> None:
        if not session.closed:
            session.asked += 1
            self._pongs.add((session, session.asked))
            self.write((session,), (QUESTION,))

    def _check_answer(self, question: tuple[Session, int]) -> None:
        session, number = question
        if session.answered < number:
            self.close(session, Reason.PING_TIMEOUT)

    def _check_connected(self, session: Session) -> None:
        if not session.entered:
            self.close(session, Reason.TRANSPORT_CLOSE)

    def _forget(self, session: Session) -> None:
        self._leaving.pop(session.sid, None)

    # -- the end -----------------------------------------------------------------------
    def _gone(self, owner: Session | Guest, why: str) -> None:
        """Take notice that a connection is no more; the loop's thread."""
        if isinstance(owner, Session):
            self.close(owner, Reason.TRANSPORT_CLOSE)
        else:
            owner.gone()

    def close(self, session: Session, reason: str) -> None:
        """End a session, once; called by any thread."""
        by_client = reason == Reason.CLIENT_DISCONNECT
        leaves = False
        with self.lock:
            if session.closed:
                return
            session.closed = True
            connection, probe = session.websocket, session.probe
            if connection is None:
                if session.held is None or not by_client:
                    goodbye = NOTHING if by_client else GOODBYE
                    session.waiting.append((goodbye, False))
                if session.poll is not None:
                    session.poll.ready()
                elif session.held is None and reason == Reason.SERVER_DISCONNECT:
                    self._leaving[session.sid] = session  # it has something to fetch
                    leaves = True
            self.open.pop(session.sid, None)
        loop = self.loop
        if connection is not None and loop is not None:
            if connection.owner is not None and not by_client:
                loop.write((connection,), GOODBYE.wire)
            loop.close(connection)
        elif leaves:
            self._farewells.add(session)
        if isinstance(probe, HeldWebSocket):
            probe.abort()
        elif probe is not None and loop is not None:
            loop.close(probe)
        self._ended(session.sid, reason)

    def end_lost(self, sid: str) -> None:
        """End a session that has said what nobody got."""
        session = self.open.get(sid)
        if session is not None:
            self.close(session, Reason.TRANSPORT_ERROR)

    def close_all(self) -> None:
        """End all sessions."""
        for session in [*self.open.values()]:
            session.close()
