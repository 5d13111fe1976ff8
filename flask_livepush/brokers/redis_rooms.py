"""What Redis knows of rooms: publishing, positions, histories, and the index of rooms.

Each is one step of a script, or one command. It listens to nothing, and knows neither
subscribers nor what was delivered.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import BrokerError, BrokerUnavailable
from ..metrics import Metrics
from ..protocol.publication import (
    ONCE,
    Attempt,
    Draft,
    Position,
    Publication,
    invalidated,
)
from .base import History
from .redis_format import RELAYED, Names, read_records
from .redis_servers import Command, Script, Servers, WrongType

log = logging.getLogger(__name__)

# A message longer than this is sent in several, far below the 8 MB that a slow reader
# may have waiting (client-output-buffer-limit pubsub).
_MAX_MESSAGE = 1024 * 1024
# A commit of more drafts than this may take Redis longer than a view waits otherwise;
# it has taken the database longer.
_LARGE = 500
# Rooms are written into the index again after this many seconds, and stay there for
# this much longer than their epoch.
_INDEX_AGAIN = 3600.0
_INDEX_SLACK = 2 * _INDEX_AGAIN
_KEEP_EPOCH = 24 * 3600.0
_MAX_INDEXED = 100_000
# How much faster than Redis's clock this process's may run, or slower: twice what NTP
# slews at most (https://docs.ntpsec.org/latest/clock.html).
_DRIFT = 0.001


class RedisRooms:
    """The rooms of one application.

    Args:
        servers: Where Redis is.
        prefix: The application's name, before all keys and channels.
        size: Publications kept per room.
        ttl: Seconds they are kept, and the stamps of rows.
        max_rows: Rows per room whose stamps are kept.
        now: Seconds of a clock that never falls.
        counts: Where what went wrong is counted.
        metrics: Counts it too, and what is stale.
    """

    def __init__(
        self,
        servers: Servers,
        *,
        prefix: str,
        size: int,
        ttl: float,
        max_rows: int,
        now: Callable[[], float],
        counts: Counter[str],
        metrics: Metrics,
    ) -> None:
        self.keys = Names(prefix)
        self._servers = servers
        self._size = size
        self._ttl = ttl
        self._ttl_ms = math.ceil(ttl * 1000)
        self._max_rows = max_rows
        self._now = now
        self._counts = counts
        self._metrics = metrics
        self._publish = Script("publish.lua")
        self._read = Script("read.lua")
        # By room: its epoch, and when it was written into the index.
        self._indexed: dict[str, tuple[str, float]] = {}
        self._sender = _Sender()

    def publish(self, room: str, drafts: Sequence[Draft], attempt: Attempt) -> Position:
        """Let Redis accept the drafts; see :meth:`.base.Broker.publish`.

        How long ago the commit was is found just before Redis is asked, and once more
        when it has answered, as this thread may stand still in between:

        1. P commits version 1 of a row, and finds that this was just now.
        2. P stands still. Q commits version 2 and publishes it.
        3. Redis restarts without data. A screen joins, and an epoch begins.
        4. P goes on, and Redis takes version 1 for new.
        5. P sees that the epoch is younger than its commit, and tells the room to read
           anew.
        """
        answer = self._accept(room, drafts, attempt)
        kinds = {draft.kind for draft in drafts if draft.kind is not None}
        if kinds and 0 <= answer[3] < self._ago(attempt.since):
            told = [invalidated(kind) for kind in sorted(kinds)]
            answer = self._accept(room, told, ONCE)
        position = _position(answer)
        self._indexed_at(room, position)
        return position

    def _ago(self, moment: float | None) -> int:
        """Return how long ago a moment was by Redis's clock, in ms, at most."""
        if moment is None:
            return 0
        return math.ceil((self._now() - moment) * 1000 * (1 + _DRIFT)) + 1

    def _queued(self, moment: float | None) -> int:
        """Return how long ago a moment was by Redis's clock, in ms, at least."""
        if moment is None:
            return -1
        return math.floor((self._now() - moment) * 1000 * (1 - _DRIFT)) - 1

    def _accept(self, room: str, drafts: Sequence[Draft], attempt: Attempt) -> Any:
        keys = self.keys.room(room)
        sender, turn = self._sender.name, self._sender.turn
        args: list[str | int] = [
            keys.meta,
            keys.log,
            keys.rows,
            keys.seen,
            keys.fences,
            secrets.token_urlsafe(9),
            self._ttl_ms,
            "SPUBLISH" if self._servers.sharded else "PUBLISH",
            keys.channel,
            self._size,
            self._max_rows,
            _MAX_MESSAGE,
            attempt.id or "-",
            int(attempt.again),
            self._ago(attempt.since),
            self._queued(attempt.queued),
            sender,
            turn,
        ]
        for draft in drafts:
            if draft.stamp is None or draft.kind is None or draft.key is None:
                args += (draft.event, draft.data, "", "", "")
            else:
                args += (draft.event, draft.data, draft.kind, draft.key, draft.stamp)
        command = Command(keys.meta, tuple(args), self._publish, 5)
        patient = len(drafts) > _LARGE
        try:
            answer = self._ask(room, command, patient=patient)
        except BrokerUnavailable:
            self._sender.failed(turn)
            raise
        stale = int(answer[2])
        if stale < 0:
            raise BrokerUnavailable("Redis was late with a publication; it is refused.")
        if stale:
            self._metrics.count("stale_publications_dropped_total", amount=stale)
        return answer

    def ping(self, room: str) -> None:
        """Ask the server that has the room for a sign of life."""
        self._servers.run([Command(self.keys.room(room).meta, ("PING",))])

    def relay(self, room: str, message: str) -> None:
        """Send a message to whoever listens to the room; nothing is kept."""
        channel = self.keys.room(room).channel
        verb = "SPUBLISH" if self._servers.sharded else "PUBLISH"
        words = (verb, channel, RELAYED.decode() + message)
        self._servers.run([Command(channel, words)])

    def position(self, room: str, *, patient: bool = False) -> Position:
        """Return where a room stands."""
        position = _position(self._ask(room, self._reading(room), patient=patient))
        self._indexed_at(room, position)
        return position

    def history(self, room: str, since: Position) -> History:
        """Return everything after a position, or say that it can't be had."""
        answer = self._ask(room, self._reading(room, since), patient=True)
        position = _position(answer)
        self._indexed_at(room, position)
        return History(position, self._after(room, since, answer))

    def names(self, *, patient: bool = True) -> set[str]:
        """Return the names of all rooms in the index, which is pruned."""
        oldest = time.time() - self._ttl - _KEEP_EPOCH - _INDEX_SLACK
        commands = [
            command
            for key in self.keys.indexes
            for command in (
                Command(key, ("ZREMRANGEBYSCORE", key, "-inf", int(oldest))),
                Command(key, ("ZRANGE", key, 0, -1)),
            )
        ]
        replies = self._servers.run(commands, patient=patient)
        return {name.decode() for names in replies[1::2] for name in names}

    def positions(self, rooms: Sequence[str]) -> list[Position]:
        """Return where rooms stand, asked for together."""
        commands: list[Command] = []
        for room in rooms:
            commands += self._indexing(room)
            commands.append(self._reading(room))
        try:
            replies = self._servers.run(commands, patient=True)
        except WrongType:
            # One of them; asked for alone each is put right.
            return [self.position(room) for room in rooms]
        positions = [
            _position(reply)
            for command, reply in zip(commands, replies, strict=True)
            if command.script
        ]
        for room, position in zip(rooms, positions, strict=True):
            self._indexed_at(room, position)
        return positions

    def corrupt(self, room: str, what: str) -> None:
        """Count and log what others have put there."""
        self._counts["corrupt"] += 1
        self._metrics.count("holes_total", "corrupt")
        log.error("In the room %r there is %s; it is skipped", room, what)

    # -- asking Redis ----------------------------------------------------------------

    def _reading(self, room: str, since: Position | None = None) -> Command:
        keys = self.keys.room(room)
        args: tuple[str | int, ...] = (
            keys.meta,
            keys.log,
            secrets.token_urlsafe(9),
            self._ttl_ms,
            since.epoch if since and since.epoch.isascii() else "",
            since.offset if since else 0,
        )
        return Command(keys.meta, args, self._read, 2)

    def _ask(self, room: str, command: Command, *, patient: bool = False) -> Any:
        commands = [*self._indexing(room), command]
        try:
            return self._servers.run(commands, patient=patient)[-1]
        except WrongType as error:
            self.corrupt(room, f"a key of another type: {error}")
            self._remove_foreign(room)
            return self._servers.run(commands, patient=patient)[-1]

    def _remove_foreign(self, room: str) -> None:
        keys = self.keys.room(room)
        index = self.keys.index(room)
        wanted = {
            keys.meta: b"hash",
            keys.log: b"list",
            keys.rows: b"hash",
            keys.seen: b"zset",
            keys.fences: b"hash",
            index: b"zset",
        }
        types = self._servers.run([Command(key, ("TYPE", key)) for key in wanted])
        self._servers.run(
            [
                Command(key, ("DEL", key))
                for (key, kind), found in zip(wanted.items(), types, strict=True)
                if found != kind
            ]
        )

    def _after(
        self, room: str, since: Position, answer: Any
    ) -> list[Publication] | None:
        if not answer[2]:
            return None
        try:
            publications = [p for text in answer[3] for p in read_records(text)]
            expected = range(since.offset + 1, int(answer[1]) + 1)
            if [p.offset for p in publications] != list(expected):
                raise ValueError("its offsets are others")
        except ValueError as error:
            self.corrupt(room, f"a record: {error}")
            return None
        return publications

    # -- the index of rooms ----------------------------------------------------------

    def _indexing(self, room: str) -> list[Command]:
        """Return what must go before a position of the room is given out."""
        known = self._indexed.get(room)
        if known is not None and self._now() - known[1] < _INDEX_AGAIN:
            return []
        key = self.keys.index(room)
        return [Command(key, ("ZADD", key, int(time.time()), room))]

    def _indexed_at(self, room: str, position: Position) -> None:
        known = self._indexed.get(room)
        if known is not None and known[0] == position.epoch:
            if self._now() - known[1] < _INDEX_AGAIN:
                return
        elif known is not None:
            # Another epoch: Redis has lost something, perhaps the index.
            del self._indexed[room]
            try:
                self._servers.run(self._indexing(room))
            except BrokerError as error:
                log.warning("A room was not written into the index: %s", error)
                return
        if len(self._indexed) >= _MAX_INDEXED:
            self._indexed.clear()
        self._indexed[room] = (position.epoch, self._now())


class _Sender:
    """Who publishes, and how often Redis has not answered it.

    A publication that is made again has a later turn than all that may still be on
    their way, and Redis refuses those from then on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the turn
        self._token = secrets.token_urlsafe(6)
        self.turn = 0

    @property
    def name(self) -> str:
        """A name that no other process has, also after a fork."""
        return f"{self._token}.{os.getpid():x}"

    def failed(self, turn: int) -> None:
        """Take notice that a publication of this turn was not answered."""
        with self._lock:
            self.turn = max(self.turn, turn + 1)


def _position(answer: Any) -> Position:
    return Position(answer[0].decode(), int(answer[1]))
