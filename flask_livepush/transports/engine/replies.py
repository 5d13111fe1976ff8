"""Answers to requests: what they say, and what they look like in HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate

import engineio

Headers = Sequence[tuple[str, str]]

# Engine.IO's error codes: github.com/socketio/engine.io, lib/server.ts
UNKNOWN_TRANSPORT = 0
UNKNOWN_SID = 1
BAD_METHOD = 2
BAD_REQUEST = 3
FORBIDDEN = 4
UNSUPPORTED_VERSION = 5


class Refusal(Exception):
    """A request is answered by an error.

    Args:
        code: Engine.IO's.
        message: For people; it repeats nothing of the request.
    """

    def __init__(
        self,
        code: int,
        message: str,
        status: str = "400 BAD REQUEST",
        headers: Headers = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.headers = tuple(headers)

    def reply(self) -> Reply:
        """Return what is answered."""
        error = {"code": self.code, "message": str(self)}
        text = engineio.packet.Packet.json.dumps(error)
        return Reply(text, self.headers, self.status, "application/json")


def unknown_sid() -> Refusal:
    """Return what is said of a session that is none."""
    return Refusal(UNKNOWN_SID, "Session ID unknown")


def too_many() -> Refusal:
    """Return what is said where there is no room for one more."""
    return Refusal(FORBIDDEN, "Too many connections", "503 SERVICE UNAVAILABLE")


def too_large() -> Refusal:
    """Return what is said to a body that is longer than it may be."""
    return Refusal(BAD_REQUEST, "Bad request", "413 TOO LARGE")


def unavailable() -> Refusal:
    """Return what is said where nobody knows the answer now."""
    return Refusal(BAD_REQUEST, "Unavailable", "503 SERVICE UNAVAILABLE")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with a body."""

    body: str
    headers: tuple[tuple[str, str], ...] = ()
    status: str = "200 OK"
    type: str = "text/plain; charset=UTF-8"

    def head(self) -> list[tuple[str, str]]:
        """Return its headers, but for what depends on the body's encoding."""
        return [
            ("Content-Type", self.type),
            ("Cache-Control", "no-store"),
            *self.headers,
        ]


def raw(reply: Reply, headers: Headers) -> bytes:
    """Return an answer as the bytes of HTTP/1.1, after which the connection ends.

    Args:
        headers: More than the answer has of its own.
    """
    body = reply.body.encode()
    lines = [
        f"HTTP/1.1 {reply.status}",
        f"Date: {formatdate(usegmt=True)}",
        "Connection: close",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in (*reply.head(), *headers)),
    ]
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body
