"""A crowd of clients behind one address, and whoever writes what they are shown.

One thread with raw sockets, so that hundreds cost little. Each client is in one room
and does as socket.io-client does with ours: handshake, polls, answers to pings,
subscribing again with its position. Each request is a connection of its own, so that
nothing but chance brings two of a client to one process.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from bench.load import Wire

from .raw import CLOSE, Raw, frame
from .waiting import DEADLINE

#: Seconds, in the settings of the servers that are called so.
PING_INTERVAL, PING_TIMEOUT = 4, 4
#: How a client connects: by polling alone; by WebSocket, and by polling where that
#: fails; by polling, and then by a WebSocket that takes over.
POLLING, DEFAULT, UPGRADING = "polling", "default", "upgrading"

_POLLING = "EIO=4&transport=polling"
_WEBSOCKET = "EIO=4&transport=websocket"
# Seconds before the first attempt to come back, half of it more or less, and at most:
# client/src/index.ts.
_DELAY, _LONGEST = 1.0, 5.0
# Seconds for the answer to a subscription.
_ANSWER = 5.0
# Seconds within which a client comes for a snapshot.
_STALE = 2.0


class Outage(NamedTuple):
    """A client was not live for a time.

    Args:
        noticed: When it found that its connection was gone.
        live: When it was live again.
        kind: How it connects.
        why: What it found.
    """

    noticed: float
    live: float
    kind: str
    why: str


class _Exchange:
    """A request, and as much of its answer as has come."""

    __slots__ = ("answer", "done", "request", "sock")

    def __init__(
        self, sock: socket.socket, request: bytes, done: Callable[[int, str], None]
    ) -> None:
        self.sock = sock
        self.request = request
        self.answer = b""
        #: Called with the status, 0 for none, and the body.
        self.done = done

    def read(self) -> bool:
        """Read on; say whether the answer is whole, or will never be."""
        try:
            data = self.sock.recv(1 << 18)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        self.answer += data
        head, end, body = self.answer.partition(b"\r\n\r\n")
        if not end:
            return not data
        return not data or len(body) >= _length(head)

    def found(self) -> tuple[int, str]:
        """Return the answer's status, 0 if it is not whole, and its body."""
        head, end, body = self.answer.partition(b"\r\n\r\n")
        if not end or len(body) < _length(head):
            return 0, ""
        return int(head.split(b" ", 2)[1]), body.decode()


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    raise AssertionError(f"an answer without a length: {head!r}")


class _Client:
    """What one client knows; of a connection, only of its last one."""

    def __init__(self, number: int, kind: str, room: int) -> None:
        self.number = number
        self.kind = kind
        self.room = room
        # What it shows, with stamps; None is a row that was deleted.
        self.rows: dict[int, tuple[dict[str, Any] | None, int | None]] = {}
        self.at: tuple[str, int] | None = None
        self.stale = False
        self.failures = 0
        self.gone_at: float | None = None
        self.why = ""
        self.forget()

    def forget(self) -> None:
        """Know nothing of a connection."""
        self.sid = ""
        self.wire: Wire | None = None
        self.upgraded = False
        self.exchanges: set[_Exchange] = set()
        self.polls = False
        self.posts = False
        self.pausing = False
        self.out: list[str] = []
        self.live = False
        self.asked: tuple[int, Any] | None = None
        self.due = float("inf")
        self.heard = 0.0

    def apply(self, verb: str, data: dict[str, Any], stamp: int | None) -> None:
        """Do as client/src/rows.ts does."""
        known = self.rows.get(data["id"], (None, None))[1]
        if stamp is not None and known is not None and stamp < known:
            return
        row = None if verb == "deleted" else data
        self.rows[data["id"]] = (row, known if stamp is None else stamp)

    def shown(self) -> dict[int, int]:
        """Return the values of the rows it shows, by their ids."""
        return {
            id: row["value"] for id, (row, _) in self.rows.items() if row is not None
        }


class Crowd:
    """Clients of one address.

    Args:
        port: What stands there.
        kinds: How many of each kind.
        rooms: How many rooms they are in.
        seed: Of all that is left to chance.
    """

    def __init__(
        self, port: int, kinds: dict[str, int], *, rooms: int, seed: int
    ) -> None:
        self._port = port
        self._dice = random.Random(seed)
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._stops = threading.Event()
        self._leaves = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        names = [kind for kind, count in kinds.items() for _ in range(count)]
        self.clients = [
            _Client(number, kind, number % rooms) for number, kind in enumerate(names)
        ]
        #: What must never happen.
        self.wrong: list[str] = []
        #: What happened.
        self.counts: Counter[str] = Counter()
        #: Of those that came back.
        self.outages: list[Outage] = []

    def __enter__(self) -> Crowd:
        for client in self.clients:
            self._after(self._dice.uniform(0, 1), client, self._connect)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stops.set()
        self._thread.join(DEADLINE)
        for client in self.clients:
            self._drop(client)
        self._selector.close()

    def check(self) -> None:
        """Raise what has ended the crowd's thread."""
        if self._failure is not None:
            raise self._failure

    def all_live(self) -> bool:
        """Say whether all clients are."""
        self.check()
        return all(client.live for client in self.clients)

    def differing(self, rows: list[list[int]]) -> list[str]:
        """Return which clients show what is not in the database.

        Args:
            rows: What it has: the room, the id and the value of each row.
        """
        self.check()
        truth: dict[int, dict[int, int]] = {}
        for room, id, value in rows:
            truth.setdefault(room, {})[id] = value
        found = []
        for client in self.clients:
            shown, right = client.shown(), truth.get(client.room, {})
            if shown != right:
                what = sorted({*shown.items()} ^ {*right.items()})[:5]
                found.append(f"{self._name(client)} differs in {what}")
        return found

    def leave(self) -> None:
        """Let all end their connections as a page does that is closed."""
        self._leaves = True

    # -- the thread --------------------------------------------------------------------
    def _run(self) -> None:
        try:
            while not self._stops.is_set():
                self._turn()
        except BaseException as error:  # noqa: BLE001
            self._failure = error

    def _turn(self) -> None:
        for key, events in self._selector.select(0.01):
            client, what = key.data
            if isinstance(what, Wire):
                self._read_wire(client, what)
            elif events & selectors.EVENT_WRITE:
                self._send(client, what)
            elif what.read():
                self._end(client, what)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        if self._leaves:
            self._leaves = False
            self._timers.clear()  # nobody comes back
            for client in self.clients:
                self._part(client)
            return
        for client in self.clients:
            if client.due <= now:
                self._subscribe(client)
            if client.sid and now - client.heard > PING_INTERVAL + PING_TIMEOUT:
                self._lost(client, "ping timeout")

    def _after(
        self, seconds: float, client: _Client, what: Callable[[_Client], None]
    ) -> None:
        due = time.monotonic() + seconds
        heapq.heappush(self._timers, (due, next(self._numbers), lambda: what(client)))

    def _name(self, client: _Client) -> str:
        return f"client {client.number} ({client.kind}) of room {client.room}"

    def _complain(self, client: _Client, what: str) -> None:
        self.wrong.append(f"{self._name(client)}: {what}")

    # -- connections -------------------------------------------------------------------
    def _connect(self, client: _Client) -> None:
        self.counts["attempts"] += 1
        if client.kind == DEFAULT:
            self._open_websocket(client, _WEBSOCKET)
        else:
            self._open_polling(client)

    def _open_polling(self, client: _Client) -> None:
        def opened(status: int, body: str) -> None:
            if status != 200:
                self._lost(client, f"handshake: {status}")
                return
            self._opened(client, body)
            self._poll(client)
            if client.kind == UPGRADING:
                self.counts["upgrades tried"] += 1
                self._open_websocket(client, f"{_WEBSOCKET}&sid={client.sid}")

        self._ask(client, "GET", _POLLING, "", opened)

    def _opened(self, client: _Client, packet: str) -> None:
        client.sid = json.loads(packet[1:])["sid"]
        client.heard = time.monotonic()
        self._write(client, "40")

    def _open_websocket(self, client: _Client, query: str) -> None:
        try:
            wire = Wire(self._port, blocking=False, query=query)
        except OSError:
            self._websocket_failed(client, None)
            return
        client.wire = wire
        data = (client, wire)
        self._selector.register(wire.sock, selectors.EVENT_READ, data)

    def _websocket_failed(self, client: _Client, wire: Wire | None) -> None:
        if wire is not None:
            self._selector.unregister(wire.sock)
            wire.sock.close()
        client.wire = None
        if client.upgraded:
            self._lost(client, "websocket ended")
        elif client.sid:
            self.counts["upgrades refused"] += 1
            if client.pausing:
                client.pausing = False
                self._poll(client)
        else:
            self.counts["websockets refused"] += 1
            self._open_polling(client)

    def _lost(self, client: _Client, why: str) -> None:
        self.counts[f"lost: {why}"] += 1
        if client.live and client.gone_at is None:
            client.gone_at, client.why = time.monotonic(), why
        self._drop(client)
        delay = min(_LONGEST, _DELAY * 2**client.failures)
        client.failures += 1
        self._after(delay * self._dice.uniform(0.5, 1.5), client, self._connect)

    def _drop(self, client: _Client) -> None:
        for exchange in client.exchanges:
            self._selector.unregister(exchange.sock)
            exchange.sock.close()
        if client.wire is not None:
            self._selector.unregister(client.wire.sock)
            client.wire.sock.close()
        client.forget()

    def _part(self, client: _Client) -> None:
        """Leave, and say so."""
        if client.upgraded and client.wire is not None:
            with suppress(ConnectionError):
                client.wire.send("41")
                client.wire.sock.send(frame(CLOSE, b"\x03\xe8"))
        elif client.sid:
            with suppress(AssertionError, OSError), Raw(self._port) as raw:
                raw.request(f"{_POLLING}&sid={client.sid}", "POST", body="41\x1e1")
        self._drop(client)

    # -- requests ----------------------------------------------------------------------
    def _ask(
        self,
        client: _Client,
        method: str,
        query: str,
        body: str,
        done: Callable[[int, str], None],
    ) -> None:
        data = body.encode()
        address = f"/socket.io/?{query}&t={next(self._numbers):x}"
        lines = [f"{method} {address} HTTP/1.1", "Host: 127.0.0.1"]
        if data:
            lines += ["Content-Type: text/plain", f"Content-Length: {len(data)}"]
        sock = socket.socket()
        sock.setblocking(False)
        request = "\r\n".join((*lines, "", "")).encode() + data
        exchange = _Exchange(sock, request, done)
        client.exchanges.add(exchange)
        sock.connect_ex(("127.0.0.1", self._port))
        self._selector.register(sock, selectors.EVENT_WRITE, (client, exchange))

    def _send(self, client: _Client, exchange: _Exchange) -> None:
        try:
            exchange.sock.sendall(exchange.request)
        except ConnectionError:
            self._end(client, exchange)
        else:
            data = (client, exchange)
            self._selector.modify(exchange.sock, selectors.EVENT_READ, data)

    def _end(self, client: _Client, exchange: _Exchange) -> None:
        if exchange not in client.exchanges:
            return  # its connection was dropped in this turn
        client.exchanges.discard(exchange)
        self._selector.unregister(exchange.sock)
        exchange.sock.close()
        exchange.done(*exchange.found())

    def _poll(self, client: _Client) -> None:
        def polled(status: int, body: str) -> None:
            client.polls = False
            if status != 200:
                self._lost(client, f"poll: {status} {_reason(body)}")
                return
            sid = client.sid
            for packet in body.split("\x1e"):
                self._take(client, packet)
                if client.sid != sid:
                    return
            if client.pausing:
                self._switch(client)
            else:
                self._poll(client)

        self.counts["polls"] += 1
        client.polls = True
        self._ask(client, "GET", f"{_POLLING}&sid={client.sid}", "", polled)

    def _write(self, client: _Client, packet: str) -> None:
        if client.upgraded:
            self._write_wire(client, packet)
            return
        client.out.append(packet)
        self._flush(client)

    def _flush(self, client: _Client) -> None:
        if client.posts or not client.out or client.pausing:
            return
        client.posts = True
        body = "\x1e".join(client.out)
        client.out.clear()

        def posted(status: int, body: str) -> None:
            client.posts = False
            if status != 200:
                self._lost(client, f"post: {status} {_reason(body)}")
            elif client.pausing:
                self._switch(client)
            else:
                self._flush(client)

        self._ask(client, "POST", f"{_POLLING}&sid={client.sid}", body, posted)

    # -- WebSockets --------------------------------------------------------------------
    def _read_wire(self, client: _Client, wire: Wire) -> None:
        if client.wire is not wire:
            return  # dropped in this turn
        before = wire.upgraded
        try:
            texts = wire.read()
        except BlockingIOError:
            return
        except ConnectionError:
            self._websocket_failed(client, wire)
            return
        if wire.upgraded and not before and client.sid:
            self._write_wire(client, "2probe")
        for text in texts:
            packet = text.decode()
            if packet == "3probe":
                client.pausing = True
                self._switch(client)
            elif not client.sid:
                client.upgraded = True
                self._opened(client, packet)
            else:
                self._take(client, packet)
            if client.wire is not wire:
                return

    def _write_wire(self, client: _Client, packet: str) -> None:
        assert client.wire is not None
        # Reading tells of one that has ended.
        with suppress(ConnectionError):
            client.wire.send(packet)

    def _switch(self, client: _Client) -> None:
        """Let the WebSocket take over once nothing is asked by polling."""
        if client.polls or client.posts:
            return
        self.counts["upgrades"] += 1
        client.pausing = False
        client.upgraded = True
        self._write_wire(client, "5")
        for packet in client.out:
            self._write_wire(client, packet)
        client.out.clear()

    # -- what it is told ---------------------------------------------------------------
    def _take(self, client: _Client, packet: str) -> None:
        client.heard = time.monotonic()
        if packet == "2":
            self._write(client, "3")
        elif packet == "1":
            self._lost(client, "the server ended it")
        elif packet.startswith("40"):
            self._subscribe(client)
        elif packet.startswith("43"):
            self._answered(client, packet)
        elif packet.startswith("42"):
            self._told(client, *json.loads(packet[2:]))
        elif packet != "6":
            self._complain(client, f"was sent {packet[:200]!r}")

    def _subscribe(self, client: _Client) -> None:
        since = None if client.stale else client.at
        message: dict[str, Any] = {"v": 1, "room": f"room:{client.room}"}
        if since is not None:
            message["since"] = {"epoch": since[0], "offset": since[1]}
        number = next(self._numbers)
        client.asked = number, since
        client.due = time.monotonic() + _ANSWER
        self._write(client, f'42{number}["livepush.subscribe",{json.dumps(message)}]')

    def _told(
        self, client: _Client, event: str, data: dict[str, Any], meta: Any = None
    ) -> None:
        if event == "livepush.reset":
            self.counts["resets"] += 1
            client.due = time.monotonic() + self._dice.uniform(0, data["within"])
            return
        at = (meta["epoch"], meta["offset"])
        if not client.live:
            self._complain(client, f"{event} at {at} before an answer")
        elif client.at is None or at != (client.at[0], client.at[1] + 1):
            self._complain(client, f"{event} at {at} after {client.at}")
        client.at = at
        self.counts["publications"] += 1
        self._publication(client, event, data, meta.get("stamp"))

    def _publication(
        self, client: _Client, event: str, data: dict[str, Any], stamp: int | None
    ) -> None:
        verb = event.removeprefix("item.")
        if verb == "invalidated":
            self.counts["invalidations"] += 1
            client.stale = True
            client.due = time.monotonic() + self._dice.uniform(0, _STALE)
        else:
            client.apply(verb, data, stamp)

    def _answered(self, client: _Client, packet: str) -> None:
        number, _, text = packet[2:].partition("[")
        (answer,) = json.loads(f"[{text}")
        if client.asked is None or client.asked[0] != int(number):
            return  # it was asked again meanwhile
        since = client.asked[1]
        client.asked, client.due = None, float("inf")
        if not answer["ok"]:
            self.counts["refusals"] += 1
            if not answer["error"]["temporary"]:
                self._complain(client, f"was refused: {answer['error']}")
            client.due = time.monotonic() + self._dice.uniform(0.5, 1)
            return
        at = (answer["epoch"], answer["offset"])
        if answer["recovered"]:
            self.counts["recoveries"] += 1
            self._recover(client, since, at, answer["publications"])
        else:
            self.counts["snapshots"] += 1
            kind = answer["snapshot"]["kinds"]["item"]
            assert not kind["partial"]
            client.rows = {row["id"]: (row, None) for row in kind["rows"]}
            client.stale = False
        client.at = at
        client.live = True
        client.failures = 0
        if client.gone_at is not None:
            outage = Outage(client.gone_at, time.monotonic(), client.kind, client.why)
            self.outages.append(outage)
            client.gone_at = None

    def _recover(
        self, client: _Client, since: Any, at: tuple[str, int], missed: list[Any]
    ) -> None:
        offsets = [entry["offset"] for entry in missed]
        expected = None if since is None else list(range(since[1] + 1, at[1] + 1))
        if since is None or since[0] != at[0] or offsets != expected:
            self._complain(client, f"since {since} recovered to {at} by {offsets}")
        # Before a second answer on one connection, some may have come by themselves.
        seen = 0 if client.at is None else client.at[1]
        for entry in missed:
            if entry["offset"] > seen:
                self.counts["recovered"] += 1
                self._publication(
                    client, entry["event"], entry["data"], entry.get("stamp")
                )


def _reason(body: str) -> str:
    with suppress(ValueError, LookupError, TypeError):
        return str(json.loads(body)["message"])
    return ""


class Traffic:
    """Writes rows through the same address, one after another.

    A write that is not answered may have been committed by a process that died before
    it published. So that row is written once more, as somebody would who was shown an
    error.

    Args:
        pause: Seconds between two writes.
    """

    def __init__(self, port: int, *, rooms: int, seed: int, pause: float) -> None:
        self._port = port
        self._rooms = rooms
        self._dice = random.Random(seed)
        self._pause = pause
        self._ids = itertools.count(1)
        self._values = itertools.count(1)
        self._rows: dict[int, int] = {}
        self._stops = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        #: What was done, how often.
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stops.set()
        self._thread.join(DEADLINE)
        if self._failure is not None:
            raise self._failure
        assert not self._thread.is_alive(), "a write hangs"

    def _run(self) -> None:
        try:
            while not self._stops.wait(self._pause):
                self._step()
        except BaseException as error:  # noqa: BLE001
            self._failure = error

    def _step(self) -> None:
        some = len(self._rows)
        what = self._dice.choices(
            ("insert", "update", "delete"), (2, 5 if some else 0, some / 30)
        )[0]
        self.counts[what] += 1
        if what == "insert":
            id, room = next(self._ids), self._dice.randrange(self._rooms)
            self._rows[id] = room
            self._put(id, room)
        elif what == "update":
            id = self._dice.choice([*self._rows])
            self._put(id, self._rows[id])
        else:
            id = self._dice.choice([*self._rows])
            while not self._post(f"/delete/{id}"):
                # Gone already, or not: only one that is there is deleted and told.
                self._put(id, self._rows[id])
            del self._rows[id]

    def _put(self, id: int, room: int) -> None:
        for value in self._values:
            if self._post(f"/put/{room}/{id}/{value}"):
                return

    def _post(self, path: str) -> bool:
        with suppress(OSError, AssertionError), Raw(self._port) as raw:
            answer = raw.request("", "POST", path=path)
            if answer.status == 200:
                return True
            self.counts[f"answered {answer.status}"] += 1
            self._stops.wait(0.05)
            return False
        self.counts["unanswered"] += 1
        self._stops.wait(0.05)
        return False
