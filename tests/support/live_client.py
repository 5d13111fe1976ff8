"""A client of Socket.IO, one of another make than ours, that notes all in its order."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import engineio.payload
import requests
import socketio

from .waiting import DEADLINE

# Its polling client gives up at an answer of more than 16 packets, unless told so.
engineio.payload.Payload.max_decode_packets = 10_000


class LiveClient:
    """A connection, and everything it was told.

    Args:
        url: The server.
        transport: ``websocket`` or ``polling``.
    """

    def __init__(self, url: str, transport: str = "websocket") -> None:
        self.frames: list[tuple[str, Any, Any]] = []
        self.url = url
        self._changed = threading.Condition()
        self.client = socketio.Client(
            reconnection=False, handle_sigint=False, request_timeout=DEADLINE
        )
        # It would start a thread a message, which may run in any order.
        trigger = self.client.eio._trigger_event

        def inline(*args: Any, **options: Any) -> Any:
            return trigger(*args, **{**options, "run_async": False})

        self.client.eio._trigger_event = inline
        self.client.on("*", self._event)
        self.client.connect(
            url, transports=[transport], headers={"X-User": "1"}, wait_timeout=DEADLINE
        )

    def _event(self, name: str, data: Any = None, meta: Any = None) -> None:
        self._note((name, data, meta))

    def _note(self, frame: tuple[str, Any, Any]) -> None:
        with self._changed:
            self.frames.append(frame)
            self._changed.notify_all()

    def send(self, event: str, message: Any) -> None:
        """Send a message; its ack is noted as ``ack <event>``."""

        def ack(answer: Any = None) -> None:
            self._note((f"ack {event}", answer, None))

        self.client.emit(event, message, callback=ack)

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Wait until something is true of the frames; return what it was."""
        with self._changed:
            found = self._changed.wait_for(condition, DEADLINE)
            assert found, self.frames[-5:]
            return found

    def call(self, event: str, message: Any) -> Any:
        """Send a message and wait for its ack."""
        with self._changed:
            before = len(self.frames)
        self.send(event, message)
        name = f"ack {event}"
        return self.wait(
            lambda: next((f for f in self.frames[before:] if f[0] == name), None)
        )[1]

    def subscribe(self, room: str = "chat:42", since: Any = None) -> Any:
        """Join a room and return the ack."""
        message = {"v": 1, "room": room}
        if since is not None:
            message["since"] = since
        return self.call("livepush.subscribe", message)

    def close(self) -> None:
        """Leave, and close what the client leaves open."""
        eio = self.client.eio
        task = eio.read_loop_task
        if eio.ws is not None and eio.ws.sock is None:
            return
        if eio.ws is not None:
            # A closing handshake would wait for a frame that the reader has taken.
            eio.ws.sock.shutdown(socket.SHUT_RDWR)
        else:
            # Its own way to end may leave the server to find out by a timeout.
            address = f"{self.url}/socket.io/?EIO=4&transport=polling&sid={eio.sid}"
            requests.post(address, data="1", timeout=DEADLINE)
        if task is not None:
            task.join(DEADLINE)
        if eio.ws is not None:
            eio.ws.shutdown()
        if eio.http is not None:
            eio.http.close()


def shown(client: LiveClient) -> tuple[set[int], int]:
    """Apply what a client was told, as ours does; return the rows and the offset.

    Everything after an ack must go on by one from it, until the next ack; nothing may
    come before the first one.
    """
    rows: set[int] = set()
    at: tuple[str, int] | None = None
    live = False
    for name, data, meta in list(client.frames):
        if name == "ack livepush.unsubscribe":
            live = False
        elif name == "ack livepush.subscribe":
            live = True
            if data["recovered"]:
                assert at is not None
                for entry in data["publications"]:
                    at = (at[0], at[1] + 1)
                    assert entry["offset"] == at[1]
                    rows.add(entry["data"]["id"])
                assert at == (data["epoch"], data["offset"])
            else:
                at = (data["epoch"], data["offset"])
                kinds = data["snapshot"]["kinds"]
                rows = {row["id"] for row in kinds["message"]["rows"]}
        elif name == "message.created":
            assert live, "a publication before the ack or after the end"
            assert at is not None
            at = (at[0], at[1] + 1)
            assert (meta["epoch"], meta["offset"]) == at
            rows.add(data["id"])
        else:
            raise AssertionError(name)
    assert at is not None
    return rows, at[1]
