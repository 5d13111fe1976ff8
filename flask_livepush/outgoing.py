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
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Literal

from .brokers.base import Broker
from .errors import BrokerError, BrokerUnavailable
from .metrics import OFF, Metrics
from .protocol.batch import Everywhere
from .protocol.publication import (
    INVALIDATED,
    Attempt,
    Draft,
    Position,
    check_sizes,
    invalidated,
)

log = logging.getLogger(__name__)

# Seconds between two looks whether the broker is there again: at first, and at most.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
# What an entry of the queue takes besides its texts.
_OVERHEAD = 500
# Rooms of which is kept that they missed something, when the queue was full; beyond,
# the kinds are stale in every room.
_MAX_STALE_ROOMS = 10_000


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of something emitted.

    Args:
        outcome: ``"stored"``: the broker has it. ``"queued"``: the broker does not
            answer; it gets it when it does. ``"dropped"``: it does not answer and the
            queue is full. ``"deferred"``: it waits for the commit of an open
            transaction and vanishes on its rollback.
        position: Where the room stands after it, when it was stored.
    """

    outcome: Literal["stored", "queued", "dropped", "deferred"]
    position: Position | None = None


_QUEUED = Receipt("queued")
_DROPPED = Receipt("dropped")


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A batch in the queue.

    Args:
        attempt: Its id, when it was committed and came here, and whether the broker
            may have it already.
    """

    room: str
    drafts: Sequence[Draft]
    attempt: Attempt
    size: int


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

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._name = secrets.token_urlsafe(6)
        self._numbers = count(1)
        # Guards everything below. Never held while the broker is asked.
        self._lock = threading.Lock()
        self._queue: deque[_Waiting | Everywhere] = deque()
        self._bytes = 0
        self._stale: dict[str, set[str]] = {}
        self._stale_everywhere: set[str] = set()
        self._open = False
        self._sending = False
        self._head_is_out = False  # the first of the queue is being sent
        self._dropped = 0
        self._logged = float("-inf")

    @property
    def max_publication_bytes(self) -> int:
        """What a publication may have, its event and data together, in UTF-8."""
        return self._broker.max_bytes

    @property
    def depth(self) -> int:
        """How many batches wait."""
        return len(self._queue)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, of publications and of what was dropped."""
        return not (self._queue or self._stale or self._stale_everywhere)

    @property
    def waiting_bytes(self) -> int:
        """How much memory they take, roughly."""
        return self._bytes

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
        self._mind_forks()
        attempt = Attempt(
            f"{self._name}{next(self._numbers):x}",
            since=self._now() if since is None else since,
        )
        if not self._open:
            try:
                position = self._broker.publish(room, drafts, attempt=attempt)
            except BrokerUnavailable as error:
                self._trip(error)
                attempt = replace(attempt, again=True)
            else:
                return Receipt("stored", position)
        else:
            check_sizes(drafts, self._broker.max_bytes)
        return self._wait(room, drafts, attempt)

    def rooms_of(self, stale: Everywhere) -> list[str]:
        """Return the rooms in which a kind is stale.

        An empty list, when the broker can't be asked: they are told when it answers.
        """
        self._mind_forks()
        if not self._open:
            try:
                rooms = self._broker.rooms(patient=False)
                return [room for room in rooms if stale.matches(room)]
            except BrokerError as error:
                log.warning("Asking for the live rooms is put off: %s", error)
        with self._lock:
            # What is being sent may have reached rooms before the commit at hand.
            waiting = islice(self._queue, int(self._head_is_out), None)
            if stale not in waiting:
                self._queue.append(stale)
            self._open = True
        self._begin_sending()
        return []

    def position(self, room: str) -> Position:
        """Return where a room stands; while the broker is away, raise at once.

        Raises:
            BrokerUnavailable: It does not answer.
        """
        self._mind_forks()
        if self._open:
            self._begin_sending()  # which may have failed
            raise BrokerUnavailable("The message broker does not answer at present.")
        try:
            return self._broker.position(room)
        except BrokerUnavailable as error:
            self._trip(error)
            self._begin_sending()
            raise

    def answers(self) -> bool:
        """Say whether the broker answers; asking takes no longer than a view may wait.

        What it says changes nothing: the breaker is left as it is.
        """
        self._mind_forks()
        if self._open:
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

    def _trip(self, error: BrokerUnavailable) -> None:
        with self._lock:
            was_open, self._open = self._open, True
        if not was_open:
            log.warning("Publications wait until the broker answers again: %s", error)

    def _wait(self, room: str, drafts: Sequence[Draft], attempt: Attempt) -> Receipt:
        texts = sum(len(d.event) + len(d.data) for d in drafts)
        size = texts + _OVERHEAD * len(drafts)
        with self._lock:
            fits = self._bytes + size <= self._max_bytes
            if fits:
                attempt = replace(attempt, queued=self._now())
                self._queue.append(_Waiting(room, drafts, attempt, size))
                self._bytes += size
            else:
                self._note_stale(room, drafts)
                self._dropped += 1
            self._open = True
            tells = not fits and self._now() - self._logged >= 1
            if tells:
                self._logged = self._now()
                dropped = self._dropped
        if tells:
            log.error(
                "The queue of publications is full (LIVEPUSH_MAX_QUEUED_BYTES is %d): "
                "%d batches of this process have been dropped; screens will be told "
                "to read anew, an application's own events are lost",
                self._max_bytes,
                dropped,
            )
        self._begin_sending()
        return _QUEUED if fits else _DROPPED

    def _note_stale(self, room: str, drafts: Sequence[Draft]) -> None:
        kinds = {kind for kind in map(_kind_of, drafts) if kind is not None}
        if not kinds:
            return
        if room in self._stale or len(self._stale) < _MAX_STALE_ROOMS:
            self._stale.setdefault(room, set()).update(kinds)
        else:
            self._stale_everywhere.update(kinds)

    def _begin_sending(self) -> None:
        with self._lock:
            if self._sending:
                return
            self._sending = True
        try:
            self._spawn(self._send_all)
        except Exception:
            log.exception("Sending what waits can't begin; it is tried again later")
            with self._lock:
                self._sending = False

    # -- the sender: one thread or greenlet, while the breaker is open ----------------

    def _send_all(self) -> None:
        pause = _FIRST_PAUSE
        while not (self._answers() and self._send_queue()):
            self._sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _answers(self) -> bool:
        # Asked first: what is published to a broker that hangs is done, each time,
        # when it goes on.
        try:
            self._broker.ping(self._first_room())
        except BrokerError as error:
            log.debug("The message broker is still away: %s", error)
        except Exception:
            log.exception("Asking the message broker for a sign of life failed")
        else:
            return True
        return False

    def _first_room(self) -> str:
        with self._lock:
            head = self._queue[0] if self._queue else None
        return head.room if isinstance(head, _Waiting) else ""

    def _send_queue(self) -> bool:
        """Send what waits, then close the breaker; False: the broker is away again."""
        while (head := self._next()) is not None:
            try:
                self._send(head)
            except BrokerUnavailable as error:
                log.debug("The message broker is away again: %s", error)
                self._keep(head)
                return False
            except Exception:
                self._metrics.count("drops_total", "refused", _size_of(head))
                log.exception("A publication that waited was refused; going on")
            else:
                if isinstance(head, _Waiting) and head.attempt.queued is not None:
                    self._metrics.count("queue_sent_total", amount=len(head.drafts))
            self._done(head)
        log.warning("The message broker answers again; what waited has been sent")
        return True

    def _next(self) -> _Waiting | Everywhere | None:
        """Return what is to be sent next; closes the breaker when there is nothing."""
        with self._lock:
            if not self._queue:
                self._queue.extend(self._take_stale())
            if self._queue:
                self._head_is_out = True
                return self._queue[0]
            self._open = self._sending = False
            return None

    def _take_stale(self) -> list[_Waiting | Everywhere]:
        found: list[_Waiting | Everywhere] = [
            _Waiting(room, [invalidated(k) for k in sorted(kinds)], Attempt(), 0)
            for room, kinds in self._stale.items()
        ]
        found += [Everywhere(kind, _any) for kind in sorted(self._stale_everywhere)]
        self._stale.clear()
        self._stale_everywhere.clear()
        return found

    def _send(self, item: _Waiting | Everywhere) -> None:
        if isinstance(item, Everywhere):
            for room in self._broker.rooms():
                if item.matches(room):
                    self._broker.publish(room, [invalidated(item.kind)])
            return
        self._broker.publish(item.room, item.drafts, attempt=item.attempt)

    def _keep(self, item: _Waiting | Everywhere) -> None:
        """Let what the broker may have got, or not, be sent again as such."""
        with self._lock:
            self._head_is_out = False
            if isinstance(item, _Waiting):
                again = replace(item.attempt, again=True)
                self._queue[0] = replace(item, attempt=again)

    def _done(self, item: _Waiting | Everywhere) -> None:
        with self._lock:
            self._head_is_out = False
            self._queue.popleft()
            if isinstance(item, _Waiting):
                self._bytes -= item.size


def _size_of(item: _Waiting | Everywhere) -> int:
    return len(item.drafts) if isinstance(item, _Waiting) else 1


def _kind_of(draft: Draft) -> str | None:
    if draft.kind is not None:
        return draft.kind
    kind, dot, what = draft.event.rpartition(".")
    return kind if dot and what == INVALIDATED else None


def _any(room: str) -> bool:
    return True
