"""The broker inside one process: nothing to install, nothing shared.

It must not be used by several processes of one application: each would have an order
and a history of its own.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Sequence

from ..logs import logger
from ..metrics import OFF, Metrics
from ..protocol.history import RoomHistory
from ..protocol.publication import (
    ONCE,
    Attempt,
    Draft,
    Position,
    Publication,
    check_sizes,
)
from .base import Broker, History, Listener

log = logger(__name__)

# A room that was published to keeps its epoch for this long after its history is gone.
_KEEP_EPOCH = 24 * 60 * 60.0
# Rooms that nobody published to or serves cost nothing to forget: whoever holds such a
# position gets a snapshot.
_MAX_IDLE_ROOMS = 10_000


class MemoryBroker(Broker):
    """A broker whose rooms live in this process.

    Its listener is one thread or greenlet, begun by the first subscription. It waits
    on a bounded queue; a room whose publications find the queue full is mended from
    its history instead.

    Args:
        size: Publications kept per room.
        ttl: Seconds they are kept.
        now: Seconds of a clock that never falls.
        spawn: Runs a function in the background.
        max_queue: Batches that may wait for the listener.
        max_bytes: What a publication may have, its event and data together.
        metrics: Counts what is stale, late or dropped.
    """

    def __init__(
        self,
        *,
        size: int,
        ttl: float,
        now: Callable[[], float],
        spawn: Callable[[Callable[[], None]], object],
        max_queue: int = 10_000,
        max_bytes: int = 256 * 1024,
        metrics: Metrics = OFF,
    ) -> None:
        self._size = size
        self._ttl = ttl
        self._now = now
        self._spawn = spawn
        self._max_queue = max_queue
        self.max_bytes = max_bytes
        self._metrics = metrics
        self._listener: Listener | None = None
        self._begin()

    def _begin(self) -> None:
        # Guards everything below, and wakes the listener.
        self._changed = threading.Condition(threading.Lock())
        self._pid = os.getpid()
        self._rooms: dict[str, RoomHistory] = {}
        # Counts what happens to the list of rooms: one is made, one that was published
        # to is forgotten, all are listed to be told something.
        self._turn = 0
        self._nothing = f"none.{secrets.token_urlsafe(6)}"
        self._listed = self._forgotten = 0
        self._wanted: set[str] = set()
        # A room, then an epoch, publications and when, or a message that is relayed.
        self._queue: deque[tuple[str, str, list[Publication] | None, float]] = deque()
        self._holes: set[str] = set()
        self._listening = False
        self._closed = False
        self._sweep_above = 2 * _MAX_IDLE_ROOMS
        self._swept = self._now()

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    def publish(
        self, room: str, drafts: Sequence[Draft], *, attempt: Attempt = ONCE
    ) -> Position:
        """Accept drafts; one attempt is enough in one process, and never fails."""
        check_sizes(drafts, self.max_bytes)
        with self._guarded():
            if room in self._wanted:
                self._begin_listening()  # which may have been killed
            history = self._room(room)
            now, stale = self._now(), history.stale
            publications = history.append(drafts, now)
            if history.stale > stale:
                self._metrics.count(
                    "stale_publications_dropped_total", amount=history.stale - stale
                )
            if publications and room in self._wanted:
                if len(self._queue) < self._max_queue:
                    self._queue.append((room, history.epoch, publications, now))
                else:
                    self._holes.add(room)
                    self._metrics.count(
                        "drops_total", "listener_full", len(publications)
                    )
                self._changed.notify()
            return history.position

    def relay(self, room: str, message: str) -> None:
        with self._guarded():
            if room in self._wanted and len(self._queue) < self._max_queue:
                self._queue.append((room, message, None, 0.0))
                self._changed.notify()

    def position(self, room: str, *, patient: bool = False) -> Position:
        with self._guarded():
            if room in self._rooms:
                return self._room(room).position
            return Position(f"{self._nothing}.{self._turn}", 0)

    def history(self, room: str, since: Position) -> History:
        with self._guarded():
            history = self._room(room)
            start = since
            if since.epoch.startswith(f"{self._nothing}."):
                turn = since.epoch.removeprefix(f"{self._nothing}.")
                lost = max(self._listed, self._forgotten)
                if turn.isdecimal() and lost <= int(turn) < history.born:
                    start = Position(history.epoch, since.offset)
            found = history.since(start, self._now())
            return History(history.position, found, None if found is None else start)

    def ping(self, room: str) -> None:
        """Return at once: it is in this process."""

    def rooms(self, *, patient: bool = True) -> list[str]:
        with self._guarded():
            self._turn += 1
            self._listed = self._turn
            return list(self._rooms)

    def subscribe(self, room: str) -> None:
        with self._guarded():
            self._room(room)
            self._begin_listening()
            self._wanted.add(room)

    def _begin_listening(self) -> None:
        """Begin the listener where there is none; the lock is held."""
        begin, self._listening = not self._listening, True
        if begin:
            try:
                self._spawn(self._listen)
            except BaseException:
                self._listening = False
                raise

    def confirm(self, room: str) -> None:
        """Return at once: wanting a room is enough in one process."""

    def unsubscribe(self, room: str) -> None:
        with self._guarded():
            self._wanted.discard(room)
            self._room(room)  # its last use, from which its epoch is kept on

    def close(self) -> None:
        with self._guarded():
            self._wanted.clear()
            self._queue.clear()
            self._closed = True
            self._changed.notify()

    def _guarded(self) -> threading.Condition:
        if self._pid != os.getpid():
            # A fork took a copy of everything but the threads: no listener runs, the
            # lock may be held by nobody, and parent and child would give the same
            # offsets to different publications. Begin new epochs.
            self._begin()
        return self._changed

    def _room(self, name: str) -> RoomHistory:
        now = self._now()
        history = self._rooms.pop(name, None)
        if history is None:
            epoch = secrets.token_urlsafe(9)
            history = RoomHistory(epoch, size=self._size, ttl=self._ttl)
            self._turn += 1
            history.born = self._turn
        history.used = now
        self._rooms[name] = history  # the longest unused room stands first
        if now - self._swept > self._ttl or len(self._rooms) > self._sweep_above:
            self._sweep(now)
        return history

    def _sweep(self, now: float) -> None:
        self._swept = now
        idle = 0
        for name, history in reversed(list(self._rooms.items())):
            if name in self._wanted:
                continue
            if history.offset == 0:
                idle += 1
                if idle > _MAX_IDLE_ROOMS:
                    del self._rooms[name]
            elif now - history.used > self._ttl + _KEEP_EPOCH:
                del self._rooms[name]
                self._turn += 1
                self._forgotten = self._turn
        self._sweep_above = 2 * max(_MAX_IDLE_ROOMS, len(self._rooms))

    def _listen(self) -> None:
        at = [""]
        try:
            self._deliver_all(at)
        except BaseException:
            # The greenlet is killed; what it was about may not have been delivered.
            with self._changed:
                self._listening = False
                if at[0] in self._wanted:
                    self._holes.add(at[0])
            raise

    def _deliver_all(self, at: list[str]) -> None:
        """Deliver what there is until closed.

        Args:
            at: Gets the room of the moment.
        """
        listener = self._listener
        assert listener is not None
        while True:
            with self._changed:
                while not self._queue and not self._holes and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                batch = self._queue.popleft() if self._queue else None
                hole = self._holes.pop() if batch is None else None
                at[0] = batch[0] if batch is not None else hole or ""
            try:
                if batch is not None:
                    room, text, publications, published = batch
                    if publications is None:
                        listener.relayed(room, text)
                    else:
                        if self._metrics.on:
                            lag = max(0.0, self._now() - published)
                            self._metrics.observe("broker_lag_seconds", lag)
                        listener.deliver(room, text, publications)
                elif hole is not None:
                    listener.mend(hole)
            except Exception:
                log.exception("Delivering a publication failed; going on")
