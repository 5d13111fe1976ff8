"""A node whose broker, door and connections do what a test says, when it says so.

Every call that a join makes passes a *point*, at which a test can let other things
happen, as another thread would: nothing waits for anything, so that each interleaving
can be had on purpose, in one thread.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from flask_livepush.auth import Visitor
from flask_livepush.brokers.base import Broker, History, Listener
from flask_livepush.errors import NotAuthorised
from flask_livepush.hub import Hub
from flask_livepush.node import Node
from flask_livepush.presence.here import Presence
from flask_livepush.presence.memory import MemoryPresence
from flask_livepush.protocol import relayed
from flask_livepush.protocol.history import RoomHistory
from flask_livepush.protocol.messages import Subscribe
from flask_livepush.protocol.publication import (
    ONCE,
    Attempt,
    Draft,
    Position,
    Publication,
)
from flask_livepush.protocol.relayed import Users, Whispered
from tests.support.brokers import Clock

Frame = tuple[Any, ...]


class ScriptedBroker(Broker):
    """A broker that delivers one thing whenever it is told to.

    Args:
        point: Told of each call, by name, before it is done; may raise.
    """

    def __init__(self, point: Callable[[str], None], *, size: int = 100) -> None:
        self._point = point
        self._size = size
        self._histories: dict[str, RoomHistory] = {}
        self._epochs = 0
        self.max_bytes = 256 * 1024
        self.wanted: set[str] = set()
        self.queue: deque[tuple[str, str, list[Publication]]] = deque()
        self.holes: list[str] = []
        self.relays: deque[tuple[str, str]] = deque()
        self.listener: Listener | None = None

    def listen(self, listener: Listener) -> None:
        self.listener = listener

    def publish(
        self,
        room: str,
        drafts: Sequence[Draft],
        *,
        attempt: Attempt = ONCE,
        full: bool = False,
    ) -> Position:
        history = self._history(room)
        publications = history.append(drafts, 0)
        if publications and room in self.wanted:
            if full:
                self.holes.append(room)
            else:
                self.queue.append((room, history.epoch, publications))
        return history.position

    def relay(self, room: str, message: str) -> None:
        self._point("relay")
        if room in self.wanted:
            self.relays.append((room, message))

    def position(self, room: str, *, patient: bool = False) -> Position:
        self._point("position")
        return self._history(room).position

    def history(self, room: str, since: Position) -> History:
        self._point("history")
        history = self._history(room)
        found = History(history.position, history.since(since, 0))
        self._point("history answered")
        return found

    def ping(self, room: str) -> None:
        """Return at once: it is never away."""

    def rooms(self, *, patient: bool = True) -> list[str]:
        return list(self._histories)

    def subscribe(self, room: str) -> None:
        self._history(room)
        self.wanted.add(room)

    def confirm(self, room: str) -> None:
        self._point("confirm")

    def unsubscribe(self, room: str) -> None:
        self.wanted.discard(room)

    def close(self) -> None:
        self.wanted.clear()

    def deliver(self) -> bool:
        """Deliver what is next, if there is anything."""
        assert self.listener is not None
        if self.queue:
            self.listener.deliver(*self.queue.popleft())
        elif self.relays:
            self.listener.relayed(*self.relays.popleft())
        elif self.holes:
            self.listener.mend(self.holes.pop(0))
        else:
            return False
        return True

    def lose(self, room: str) -> None:
        """Lose a room's history: it begins a new epoch."""
        self._histories.pop(room, None)

    def top(self, room: str) -> Position:
        """Return where the room stands."""
        return self._history(room).position

    def _history(self, room: str) -> RoomHistory:
        if room not in self._histories:
            self._epochs += 1
            epoch = f"e{self._epochs}"
            self._histories[room] = RoomHistory(epoch, size=self._size, ttl=300)
        return self._histories[room]


class Recording:
    """A transport that notes what is written to whom."""

    def __init__(self) -> None:
        self.written: dict[str, list[Frame]] = {}
        self.framed: list[Frame] = []

    def frame(self, room: str, epoch: str, publication: Publication) -> Frame:
        frame = ("publication", room, epoch, publication.offset, publication.data)
        self.framed.append(frame)
        return frame

    def reset_frame(self, room: str) -> Frame:
        return ("reset", room)

    def revoked_frame(self, room: str, code: int) -> Frame:
        return ("revoked", room, code)

    def whisper_frame(self, room: str, whisper: Whispered) -> Frame:
        return ("whisper", room, whisper.user, whisper.event, whisper.data)

    def presence_frame(self, room: str, joined: Users, left: Users) -> Frame:
        return ("presence", room, dict(joined), dict(left))

    def write(
        self, sids: Sequence[str], frames: Sequence[Frame], *, droppable: bool = False
    ) -> None:
        for sid in sids:
            self.written.setdefault(sid, []).extend(frames)

    def ack(self, text: str) -> Frame:
        """Make a frame of an ack."""
        return ("ack", json.loads(text))

    def offsets(self, sid: str) -> list[Any]:
        """Return what was written: offsets of publications, else the frame's kind."""
        return [
            f[3] if f[0] == "publication" else f[0] for f in self.written.get(sid, [])
        ]


class ScriptedDoor:
    """A door whose rows are what the test has committed.

    Args:
        point: Told of each call, by name, before it is done; may raise.
        rows: Returns the rows of a room.
    """

    def __init__(
        self, point: Callable[[str], None], rows: Callable[[str], list[Any]]
    ) -> None:
        self._point = point
        self._rows = rows
        self.asked: list[tuple[str, str]] = []
        #: Rooms that nobody may join; a rule has said yes or no by the point "admit".
        self.forbidden: set[str] = set()

    def is_room(self, room: str) -> bool:
        self._point("is_room")
        return not room.startswith("no ")

    def admit(self, room: str, environ: dict[str, Any]) -> Visitor:
        self.asked.append((room, environ.get("user", "")))
        allowed = room not in self.forbidden
        self._point("admit")
        if not allowed:
            raise NotAuthorised("The rule says no.")
        return Visitor(environ.get("user"), environ.get("info", ""))

    def has_presence(self, room: str) -> bool:
        return not room.startswith("private")

    def may_whisper(self, room: str, event: str) -> bool:
        return event == "typing"

    def rows(self, room: str) -> str:
        self._point("rows")
        found = self._rows(room)
        self._point("rows read")
        return json.dumps({"m": {"key": "id", "rows": found, "partial": False}})

    def state(self, room: str, environ: dict[str, Any]) -> str | None:
        self._point("state")
        return json.dumps(environ["state"]) if "state" in environ else None


class World:
    """A node, all that is around it, and the tasks it has spawned.

    Args:
        at: Called with the name of each point that is passed.
    """

    def __init__(
        self,
        at: Callable[[str], None] = lambda point: None,
        *,
        size: int = 100,
        max_rooms: int = 100,
        max_held: int = 1000,
        snapshot_timeout: float = 20,
    ) -> None:
        self.at = at
        self.committed: dict[str, list[int]] = {}
        self.unpublished: dict[str, deque[int]] = {}
        self.tasks: deque[Callable[[], None]] = deque()
        self.broker = ScriptedBroker(self._point, size=size)
        self.transport = Recording()
        self.door = ScriptedDoor(self._point, lambda r: list(self.committed.get(r, ())))
        self.hub = Hub(
            self.transport,
            max_rooms=max_rooms,
            max_held=max_held,
            opened=self.broker.subscribe,
            closed=self.broker.unsubscribe,
        )
        self.clock = Clock()
        self.presence = Presence(
            MemoryPresence(now=self.clock),
            relay=lambda room, step: self.broker.relay(room, relayed.write(step)),
            tell=self.hub.presence,
            spawn=lambda work: None,
            sleep=lambda seconds: None,
            now=self.clock,
            damping=3,
        )
        self.node = Node(
            broker=self.broker,
            hub=self.hub,
            door=self.door,
            presence=self.presence,
            spawn=self.tasks.append,
            now=self.clock,
            snapshot_timeout=snapshot_timeout,
        )

    def _point(self, name: str) -> None:
        self.at(name)

    def join(
        self, sid: str, room: str = "a", since: Position | None = None, **environ: Any
    ) -> None:
        """Let a connection join a room."""
        request = Subscribe(room, since)
        self.node.subscribe(sid, environ, request, self.transport.ack)

    def commit(self, room: str = "a") -> None:
        """Commit the next number to the database; nobody has been told yet."""
        rows = self.committed.setdefault(room, [])
        rows.append(len(rows) + 1)
        self.unpublished.setdefault(room, deque()).append(rows[-1])

    def publish(self, room: str = "a", *, full: bool = False) -> None:
        """Publish the next of what was committed; commit it first if nothing waits.

        Args:
            full: The listener's queue is full.
        """
        if not self.unpublished.get(room):
            self.commit(room)
        number = self.unpublished[room].popleft()
        self.broker.publish(room, [Draft("x", str(number))], full=full)

    def run(self) -> bool:
        """Run the task that was spawned first, if there is one."""
        if self.tasks:
            self.tasks.popleft()()
            return True
        return False

    def settle(self) -> None:
        """Publish, deliver and run everything."""
        for room, waiting in self.unpublished.items():
            while waiting:
                self.publish(room)
        while self.broker.deliver() or self.run():
            pass

    def is_empty(self) -> bool:
        """Say whether nothing is left of any subscriber."""
        return not (
            self.hub._rooms
            or self.hub._joined
            or self.node._flights
            or self.broker.wanted
            or self.tasks
        )


class Client:
    """What a client makes of what is written to it, refusing what must not be.

    Args:
        since: Its position, if it joins with one.
        rows: What it shows at that position.
    """

    def __init__(self, since: Position | None = None, rows: Sequence[int] = ()) -> None:
        self.position = since
        self.rows = set(rows)
        self.joined = False
        self.reset = False
        self.asks_again = False

    def ask_again(self) -> None:
        """Join once more: until the ack, what still comes is of no interest."""
        self.joined, self.asks_again = False, True

    def read(self, frames: Sequence[Frame]) -> None:
        """Take frames in the order in which they were written."""
        for frame in frames:
            if frame[0] == "ack":
                self.asks_again = False
                self._ack(frame[1])
            elif self.asks_again:
                pass
            elif frame[0] == "reset":
                assert self.joined, "a reset before the ack"
                self.joined, self.reset = False, True
            else:
                assert self.joined, "a publication before the ack, or after a reset"
                self._take(Position(frame[2], frame[3]), frame[4])

    def _ack(self, ack: dict[str, Any]) -> None:
        assert ack["ok"], ack
        assert list(ack)[-1] == ("publications" if ack["recovered"] else "snapshot")
        self.joined, self.reset = True, False
        here = Position(ack["epoch"], ack["offset"])
        if ack["recovered"]:
            assert self.position is not None
            for entry in ack["publications"]:
                self._take(Position(here.epoch, entry["offset"]), str(entry["data"]))
            assert self.position == here
        else:
            assert ack["publications"] == []
            self.position = here
            self.rows = set(ack["snapshot"]["kinds"]["m"]["rows"])

    def _take(self, at: Position, data: str) -> None:
        assert self.position is not None
        assert at == Position(self.position.epoch, self.position.offset + 1)
        self.position = at
        self.rows.add(int(data))
