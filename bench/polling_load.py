"""Many cheap clients that poll: Engine.IO over HTTP, spoken by hand, in one thread.

Each keeps its connection for as long as the server does, as a browser would, and polls
again as soon as it was answered. Answers are looked at as bytes.
"""

from __future__ import annotations

import re
import selectors
import socket
import time

from .load import Crowd

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_SID = re.compile(rb'"sid": *"([^"]+)"')
# Clients that are between their first request and their ack.
_AT_ONCE = 64
_CONNECT, _PONG = b"40", b"3"


class _Client:
    """One client: what it asks next depends on the answer."""

    __slots__ = ("_join", "_port", "_rest", "_step", "live", "path", "sock")

    def __init__(self, port: int, join: bytes) -> None:
        self._port = port
        self._join = join
        self._rest = b""
        self._step = 0
        self.path = b"/socket.io/?EIO=4&transport=polling"
        self.live = False
        self._connect()
        self._get()

    def _connect(self) -> None:
        self.sock = socket.create_connection(("127.0.0.1", self._port), timeout=60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _get(self) -> None:
        self.sock.sendall(b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % self.path)

    def _post(self, body: bytes) -> None:
        self.sock.sendall(
            b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: text/plain;charset=UTF-8\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (self.path, len(body), body)
        )

    def read(self) -> bytes | None:
        """Return an answer with its head; None: it is not whole.

        Raises:
            ConnectionError: The server refused something.
        """
        data = self.sock.recv(1 << 18)
        self._rest += data
        head, end, body = self._rest.partition(b"\r\n\r\n")
        if end:
            length = _LENGTH.search(head)
            if length is not None:
                whole = len(body) >= int(length[1])
            else:
                whole = body.endswith(b"0\r\n\r\n") or not data
            if whole:
                answer, self._rest = self._rest, b""
                if not head.startswith(b"HTTP/1.1 200"):
                    raise ConnectionError(f"A request was refused: {answer[:300]!r}")
                return answer
        if not data:
            raise ConnectionError("The server closed a connection.")
        return None

    def go_on(self, answer: bytes) -> None:
        """Ask the next thing; on another connection where the server ended this."""
        if _CLOSE.search(answer, 0, answer.index(b"\r\n\r\n") + 2):
            self.sock.close()
            self._connect()
        step, self._step = self._step, self._step + 1
        if step == 0:
            sid = _SID.search(answer)
            assert sid is not None
            self.path += b"&sid=" + sid[1]
            self._post(_CONNECT)
        elif step == 2:
            self._post(self._join)
        else:
            self.live = self.live or (step > 2 and b"43" in answer)
            if answer.endswith((b"\r\n\r\n2", b"\x1e2")):
                self._post(_PONG)
            else:
                self._get()


class PollingLoad(Crowd):
    """Clients of one server that all send the same subscription, by polling.

    Args:
        port: The server's.
        join: The packet of :func:`bench.load.subscribe`.
    """

    def __init__(self, port: int, count: int, join: str) -> None:
        super().__init__(count)
        self._port = port
        self._join = join.encode()
        #: Requests that were answered.
        self.answers = 0

    def connect(self, *, deadline: float) -> None:
        """Connect all and wait for their acks, within so many seconds."""
        end = time.monotonic() + deadline
        for number in range(self._count):
            while number - self._ready >= _AT_ONCE:
                self._turn(end)
            client = _Client(self._port, self._join)
            self._selector.register(client.sock, selectors.EVENT_READ, client)
        self.pump(lambda: self._ready == self._count, deadline=deadline)

    def _read(self, client: _Client) -> None:
        answer = client.read()
        if answer is None:
            return
        self.answers += 1
        self._take(answer)
        self._selector.unregister(client.sock)
        was_live = client.live
        client.go_on(answer)
        self._ready += client.live and not was_live
        self._selector.register(client.sock, selectors.EVENT_READ, client)
