"""A client that can say anything: HTTP and WebSocket by hand, over one socket.

What the well-behaved clients refuse to send, and what they hide of the answers, is
what the tests of a protocol are about.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from .waiting import DEADLINE

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


class Answer(NamedTuple):
    """A response: its status, its headers in lower case, its body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body."""
        return self.body.decode()

    @property
    def json(self) -> Any:
        """What the body is as JSON."""
        return json.loads(self.body)


class Raw:
    """One TCP connection to a server on this machine.

    Args:
        port: Where it listens.
        prefix: Of the application's paths.
        tls: What the socket is wrapped by.
        pings: Whether a WebSocket answers Engine.IO's pings by itself.
        buffer: Bytes that the system may keep for a client that does not read.
    """

    def __init__(
        self,
        port: int,
        *,
        prefix: str = "",
        tls: Any = None,
        pings: bool = True,
        buffer: int | None = None,
    ) -> None:
        self.prefix = prefix
        self.pings = pings
        self._method = ""
        self.socket = socket.socket()
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(DEADLINE)
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, without a goodbye."""
        self._file.close()
        self.socket.close()

    # -- HTTP --------------------------------------------------------------------------
    def send_request(
        self,
        query: str,
        method: str = "GET",
        *,
        body: bytes | str = b"",
        headers: Mapping[str, str] | None = None,
        path: str = "/socket.io/",
    ) -> None:
        """Send a request and don't wait for its answer."""
        self._method = method
        data = body.encode() if isinstance(body, str) else body
        lines = [f"{method} {self.prefix}{path}?{query} HTTP/1.1", "Host: localhost"]
        if data or method in ("POST", "PUT"):
            lines += [f"Content-Length: {len(data)}", "Content-Type: text/plain"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.socket.sendall("\r\n".join((*lines, "", "")).encode("latin-1") + data)

    def answer(self) -> Answer:
        """Read the answer of a request."""
        status = self._file.readline()
        if not status:
            raise AssertionError("the server ended the connection without an answer")
        headers = {}
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        code = int(status.split()[1])
        if self._method == "HEAD" or code in (101, 204, 304):
            body = b""
        elif "content-length" in headers:
            body = self._file.read(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self._file.readline(), 16):
                body += self._file.read(size)
                self._file.readline()
            self._file.readline()
        else:
            body = self._file.read()
        return Answer(code, headers, body)

    def request(self, query: str, method: str = "GET", **options: Any) -> Answer:
        """Send a request and return its answer."""
        self.send_request(query, method, **options)
        return self.answer()

    def ended(self) -> bool:
        """Wait for the end of the connection; false if more comes instead."""
        with suppress(ConnectionError):
            return not self._file.read(1)
        return True

    # -- WebSocket ---------------------------------------------------------------------
    def upgrade(
        self, query: str, *, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Ask for a WebSocket."""
        return self.request(query, headers=headers or UPGRADE)

    def frame(
        self,
        opcode: int,
        payload: bytes | str = b"",
        *,
        first: int = 0x80,
        masked: bool = True,
        length: int | None = None,
    ) -> None:
        """Send a frame.

        Args:
            first: Bits of the first byte besides the opcode: FIN unless told.
            length: What the header says; what is right unless told.
        """
        data = payload.encode() if isinstance(payload, str) else payload
        self.socket.sendall(frame(opcode, data, first, masked, length))

    def text(self, text: str) -> None:
        """Send a text message."""
        self.frame(TEXT, text)

    def read_frame(self) -> tuple[int, bytes] | None:
        """Return the next frame: opcode and payload; None for the connection's end."""
        try:
            head = self._file.read(2)
            if len(head) < 2:
                return None
            size = head[1] & 0x7F
            assert not head[1] & 0x80, "a server masks nothing"
            if size >= 126:
                size = int.from_bytes(self._file.read(2 if size == 126 else 8), "big")
            return head[0] & 0x0F, self._file.read(size)
        except ConnectionError:
            return None

    def read(self) -> str | bytes | None:
        """Return the next message that is no ping; None if it closes."""
        while True:
            found = self.read_frame()
            if found is None or found[0] == CLOSE:
                return None
            opcode, payload = found
            if opcode == BINARY:
                return payload
            if opcode == TEXT and not (self.pings and payload == b"2"):
                return payload.decode()
            if opcode == TEXT:
                self.text("3")

    def closing(self) -> int | None:
        """Read on to a close frame, answer it and wait for the connection's end.

        Returns:
            Its code; None if the connection ended without.
        """
        while True:
            found = self.read_frame()
            if found is None:
                return None
            opcode, payload = found
            if opcode == CLOSE:
                with suppress(OSError):
                    self.frame(CLOSE, payload)
                assert self.ended()
                return int.from_bytes(payload[:2], "big") if payload else 1005


def frame(
    opcode: int,
    payload: bytes,
    first: int = 0x80,
    masked: bool = True,
    length: int | None = None,
) -> bytes:
    """Make a client's frame, right or not."""
    size = len(payload) if length is None else length
    mask = os.urandom(4) if masked else b""
    bit = 0x80 if masked else 0
    if size < 126:
        head = bytes((first | opcode, bit | size))
    elif size < 1 << 16:
        head = bytes((first | opcode, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first | opcode, bit | 127)) + size.to_bytes(8, "big")
    if masked:
        payload = bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
    return head + mask + payload
