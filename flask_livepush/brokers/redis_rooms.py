"""What Redis knows of rooms: publishing, positions, histories, and the index of rooms.

Each is one step of a script, or one command. It listens to nothing, and knows neither
subscribers nor what was delivered.
"""

from __future__ import annotations

import math
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import BrokerError, BrokerUnavailable
from ..logs import logger
from ..metrics import Metrics
from ..protocol.publication import (
    Attempt,
    Draft,
    Parcel,
    Position,
    Publication,
    invalidated,
)
from .base import History
from .redis_format import RELAYED, Names, read_records
from .redis_servers import Command, Late, Script, Servers, WrongType

log = logger(__name__)

# A message longer than this is sent in several, far below the 8 MB that a slow reader
# may have waiting (client-output-buffer-limit pubsub).
_MAX_MESSAGE = 1024 * 1024
# A commit of more drafts than this, or of more text than a message, may take Redis
# longer than a view waits otherwise; it has taken the database longer. No pipeline of
# several rooms has more.
_LARGE = 500
# Seconds in which the rooms of one commit are published, whatever their number.
_ALL_WITHIN = 3.0
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
        parcel = Parcel(room, drafts, attempt)
        position = self._accepted(parcel, self._accept(parcel))
        self._indexed_at({room: position})
        return position

    def publish_all(
        self, parcels: Iterable[tuple[int, Parcel]]
    ) -> Iterator[tuple[int, Position | Exception]]:
        """Let Redis accept drafts of several rooms, in one pipeline a server.

        See :meth:`.base.Broker.publish_all`. They go in chunks, so that no pipeline is
        large; the next one is not begun where a server is away, nor after the time for
        all of them.

        Args:
            parcels: With their numbers.
        """
        end = self._now() + _ALL_WITHIN

        def late() -> bool:
            return self._now() >= end

        for chunk in _chunks(parcels):
            if late():
                return
            away = False
            for number, answer in self._publish_chunk(chunk, late):
                away = away or isinstance(answer, BrokerUnavailable)
                yield number, answer
            if away:
                return

    def _publish_chunk(
        self, chunk: Sequence[tuple[int, Parcel]], late: Late
    ) -> Iterator[tuple[int, Position | Exception]]:
        if len(chunk) == 1:
            yield from self._one_by_one(chunk)
            return
        turn = self._sender.turn
        try:
            self._index([parcel.room for _, parcel in chunk])
            commands = [self._accepting(parcel, turn) for _, parcel in chunk]
            replies = self._servers.run_each(commands, late=late)
        except BrokerError as error:
            if isinstance(error, BrokerUnavailable):
                self._sender.failed(turn)
            yield from ((number, error) for number, _ in chunk)
            return
        except Exception:
            # One of them, as a text that can't be encoded: it shall be the only one.
            log.exception("Publishing to %d rooms at once failed", len(chunk))
            self._sender.failed(turn)
            yield from self._one_by_one([(n, _again(p)) for n, p in chunk])
            return
        except BaseException:
            self._sender.failed(turn)  # Redis may have some of it, or find it later
            raise
        positions: dict[str, Position] = {}
        found = [
            (number, self._answer(parcel, reply, turn, positions))
            for (number, parcel), reply in zip(chunk, replies, strict=True)
        ]
        self._indexed_at(positions)
        yield from found

    def _one_by_one(
        self, chunk: Sequence[tuple[int, Parcel]]
    ) -> Iterator[tuple[int, Position | Exception]]:
        for number, parcel in chunk:
            answer: Position | Exception
            try:
                answer = self.publish(parcel.room, parcel.drafts, parcel.attempt)
            except Exception as error:  # noqa: BLE001
                answer = error
            yield number, answer
            if isinstance(answer, BrokerUnavailable):
                return

    def _answer(
        self, parcel: Parcel, reply: Any, turn: int, positions: dict[str, Position]
    ) -> Position | Exception:
        """Return what became of one parcel of a pipeline.

        Args:
            positions: Gets the room's, if there is one.
        """
        try:
            if isinstance(reply, WrongType):
                self.corrupt(f"a key of another type: {reply}")
                self._remove_foreign(parcel.room)
                reply = self._accept(parcel)
            else:
                self._check(reply, turn)
            positions[parcel.room] = self._accepted(parcel, reply)
        except BrokerError as error:
            return error
        return positions[parcel.room]

    def _accepted(self, parcel: Parcel, answer: Any) -> Position:
        """Return where the room stands; first have it read what may be too old."""
        kinds = {draft.kind for draft in parcel.drafts if draft.kind is not None}
        if kinds and 0 <= answer[3] < self._ago(parcel.attempt.since):
            told = [invalidated(kind) for kind in sorted(kinds)]
            answer = self._accept(Parcel(parcel.room, told))
        return _position(answer)

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

    def _accept(self, parcel: Parcel) -> Any:
        turn = self._sender.turn
        drafts, size = len(parcel.drafts), _size(parcel)
        patient = drafts > _LARGE or size > _MAX_MESSAGE
        try:
            answer = self._ask(
                parcel.room, self._accepting(parcel, turn), patient=patient
            )
        except BaseException:
            # Also of the kind of gevent's Timeout: Redis may have it, or find it later.
            self._sender.failed(turn)
            raise
        self._check(answer, turn)
        return answer

    def _accepting(self, parcel: Parcel, turn: int) -> Command:
        keys, attempt = self.keys.room(parcel.room), parcel.attempt
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
            self._sender.name,
            turn,
        ]
        for draft in parcel.drafts:
            if draft.stamp is None or draft.kind is None or draft.key is None:
                args += (draft.event, draft.data, "", "", "")
            else:
                args += (draft.event, draft.data, draft.kind, draft.key, draft.stamp)
        return Command(keys.meta, tuple(args), self._publish, 5)

    def _check(self, reply: Any, turn: int) -> None:
        """Return if Redis has taken what was published in a turn; count what is stale.

        Raises:
            BrokerError: It has not, or nobody knows.
        """
        if isinstance(reply, BrokerUnavailable):
            self._sender.failed(turn)
        if isinstance(reply, BrokerError):
            raise reply
        stale = int(reply[2])
        if stale < 0:
            raise BrokerUnavailable("Redis was late with a publication; it is refused.")
        if stale:
            self._metrics.count("stale_publications_dropped_total", amount=stale)

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
        self._indexed_at({room: position})
        return position

    def history(self, room: str, since: Position) -> History:
        """Return everything after a position, or say that it can't be had."""
        answer = self._ask(room, self._reading(room, since), patient=True)
        position = _position(answer)
        self._indexed_at({room: position})
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
        try:
            replies = self._servers.run(commands, patient=patient)
        except WrongType as error:
            log.error("A key of the index is of another type; it is removed: %s", error)
            self._remove(dict.fromkeys(self.keys.indexes, b"zset"))
            self._indexed.clear()  # whoever is in it knows of no more than that
            replies = self._servers.run(commands, patient=patient)
        return {name.decode() for names in replies[1::2] for name in names}

    def positions(self, rooms: Sequence[str]) -> list[Position]:
        """Return where rooms stand, asked for together."""
        try:
            self._index(rooms)
            commands = [self._reading(room) for room in rooms]
            replies = self._servers.run(commands, patient=True)
        except WrongType:
            # One of them; asked for alone each is put right.
            return [self.position(room) for room in rooms]
        positions = [_position(reply) for reply in replies]
        self._indexed_at(dict(zip(rooms, positions, strict=True)))
        return positions

    def corrupt(self, what: str) -> None:
        """Count and log what others have put into a room's keys."""
        self._counts["corrupt"] += 1
        self._metrics.count("holes_total", "corrupt")
        log.error("In the keys of a room there is %s; it is skipped", what)

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
        commands = [*self._indexing([room]), command]
        replies = self._servers.run_each(commands, patient=patient)
        wrong = [reply for reply in replies if isinstance(reply, WrongType)]
        if wrong:
            self.corrupt(f"a key of another type: {wrong[0]}")
            self._remove_foreign(room)
            # Once more what was refused, and nothing that was done.
            refused = [n for n, r in enumerate(replies) if isinstance(r, WrongType)]
            again = [commands[number] for number in refused]
            found = self._servers.run_each(again, patient=patient)
            for number, reply in zip(refused, found, strict=True):
                replies[number] = reply
        for reply in replies:
            if isinstance(reply, BrokerError):
                raise reply
        return replies[-1]

    def _remove_foreign(self, room: str) -> None:
        keys = self.keys.room(room)
        wanted = {
            keys.meta: b"hash",
            keys.log: b"list",
            keys.rows: b"hash",
            keys.seen: b"zset",
            keys.fences: b"hash",
            self.keys.index(room): b"zset",
        }
        self._remove(wanted)

    def _remove(self, wanted: Mapping[str, bytes]) -> None:
        """Remove those of some keys that are not of the type they should have."""
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
            self.corrupt(f"a record: {error}")
            return None
        return publications

    # -- the index of rooms ----------------------------------------------------------

    def _indexing(self, rooms: Iterable[str]) -> list[Command]:
        """Return what must go before positions of the rooms are given out."""
        by_key: dict[str, list[str | int]] = {}
        for room in rooms:
            known = self._indexed.get(room)
            if known is None or self._now() - known[1] >= _INDEX_AGAIN:
                members = by_key.setdefault(self.keys.index(room), [])
                members += (int(time.time()), room)
        return [
            Command(key, ("ZADD", key, *members)) for key, members in by_key.items()
        ]

    def _index(self, rooms: Iterable[str]) -> None:
        """Write rooms into the index, where they are not known to be in it."""
        commands = self._indexing(rooms)
        if not commands:
            return
        try:
            self._servers.run(commands)
        except WrongType as error:
            log.error("A key of the index is of another type; it is removed: %s", error)
            self._remove({command.key: b"zset" for command in commands})
            self._servers.run(commands)

    def _indexed_at(self, positions: Mapping[str, Position]) -> None:
        """Take notice that rooms are in the index, and where they stand."""
        moved = []
        for room, position in positions.items():
            known = self._indexed.get(room)
            if known is not None and known[0] != position.epoch:
                # Another epoch: Redis has lost something, perhaps the index.
                moved.append(room)
                self._indexed.pop(room, None)
        if moved:
            try:
                self._index(moved)
            except BrokerError as error:
                log.warning("Rooms were not written into the index: %s", error)
                positions = {r: p for r, p in positions.items() if r not in moved}
        now = self._now()
        for room, position in positions.items():
            known = self._indexed.get(room)
            if known is not None and now - known[1] < _INDEX_AGAIN:
                continue
            if len(self._indexed) >= _MAX_INDEXED:
                self._indexed.clear()
            self._indexed[room] = (position.epoch, now)


def _chunks(
    parcels: Iterable[tuple[int, Parcel]],
) -> Iterator[list[tuple[int, Parcel]]]:
    """Divide parcels into pipelines of which none is large, unless one of them is."""
    chunk: list[tuple[int, Parcel]] = []
    drafts = size = 0
    for number, parcel in parcels:
        more = _size(parcel)
        drafts, size = drafts + len(parcel.drafts), size + more
        if chunk and (drafts > _LARGE or size > _MAX_MESSAGE):
            yield chunk
            chunk, drafts, size = [], len(parcel.drafts), more
        chunk.append((number, parcel))
    if chunk:
        yield chunk


def _size(parcel: Parcel) -> int:
    return sum(len(draft.event) + len(draft.data) for draft in parcel.drafts)


def _again(parcel: Parcel) -> Parcel:
    """Return the parcel as one that the broker may have already."""
    return replace(parcel, attempt=replace(parcel.attempt, again=True))


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
