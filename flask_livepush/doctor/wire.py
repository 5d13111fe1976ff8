"""One connection to a server, by hand: what polite clients hide is what is asked here.

Knows HTTP/1.1 and WebSocket's frames as a client; nothing of Engine.IO.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import select
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# Bytes of an answer that are read; what a front sends may have no end.
_MOST = 256 * 1024
_CHUNK = 65_536


class WireError(Exception):
    """The other side did not do what it should; the message is half a sentence."""


class Silent(WireError):
    """Nothing came in time."""


class Ended(WireError):
    """The connection ended."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is.

    Args:
        host: Its name, or its address.
        port: Its port.
        tls: What encrypts the connection; None: nothing does.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None

    @property
    def authority(self) -> str:
        """What stands in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = 80 if self.tls is None else 443
        return host if self.port == usual else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response.

    Args:
        status: Its code.
        headers: Names in lower case, and values.
        body: What it carries, up to 256 KiB.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """Return a header's value, or an empty text."""
        return next((value for key, value in self.headers if key == name), "")

    @property
    def text(self) -> str:
        """The body."""
        return self.body.decode("utf-8", "replace")

    @property
    def message(self) -> str:
        """What an Engine.IO server says of an error, if it is one's."""
        try:
            said: Any = json.loads(self.body)
        except ValueError:
            return ""
        if isinstance(said, dict):
            said = said.get("message")
        return said if isinstance(said, str) else ""


class Wire:
    """A connection that is open.

    Args:
        address: Where to.
        within: Seconds for everything that is waited for, unless told.
        now: Seconds of a clock that never falls.

    Raises:
        OSError: It can't be had; ``ssl.SSLError`` among them.
    """

    def __init__(
        self, address: Address, *, within: float, now: Callable[[], float]
    ) -> None:
        self._address = address
        self._within = within
        self._now = now
        self._method = ""
        self._open()

    def _open(self) -> None:
        self._received = bytearray()
        # Whether the server ends the connection with the answer it has given.
        self._closes = False
        address = self._address
        opened = socket.create_connection((address.host, address.port), self._within)
        try:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.peer: str = opened.getpeername()[0]
            if address.tls is not None:
                opened = address.tls.wrap_socket(opened, server_hostname=address.host)
        except BaseException:
            opened.close()
            raise
        self._socket = opened

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, without a goodbye."""
        self._socket.close()

    @property
    def encryption(self) -> str:
        """The version of TLS, or an empty text."""
        wrapped = self._socket
        return (wrapped.version() or "") if isinstance(wrapped, ssl.SSLSocket) else ""

    # -- HTTP --------------------------------------------------------------------------
    def send_request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> None:
        """Send a request and don't wait for its answer.

        Opens the connection anew where the server has ended it with its last answer,
        as it may.

        Raises:
            Ended: It can't be sent.
            OSError: The connection can't be had again.
        """
        if self._closes:
            self._open()
        self._method = method
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._address.authority}"]
        if body is not None:
            lines += [
                "Content-Type: text/plain;charset=UTF-8",
                f"Content-Length: {len(body)}",
            ]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._send("\r\n".join((*lines, "", "")).encode("latin-1") + (body or b""))

    def answer(self, within: float | None = None) -> Answer:
        """Read the answer of a request.

        Raises:
            WireError: There is none.
        """
        until = self._until(within)
        while True:
            version, _, rest = self._line(until).partition(" ")
            code = rest.partition(" ")[0]
            if not version.startswith("HTTP/") or not code.isdigit():
                raise WireError("answered with what is not HTTP")
            headers = []
            while line := self._line(until):
                name, _, value = line.partition(":")
                headers.append((name.strip().lower(), value.strip()))
            if int(code) == 101 or int(code) >= 200:
                break
        found = Answer(int(code), tuple(headers), b"")
        kept = found.header("connection").lower()
        self._closes = "close" in kept or (
            version == "HTTP/1.0" and "keep-alive" not in kept
        )
        body = self._body(found, until)
        if self._closes:
            self.close()  # a server may wait for that, and for nothing else meanwhile
        return Answer(found.status, found.headers, body)

    def _body(self, answer: Answer, until: float) -> bytes:
        if self._method == "HEAD" or answer.status in (101, 204, 304):
            return b""
        if "chunked" in answer.header("transfer-encoding").lower():
            return self._chunks(until)
        length = answer.header("content-length")
        if length.isdigit():
            return self._take(min(int(length), _MOST), until)
        with suppress(Ended):
            while len(self._received) < _MOST:
                self._fill(until)
        return bytes(self._received[:_MOST])

    def _chunks(self, until: float) -> bytes:
        body = b""
        while len(body) < _MOST:
            try:
                size = int(self._line(until).partition(";")[0], 16)
            except ValueError:
                raise WireError("answered with a chunk of no size") from None
            body += self._take(min(size, _MOST), until)
            if not size:
                while self._line(until):
                    pass  # headers may follow
                break
            self._line(until)
        return body

    # -- WebSocket ---------------------------------------------------------------------
    def upgrade(self, target: str, headers: Mapping[str, str]) -> Answer:
        """Ask for a WebSocket.

        Raises:
            WireError: There is no answer, or a wrong one.
        """
        key = base64.b64encode(os.urandom(16)).decode()
        self.send_request(
            "GET",
            target,
            {
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Key": key,
                "Sec-WebSocket-Version": "13",
                **headers,
            },
        )
        answer = self.answer()
        if answer.status == 101:
            digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
            expected = base64.b64encode(digest).decode()
            if answer.header("sec-websocket-accept") != expected:
                raise WireError("answered 101 without having read the request's key")
        return answer

    def send_text(self, text: str) -> None:
        """Send a text message.

        Raises:
            Ended: It can't be sent.
        """
        self._send_frame(TEXT, text.encode())

    def part(self) -> None:
        """Send a close frame.

        Raises:
            Ended: It can't be sent.
        """
        self._send_frame(CLOSE, (1000).to_bytes(2, "big"))

    def text(self, within: float | None = None) -> str:
        """Return the next text message; answers WebSocket's own pings.

        Raises:
            Silent: None came in time.
            Ended: The connection ended, or a close frame came.
        """
        until = self._until(within)
        while True:
            opcode, payload = self._frame(until)
            if opcode == TEXT:
                return payload.decode("utf-8", "replace")
            if opcode == PING:
                self._send_frame(PONG, payload)
            elif opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big") if payload else 1005
                raise Ended(f"was closed with the code {code}")

    def _frame(self, until: float) -> tuple[int, bytes]:
        # What came of a frame stays where it is until all is there: a caller that was
        # told Silent may ask again.
        first, second = self._peek(2, until)
        size, head = second & 0x7F, 2
        if size >= 126:
            head += 2 if size == 126 else 8
            size = int.from_bytes(self._peek(head, until)[2:head], "big")
        if size > _MOST:
            raise WireError("sent a message that is too long")
        self._peek(head + size, until)
        frame = self._take(head + size, until)
        return first & 0x0F, frame[head:]

    def _send_frame(self, opcode: int, payload: bytes) -> None:
        mask = os.urandom(4)
        size = len(payload)
        if size < 126:
            head = bytes((0x80 | opcode, 0x80 | size))
        else:
            head = bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        self._send(head + mask + masked)

    # -- bytes -------------------------------------------------------------------------
    def _until(self, within: float | None) -> float:
        return self._now() + (self._within if within is None else within)

    def _send(self, data: bytes) -> None:
        self._socket.settimeout(self._within)
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise Silent("takes nothing that is sent") from None
        except OSError:
            raise Ended("ended the connection") from None

    def _line(self, until: float) -> str:
        while b"\n" not in self._received:
            if len(self._received) > _MOST:
                raise WireError("answered with what is not HTTP")
            self._fill(until)
        end = self._received.index(b"\n")
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line.rstrip(b"\r").decode("latin-1")

    def _peek(self, size: int, until: float) -> bytes:
        while len(self._received) < size:
            self._fill(until)
        return bytes(self._received[:size])

    def _take(self, size: int, until: float) -> bytes:
        found = self._peek(size, until)
        del self._received[:size]
        return found

    def _fill(self, until: float) -> None:
        left = until - self._now()
        if left <= 0:
            raise Silent("does not answer")
        self._socket.settimeout(left)
        try:
            data = self._socket.recv(_CHUNK)
        except TimeoutError:
            raise Silent("does not answer") from None
        except OSError:
            raise Ended("ended the connection") from None
        if not data:
            raise Ended("ended the connection")
        self._received += data


def first_ready(wires: Sequence[Wire], within: float) -> Wire | None:
    """Wait until one of several connections has something to read, or has ended.

    Args:
        within: Seconds.

    Returns:
        The first of them; None: nothing happened.
    """
    for wire in wires:
        sock = wire._socket
        if wire._received or (isinstance(sock, ssl.SSLSocket) and sock.pending()):
            return wire
    sockets = {wire._socket.fileno(): wire for wire in wires}
    ready, _, _ = select.select(list(sockets), [], [], max(within, 0))
    return sockets[ready[0]] if ready else None
