"""What later requests of a session must bear, as its first one did.

A session's id stands in addresses, which access logs print: whoever knows it must
neither read nor write nor take the session over. What the requests bear, and how that
is compared, is handed in; this knows no login.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

import engineio

from ..metrics import OFF, Metrics


class Bond(Protocol):
    """What a session's first request bore."""

    @property
    def needs_origin(self) -> bool:
        """Whether a WebSocket that takes the session over must say where it is from."""

    def is_borne(self, environ: dict[str, Any]) -> bool:
        """Say whether a request bears it too; in the request's thread."""

    def is_proved(self, proofs: str, about: bytes) -> bool:
        """Say whether proofs of another process are of it; asks nobody.

        Args:
            about: What they were made for.
        """


class Bearing(Protocol):
    """Looks at what requests bear."""

    def bond(self, environ: dict[str, Any]) -> Bond | None:
        """Return what a session's first request binds it to; None: to nothing."""

    def proofs(self, environ: dict[str, Any], about: bytes) -> str:
        """Return what proves to another process what a request bears.

        Nobody who reads it can use it for anything else.

        Args:
            about: What it is made for.
        """


class Nothing:
    """Binds sessions to nothing: the default, for tests of other things."""

    def bond(self, environ: dict[str, Any]) -> Bond | None:
        return None

    def proofs(self, environ: dict[str, Any], about: bytes) -> str:
        return ""


NOTHING = Nothing()


class Closed:
    """Binds a session that began as a WebSocket: no other request is ever its."""

    needs_origin = False

    def is_borne(self, environ: dict[str, Any]) -> bool:
        return False

    def is_proved(self, proofs: str, about: bytes) -> bool:
        return False


CLOSED = Closed()


def is_websocket(environ: dict[str, Any]) -> bool:
    """Say whether a request asks for a WebSocket."""
    upgrade: str = environ.get("HTTP_UPGRADE", "")
    return upgrade.lower() == "websocket"


def may_use(bond: Bond | None, environ: dict[str, Any]) -> bool:
    """Say whether a request may use the session that is bound so."""
    if bond is None:
        return True
    if bond.needs_origin and is_websocket(environ) and not environ.get("HTTP_ORIGIN"):
        return False
    return bond.is_borne(environ)


class StockGuard:
    """Stands before python-engineio's server, which answers whoever knows a sid.

    It also answers the last poll of a session that has ended: the server has forgotten
    what was to be said by then.

    Args:
        eio: The server; its instance is changed.
        metrics: Counts requests that are refused.
    """

    def __init__(self, eio: engineio.Server, metrics: Metrics = OFF) -> None:
        self._eio = eio
        self._metrics = metrics
        self._handle: Callable[..., Iterable[bytes]] = eio.handle_request
        eio.handle_request = self.handle_request

    def handle_request(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer a request, as that of an unknown session where it bears nothing."""
        text = environ.get("QUERY_STRING", "")
        if "sid" in text and environ.get("REQUEST_METHOD") != "OPTIONS":
            sid = urllib.parse.parse_qs(text).get("sid", [""])[0]
            socket = self._eio.sockets.get(sid)
            answer = None if socket is None else self._answer(environ, socket)
            if answer is not None:
                headers = answer["headers"] + self._eio._cors_headers(environ)
                start_response(answer["status"], headers)
                return [answer["response"]]
        return self._handle(environ, start_response)

    def _answer(
        self, environ: dict[str, Any], socket: engineio.Socket
    ) -> dict[str, Any] | None:
        """Return what is answered in the server's place; None: the server answers."""
        answer: dict[str, Any]
        if not may_use(getattr(socket, "bond", None), environ):
            self._metrics.count("unborne_total")
            # What the server says of a session that it does not know.
            answer = self._eio._bad_request(f"Invalid session {socket.sid}")
            return answer
        polls = environ.get("REQUEST_METHOD") == "GET" and not is_websocket(environ)
        if not (socket.closed and polls) or socket.upgraded:
            return None
        left = []
        with suppress(self._eio.get_queue_empty_exception()):
            while (packet := socket.queue.get(block=False)) is not None:
                left.append(packet)
        self._eio.sockets.pop(socket.sid, None)
        answer = self._eio._ok(left)
        return answer if left else None
