"""A browser's login and its WebSocket, with what arrived and when.

One thread a connection; nothing of our client's rules, so that what the server writes
is seen as it is.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import requests
import websocket

from .waiting import DEADLINE


class Login:
    """One login: its cookies.

    Args:
        url: The server at which it was made.
        name: The user's.
    """

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name
        self.http = requests.Session()
        self.post(f"/login/{name}")

    def post(self, path: str, url: str = "") -> requests.Response:
        """Send a request with the cookies; to another server where one is named."""
        answer = self.http.post((url or self.url) + path, timeout=DEADLINE)
        answer.raise_for_status()
        return answer

    def get(self, path: str, url: str = "") -> Any:
        """Return what a view answers."""
        answer = self.http.get((url or self.url) + path, timeout=DEADLINE)
        answer.raise_for_status()
        return answer.json()

    @property
    def cookie(self) -> str:
        """What a handshake of this browser's bears now."""
        return "; ".join(f"{one.name}={one.value}" for one in self.http.cookies)

    def connect(self, url: str = "", cookie: str | None = None) -> LoginSocket:
        """Open a WebSocket, with another cookie where one is given."""
        return LoginSocket(url or self.url, self.cookie if cookie is None else cookie)

    def close(self) -> None:
        """Give back what is open."""
        self.http.close()


class LoginSocket:
    """A WebSocket to the default namespace.

    Args:
        url: The server.
        cookie: The handshake's.
    """

    def __init__(self, url: str, cookie: str) -> None:
        #: Each event with when it came, in seconds of a clock that never falls.
        self.events: list[tuple[float, str, Any, Any]] = []
        #: What the server said to the CONNECT: True, or the error's data.
        self.answer: Any = None
        #: When the connection ended; None: it has not.
        self.ended: float | None = None
        #: Whether a Socket.IO DISCONNECT came before.
        self.dismissed = False
        self._acks: dict[int, Any] = {}
        self._number = 0
        self._changed = threading.Condition()
        self._socket = websocket.create_connection(
            url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket",
            cookie=cookie,
            origin=url,
            timeout=DEADLINE,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._send("40")
        self.wait(lambda: self.answer is not None or self.ended is not None)

    @property
    def is_in(self) -> bool:
        """Whether the server has accepted it."""
        return self.answer is True

    def call(self, event: str, message: dict[str, Any]) -> Any:
        """Send a message and return its ack; None: the connection has ended."""
        with self._changed:
            self._number += 1
            number = self._number
        self._send(f"42{number}" + json.dumps([event, message]))
        self.wait(lambda: number in self._acks or self.ended is not None)
        return self._acks.get(number)

    def join(self, room: str, **more: Any) -> Any:
        """Join a room."""
        return self.call("livepush.subscribe", {"v": 1, "room": room, **more})

    def names(self) -> list[str]:
        """Return the names of the events that came."""
        with self._changed:
            return [event[1] for event in self.events]

    def wait(self, condition: Callable[[], Any]) -> None:
        """Wait until something is true of what came."""
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE), self.events[-5:]

    def close(self) -> None:
        """Go."""
        with suppress(OSError, AttributeError):  # or gone by itself
            self._socket.sock.shutdown(socket.SHUT_RDWR)
        self._reader.join(DEADLINE)
        self._socket.shutdown()

    def _send(self, packet: str) -> None:
        with suppress(OSError, websocket.WebSocketException):
            self._socket.send(packet)

    def _read(self) -> None:
        try:
            while True:
                packet = self._socket.recv()
                if not packet:
                    break
                self._take(str(packet))
        except (OSError, websocket.WebSocketException):
            pass
        finally:
            with self._changed:
                self.ended = time.monotonic()
                self._changed.notify_all()

    def _take(self, packet: str) -> None:
        now = time.monotonic()
        with self._changed:
            if packet == "2":
                self._send("3")
            elif packet.startswith("40"):
                self.answer = True
            elif packet.startswith("44"):
                self.answer = json.loads(packet[2:]).get("data") or {}
            elif packet.startswith("41"):
                self.dismissed = True
            elif packet.startswith("42"):
                name, *rest = json.loads(packet[2:])
                data, meta = (*rest, None, None)[:2]
                self.events.append((now, name, data, meta))
            elif packet.startswith("43"):
                head, _, rest = packet[2:].partition("[")
                self._acks[int(head)] = json.loads(f"[{rest}")[0]
            self._changed.notify_all()
