"""A WebSocket on a socket that its server keeps, over which the request's thread waits.

That is the case where the process itself encrypts: then a connection is more than a
descriptor, and can't be taken. The request's thread reads; another one writes what
waits for the session. It knows sockets and frames, no sessions.
"""

from __future__ import annotations

import _socket
import os
import selectors
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from . import frames

_READ = 16_384
# Seconds after which a wait looks whether there is still something to wait for.
_LOOK = 30.0


class HeldWebSocket:
    """Reads messages in one thread or greenlet, and sends bytes in another.

    Args:
        sock: The server's, encrypted or not.
        decoder: What is read goes through it.
        stall: Seconds for a client to take something of what is sent.
        now: Seconds of a clock that never falls.
    """

    __slots__ = ("_decoder", "_lock", "_now", "_sock", "_stall", "code", "ended")

    def __init__(
        self,
        sock: Any,
        decoder: frames.Decoder,
        *,
        stall: float,
        now: Callable[[], float],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._decoder = decoder
        self._stall = stall
        self._now = now
        # Guards what OpenSSL keeps of the connection: it is not made for two threads.
        self._lock = threading.Lock()
        #: What the close frame is to say.
        self.code = 1000
        #: Whether the client has said goodbye, or can't be understood any more.
        self.ended = False

    def send(self, data: bytes) -> None:
        """Send bytes; wait while the client takes no more.

        Raises:
            OSError: It has gone, or takes nothing for too long.
        """
        rest = memoryview(data)
        while rest:
            sent, awaited = self._try(self._sock.send, rest, selectors.EVENT_WRITE)
            if sent:
                rest = rest[sent:]
            elif not self._wait(awaited, self._stall):
                raise TimeoutError("the client does not keep up")

    def messages(self, *, within: float | None = None) -> Iterator[tuple[int, Any]]:
        """Yield what comes, as the decoder makes it, until a close frame or the end.

        Args:
            within: Seconds after which nothing is waited for any more.

        Raises:
            OSError: The connection broke.
            frames.FrameError: The client broke the protocol.
        """
        until = None if within is None else self._now() + within
        while data := self._receive(until):
            for opcode, payload in self._decoder.feed(data):
                if opcode == frames.CLOSE:
                    self.ended = True
                    if payload:
                        self.code = int.from_bytes(payload[:2], "big")  # type: ignore[arg-type]
                    return
                yield opcode, payload
        self.ended = True

    def drain(self, within: float) -> None:
        """Read on until the client ends the connection, or seconds have passed.

        Closed at once, what was just sent could be lost: the kernel answers data that
        still comes with a reset.
        """
        until = self._now() + within
        with suppress(OSError):
            while self._receive(until):
                pass

    def _receive(self, until: float | None) -> bytes:
        """Return what comes next; nothing at the end or when the time is over."""
        while True:
            data, awaited = self._try(self._sock.recv, _READ, selectors.EVENT_READ)
            if data is not None:
                return bytes(data)
            left = _LOOK if until is None else until - self._now()
            if left <= 0:
                return b""
            self._wait(awaited, left)

    def _try(
        self, work: Callable[[Any], Any], argument: Any, event: int
    ) -> tuple[Any, int]:
        """Return what it returns, and what to wait for where that is nothing.

        What is encrypted may have to be read before it can be written.
        """
        with self._lock:
            try:
                return work(argument), event
            except ssl.SSLWantReadError:
                return None, selectors.EVENT_READ
            except ssl.SSLWantWriteError:
                return None, selectors.EVENT_WRITE
            except (BlockingIOError, InterruptedError):
                return None, event

    def _wait(self, event: int, seconds: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._sock, event)
            return bool(selector.select(seconds))

    def finish(self) -> None:
        """Tell the client that nothing follows."""
        self._shut(_socket.SHUT_WR)

    def abort(self) -> None:
        """End the connection: whoever waits for it goes on."""
        self._shut(_socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        # By another descriptor: the method of encrypted sockets also throws away what
        # the other thread is using.
        with suppress(OSError):
            twin = _socket.socket(fileno=os.dup(self._sock.fileno()))
            try:
                twin.shutdown(how)
            finally:
                twin.close()
