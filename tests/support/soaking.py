"""A load of clients that come and go in every way: one thread, raw sockets, one seed.

Some leave properly, some are reset, some fall silent with their sockets open; some read
slowly, say nothing, or stop in the middle of a frame, a poll or an upgrade.
"""

from __future__ import annotations

import json
import random
import selectors
import socket
import struct
import time
from collections import Counter
from contextlib import suppress
from typing import Any

from bench.load import Wire, subscribe

from .raw import CLOSE, TEXT, Raw, frame

#: Seconds, in the settings of the server that are called so.
PING_INTERVAL, PING_TIMEOUT = 1.0, 1.0
ROOMS = 5
#: Clients at any time, besides those that have fallen silent.
CROWD = 150
#: Seconds for which the sockets of silent ones are kept open.
SILENCE = 12.0
# Seconds that a client stays, at most, and between two reads of a slow one.
_STAY = 2.5
_SLOWNESS = 0.3
# Seconds between two broadcasts: small ones, and of more than may wait for one client.
_BROADCAST = 0.05
_RESET = struct.pack("ii", 1, 0)

_KINDS = {
    "leaves": 5,
    "is reset": 4,
    "falls silent": 3,
    "reads slowly": 2,
    "says nothing": 1,
    "breaks off": 1,
    "polls": 2,
    "stops upgrading": 2,
    "upgrades": 2,
}


class _Client:
    __slots__ = ("joins", "kind", "next_read", "sid", "until", "wire")

    def __init__(self, wire: Wire, kind: str, joins: str, until: float) -> None:
        self.wire = wire
        self.kind = kind
        self.joins = joins
        self.until = until
        self.sid = ""
        self.next_read = 0.0


class Soak:
    """Clients of one server.

    Args:
        port: The server's.
        seed: Of all that is left to chance.
    """

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._dice = random.Random(seed)
        self._selector = selectors.DefaultSelector()
        self._clients: set[_Client] = set()
        self._silent: list[tuple[float, socket.socket]] = []
        self._next_broadcast = 0.0
        #: When the client of each session that has gone did so, and how.
        self.ended: dict[str, tuple[float, str]] = {}
        #: What was done, how often.
        self.counts: Counter[str] = Counter()

    def load(self, seconds: float) -> None:
        """Let clients come and go."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if len(self._clients) < CROWD:
                self._come()
            self._broadcast()
            self._turn()

    def leave(self, *, deadline: float) -> None:
        """Let all go, each in its way; those that are silent stay silent."""
        end = time.monotonic() + deadline
        for client in self._clients:
            client.until = 0
        while self._clients:
            assert time.monotonic() < end, "the server does not end connections"
            self._turn()

    def close(self) -> None:
        """Close what is open here."""
        for client in self._clients:
            client.wire.sock.close()
        for _, sock in self._silent:
            sock.close()
        self._selector.close()

    # -- coming ------------------------------------------------------------------------
    def _come(self) -> None:
        (kind,) = self._dice.choices([*_KINDS], [*_KINDS.values()])
        self.counts[kind] += 1
        with suppress(ConnectionError):
            if kind == "polls":
                self._poll()
            elif kind in ("stops upgrading", "upgrades"):
                self._upgrade(kind)
            else:
                query = f"EIO=4&transport=websocket&user={self._user()}"
                self._enter(Wire(self._port, blocking=False, query=query), kind)

    def _enter(self, wire: Wire, kind: str, sid: str = "") -> None:
        stays = self._dice.uniform(0, _STAY)
        joins = subscribe(f"chat:{self._dice.randrange(ROOMS)}")
        client = _Client(wire, kind, joins, time.monotonic() + stays)
        client.sid = sid
        if kind == "reads slowly":
            wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        else:
            self._selector.register(wire.sock, selectors.EVENT_READ, client)
        self._clients.add(client)

    def _user(self) -> str:
        return f"user{self._dice.randrange(50)}"

    def _poll(self) -> None:
        """Open a session by polling, get so far with it, and abandon it."""
        with Raw(self._port) as raw:
            query, sid = self._open(raw)
            if self._dice.random() < 0.7:
                raw.request(query, "POST", body="40")
            if self._dice.random() < 0.5:
                body = "4" + subscribe("chat:1")[1:]
                raw.request(query, "POST", body=body)
            if self._dice.random() < 0.15:
                raw.send_request(query)  # it goes while its poll is in flight
            self.ended[sid] = time.monotonic(), "polls"

    def _upgrade(self, kind: str) -> None:
        """Open a session by polling, and a WebSocket that takes it over, or stops."""
        with Raw(self._port) as raw:
            query, sid = self._open(raw)
            raw.request(query, "POST", body="40")
            raw.request(query)
        query = query.replace("polling", "websocket")
        if kind == "upgrades":
            wire = Wire(self._port, blocking=False, query=query)
            self._enter(wire, kind, sid)
            return
        stopped = Raw(self._port)
        answer = stopped.upgrade(query)
        assert answer.status == 101, answer
        if self._dice.random() < 0.5:
            stopped.text("2probe")
        self.ended[sid] = time.monotonic(), kind
        sock = stopped.socket
        if self._dice.random() < 0.5:
            _reset(sock)
        else:
            self._silent.append((time.monotonic(), sock))

    def _open(self, raw: Raw) -> tuple[str, str]:
        # All requests of a session bear its login, as those of clients do.
        query = f"EIO=4&transport=polling&user={self._user()}"
        sid = json.loads(raw.request(query).text[1:])["sid"]
        return f"{query}&sid={sid}", sid

    # -- staying -----------------------------------------------------------------------
    def _turn(self) -> None:
        for key, _ in self._selector.select(0.005):
            self._read(key.data)
        now = time.monotonic()
        for client in list(self._clients):
            if client.kind == "reads slowly" and now > client.next_read:
                client.next_read = now + _SLOWNESS
                with suppress(BlockingIOError):
                    self._read(client)
            if client in self._clients and now > client.until:
                self._go(client, now)
        while self._silent and self._silent[0][0] < now - SILENCE:
            self._silent.pop(0)[1].close()

    def _read(self, client: _Client) -> None:
        wire = client.wire
        try:
            for text in wire.read():
                if text[:1] == b"0":
                    client.sid = json.loads(text[1:])["sid"]
                    if client.kind == "says nothing":
                        continue
                if text == b"3probe":
                    wire.send("5")
                    wire.send(client.joins)
                elif not wire.answer(text, client.joins):
                    self._hear(client, text)
            if client.kind == "upgrades" and not client.next_read and wire.upgraded:
                client.next_read = 1
                wire.send("2probe")
        except ConnectionError:
            self._gone(client)

    def _hear(self, client: _Client, text: bytes) -> None:
        self.counts["heard"] += 1
        if text.startswith(b'42["news"') and self._dice.random() < 0.01:
            room = json.loads(client.joins[3:])[1]["room"]
            whisper = {"v": 1, "room": room, "event": "typing", "data": 1}
            client.wire.send(f'422["livepush.whisper",{json.dumps(whisper)}]')
            self.counts["whispered"] += 1

    def _broadcast(self) -> None:
        now = time.monotonic()
        if now < self._next_broadcast:
            return
        self._next_broadcast = now + _BROADCAST
        count, size = self._dice.choice([(1, 20)] * 20 + [(10, 100), (15, 20_000)])
        room = self._dice.randrange(ROOMS)
        with Raw(self._port) as raw:
            path = f"/emit/{room}"
            answer = raw.request(f"count={count}&size={size}", "POST", path=path)
            assert answer.status == 200, answer
        self.counts["broadcasts"] += count

    # -- going -------------------------------------------------------------------------
    def _go(self, client: _Client, now: float) -> None:
        sock = client.wire.sock
        try:
            if client.kind in ("leaves", "upgrades"):
                # Its end is read: the server's answer, and then nothing more.
                client.until = now + SILENCE
                if client.sid:
                    client.wire.send("41")
                sock.send(frame(CLOSE, b"\x03\xe8"))
                return
            if client.kind == "breaks off":
                sock.send(frame(TEXT, b"42[1]")[: self._dice.randrange(1, 10)])
        except ConnectionError:
            self._gone(client)
            return
        if client.kind == "is reset" or self._dice.random() < 0.3:
            self._gone(client, reset=True)
        else:
            self._forget(client)
            self._silent.append((now, sock))

    def _gone(self, client: _Client, *, reset: bool = False) -> None:
        self._forget(client)
        if reset:
            _reset(client.wire.sock)
        else:
            client.wire.sock.close()

    def _forget(self, client: _Client) -> None:
        if client.sid:
            self.ended[client.sid] = time.monotonic(), client.kind
        if client.kind != "reads slowly":
            self._selector.unregister(client.wire.sock)
        self._clients.discard(client)


def _reset(sock: Any) -> None:
    """Close a socket so that the other side is told of a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()
