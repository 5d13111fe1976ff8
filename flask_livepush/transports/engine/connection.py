"""A socket of the loop's, and what waits to go out on it."""

from __future__ import annotations

import _socket
from collections.abc import Iterable
from typing import Any, Protocol

# Bytes of one send; more would only be copied without need.
_SEND = 262_144


class Decoder(Protocol):
    """What is read from a connection goes through it."""

    def feed(self, data: bytes) -> Iterable[tuple[int, str | bytes]]:
        """Yield what is whole now, as opcode and payload of a WebSocket.

        Raises:
            frames.FrameError: It is not understood; nothing more is read then.
        """

    def goodbye(self, code: int) -> bytes:
        """Return the bytes that end the connection.

        Args:
            code: Why it ends (RFC 6455, section 7.4.1).
        """


class Kept(bytes):
    """Bytes that are never given up while their connection lives."""

    __slots__ = ()


class Connection:
    """One socket of the loop's: a WebSocket, or a poll that waits.

    Args:
        sock: It never waits.
        decoder: What is read goes through it.
        owner: For whoever handles what is read.
    """

    __slots__ = (
        "blocked",
        "decoder",
        "dirty",
        "dropped",
        "ending",
        "fd",
        "lossy",
        "outbox",
        "owner",
        "sending",
        "sent",
        "sock",
        "stalled",
        "written",
    )

    def __init__(self, sock: _socket.socket, decoder: Decoder, owner: Any) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.decoder = decoder
        self.owner = owner
        # Guarded by the loop's lock: what waits, whether the loop knows of it, the
        # bytes that ever came in, whether it ends when all is sent, and whether what
        # may be dropped is (nothing is taken any more where it ends).
        self.outbox: list[Any] = []
        self.dirty = False
        self.written = 0
        self.lossy = False
        self.ending = False
        # Whether it is the loop's no more.
        self.dropped = False
        # Whether somebody sends, who alone changes the rest; under the lock. At first
        # it is who has accepted it: what is said before its hello waits.
        self.sending = True
        # Bytes that went out, whether the kernel takes no more, and until when it has
        # to catch up since it lost something or was closed; None: it has.
        self.sent = 0
        self.blocked = False
        self.stalled: float | None = None


def is_droppable(data: Any) -> bool:
    """Say whether what waits may be given up."""
    # The rest of a frame that has begun to go out is a memoryview.
    return type(data) is bytes


def how_many(batch: list[Any]) -> int:
    """Return how many of what waits are joined for one send."""
    size = 0
    for count, data in enumerate(batch, 1):
        size += len(data)
        if size >= _SEND:
            return count
    return len(batch)


def rest_of(batch: list[Any], sent: int) -> list[Any]:
    """Return what has not gone out; it is shared with other sockets, so not copied."""
    index = 0
    while sent >= len(batch[index]):
        sent -= len(batch[index])
        index += 1
    rest = batch[index:]
    if sent:
        rest[0] = memoryview(rest[0])[sent:]
    return rest
