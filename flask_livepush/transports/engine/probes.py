"""Upgrades: a WebSocket of the loop's is tried out, and takes a polling session over.

Source: Engine.IO protocol, version 4, "Upgrading".
"""

from __future__ import annotations

from typing import Any

from . import frames, packets
from .connection import Connection
from .loop import Loop
from .packets import NOTHING, Frame
from .session import Session
from .sessions import Sessions

# Sent by the client, and what is answered.
PROBE = "2probe"
PROBED = Frame("3probe")


class Probe:
    """What owns a WebSocket that is tried out; but for making it the loop's thread."""

    __slots__ = ("_answered", "_loop", "_session", "_sessions", "connection")

    def __init__(
        self,
        sessions: Sessions,
        session: Session,
        loop: Loop,
        sock: Any,
        decoder: frames.Decoder,
    ) -> None:
        self._sessions = sessions
        self._session = session
        self._loop = loop
        self._answered = False
        self.connection = Connection(sock, decoder, self)

    def begin(self) -> bool:
        """Say whether it is the session's only one, and the session wants one."""
        session = self._session
        with self._sessions.lock:
            if session.probe is not None or session.upgraded or session.closed:
                return False
            session.probe = self.connection
        return True

    def received(
        self, connection: Connection, opcode: int, payload: str | bytes
    ) -> None:
        if payload == PROBE and not self._answered:
            self._answered = True
            self._loop.write((connection,), PROBED.wire)
            # It ends the poll in flight.
            self._sessions.write_waiting(self._session, [NOTHING])
        elif payload == packets.UPGRADE and self._answered:
            self._complete(connection)
        else:
            self._loop.close(connection, frames.PROTOCOL_ERROR)

    def _complete(self, connection: Connection) -> None:
        """Let the WebSocket take over what its session waits for."""
        session = self._session
        with self._sessions.lock:
            session.probe = None
            closed = session.closed
            if not closed:
                waiting = [frame for frame in session.take() if frame is not NOTHING]
                connection.owner = session
                if waiting:
                    data = b"".join(frame.wire for frame in waiting)
                    self._loop.write((connection,), data)
                # What it has lost is not told yet: nothing may come after the hole.
                connection.lossy |= session.lossy
                session.websocket = connection
                if session.poll is not None:
                    session.waiting.append((NOTHING, False))
                    session.poll.ready()
        if closed:
            self._loop.close(connection)

    def end(self) -> None:
        """End it if it has not succeeded in time."""
        if self.connection.owner is self:
            self._loop.close(self.connection, frames.PROTOCOL_ERROR)

    def gone(self) -> None:
        with self._sessions.lock:
            if self._session.probe is self.connection:
                self._session.probe = None
