"""What Redis knows of rooms: publishing, positions, histories, and the index of rooms.

Each is one step of a script, or one command. It listens to nothing, and knows neither
subscribers nor what was delivered.
"""

from __future__ import annotations

import math
import os
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
from .redis_format import INDEX_SHARDS, RELAYED, Names, read_records
from .redis_index import AGAIN, Entry, RoomIndex, unavailable
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
# Rooms stay in the index for this many seconds longer than their epoch.
_INDEX_SLACK = 2 * AGAIN
_KEEP_EPOCH = 24 * 3600.0
# What scripts tell of what they have found (lua/room.lua).
_HEALED, _CLOCK_BACK, _BEGUN = 1, 2, 4
# Seconds between two lines of the log that say so.
_LOG_AGAIN = 60.0
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
        self._index = RoomIndex(
            servers,
            self.keys,
            keep=ttl + _KEEP_EPOCH + _INDEX_SLACK,
            now=now,
            corrupt=self._count_corrupt,
        )
        self._logged: dict[str, float] = {}
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
        answer = self._accept(parcel)
        begun = {room} if answer[4] & _BEGUN else set()
        position = self._accepted(parcel, answer)
        self._enter({room: position}, begun)
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
        begun: set[str] = set()
        found = [
            (number, self._answer(parcel, reply, turn, positions, begun))
            for (number, parcel), reply in zip(chunk, replies, strict=True)
        ]
        if not any(isinstance(answer, BrokerUnavailable) for _, answer in found):
            self._enter(positions, begun)
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
        self,
        parcel: Parcel,
        reply: Any,
        turn: int,
        positions: dict[str, Position],
        begun: set[str],
    ) -> Position | Exception:
        """Return what became of one parcel of a pipeline.

        Args:
            positions: Gets the room's, if there is one.
            begun: Gets the room, if its epoch has begun with this.
        """
        try:
            if isinstance(reply, WrongType):
                self.corrupt(f"a key of another type: {reply}")
                self._remove_foreign(parcel.room)
                reply = self._accept(parcel)
            else:
                self._check(reply, turn, parcel.room)
            if reply[4] & _BEGUN:
                begun.add(parcel.room)
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
        self._check(answer, turn, parcel.room)
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

    def _check(self, reply: Any, turn: int, room: str) -> None:
        """Return if Redis has taken what was published in a turn; count what is stale.

        Raises:
            BrokerError: It has not, or nobody knows.
        """
        if isinstance(reply, BrokerUnavailable):
            self._sender.failed(turn)
        if isinstance(reply, BrokerError):
            raise reply
        self._note(room, reply[4])
        stale = int(reply[2])
        if stale < 0:
            if reply[5] > self._sender.turn:
                # Not set by this process: it would refuse all that is to come.
                self._count_corrupt()
                self._say("A fence of this process is not its own; it is passed over")
                self._sender.failed(int(reply[5]))
            raise BrokerUnavailable("Redis was late with a publication; it is refused.")
        if stale:
            self._metrics.count("stale_publications_dropped_total", amount=stale)

    def ping(self, room: str) -> None:
        """Ask the server that has the room for a sign of life; without one, any."""
        if room:
            self._servers.run([Command(self.keys.room(room).meta, ("PING",))])
        else:
            self._index.ping()

    def relay(self, room: str, message: str) -> None:
        """Send a message to whoever listens to the room; nothing is kept."""
        channel = self.keys.room(room).channel
        verb = "SPUBLISH" if self._servers.sharded else "PUBLISH"
        words = (verb, channel, RELAYED.decode() + message)
        self._servers.run([Command(channel, words)])

    def position(self, room: str, *, patient: bool = False) -> Position:
        """Return where a room stands; one that is none yet is not made."""
        entry = None
        if not self._index.knows(room):
            # Before the room is asked: what is told to all from then on is noticed.
            entry = self._index.enter([room], make=False).get(room)
        answer = self._ask(room, self._reading(room, make=False), patient=patient)
        if answer[0]:
            position = _position(answer)
            if self._index.moved(room, position.epoch) or (entry and not entry.was):
                # It is not in the index. Whoever has its position shall be told.
                self._enter({room: position})
                answer = self._ask(
                    room, self._reading(room, make=False), patient=patient
                )
            elif entry is not None:
                self._index.entered(room, position.epoch)
        if answer[0]:
            return _position(answer)
        if entry is None:
            entry = self._index.enter([room], make=False).get(room)
            # Once more: it may have begun before the token was given.
            answer = self._ask(room, self._reading(room, make=False), patient=patient)
            if answer[0]:
                return _position(answer)
        when, server = (text.decode() for text in answer[3])
        token = entry.token if entry else "unknown"
        return Position(f"none.{when}.{server}.{token}", 0)

    def history(self, room: str, since: Position) -> History:
        """Return everything after a position, or say that it can't be had."""
        nothing = since.epoch.startswith(_NONE)
        # Entered first: whatever all rooms are told from now on, this one is told too.
        entry = None
        if nothing or not self._index.knows(room):
            entry = self._index.enter([room]).get(room)
        answer = self._ask(room, self._reading(room, since), patient=True)
        position = self._entered(room, answer, entry)
        if position.epoch.encode() != answer[0]:
            return History(position, None)
        if nothing and (entry is None or not since.epoch.endswith(f".{entry.token}")):
            return History(position, None)
        start = Position(position.epoch, since.offset)
        return History(position, self._after(room, start, answer), start)

    def names(
        self, parts: Collection[int] | None = None, *, patient: bool = True
    ) -> tuple[set[str], dict[int, BrokerError]]:
        """Return the names of all rooms in the index; see :meth:`RoomIndex.names`."""
        numbers = range(INDEX_SHARDS) if parts is None else parts
        return self._index.names(numbers, patient=patient)

    def all_names(self, *, patient: bool = True) -> set[str]:
        """Return the names of all rooms in the index.

        Raises:
            BrokerUnavailable: A part of it can't be read.
        """
        names, failed = self.names(patient=patient)
        error = unavailable(failed)
        if error is not None:
            raise error
        return names

    def positions(self, rooms: Sequence[str]) -> list[Position | BrokerError]:
        """Return where rooms stand that are served, asked for together.

        They are entered into the index, whether or not they are known to be in it.

        Raises:
            BrokerUnavailable: None of them can be had.
        """
        entries = self._index.enter(rooms)
        commands = [self._reading(room) for room in rooms]
        replies = self._servers.run_each(commands, patient=True)
        found: list[Position | BrokerError] = []
        for room, command, reply in zip(rooms, commands, replies, strict=True):
            answer = reply
            try:
                if isinstance(reply, WrongType):
                    answer = self._ask(room, command, patient=True)
                if isinstance(answer, BrokerError):
                    raise answer
                found.append(self._entered(room, answer, entries.get(room)))
            except BrokerError as error:
                found.append(error)
        if found and all(isinstance(each, BrokerUnavailable) for each in found):
            raise next(each for each in found if isinstance(each, BrokerUnavailable))
        return found

    def corrupt(self, what: str) -> None:
        """Count and log what others have put into a room's keys."""
        self._count_corrupt()
        log.error("In the keys of a room there is %s; it is skipped", what)

    def _count_corrupt(self) -> None:
        self._counts["corrupt"] += 1
        self._metrics.count("holes_total", "corrupt")

    def _note(self, room: str, flags: int) -> None:
        """Count and log what a script has put right in a room."""
        if flags & _HEALED:
            self._count_corrupt()
            self._say(
                "What Redis knows of a room is not what was written; it is put right, "
                "and its screens read anew"
            )
        if flags & _CLOCK_BACK:
            self._say(
                "The clock of Redis has gone back; what is committed at this moment "
                "may be told as '<kind>.invalidated'"
            )

    def _say(self, what: str) -> None:
        """Write into the log, the same once a minute at most."""
        now = self._now()
        if now - self._logged.get(what, float("-inf")) >= _LOG_AGAIN:
            self._logged[what] = now
            log.error("%s", what)

    # -- asking Redis ----------------------------------------------------------------

    def _reading(
        self,
        room: str,
        since: Position | None = None,
        *,
        make: bool = True,
        ends: str = "",
    ) -> Command:
        keys = self.keys.room(room)
        args: tuple[str | int, ...] = (
            keys.meta,
            keys.log,
            secrets.token_urlsafe(9) if make else "",
            self._ttl_ms,
            since.epoch if since and since.epoch.isascii() else "",
            since.offset if since else 0,
            ends,
        )
        return Command(keys.meta, args, self._read, 2)

    def _ask(self, room: str, command: Command, *, patient: bool = False) -> Any:
        reply = self._servers.run_each([command], patient=patient)[0]
        if isinstance(reply, WrongType):
            self.corrupt(f"a key of another type: {reply}")
            self._remove_foreign(room)
            reply = self._servers.run_each([command], patient=patient)[0]
        if isinstance(reply, BrokerError):
            raise reply
        return reply

    def _remove_foreign(self, room: str) -> None:
        keys = self.keys.room(room)
        wanted = {
            keys.meta: b"hash",
            keys.log: b"list",
            keys.rows: b"hash",
            keys.seen: b"zset",
            keys.fences: b"hash",
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

    def _enter(
        self, positions: Mapping[str, Position], begun: Collection[str] = ()
    ) -> None:
        """Write rooms into the index, where they are not known to be in it.

        Args:
            begun: Those whose epochs have begun just now, and that can't be in it.
        """
        rooms = [
            room
            for room, position in positions.items()
            if self._index.moved(room, position.epoch) or not self._index.knows(room)
        ]
        try:
            for room, entry in (self._index.enter(rooms) if rooms else {}).items():
                epoch = positions[room].epoch
                self._index.entered(room, epoch)
                if not entry.was and room not in begun:
                    self._end(room, epoch)
        except BrokerError as error:
            # It has been published; whoever serves the room enters it, too.
            log.debug("Rooms were not written into the index: %s", error)

    def _entered(self, room: str, answer: Any, entry: Entry | None) -> Position:
        """Return where a room stands that was entered before it was asked."""
        self._note(room, answer[4])
        position = _position(answer)
        if entry is None:
            self._enter({room: position})
            return position
        if not entry.was and not answer[4] & _BEGUN:
            position = self._end(room, position.epoch)
        self._index.entered(room, position.epoch)
        return position

    def _end(self, room: str, epoch: str) -> Position:
        """End the epoch of a room that the index has lost, unless it has just begun.

        All rooms may have been told something meanwhile, which this one was not.
        """
        answer = self._ask(room, self._reading(room, ends=epoch), patient=True)
        if answer[4] & _BEGUN:
            self._count_corrupt()
            self._say("The index of rooms has lost some; their screens read anew")
        return _position(answer)


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


# What the epoch of a room that has none begins with (lua/read.lua).
_NONE = "none."


def _position(answer: Any) -> Position:
    return Position(answer[0].decode(), int(answer[1]))
