"""What python-engineio's server says last to a connection, in one piece.

A poll is answered with what is there when it looks: of several packets, put one after
the other, it may get the first alone, and by the next poll the session is forgotten.
So the packets wait beside the one that ends the connection, and go out with it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import engineio


def begin(socket: engineio.socket.Socket) -> None:
    """Let what is read of a connection include its last words, polled or not."""
    # A reference of its own would keep it, and its queue, until garbage is collected.
    socket.poll = partial(_poll, weakref.proxy(socket))


def end(socket: engineio.socket.Socket, packets: Sequence[Any]) -> None:
    """End a connection with some packets; nobody waits until they are read."""
    socket.last_words = packets
    socket.close(wait=False)


def spoken(socket: engineio.socket.Socket, packets: Iterable[Any]) -> list[Any]:
    """Return packets as they go out: the last words before the end."""
    out: list[Any] = []
    for packet in packets:
        if packet.packet_type == engineio.packet.CLOSE:
            out += getattr(socket, "last_words", ())
        out.append(packet)
    return out


def _poll(socket: engineio.socket.Socket) -> list[Any]:
    return spoken(socket, engineio.socket.Socket.poll(socket))
