"""What goes out to the broker: at once while it answers, from a queue while it doesn't.

A commit must not wait for a broker that hangs, nor lose what it has to say. So each
process has a circuit breaker. *Closed*, a publication goes to the broker in the thread
that has it. The first that finds the broker unavailable opens it: from then on
everything waits in one queue, in order, and a background sender asks the broker for a
sign of life until there is one, empties the queue, and closes the breaker. It must
never decide what is published, nor look into it.

An attempt that was not answered may have been done, or be done later: Redis, when it
goes on, runs what lies in its sockets. Told as a timeline:

1. An attempt to publish an event finds Redis hanging, and gives up after 250 ms.
2. Redis goes on. The sender publishes the event *again*.
3. Redis runs the attempt of 1, from a connection that is closed by now.

The broker is told that 2 is an attempt made again, and its id: it takes it only once,
and nothing any more that this process sent before it (``lua/publish.lua``).

It is the same where somebody else's ``BaseException`` ends an attempt, such as gevent's
``Timeout`` or a ``KeyboardInterrupt``: what was to go out waits in the queue, and the
exception goes on to whoever it belongs to.

Where several servers share the rooms, each has a queue, a breaker and a sender of its
own, a *line*: what one of them does not take delays no room of another. A room that has
something waiting stays in its line until that is sent, wherever it moves meanwhile, so
that its order is kept.

What concerns a kind in *every* room is the sender's from the beginning: only the broker
knows the rooms, and there may be thousands. It does not open the breaker, so that other
publications go out at once meanwhile; to be told late is harmless, as screens then read
the database as it is by then.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, islice
from typing import Any, Literal

from .brokers.base import Broker
from .errors import BrokerError, BrokerUnavailable, PublicationTooLarge
from .logs import logger
from .metrics import OFF, Metrics
from .protocol.batch import Everywhere
from .protocol.publication import (
    INVALIDATED,
    Attempt,
    Draft,
    Parcel,
    Position,
    check_sizes,
    invalidated,
)

log = logger(__name__)

# Seconds between two looks whether the broker is there again: at first, and at most.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
# What an entry of the queue takes besides its texts.
_OVERHEAD = 500
# Rooms of which is kept that they missed something, when the queue was full; beyond,
# the kinds are stale in every room.
_MAX_STALE_ROOMS = 10_000
# Kinds, each in the rooms of one declaration, that wait to be told everywhere; beyond,
# a kind is told in every room that there is.
_MAX_EVERYWHERE = 1_000
# What the queue of one line may take of all bytes that may wait, where there are
# several: a server that is away for long shall leave some to the others.
_SHARE = 0.75
# Seconds between two lines of the log about rooms that can't be asked for.
_LOG_AGAIN = 60.0
# Parcels that the sender hands over together.
_TOGETHER = 500
# Seconds after which a sender that does nothing is taken for dead: each of its steps
# takes a few at most.
_DEAD = 60.0
# Seconds that the end of a process waits for what the broker is just being told, and
# between two looks.
_LAST_WORDS = 5.0
_LOOK = 0.001
# Seconds before the sender asks for all rooms, and between two chunks of them.
_BREATH = 0.003


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of something emitted.

    Args:
        outcome: ``"stored"``: the broker has it. ``"queued"``: the broker does not
            answer; it gets it when it does. ``"dropped"``: it does not answer and the
            queue is full. ``"deferred"``: it waits for the commit of an open
            transaction and vanishes on its rollback. ``"off"``: ``LIVEPUSH_ENABLED`` is
            False, and it goes nowhere.
        position: Where the room stands after it, when it was stored.
    """

    outcome: Literal["stored", "queued", "dropped", "deferred", "off"]
    position: Position | None = None


_QUEUED = Receipt("queued")
_DROPPED = Receipt("dropped")


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A parcel that waits, and what it takes of the queue's bytes."""

    parcel: Parcel
    size: int = 0

    @property
    def again(self) -> _Waiting:
        """The same as one that the broker may have already."""
        attempt = replace(self.parcel.attempt, again=True)
        return replace(self, parcel=replace(self.parcel, attempt=attempt))


@dataclass(slots=True, eq=False)
class _Line:
    """The queue and the breaker in front of one of the broker's servers.

    Args:
        queue: What waits, in order.
        bytes: What that takes.
        stale: By room, the kinds of which it missed something when the queue was full.
        telling: What is stale in rooms, and not told yet.
        open: Whether everything waits.
        said_away: The log has it that the server is away.
        trips: How often somebody has found that.
        sender: Who empties the queue, if anybody does.
    """

    queue: deque[_Waiting] = field(default_factory=deque)
    bytes: int = 0
    stale: dict[str, set[str]] = field(default_factory=dict)
    telling: deque[_Waiting] = field(default_factory=deque)
    open: bool = False
    said_away: bool = False
    trips: int = 0
    sender: _Sender | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it has nothing to send."""
        return not (self.queue or self.stale or self.telling)


@dataclass(slots=True, eq=False)
class _Sender:
    """One run of a line's sender.

    Args:
        line: What it sends from.
        heard: When it last did something.
        source: Where it has what it sends from: the first ``out`` are on their way.
        listing: Kinds for which it asks for the rooms, and rooms that know.
        together: How many parcels it hands over together.
        sent: How many it has been rid of.
        trips: How often the broker had been found away when it last answered.
    """

    line: _Line
    heard: float
    source: deque[_Waiting] = field(default_factory=deque)
    out: int = 0
    listing: dict[Everywhere, frozenset[str]] = field(default_factory=dict)
    together: int = _TOGETHER
    sent: int = 0
    trips: int = 0


class Outgoing:
    """The breaker and the queue in front of one process's broker.

    Args:
        broker: Where publications go.
        spawn: Runs a function in the background.
        sleep: Waits for seconds.
        now: Seconds of a clock that never falls, the broker's too.
        max_bytes: What may wait.
        metrics: Counts what becomes of what has waited.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        spawn: Callable[[Callable[[], None]], object],
        sleep: Callable[[float], object],
        now: Callable[[], float],
        max_bytes: int,
        metrics: Metrics = OFF,
    ) -> None:
        self._broker = broker
        self._spawn = spawn
        self._sleep = sleep
        self._now = now
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._name = secrets.token_urlsafe(6)
        self._numbers = count(1)
        # Guards everything below. Never held while the broker is asked.
        self._lock = threading.Lock()
        # By server. The first is for a broker that has one, and for what is asked of
        # all: its sender finds the rooms for what is stale everywhere.
        self._home = _Line()
        self._lines: dict[Hashable, _Line] = {None: self._home}
        # Rooms of which something waits in a queue, in which, and how much.
        self._pinned: dict[str, tuple[_Line, int]] = {}
        # What is stale everywhere and not taken by the sender yet, and the rooms that
        # know; and what was told in all rooms but those of some parts of their list,
        # which could not be read.
        self._everywhere: dict[Everywhere, frozenset[str]] = {}
        self._behind: dict[Everywhere, tuple[frozenset[str], frozenset[int]]] = {}
        self._unlisted = float("-inf")  # when the log was told of that
        self._dropped = 0
        self._logged = float("-inf")

    @property
    def max_publication_bytes(self) -> int:
        """What a publication may have, its event and data together, in UTF-8."""
        return self._broker.max_bytes

    @property
    def depth(self) -> int:
        """How many batches wait."""
        lines = list(self._lines.values())
        return sum(len(line.queue) for line in lines) + self._untold()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, of publications and of what was dropped."""
        lines = list(self._lines.values())
        return all(line.is_empty for line in lines) and not self._untold()

    def _untold(self, *, reachable: bool = False) -> int:
        """Return how much of what is stale everywhere is not told yet.

        Args:
            reachable: Pass over what waits for a server that is away.
        """
        sender = self._home.sender
        found = sum(
            len(line.telling)
            for line in list(self._lines.values())
            if not (reachable and line.open)
        )
        if reachable and self._home.open:
            return found
        listing = 0 if sender is None else len(sender.listing)
        behind = 0 if reachable else len(self._behind)
        return found + listing + len(self._everywhere) + behind

    @property
    def waiting_bytes(self) -> int:
        """How much memory they take, roughly."""
        return sum(line.bytes for line in list(self._lines.values()))

    def publish(
        self, room: str, drafts: Sequence[Draft], *, since: float | None = None
    ) -> Receipt:
        """Publish drafts, contiguous, or let them wait for the broker.

        Args:
            since: A moment before they were committed; None: now.

        Raises:
            PublicationTooLarge: A draft is larger than it may be; none is accepted.
            BrokerError: The broker refuses them.
        """
        answer = self._publish({room: drafts}, since, keep=False)[room]
        if isinstance(answer, Exception):
            raise answer
        receipt: Receipt = answer
        return receipt

    def publish_all(
        self, rooms: Mapping[str, Sequence[Draft]], *, since: float | None = None
    ) -> dict[str, Receipt | Exception]:
        """Publish what one commit has for rooms, or let it wait for the broker.

        What the broker refuses in one room is no other room's business. What fails in
        another way waits for the sender, who tries it once more: it may be the time
        limit of a task. That of a greenlet is a BaseException, and goes on to whoever
        it belongs to when all that has no answer waits.

        Args:
            since: A moment before the commit; None: now.

        Returns:
            For each room its receipt, or why the broker did not take it.
        """
        return self._publish(rooms, since, keep=True)

    def _publish(
        self,
        rooms: Mapping[str, Sequence[Draft]],
        since: float | None,
        *,
        keep: bool,
    ) -> dict[str, Any]:
        self._mind_forks()
        moment = self._now() if since is None else since
        waits: Sequence[Parcel] = ()
        if len(rooms) == 1 and not self._line(next(iter(rooms))).open:
            # What nearly every commit is; it shall cost nothing that it needs not.
            ((room, drafts),) = rooms.items()
            attempt = Attempt(self._next_id(), since=moment)
            try:
                position = self._broker.publish(room, drafts, attempt=attempt)
                return {room: Receipt("stored", position)}
            except Exception as error:  # noqa: BLE001
                parcels = [Parcel(room, drafts, attempt)]
                found: Iterable[tuple[int, Position | Exception]] = [(0, error)]
            except BaseException:
                self._wait([Parcel(room, drafts, attempt)], again=True)
                raise
        else:
            parcels = [
                Parcel(room, drafts, Attempt(self._next_id(), since=moment))
                for room, drafts in rooms.items()
            ]
            # Those of a server that is away wait at once, and nobody waits with them.
            going = [p for p in parcels if not self._line(p.room).open]
            waits = (
                [p for p in parcels if self._line(p.room).open] if going else parcels
            )
            parcels = going
            found = self._hand_over(parcels) if parcels else ()
        left = dict(enumerate(parcels))
        unsure: list[Parcel] = []
        failed: list[Parcel] = []
        answers: dict[str, Any] = {}
        try:
            for number, answer in found:
                parcel = left[number]
                if isinstance(answer, BrokerUnavailable):
                    self._trip(parcel.room, answer)
                    unsure.append(parcel)
                elif isinstance(answer, Position):
                    answers[parcel.room] = Receipt("stored", answer)
                elif keep and not isinstance(answer, BrokerError):
                    log.error(
                        "Publishing failed; it is tried once more", exc_info=answer
                    )
                    answers[parcel.room] = answer
                    failed.append(parcel)
                else:
                    answers[parcel.room] = answer
                del left[number]
            answers |= self._wait(waits, check=True)
            waits = ()
            answers |= self._wait(unsure, again=True)
            # Nobody has asked for these, as another server was away: where their own
            # answers they are sent in a moment.
            answers |= self._wait(left.values(), check=True)
            self._wait(failed, again=True)
        except BaseException:
            # Nobody knows which of them the broker has, and none may be lost; what
            # waits already is told from it by its id.
            self._wait([*waits, *unsure, *left.values(), *failed], again=True)
            raise
        return answers

    def _hand_over(
        self, parcels: Sequence[Parcel]
    ) -> Iterable[tuple[int, Position | Exception]]:
        if len(parcels) > 1:
            yield from self._broker.publish_all(parcels)
            return
        for number, parcel in enumerate(parcels):
            answer: Position | Exception
            try:
                answer = self._broker.publish(
                    parcel.room, parcel.drafts, attempt=parcel.attempt
                )
            except Exception as error:  # noqa: BLE001
                answer = error
            yield number, answer

    def publish_later(
        self, rooms: Mapping[str, Sequence[Draft]]
    ) -> dict[str, Receipt | PublicationTooLarge]:
        """Let the sender publish, without asking the broker here."""
        self._mind_forks()
        since = self._now()
        return self._wait(
            [
                Parcel(room, drafts, Attempt(self._next_id(), since=since))
                for room, drafts in rooms.items()
            ],
            check=True,
        )

    def tell_everywhere(
        self, stale: Iterable[Everywhere], *, told: frozenset[str] = frozenset()
    ) -> None:
        """Let the sender tell all rooms in which kinds are stale; never waits.

        What is told already may have reached rooms before the commit at hand, or have
        missed rooms that began before it; so only what still waits is the same.

        Args:
            told: Rooms that have been told with the commit.
        """
        self._mind_forks()
        with self._lock:
            for one in stale:
                self._add_everywhere(one, told)
        self._begin_sending(self._home)

    def _add_everywhere(self, stale: Everywhere, told: frozenset[str]) -> None:
        """Let a kind be told, once for several commits; the lock is held."""
        if stale not in self._everywhere and len(self._everywhere) >= _MAX_EVERYWHERE:
            stale = Everywhere(stale.kind, _any)
        # A room was told of all commits only if each of them has told it.
        self._everywhere[stale] = told & self._everywhere.get(stale, told)

    def wait_until_told(self, seconds: float) -> bool:
        """Wait until the sender has told what is stale everywhere, but no longer.

        Not for a broker that is away either.

        Returns:
            Whether it has.
        """
        self._mind_forks()
        end = self._now() + seconds
        while self._untold(reachable=True) and self._now() < end:
            self._sleep(_LOOK)
        return not self._untold()

    def finish(self) -> bool:
        """Say whether nothing waits any more; a sender that has died is begun anew."""
        self._mind_forks()
        if self.is_empty:
            return True
        self._begin_all()
        return False

    def position(self, room: str) -> Position:
        """Return where a room stands; while the broker is away, raise at once.

        Raises:
            BrokerUnavailable: It does not answer.
        """
        self._mind_forks()
        line = self._line(room)
        if line.open:
            self._begin_sending(line)  # which may have failed
            raise BrokerUnavailable("The message broker does not answer at present.")
        try:
            return self._broker.position(room)
        except BrokerUnavailable as error:
            self._trip(room, error)
            self._begin_sending(line)
            raise

    def answers(self) -> bool:
        """Say whether the broker answers; asking takes no longer than a view may wait.

        What it says changes nothing: the breaker is left as it is.
        """
        self._mind_forks()
        if any(line.open for line in list(self._lines.values())):
            self._begin_all()  # which may have failed
            return False
        try:
            self._broker.ping("")
        except BrokerError as error:
            log.debug("The message broker does not answer: %s", error)
            return False
        return True

    def _mind_forks(self) -> None:
        if self._pid != os.getpid():
            self._begin()  # what waits is the parent's to send

    # -- the queue -------------------------------------------------------------------

    def _line(self, room: str) -> _Line:
        """Return the line in which a room's publications wait, if they have to."""
        pinned = self._pinned.get(room)
        if pinned is not None:
            return pinned[0]
        shard = self._broker.shard(room)
        line = self._lines.get(shard)
        if line is None:
            with self._lock:
                line = self._lines.setdefault(shard, _Line())
        return line

    def _pin(self, room: str, line: _Line) -> None:
        """Keep a room in a line, once more; the lock is held."""
        self._pinned[room] = (line, self._pinned.get(room, (line, 0))[1] + 1)

    def _unpin(self, room: str) -> None:
        line, amount = self._pinned.pop(room)
        if amount > 1:
            self._pinned[room] = (line, amount - 1)

    def _trip(self, room: str, error: BrokerUnavailable) -> None:
        line = self._line(room)
        with self._lock:
            line.trips += 1
            said, line.open, line.said_away = line.said_away, True, True
        if not said:
            log.warning("Publications wait until the broker answers again: %s", error)

    def _next_id(self) -> str:
        return f"{self._name}{next(self._numbers):x}"

    def _wait(
        self, parcels: Iterable[Parcel], *, again: bool = False, check: bool = False
    ) -> dict[str, Receipt | PublicationTooLarge]:
        """Let parcels wait in the queue, in their order.

        Args:
            again: Whether the broker may have them already.
            check: Whether they may be too large; else the broker has looked at them.
        """
        answers: dict[str, Receipt | PublicationTooLarge] = {}
        waiting = []
        lines: dict[int, _Line] = {}
        for parcel in parcels:
            try:
                if check:
                    check_sizes(parcel.drafts, self._broker.max_bytes)
            except PublicationTooLarge as error:
                answers[parcel.room] = error
                continue
            texts = sum(len(d.event) + len(d.data) for d in parcel.drafts)
            attempt = replace(parcel.attempt, again=again, queued=self._now())
            waiting.append(
                _Waiting(
                    replace(parcel, attempt=attempt),
                    texts + _OVERHEAD * len(parcel.drafts),
                )
            )
        if not waiting:
            return answers
        dropped = 0
        found = [self._line(item.parcel.room) for item in waiting]
        with self._lock:
            for item, line in zip(waiting, found, strict=True):
                room, drafts = item.parcel.room, item.parcel.drafts
                # Another thread may have let it wait elsewhere meanwhile.
                line = self._pinned.get(room, (line, 0))[0]
                line.open = True
                lines[id(line)] = line
                if self._has_place(line, item.size):
                    line.bytes += item.size
                    line.queue.append(item)
                    self._pin(room, line)
                    answers[room] = _QUEUED
                else:
                    self._note_stale(line, room, drafts)
                    self._dropped += 1
                    dropped = self._dropped
                    answers[room] = _DROPPED
            tells = dropped > 0 and self._now() - self._logged >= 1
            if tells:
                self._logged = self._now()
            if self._everywhere:
                lines[id(self._home)] = self._home
        for line in lines.values():
            self._begin_sending(line)
        if tells:
            log.error(
                "The queue of publications is full (LIVEPUSH_MAX_QUEUED_BYTES is %d): "
                "%d batches of this process have been dropped; screens will be told "
                "to read anew, an application's own events are lost",
                self._max_bytes,
                dropped,
            )
        return answers

    def _has_place(self, line: _Line, size: int) -> bool:
        share = 1 if len(self._lines) == 1 else _SHARE
        return (
            self.waiting_bytes + size <= self._max_bytes
            and line.bytes + size <= self._max_bytes * share
        )

    def _note_stale(self, line: _Line, room: str, drafts: Sequence[Draft]) -> None:
        kinds = {kind for kind in map(_kind_of, drafts) if kind is not None}
        if not kinds:
            return
        if room in line.stale or len(line.stale) < _MAX_STALE_ROOMS:
            line.stale.setdefault(room, set()).update(kinds)
        else:
            for kind in kinds:
                self._add_everywhere(Everywhere(kind, _any), frozenset())

    def _begin_all(self) -> None:
        """Begin senders where there is something to send, or a server is away."""
        for line in list(self._lines.values()):
            listing = line is self._home and (self._everywhere or self._behind)
            if line.open or line.sender or listing or not line.is_empty:
                self._begin_sending(line)

    def _begin_sending(self, line: _Line) -> None:
        """Begin a line's sender where none is at work; it may have been killed."""
        with self._lock:
            now, sender = self._now(), line.sender
            if sender is not None:
                if now - sender.heard < _DEAD:
                    return
                self._give_back(sender)
            # A broker that nobody has found away needs to give no sign of life.
            sender = line.sender = _Sender(
                line, now, trips=-1 if line.open else line.trips
            )
        try:
            self._spawn(lambda: self._send_all(sender))
        except BaseException as error:
            with self._lock:
                if line.sender is sender:
                    line.sender = None
            if not isinstance(error, Exception):
                raise
            log.exception("Sending what waits can't begin; it is tried again later")

    def _give_back(self, sender: _Sender) -> None:
        """Take from a sender that is no more what it was about; the lock is held."""
        if sender.line.sender is not sender:
            return
        sender.line.sender = None
        for number in range(min(sender.out, len(sender.source))):
            sender.source[number] = sender.source[number].again
        for stale, told in sender.listing.items():
            self._add_everywhere(stale, told)

    # -- the sender: one thread or greenlet, while something waits --------------------

    def _send_all(self, sender: _Sender) -> None:
        pause = _FIRST_PAUSE
        try:
            while not (self._answers(sender) and self._send_what_waits(sender)):
                if sender.line.sender is not sender:
                    return  # it was taken for dead
                sender.heard = self._now()
                if sender.sent:
                    sender.sent, pause = 0, _FIRST_PAUSE
                self._sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        except BaseException:
            # It is killed. What it was about is given to the next one, which whoever
            # publishes, joins or leaves begins: to begin it here would be to resist.
            with self._lock:
                self._give_back(sender)
            raise

    def _answers(self, sender: _Sender) -> bool:
        # Asked first: what is published to a broker that hangs is done, each time,
        # when it goes on.
        if sender.trips == (trips := sender.line.trips):
            return True
        try:
            self._broker.ping(self._first_room(sender.line))
        except BrokerError as error:
            log.debug("The message broker is still away: %s", error)
        except Exception:
            log.exception("Asking the message broker for a sign of life failed")
        else:
            sender.trips = trips
            return True
        return False

    def _first_room(self, line: _Line) -> str:
        with self._lock:
            source = line.queue or line.telling
            if source:
                return source[0].parcel.room
            return next(iter(line.stale), "")

    def _send_what_waits(self, sender: _Sender) -> bool:
        """Send all there is, closing the breaker; False: the broker is away again."""
        line = sender.line
        while line.trips == sender.trips:  # else somebody has found it away
            items = self._next(sender)
            if items is None:
                return True
            if not (self._send(sender, items) if items else self._list_rooms(sender)):
                sender.trips = -1
                return False
            if line.telling and not line.queue:
                self._sleep(_BREATH)  # thousands of rooms shall not be in the way
        return False

    def _next(self, sender: _Sender) -> list[_Waiting] | None:
        """Return what is to be sent next, of different rooms.

        First the queue, then what is stale everywhere; nothing, while there are rooms
        to be listed for that; None when all is done.
        """
        back = False
        line = sender.line
        with self._lock:
            if line.sender is not sender:
                return None  # it was taken for dead
            sender.heard = self._now()
            if not line.queue:
                for item in self._take_stale(line):
                    line.queue.append(item)
                    self._pin(item.parcel.room, line)
            if line.queue:
                sender.source = line.queue
            else:
                line.bytes = 0
                line.open, back, line.said_away = False, line.said_away, False
                sender.source = line.telling
            items = _of_different_rooms(sender.source, sender.together)
            sender.out = len(items)
            lists = line is self._home and bool(self._everywhere or self._behind)
            if not items and lists:
                sender.listing, self._everywhere = self._everywhere, {}
            elif not items:
                line.sender = None
        if back:
            log.warning("The message broker answers again; what waited has been sent")
        return items if items or lists else None

    def _take_stale(self, line: _Line) -> list[_Waiting]:
        found = [
            _Waiting(
                Parcel(
                    room,
                    [invalidated(kind) for kind in sorted(kinds)],
                    Attempt(self._next_id()),
                )
            )
            for room, kinds in line.stale.items()
        ]
        line.stale.clear()
        return found

    def _list_rooms(self, sender: _Sender) -> bool:
        """Find the rooms in which kinds are stale; False: some can't be asked for."""
        # Whoever has committed goes on first, with what is to be answered; and what is
        # committed in this moment is told along.
        self._sleep(_BREATH)
        with self._lock:
            if sender.line.sender is not sender:
                return True
            for one, told in self._everywhere.items():
                sender.listing[one] = told & sender.listing.get(one, told)
            self._everywhere = {}
            behind = dict(self._behind)
        complete = True
        if sender.listing:
            complete = self._list(sender, sender.listing, None)
        if behind:
            # In the rooms of the parts that could not be read before, and only there.
            parts = frozenset[int]().union(*(parts for _, parts in behind.values()))
            stale = {one: told for one, (told, _) in behind.items()}
            complete = self._list(sender, stale, parts) and complete
        return complete

    def _list(
        self,
        sender: _Sender,
        stale: Mapping[Everywhere, frozenset[str]],
        parts: frozenset[int] | None,
    ) -> bool:
        """Let kinds be told in the rooms of some parts of their list; None: of all.

        Returns:
            Whether all of them could be read. What could not waits for another time:
            nothing that is to be told is given up.
        """
        listed = self._now()  # whatever is told in a room from now on, is told of this
        rooms: Iterable[str] = ()
        left: frozenset[int] | None = None  # None: all that was asked for
        error: Exception | None = None
        try:
            found = self._broker.list_rooms(parts)
        except Exception as problem:  # noqa: BLE001
            error = problem
        else:
            rooms, left, error = found.rooms, found.left, found.error
        if error is not None:
            self._say_unlisted(error)
        items = self._parcels(stale, rooms, listed)
        lines = [self._line(item.parcel.room) for item in items]
        with self._lock:
            if sender.line.sender is not sender:
                return True
            for item, line in zip(items, lines, strict=True):
                line.telling.append(item)
            self._put_off(stale, parts, left if rooms or parts or not left else None)
            sender.listing = {}
        for line in {id(line): line for line in lines}.values():
            if line is not sender.line:
                self._begin_sending(line)
        return error is None

    def _put_off(
        self,
        stale: Mapping[Everywhere, frozenset[str]],
        parts: frozenset[int] | None,
        left: frozenset[int] | None,
    ) -> None:
        """Keep what could not be told for another time; the lock is held.

        Args:
            parts: What was asked for.
            left: What of it could not be read; None: nothing of it was.
        """
        for one, told in stale.items():
            if parts is not None:
                known, waits = self._behind.pop(one, (told, parts))
                remain = waits if left is None else (waits - parts) | (waits & left)
                if remain:
                    self._behind[one] = (known, remain)
            elif left is None:
                self._add_everywhere(one, told)
            elif left:
                known, waits = self._behind.get(one, (told, frozenset()))
                self._behind[one] = (told & known, waits | left)

    def _say_unlisted(self, error: Exception) -> None:
        now = self._now()
        level = logging.DEBUG
        if now - self._unlisted >= _LOG_AGAIN:
            self._unlisted, level = now, logging.WARNING
        log.log(
            level,
            "Asking for the live rooms is put off: %s",
            error,
            exc_info=None if isinstance(error, BrokerError) else error,
        )

    def _parcels(
        self,
        stale: Mapping[Everywhere, frozenset[str]],
        rooms: Iterable[str],
        listed: float,
    ) -> list[_Waiting]:
        # One id for all: it is looked for in each room's history. And there may be
        # millions of rooms, which share what is the same.
        attempt = Attempt(self._next_id(), since=listed, queued=listed)
        drafts: dict[tuple[str, ...], Sequence[Draft]] = {}
        found = []
        for room in rooms:
            matching = (
                one.kind
                for one, told in stale.items()
                if room not in told and is_stale(one, room)
            )
            kinds = tuple(dict.fromkeys(matching))
            if kinds:
                told = drafts.setdefault(kinds, [invalidated(kind) for kind in kinds])
                found.append(_Waiting(Parcel(room, told, attempt)))
        return found

    def _send(self, sender: _Sender, items: Sequence[_Waiting]) -> bool:
        """Hand what waits to the broker; False: some of it is still to be sent."""
        left = dict(enumerate(items))
        refused: Exception | None = None
        failed = False
        try:
            for number, answer in self._hand_over([item.parcel for item in items]):
                item = left[number]
                if isinstance(answer, BrokerUnavailable):
                    log.debug("The message broker is away again: %s", answer)
                    left[number] = item.again
                    continue
                if isinstance(answer, Exception):
                    refused = answer
                    self._refused(item.parcel, answer)
                else:
                    self._count_sent(sender, item)
                del left[number]
        except Exception:
            log.exception("Sending what waited failed; it is sent one by one")
            sender.together, failed = 1, True
            left = {number: item.again for number, item in left.items()}
        if refused is not None:
            log.error(
                "A publication that waited was refused; going on", exc_info=refused
            )
        self._settle(sender, list(left.values()))
        return failed or not left

    def _refused(self, parcel: Parcel, error: Exception) -> None:
        self._metrics.count("drops_total", "refused", len(parcel.drafts))
        if isinstance(error, PublicationTooLarge):
            line = self._line(parcel.room)
            with self._lock:
                self._note_stale(line, parcel.room, parcel.drafts)

    def _count_sent(self, sender: _Sender, item: _Waiting) -> None:
        amount = len(item.parcel.drafts)
        if sender.source is sender.line.telling:
            self._metrics.count("publications_total", "stored", amount)
        elif item.parcel.attempt.queued is not None:
            self._metrics.count("queue_sent_total", amount=amount)

    def _settle(self, sender: _Sender, kept: Sequence[_Waiting]) -> None:
        """Put what is still to be sent in the place of what was on its way."""
        with self._lock:
            line, source = sender.line, sender.source
            if line.sender is not sender:
                return
            queued = source is line.queue
            for _ in range(sender.out):
                item = source.popleft()
                if queued:
                    line.bytes -= item.size
                    self._unpin(item.parcel.room)
            sender.sent += sender.out - len(kept)
            sender.out = 0
            source.extendleft(reversed(kept))
            if queued:
                line.bytes += sum(item.size for item in kept)
                for item in kept:
                    self._pin(item.parcel.room, line)


def _of_different_rooms(waiting: deque[_Waiting], most: int) -> list[_Waiting]:
    """Return the first of what waits, at most so many, up to the second of a room.

    Its first might be refused for the moment, and the second taken.
    """
    rooms: set[str] = set()
    found = []
    for item in islice(waiting, most):
        if item.parcel.room in rooms:
            break
        rooms.add(item.parcel.room)
        found.append(item)
    return found


def is_stale(stale: Everywhere, room: str) -> bool:
    """Say whether a kind is stale in a room; where that fails, it is taken for so."""
    try:
        return stale.matches(room)
    except Exception:
        log.exception("Whether a kind is stale in a room is not known; it is told")
        return True


def _kind_of(draft: Draft) -> str | None:
    if draft.kind is not None:
        return draft.kind
    kind, dot, what = draft.event.rpartition(".")
    return kind if dot and what == INVALIDATED else None


def _any(room: str) -> bool:
    return True


# Those of this process, which is not to end in the middle of telling something.
_all: weakref.WeakSet[Outgoing] = weakref.WeakSet()


def _finish_all() -> None:
    for outgoing in list(_all):
        try:
            outgoing.wait_until_told(_LAST_WORDS)
        except Exception:
            log.debug("Waiting for what is told everywhere failed", exc_info=True)


atexit.register(_finish_all)
