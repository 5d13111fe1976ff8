"""Clients that are told to come back elsewhere, and do as the JavaScript client does.

One thread, raw sockets. Each is in one room and checks that nothing of it is lost or
comes twice, whichever servers it has been on; how long it was offline, and when all
came back, is kept for the test.
"""

from __future__ import annotations

import json
import random
import selectors
import threading
import time
from collections import Counter
from contextlib import suppress

from bench.load import Wire, ack_of, subscribe

from .raw import CLOSE, frame
from .waiting import DEADLINE

# Seconds before a client that found no server tries again.
_AGAIN = 0.1


class _Client:
    def __init__(self, number: int, room: str) -> None:
        self.number = number
        self.room = room
        self.wire: Wire | None = None
        self.port = 0
        self.position: tuple[str, int] | None = None
        self.leaves_at: float | None = None
        self.comes_at = 0.0
        self.offline_since = time.monotonic()


class Roaming:
    """Clients of several servers.

    Args:
        ports: Of the servers; a client goes to the one that has the fewest, and to
            another if that refuses, as a proxy in front would.
        count: How many clients.
        room: Where they are.
        seed: Of all that is left to chance.
    """

    def __init__(
        self, ports: list[int], count: int, *, room: str = "chat:1", seed: int = 1
    ) -> None:
        self.ports = ports
        self.clients = [_Client(number, room) for number in range(count)]
        self._dice = random.Random(seed)
        self._selector = selectors.DefaultSelector()
        self._stops = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failure: BaseException | None = None
        #: Seconds from a leaving to the answer that makes the client live again.
        self.offline: list[float] = []
        #: When clients came back, on this machine's clock.
        self.returns: list[float] = []
        #: When they were to go, by what they were asked and by chance.
        self.departures: list[float] = []
        #: How many were asked, and how many were closed without.
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> Roaming:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stops.set()
        self._thread.join(DEADLINE)
        for client in self.clients:
            if client.wire is not None:
                client.wire.sock.close()
        self._selector.close()

    def check(self) -> None:
        """Fail if anything has gone wrong so far."""
        if self._failure is not None:
            raise self._failure

    @property
    def live(self) -> int:
        """How many are connected and in their room."""
        self.check()
        return sum(
            client.wire is not None and client.wire.ack is not None
            for client in self.clients
        )

    def all_at(self, offset: int) -> bool:
        """Say whether all have come as far as this offset."""
        self.check()
        return all(
            client.position is not None and client.position[1] == offset
            for client in self.clients
        )

    # -- the thread --------------------------------------------------------------------
    def _run(self) -> None:
        try:
            while not self._stops.is_set():
                self._turn()
        except BaseException as error:  # noqa: BLE001
            self._failure = error

    def _turn(self) -> None:
        for key, _ in self._selector.select(0.005):
            client = key.data
            try:
                for text in client.wire.read():
                    self._take(client, text)
            except ConnectionError:
                if client.wire is not None:
                    self.counts["closed"] += 1
                    self._drop(client)
        now = time.monotonic()
        for client in self.clients:
            if client.wire is None and client.comes_at <= now:
                self._come(client)
            elif client.leaves_at is not None and client.leaves_at <= now:
                self._leave(client)

    def _come(self, client: _Client) -> None:
        load = Counter(each.port for each in self.clients if each.wire is not None)
        query = f"EIO=4&transport=websocket&user=user{client.number}"
        for port in sorted(self.ports, key=lambda port: load[port]):
            with suppress(ConnectionError):
                client.wire = Wire(port, blocking=False, query=query)
                client.port = port
                self._selector.register(client.wire.sock, selectors.EVENT_READ, client)
                return
        client.comes_at = time.monotonic() + _AGAIN

    def _leave(self, client: _Client) -> None:
        assert client.wire is not None
        with suppress(ConnectionError):
            client.wire.send("41")
            client.wire.sock.send(frame(CLOSE, b"\x03\xe8"))
        self._drop(client)
        client.comes_at = 0.0

    def _drop(self, client: _Client) -> None:
        wire, client.wire = client.wire, None
        assert wire is not None
        if wire.ack is not None:
            client.offline_since = time.monotonic()
        client.leaves_at = None
        client.comes_at = time.monotonic() + _AGAIN
        self._selector.unregister(wire.sock)
        wire.sock.close()

    def _take(self, client: _Client, text: bytes) -> None:
        wire = client.wire
        if wire is None:
            return
        since = None
        if client.position is not None:
            epoch, offset = client.position
            since = {"epoch": epoch, "offset": offset}
        if wire.answer(text, subscribe(client.room, since)):
            return
        if text[:2] == b"43":
            self._joined(client, text)
        elif text[:2] == b"42":
            name, data, *rest = json.loads(text[2:])
            if name == "livepush.reconnect":
                self.counts["asked"] += 1
                moment = self._dice.uniform(0, data["within"])
                client.leaves_at = time.monotonic() + moment
                self.departures.append(client.leaves_at)
            elif name == "tick":
                self._follow(client, rest[0]["epoch"], rest[0]["offset"])

    def _joined(self, client: _Client, text: bytes) -> None:
        ack = ack_of(text)
        assert ack["ok"], ack
        if client.position is not None:
            assert ack["recovered"], ack
            for publication in ack["publications"]:
                self._follow(client, ack["epoch"], publication["offset"])
            now = time.monotonic()
            self.offline.append(now - client.offline_since)
            self.returns.append(now)
        client.position = ack["epoch"], ack["offset"]
        assert client.wire is not None
        client.wire.ack = text

    def _follow(self, client: _Client, epoch: str, offset: int) -> None:
        assert client.position is not None
        assert (epoch, offset) == (client.position[0], client.position[1] + 1), (
            f"client {client.number} got {epoch, offset} after {client.position}"
        )
        client.position = epoch, offset


def peak(moments: list[float], seconds: float = 1.0) -> int:
    """Return how many moments there are at most in so many seconds."""
    most, first = 0, 0
    ordered = sorted(moments)
    for last, moment in enumerate(ordered):
        while ordered[first] <= moment - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
