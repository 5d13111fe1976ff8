"""This process's part in the cluster: joins, recovery, delivery, and mending of gaps.

It knows the broker, the hub and who may join; it knows no Socket.IO and no database.

A join, as a timeline (R is the room, C the connection):

1. C asks for R. The name is matched against the patterns.
2. The position of R is read, *before* anything can query: what the rule or the
   snapshot read is then at least as new as it.
   A room that has no epoch yet gets none for that: nothing is made for a stranger.
3. User and rule are asked.
4. C is registered in the hub, holding, and the broker confirms that this process gets
   R's publications. From here on nothing can be missed.
5. Either the history since C's position is had whole: recovered. Or a snapshot is
   read, after its own position, and the history since that position.
6. Ack, the history, and what was held are written under the room's lock, in this
   order. C is live.

A right that is lost meanwhile, as another timeline:

1. The rule says yes to C.
2. The right is lost, and committed.
3. A recheck asks about all subscriptions of R in this process. C has none yet.
4. C is registered in the hub, and would go live.

So who rechecks says so first (:meth:`Node.rechecking`) and looks at the subscriptions
afterwards. A join compares what was said before it asked the rule with what was said
when it is registered; if that differs, the rule is asked once more. What is said later
finds the subscription, and ends it; the join then finds itself ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, Protocol

from .auth import Visitor
from .brokers.base import Broker
from .errors import (
    BrokerError,
    ClientError,
    InvalidRoom,
    NotAuthorised,
    TooFast,
    Unavailable,
)
from .failures import Failure, Failures, place_of
from .hub import Frame, Hub
from .logs import logger
from .metrics import OFF, Metrics
from .presence.here import Presence
from .protocol import relayed
from .protocol.messages import Subscribe, Unsubscribe, Whisper, recovered, unrecovered
from .protocol.pace import Pace
from .protocol.publication import Position, Publication
from .protocol.relayed import Users, Whispered
from .protocol.subscription import Subscription

log = logger(__name__)

# How often a snapshot is read anew when the history since its position is gone before
# it has been read.
_SNAPSHOT_TRIES = 3
# How often a subscriber's history is read when more goes missing meanwhile.
_MEND_TRIES = 3
# What may come at once, by what may come a second in the long run: a page that comes
# back joins all its rooms, and may have to once more.
_JOINS_AT_ONCE, _WHISPERS_AT_ONCE = 5, 2
# Where failures of joins are noted.
_JOINS = "joins"


class Door(Protocol):
    """Who may join, and what a newcomer starts from; called without any lock held."""

    def is_room(self, room: str) -> bool:
        """Say whether the name matches a rule. Queries nothing."""

    def admit(self, room: str, handshake: Any) -> Visitor:
        """Return the connection's user if it may join; raise a ClientError if not."""

    def has_presence(self, room: str) -> bool:
        """Say whether the room's subscribers may know who is in it."""

    def may_whisper(self, room: str, event: str) -> bool:
        """Say whether the room's subscribers may whisper this event."""

    def rows(self, room: str) -> str:
        """Read the generated part of a snapshot, in a fresh session, as JSON text."""

    def state(self, room: str, handshake: Any) -> str | None:
        """Read the room's own part of a snapshot for one user, as JSON text."""


class _Flight:
    """A snapshot being read, for all who join the room meanwhile."""

    __slots__ = ("done", "error", "position", "rows")

    def __init__(self, position: Position) -> None:
        self.position = position
        self.rows = ""
        self.error: BaseException | None = None
        self.done = threading.Event()


class Node:
    """Serves the subscribers of this process.

    Args:
        broker: Carries and keeps publications.
        hub: Holds the subscribers; it must be made with ``broker.subscribe`` and
            ``broker.unsubscribe`` as ``opened`` and ``closed``.
        door: Decides who joins.
        presence: Knows who is in the rooms.
        spawn: Runs a function in the background.
        now: Seconds of a clock that never falls.
        snapshot_timeout: Seconds a join waits for another join's snapshot.
        joins: What a connection may ask for a second, in the long run.
        whispers: The same.
        metrics: Counts joins by how they end.
        failures: Takes note of joins that fail.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        hub: Hub,
        door: Door,
        presence: Presence,
        spawn: Callable[[Callable[[], None]], object],
        now: Callable[[], float],
        snapshot_timeout: float,
        joins: int = 50,
        whispers: int = 20,
        metrics: Metrics = OFF,
        failures: Failures | None = None,
    ) -> None:
        self._broker = broker
        self._failures = Failures() if failures is None else failures
        self._hub = hub
        self._door = door
        self._presence = presence
        self._spawn = spawn
        self._now = now
        self._snapshot_timeout = snapshot_timeout
        self._metrics = metrics
        self._joins = joins
        self._whispers = whispers
        # By connection, of joins and of whispers; each is used in its connection's turn
        # alone.
        self._paces: dict[str, tuple[Pace, Pace]] = {}
        # Guards the flights, and how often it was said that rights are asked about.
        self._lock = threading.Lock()
        self._flights: dict[str, _Flight] = {}
        self._rechecks = 0
        broker.listen(self)

    def subscribe(
        self,
        sid: str,
        handshake: Any,
        request: Subscribe,
        ack: Callable[[str], Frame],
    ) -> None:
        """Let a connection join a room, and write the ack and what follows it.

        Runs on the connection's own thread or greenlet, which may block. One
        connection's calls must not overlap.

        Args:
            sid: The connection.
            handshake: What the connection has said of itself; only the door knows what
                that is.
            ack: Makes a frame of the ack's JSON text.

        Raises:
            ClientError: It can't join; the connection is then not in the room.
        """
        outcome = "failed"
        try:
            if not self._pace_of(sid)[0].allows(self._now()):
                raise TooFast(
                    f"The connection joins rooms more than {self._joins} times a "
                    "second."
                )
            outcome = self._join(sid, handshake, request, ack)
            self._failures.over(_JOINS)
        except ClientError as error:
            self._leave(sid, request.room)
            outcome = "failed" if error.temporary else "refused"
            raise
        except BrokerError as error:
            self._leave(sid, request.room)
            told = f"Joining rooms fails until the broker answers: {error}"
            self._failures.note(_JOINS, Failure(told, what="broker"))
            raise Unavailable("The server can't reach its message broker.") from error
        except Exception as error:
            self._leave(sid, request.room)
            told = (
                f"Joining a room failed ({type(error).__name__}); the client is told "
                "to try again."
            )
            self._failures.note((_JOINS, place_of(error)), Failure(told), error=error)
            raise Unavailable("The server failed; try again later.") from error
        except BaseException:  # such as gevent's Timeout: it is not ours to end
            self._leave(sid, request.room)
            raise
        finally:
            self._metrics.count("recoveries_total", outcome)

    def unsubscribe(self, sid: str, request: Unsubscribe) -> None:
        """Let a connection leave a room; being in none is no error."""
        self._leave(sid, request.room)

    def whisper(self, sid: str, request: Whisper) -> None:
        """Relay a whisper to the room's other subscribers.

        Raises:
            ClientError: It is not allowed, comes too fast, or can't be relayed.
        """
        if not self._pace_of(sid)[1].allows(self._now()):
            raise TooFast(
                f"The connection whispers more than {self._whispers} times a second."
            )
        room, event = request.room, request.event
        if not self._door.is_room(room):
            raise InvalidRoom("No rule knows a room of this name.")
        if not self._door.may_whisper(room, event):
            raise NotAuthorised("The room does not allow whispers of this event.")
        subscription = self._hub.find(sid, room)
        if subscription is None or not subscription.answered:
            raise NotAuthorised("The connection is not in the room.")
        whisper = Whispered(sid, subscription.user, event, request.data)
        try:
            self._broker.relay(room, relayed.write(whisper))
        except BrokerError as error:
            log.warning("A whisper was not relayed: %s", error)
            raise Unavailable("The server can't reach its message broker.") from error

    def _pace_of(self, sid: str) -> tuple[Pace, Pace]:
        found = self._paces.get(sid)
        if found is None:
            found = self._paces[sid] = (
                Pace(self._joins, self._joins * _JOINS_AT_ONCE),
                Pace(self._whispers, self._whispers * _WHISPERS_AT_ONCE),
            )
        return found

    def _leave(self, sid: str, room: str) -> None:
        self._hub.leave(sid, room)
        self._presence.leave(sid, room)

    def rechecking(self) -> None:
        """Let joins that are under way ask their rule once more.

        To be called before the subscriptions are looked at that are to be asked about.
        """
        with self._lock:
            self._rechecks += 1

    def revoke(
        self, sid: str, room: str, code: int, *, only: Subscription | None = None
    ) -> bool:
        """End a connection's subscription of a room, and tell the connection.

        Nothing of the room is written to it after that: no publication, no history that
        a join or a mended gap is reading, no whisper, nothing of who is there.

        Args:
            code: Why, as an error's code.
            only: The subscription that is meant; another of the same connection, which
                has joined anew meanwhile, stays.

        Returns:
            Whether there was such a subscription.
        """
        if not self._hub.revoke(sid, room, code, only=only):
            return False
        if self._hub.find(sid, room) is None:  # it has not joined anew already
            self._presence.leave(sid, room)
        return True

    def disconnect(self, sid: str) -> None:
        """Forget a connection that is gone."""
        self._hub.drop(sid)
        self._presence.drop(sid)
        self._paces.pop(sid, None)

    def deliver(
        self, room: str, epoch: str, publications: Sequence[Publication]
    ) -> None:
        """Write what the broker delivers; called by its listener alone."""
        gaps = self._hub.deliver(room, epoch, publications)
        if gaps:
            self._spawn_mend(gaps)

    def mend(self, room: str) -> None:
        """Find out what the room's subscribers have missed; called by the listener."""
        gaps = self._hub.hold(room)
        if gaps:
            self._spawn_mend(gaps)

    def relayed(self, room: str, message: str) -> None:
        """Take what a node has relayed; called by the broker's listener alone."""
        try:
            found = relayed.read(message)
        except ValueError as error:
            log.error("A message relayed to a room is skipped: %s", error)
            return
        if isinstance(found, Whispered):
            self._hub.whisper(room, found)
        else:
            self._presence.moved(room, found)

    def _join(
        self,
        sid: str,
        handshake: Any,
        request: Subscribe,
        ack: Callable[[str], Frame],
    ) -> Literal["recovered", "snapshot"]:
        room = request.room
        if not self._door.is_room(room):
            raise InvalidRoom("No rule knows a room of this name.")
        position = self._broker.position(room, patient=True)
        said = self._rechecks
        visitor = self._door.admit(room, handshake)
        subscription = self._hub.join(sid, room)
        subscription.user = visitor.user
        if self._rechecks != said:
            visitor = self._door.admit(room, handshake)
            subscription.user = visitor.user
        self._broker.confirm(room)
        has_presence = self._door.has_presence(room)
        if has_presence:
            self._presence.join(sid, room, visitor.user, visitor.info)
        asked = request.presence and has_presence
        if request.since is not None:
            history = self._broker.history(room, request.since)
            if history.publications is not None:
                # The history may be ahead of what is delivered; never behind it.
                here, found = history.position, history.publications
                self._go_live(
                    subscription,
                    here,
                    [],
                    lambda present: ack(recovered(room, here, found, present)),
                    asked,
                )
                return "recovered"
        for attempt in range(_SNAPSHOT_TRIES):
            start, snapshot = self._snapshot(
                room, handshake, position, alone=attempt > 0
            )
            history = self._broker.history(room, start)
            if history.publications is not None:
                # In the room's own epoch, where it had none when it was asked.
                start = history.start or start
                self._go_live(
                    subscription,
                    start,
                    history.publications,
                    partial(_answer, ack, room, start, snapshot),
                    asked,
                )
                return "snapshot"
            position = self._broker.position(room, patient=True)
        raise Unavailable("The room changes faster than its snapshot can be read.")

    def _go_live(
        self,
        subscription: Subscription,
        position: Position,
        publications: Sequence[Publication],
        answer: Callable[[Users | None], Frame],
        asked: bool,
    ) -> None:
        def write(present: Users | None) -> bool:
            return self._hub.resume(
                subscription,
                position,
                publications,
                first=answer(present),
                presence=asked,
            )

        if asked:
            live = self._presence.show(subscription.room, write)
        else:
            live = write(None)
        if live:
            return
        if subscription.revoked:
            raise NotAuthorised("The connection may not be in the room any more.")
        if not subscription.answered:
            # Evicted or reset meanwhile: nothing was written, nobody else will answer.
            raise Unavailable("The connection has lost something; join again.")
        self._spawn_mend([subscription])

    def _snapshot(
        self, room: str, handshake: Any, position: Position, *, alone: bool
    ) -> tuple[Position, str]:
        """Read a snapshot; return it with a position it is at least as new as.

        The generated rows are read once for all who join meanwhile, and stand at the
        position of whoever began. The room's own state is read for each user, later
        than that position, so that it holds for it too.
        """
        if alone:
            start, rows = position, self._door.rows(room)
        else:
            start, rows = self._shared_rows(room, position)
        state = self._door.state(room, handshake)
        tail = "" if state is None else f',"state":{state}'
        return start, f'{{"kinds":{rows}{tail}}}'

    def _shared_rows(self, room: str, position: Position) -> tuple[Position, str]:
        with self._lock:
            flight = self._flights.get(room)
            if flight is None:
                leader = self._flights[room] = _Flight(position)
        if flight is None:
            try:
                leader.rows = self._door.rows(room)
            except BaseException as error:
                leader.error = error
                raise
            finally:
                with self._lock:
                    del self._flights[room]
                leader.done.set()
            return leader.position, leader.rows
        if not flight.done.wait(self._snapshot_timeout):
            raise Unavailable("The room's snapshot takes too long to read.")
        if flight.error is not None:
            raise Unavailable("The room's snapshot could not be read.")
        return flight.position, flight.rows

    def _spawn_mend(self, subscriptions: Sequence[Subscription]) -> None:
        try:
            self._spawn(lambda: self._mend(subscriptions))
        except Exception:
            log.exception("Mending gaps can't begin; the subscribers are reset")
            for subscription in subscriptions:
                self._hub.reset(subscription)

    def _mend(self, subscriptions: Sequence[Subscription]) -> None:
        """Bring holding subscriptions to where the room is, or reset them."""
        for subscription in subscriptions:
            try:
                mended = any(self._read_on(subscription) for _ in range(_MEND_TRIES))
            except Exception:
                log.exception("Mending a gap failed; the subscriber is reset")
                mended = False
            if not mended:
                self._hub.reset(subscription)

    def _read_on(self, subscription: Subscription) -> bool:
        position = subscription.position
        history = self._broker.history(subscription.room, position)
        if history.publications is None:
            return False
        return self._hub.resume(subscription, position, history.publications)


def _answer(
    ack: Callable[[str], Frame],
    room: str,
    position: Position,
    snapshot: str,
    present: Users | None,
) -> Frame:
    return ack(unrecovered(room, position, snapshot, present))
