"""Frames out: publications and acks, encoded once, put on many connections.

Runs in the broker's listener and in the threads of joins; it never blocks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

import engineio
import socketio

from ..logs import logger
from ..protocol.messages import (
    PRESENCE,
    RECONNECT,
    RESET,
    REVOKED,
    meta,
    presence,
    reconnect,
    reset,
    revoked,
    whispered,
)
from ..protocol.publication import Publication
from ..protocol.relayed import Users, Whispered

log = logger(__name__)

NAMESPACE = "/"


class Outlet(Protocol):
    """What puts messages on connections to the default namespace."""

    def opened(self, sid: str, eio_sid: str) -> None:
        """Learn of a connection, by its sid and its Engine.IO session's."""

    def closed(self, sid: str) -> None:
        """Forget it."""

    def message(self, data: str | bytes) -> Any:
        """Make a frame of an encoded Socket.IO packet."""

    def write(
        self, sids: Sequence[str], frames: Sequence[Any], *, droppable: bool
    ) -> None:
        """Write frames to each connection, in this order.

        It never blocks, and never raises for a connection that is gone.

        Args:
            droppable: Whether a connection that does not keep up may lose them; the
                hub is told then.
        """


class StockOutlet:
    """Puts messages on the connections of python-engineio's server.

    It has a queue and a writer a connection, and no bound.
    """

    def __init__(self, server: socketio.Server) -> None:
        self._server = server

    def opened(self, sid: str, eio_sid: str) -> None:
        """Nothing is kept: the server knows."""

    def closed(self, sid: str) -> None:
        """Nothing is kept."""

    def message(self, data: str | bytes) -> Any:
        return engineio.packet.Packet(engineio.packet.MESSAGE, data)

    def write(
        self, sids: Sequence[str], frames: Sequence[Any], *, droppable: bool
    ) -> None:
        for sid in sids:
            try:
                eio_sid = self._server.manager.eio_sid_from_sid(sid, NAMESPACE)
                for frame in frames if eio_sid is not None else ():
                    # Flask-SocketIO's test client replaces this method.
                    self._server._send_eio_packet(eio_sid, frame)
            except Exception as error:
                # It closed meanwhile; its disconnect event is on the way.
                log.debug("A frame was not written", exc_info=error)


class Fanout:
    """The hub's transport over a Socket.IO server.

    Args:
        server: The server.
        outlet: Where frames go.
        reset_within: Seconds over which reset subscribers spread their return.
    """

    def __init__(
        self, server: socketio.Server, outlet: Outlet, *, reset_within: float
    ) -> None:
        self._server = server
        self._outlet = outlet
        self._reset_within = reset_within
        # With another serializer, such as msgpack, frames are no JSON text.
        self._plain = server.packet_class is socketio.packet.Packet

    def frame(self, room: str, epoch: str, publication: Publication) -> Any:
        where = meta(room, epoch, publication)
        return self._event(publication.event, publication.data, where)

    def reset_frame(self, room: str) -> Any:
        return self._event(RESET, reset(room, self._reset_within))

    def revoked_frame(self, room: str, code: int) -> Any:
        return self._event(REVOKED, revoked(room, code))

    def reconnect_frame(self, within: float) -> Any:
        """Encode the request to come back at a random moment in so many seconds."""
        return self._event(RECONNECT, reconnect(round(within, 3)))

    def whisper_frame(self, room: str, whisper: Whispered) -> Any:
        where = whispered(room, whisper.user)
        return self._event(whisper.event, whisper.data, where)

    def presence_frame(self, room: str, joined: Users, left: Users) -> Any:
        return self._event(PRESENCE, presence(room, joined, left))

    def ack(self, number: int | None, text: str) -> Any | None:
        """Encode the ack of a message; None if the client asked for none."""
        if number is None:
            return None
        if self._plain:
            return self._outlet.message(f"{socketio.packet.ACK}{number}[{text}]")
        return self._encoded(socketio.packet.ACK, [json.loads(text)], number)

    def write(
        self, sids: Sequence[str], frames: Sequence[Any], *, droppable: bool = False
    ) -> None:
        self._outlet.write(sids, frames, droppable=droppable)

    def _event(self, event: str, *arguments: str) -> Any:
        if self._plain:
            name = json.dumps(event, ensure_ascii=False)
            parts = ",".join((name, *arguments))
            return self._outlet.message(f"{socketio.packet.EVENT}[{parts}]")
        values = [event, *(json.loads(argument) for argument in arguments)]
        return self._encoded(socketio.packet.EVENT, values, None)

    def _encoded(self, kind: int, values: list[Any], number: int | None) -> Any:
        packet = self._server.packet_class(
            kind, namespace=NAMESPACE, data=values, id=number
        )
        return self._outlet.message(packet.encode())
