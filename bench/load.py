"""Many cheap clients: Socket.IO over WebSocket, spoken by hand, in one thread.

What a client costs here, the server's figures pay for, as both share the machine: so
frames are looked at as bytes, and decoded after the clock has stopped.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import struct
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

_TIME = re.compile(rb'"t":([0-9.]+)')
C = TypeVar("C", bound="Crowd")
# Clients that are between their connect and their ack: more would overflow the
# server's backlog, and then wait a second for their next attempt.
WINDOW = 1000


def subscribe(room: str, since: Any = None) -> str:
    """Return the packet that subscribes to a room and asks for an ack."""
    message = {"v": 1, "room": room, **({"since": since} if since else {})}
    return f'421["livepush.subscribe",{json.dumps(message)}]'


class Wire:
    """One connection: a socket, and what has come of the frame that is not whole.

    Args:
        port: The server's, on loopback.
        blocking: Whether reads wait.
        query: What the address says.
    """

    __slots__ = ("_rest", "ack", "sock", "upgraded")

    def __init__(
        self, port: int, *, blocking: bool, query: str = "EIO=4&transport=websocket"
    ) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.sendall(
            b"GET /socket.io/?%b HTTP/1.1\r\n"
            b"Host: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: bGl2ZXB1c2gtYmVuY2gtMQ==\r\n"
            b"Sec-WebSocket-Version: 13\r\n\r\n" % query.encode()
        )
        self.sock.setblocking(blocking)
        self._rest = b""
        #: Whether the server has answered that it is a WebSocket now.
        self.upgraded = False
        self.ack: bytes | None = None

    def send(self, text: str) -> None:
        """Send a text frame, masked by zeros (RFC 6455, section 5.3)."""
        data = text.encode()
        size = len(data)
        head = struct.pack("!BB", 0x81, 0x80 | size)
        if size > 125:
            head = struct.pack("!BBH", 0x81, 0x80 | 126, size)
        self.sock.sendall(head + bytes(4) + data)

    def read(self) -> list[bytes]:
        """Return the texts of the frames that are whole by now.

        Raises:
            ConnectionError: The server refused or closed the connection.
        """
        data = self.sock.recv(1 << 18)
        if not data:
            raise ConnectionError("The server closed a connection.")
        data = self._rest + data
        if not self.upgraded:
            head, end, rest = data.partition(b"\r\n\r\n")
            if not end:
                self._rest = data
                return []
            if not head.startswith(b"HTTP/1.1 101"):
                raise ConnectionError(f"A connection was refused: {head[:200]!r}")
            self.upgraded = True
            data = rest
        texts = []
        at, end_of_data = 0, len(data)
        while end_of_data - at >= 2:
            size, start = data[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(data[start : start + 2], "big"), start + 2
            elif size == 127:
                size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
            if start + size > end_of_data:
                break
            if data[at] == 0x88:
                raise ConnectionError("The server closed a connection.")
            texts.append(data[start : start + size])
            at = start + size
        self._rest = data[at:]
        return texts

    def answer(self, text: bytes, join: str) -> bool:
        """Do what handshake and heartbeat ask for; whether the text was theirs."""
        if text[:2] == b"40":
            self.send(join)
        elif text[:1] == b"0":
            self.send("40")
        elif text[:1] == b"2":
            self.send("3")
        elif text[:2] == b"44":
            raise ConnectionError(f"A connection was refused: {text[:200]!r}")
        else:
            return False
        return True


class Crowd(ABC):
    """Clients that are read in one thread: their sockets, and what came of events.

    Args:
        count: How many clients there will be.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._selector = selectors.DefaultSelector()
        self._ready = 0
        #: Seconds from the time in each event to when it was read here.
        self.ages = array("d")

    def __enter__(self: C) -> C:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for key in list(self._selector.get_map().values()):
            key.data.sock.close()
        self._selector.close()

    def pump(self, done: Callable[[], bool], *, deadline: float) -> None:
        """Read until something is true, which must be within so many seconds."""
        end = time.monotonic() + deadline
        while not done():
            self._turn(end)

    def _turn(self, end: float, wait: float = 1) -> None:
        if time.monotonic() > end:
            raise TimeoutError(
                f"{self._ready} of {self._count} clients are live and have read "
                f"{len(self.ages)} events; the deadline has passed."
            )
        for key, _ in self._selector.select(wait):
            self._read(key.data)

    @abstractmethod
    def _read(self, client: Any) -> None:
        """Take what has come for a client, and count it in when it is live."""

    def _take(self, text: bytes) -> None:
        """Note the age of each event in a text."""
        now = time.monotonic()
        self.ages.extend(now - float(found) for found in _TIME.findall(text))


class Load(Crowd):
    """Clients of one server that all send the same subscription, by WebSocket.

    Args:
        port: The server's.
        join: The packet of :func:`subscribe`.
    """

    def __init__(self, port: int, count: int, join: str) -> None:
        super().__init__(count)
        self._port = port
        self._join = join
        self.wires: list[Wire] = []

    def connect(self, *, deadline: float) -> float:
        """Connect all and wait for their acks.

        Args:
            deadline: Seconds.

        Returns:
            Seconds it took.
        """
        start = time.monotonic()
        end = start + deadline
        while len(self.wires) < self._count:
            while len(self.wires) - self._ready >= WINDOW:
                self._turn(end)
            wire = Wire(self._port, blocking=False)
            self.wires.append(wire)
            self._selector.register(wire.sock, selectors.EVENT_READ, wire)
            if len(self.wires) % 20 == 0:
                self._turn(end, wait=0)
        self.pump(lambda: self._ready == self._count, deadline=deadline)
        return time.monotonic() - start

    def _read(self, wire: Wire) -> None:
        for text in wire.read():
            if text[:2] == b"43":
                wire.ack = text
                self._ready += 1
            elif not wire.answer(text, self._join):
                self._take(text)

    def acks(self) -> list[Any]:
        """Return what the clients were answered."""
        return [ack_of(wire.ack) for wire in self.wires if wire.ack is not None]


def ack_of(text: bytes) -> Any:
    """Return the only argument of an ack, such as ``431[{"ok":true}]``."""
    return json.loads(text[text.index(b"[") :])[0]
