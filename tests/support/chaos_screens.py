"""Screens of the chaos test: clients that come back, whatever happens to them.

Each does with several rooms what the JavaScript client does with one: positions, a
store with stamps, resets, kinds that are stale. It notes what must never happen.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import engineio.payload
import requests
import socketio

from .waiting import DEADLINE

# Its polling client gives up at an answer of more than 16 packets, unless told so.
engineio.payload.Payload.max_decode_packets = 10_000

ROOMS = (1, 2, 3)
#: Values above are rolled back by whoever writes them.
UNCOMMITTED = 1_000_000_000

# Seconds until a message that was not answered is sent again.
_ANSWER = 5.0
_NEVER = float("inf")
# Seconds that a client waits for a connection that it has broken itself, before it
# comes back by another; its thread may hang, and a browser would not wait for it.
_GIVEN_UP = 10.0


class _Room:
    """What a screen shows of a room."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.at: tuple[str, int] | None = None
        # By id, with its stamp; None is a row that was deleted.
        self.rows: dict[int, tuple[dict[str, Any] | None, int | None]] = {}
        self.live = False
        self.stale = False
        self.due = 0.0

    def apply(self, verb: str, data: dict[str, Any], stamp: int | None) -> None:
        """Do as client/src/rows.ts does."""
        known = self.rows.get(data["id"], (None, None))[1]
        if stamp is not None and known is not None and stamp < known:
            return
        row = None if verb == "deleted" else data
        self.rows[data["id"]] = (row, known if stamp is None else stamp)

    def replace(self, rows: Sequence[dict[str, Any]]) -> None:
        """Start over."""
        self.rows = {row["id"]: (row, None) for row in rows}


class ChaosScreen:
    """A subscriber of all rooms, over one transport, of whichever server it finds.

    Args:
        urls: The servers.
        transport: ``websocket`` or ``polling``.
        seed: Of its choices.
    """

    def __init__(self, urls: Sequence[str], transport: str, seed: object) -> None:
        self.transport = transport
        #: What must never happen.
        self.wrong: list[str] = []
        #: What happened.
        self.counts: Counter[str] = Counter()
        self._urls = urls
        self._random = random.Random(repr(seed))
        self._stop = threading.Event()
        # Guards the rooms and which connection they belong to.
        self._lock = threading.Lock()
        self._rooms = {f"room:{number}": _Room(f"room:{number}") for number in ROOMS}
        self._number = 0
        self._client: Any = None
        self._url = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def shown(self) -> dict[int, dict[int, Any]]:
        """Return the rows of each room by their ids."""
        with self._lock:
            return {
                number: {
                    id: row
                    for id, (row, _) in self._rooms[f"room:{number}"].rows.items()
                    if row is not None
                }
                for number in ROOMS
            }

    def __str__(self) -> str:
        with self._lock:
            rooms = ", ".join(
                f"{room.name} {'live' if room.live else 'waiting'} at {room.at}"
                for room in self._rooms.values()
            )
        connected = self._client is not None and self._client.connected
        return f"{self.transport}, {'on' if connected else 'offline'}, {rooms}"

    def cut(self) -> None:
        """Break the connection, without a word where the transport allows it."""
        client = self._client
        if client is not None:
            with suppress(Exception):
                self._break(client)

    def close(self) -> None:
        """Leave."""
        self._stop.set()
        self.cut()
        self._thread.join(DEADLINE)

    # -- the connection --------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            self._number += 1
            client = self._connect(self._number)
            if client is None:
                self._stop.wait(self._random.uniform(0.05, 0.3))
                continue
            self._client = client
            while client.connected and not self._stop.wait(0.03):
                self._ask(client, self._number)
            self._leave(client)

    def _connect(self, number: int) -> Any:
        with self._lock:
            for room in self._rooms.values():
                room.live, room.due = False, 0.0
        client = socketio.Client(
            reconnection=False, handle_sigint=False, request_timeout=5
        )
        # It would start a thread an event, which may run in any order.
        trigger = client.eio._trigger_event
        client.eio._trigger_event = lambda *args, **options: trigger(
            *args, **{**options, "run_async": False}
        )
        client.on("*", lambda *event: self._told(number, *event))
        self._url = self._random.choice(self._urls)
        try:
            client.connect(self._url, transports=[self.transport], wait_timeout=5)
        except socketio.exceptions.ConnectionError:
            self._leave(client)
            return None
        self.counts["connections"] += 1
        return client

    def _break(self, client: Any) -> None:
        eio = client.eio
        if eio.ws is not None:
            eio.ws.sock.shutdown(socket.SHUT_RDWR)
        elif eio.sid is not None:
            address = f"{self._url}/socket.io/?EIO=4&transport=polling&sid={eio.sid}"
            requests.post(address, data="1", timeout=5)

    def _leave(self, client: Any) -> None:
        """Close what the client leaves open."""
        self._client = None
        eio = client.eio
        with suppress(Exception):
            self._break(client)
        if eio.read_loop_task is not None:
            eio.read_loop_task.join(_GIVEN_UP)
        with suppress(Exception):
            eio.ws.shutdown()
        with suppress(Exception):
            eio.http.close()

    def _ask(self, client: Any, number: int) -> None:
        """Subscribe to what is due."""
        now = time.monotonic()
        with self._lock:
            due = [room for room in self._rooms.values() if room.due <= now]
            for room in due:
                room.due = now + _ANSWER
        for room in due:
            since = None if room.stale else room.at
            message: dict[str, Any] = {"v": 1, "room": room.name}
            if since is not None:
                message["since"] = {"epoch": since[0], "offset": since[1]}

            def answered(answer: Any, room: _Room = room, since: Any = since) -> None:
                with self._lock:
                    if number == self._number:
                        self._answer(room, since, answer)

            with suppress(socketio.exceptions.SocketIOError):
                client.emit("livepush.subscribe", message, callback=answered)

    # -- what it is told; in the order of the wire -----------------------------------

    def _told(self, number: int, event: str, data: Any, meta: Any = None) -> None:
        with self._lock:
            if number != self._number:
                return
            if event == "livepush.reset":
                self.counts["resets"] += 1
                room = self._rooms[data["room"]]
                room.live = False
                room.due = self._after(data["within"])
            else:
                self._publication(event, data, meta)

    def _publication(self, event: str, data: Any, meta: Any) -> None:
        self.counts["publications"] += 1
        room = self._rooms[meta["room"]]
        at = (meta["epoch"], meta["offset"])
        if not room.live:
            self._complain(f"{event} at {at} in {room.name} before an ack")
        elif room.at is None or at != (room.at[0], room.at[1] + 1):
            self._complain(f"{event} at {at} in {room.name} after {room.at}")
        room.at = at
        self._apply(room, event, data, meta.get("stamp"))

    def _apply(self, room: _Room, event: str, data: Any, stamp: int | None) -> None:
        verb = event.removeprefix("item.")
        if verb == "invalidated":
            self.counts["invalidations"] += 1
            room.stale = True
            room.due = self._after(0.3)
            return
        self._look(room, data)
        room.apply(verb, data, stamp)

    def _answer(self, room: _Room, since: Any, answer: dict[str, Any]) -> None:
        if not answer["ok"]:
            self.counts["refusals"] += 1
            if not answer["error"]["temporary"]:
                self._complain(f"refused {room.name}: {answer['error']}")
            room.live = False
            room.due = self._after(0.5)
            return
        room.live, room.due = True, _NEVER
        at = (answer["epoch"], answer["offset"])
        if answer["recovered"]:
            self.counts["recoveries"] += 1
            self._recover(room, since, at, answer["publications"])
            return
        self.counts["snapshots"] += 1
        kind = answer["snapshot"]["kinds"]["item"]
        assert not kind["partial"]
        for row in kind["rows"]:
            self._look(room, row)
        room.replace(kind["rows"])
        room.at, room.stale = at, False

    def _recover(
        self, room: _Room, since: Any, at: tuple[str, int], missed: Sequence[Any]
    ) -> None:
        offsets = [entry["offset"] for entry in missed]
        expected = None if since is None else list(range(since[1] + 1, at[1] + 1))
        if since is None or since[0] != at[0] or offsets != expected:
            self._complain(f"{room.name} since {since} recovered to {at} by {offsets}")
        seen = room.at[1] if room.at is not None else 0
        if at[1] < seen:
            self._complain(f"{room.name} fell from {room.at} to {at}")
        room.at = at
        for entry in missed:
            # The subscription before this one may have brought some meanwhile.
            if entry["offset"] > seen:
                self.counts["recovered"] += 1
                self._apply(room, entry["event"], entry["data"], entry.get("stamp"))

    def _look(self, room: _Room, row: dict[str, Any]) -> None:
        if max(row.get("a", 0), row.get("b", 0)) >= UNCOMMITTED:
            self._complain(f"{row} in {room.name} was never committed")

    def _after(self, within: float) -> float:
        return time.monotonic() + self._random.uniform(0, within)

    def _complain(self, what: str) -> None:
        self.wrong.append(f"{self.transport}: {what}")
