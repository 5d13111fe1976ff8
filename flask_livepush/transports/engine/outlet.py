"""The hub's way to the engine: frames on their way to connections, by their sids."""

from __future__ import annotations

from collections.abc import Sequence

import engineio
import socketio

from ...logs import logger
from . import packets
from .packets import Frame
from .server import Engine
from .session import Session

log = logger(__name__)


class EngineOutlet:
    """Puts frames on the connections of an engine.

    Args:
        server: The Socket.IO server above it.
    """

    def __init__(self, server: socketio.Server, engine: Engine) -> None:
        self._server = server
        self._engine = engine
        # By the sid on the default namespace; changed in each connection's turn.
        self._sessions: dict[str, Session] = {}
        # Flask-SocketIO's test client has no session, and replaces the method by which
        # python-socketio sends.
        self._clients: dict[str, str] = {}

    def opened(self, sid: str, eio_sid: str) -> None:
        """Learn which session a connection to the default namespace has."""
        session = self._engine.sockets.get(eio_sid)
        if session is not None:
            self._sessions[sid] = session
        else:
            self._clients[sid] = eio_sid

    def closed(self, sid: str) -> None:
        """Forget a connection."""
        self._sessions.pop(sid, None)
        self._clients.pop(sid, None)

    def message(self, data: str | bytes) -> Frame:
        """Make a frame of a message."""
        return packets.message(data)

    def write(
        self, sids: Sequence[str], frames: Sequence[Frame], *, droppable: bool
    ) -> None:
        """Write frames to each connection, in this order; never blocks."""
        sessions = self._sessions
        found = [session for sid in sids if (session := sessions.get(sid)) is not None]
        self._engine.write(found, frames, droppable=droppable)
        for sid in sids if self._clients else ():
            if sid in self._clients:
                for frame in frames:
                    packet = engineio.packet.Packet(encoded_packet=frame.text)
                    self._server._send_eio_packet(self._clients[sid], packet)

    def sid_of(self, eio_sid: str) -> str | None:
        """Return the sid on the default namespace of a session, if it has one."""
        sid: str | None = self._server.manager.sid_from_eio_sid(eio_sid, "/")
        return sid
