"""Many cheap clients that poll: Engine.IO over HTTP, spoken by hand, in one thread.

Each keeps its connection for as long as the server does, as a browser would, and polls
again as soon as it was answered. Answers are looked at as bytes.
"""

from __future__ import annotations

import re
import selectors
import socket
import time
from array import array
from collections.abc import Callable
from types import TracebackType

from .load import WINDOW

_TIME = re.compile(rb'"t":([0-9.]+)')
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_SID = re.compile(rb'"sid": *"([^"]+)"')
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

    def goes_on(self, answer: bytes) -> bool:
        """Ask the next thing; say whether it is on another connection."""
        anew = _CLOSE.search(answer, 0, answer.index(b"\r\n\r\n") + 2) is not None
        if anew:
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
        return anew


class PollingLoad:
    """Clients of one server that all send the same subscription.

    Args:
        port: The server's.
        count: How many clients.
        join: The packet of :func:`bench.load.subscribe`, with its type.
    """

    def __init__(self, port: int, count: int, join: str) -> None:
        self._port = port
        self._count = count
        self._join = join.encode()
        self._selector = selectors.DefaultSelector()
        self._clients: list[_Client] = []
        #: Seconds from the time in each event to when it was read here.
        self.ages = array("d")
        #: Requests that were answered.
        self.answers = 0

    def __enter__(self) -> PollingLoad:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for client in self._clients:
            client.sock.close()
        self._selector.close()

    def connect(self, *, deadline: float) -> None:
        """Connect all and wait for their acks, within so many seconds."""
        end = time.monotonic() + deadline
        while len(self._clients) < self._count:
            while len(self._clients) - self._live() >= min(WINDOW, 64):
                self._turn(end)
            client = _Client(self._port, self._join)
            self._clients.append(client)
            self._selector.register(client.sock, selectors.EVENT_READ, client)
        self.pump(lambda: self._live() == self._count, deadline=deadline)

    def _live(self) -> int:
        return sum(client.live for client in self._clients)

    def pump(self, done: Callable[[], bool], *, deadline: float) -> None:
        """Read until something is true, which must be within so many seconds."""
        end = time.monotonic() + deadline
        while not done():
            self._turn(end)

    def _turn(self, end: float) -> None:
        if time.monotonic() > end:
            raise TimeoutError(
                f"{self._live()} of {self._count} clients are live and have read "
                f"{len(self.ages)} events; the deadline has passed."
            )
        for key, _ in self._selector.select(1):
            client = key.data
            answer = client.read()
            if answer is None:
                continue
            self.answers += 1
            now = time.monotonic()
            self.ages.extend(now - float(t) for t in _TIME.findall(answer))
            self._selector.unregister(client.sock)
            client.goes_on(answer)
            self._selector.register(client.sock, selectors.EVENT_READ, client)
