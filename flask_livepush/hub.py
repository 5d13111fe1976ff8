"""This process's rooms and subscribers, and the fan-out to them.

The hub knows no broker, no user and no wire: it hands frames to a :class:`Transport`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .errors import TooManyRooms, Unavailable
from .metrics import OFF, Metrics
from .protocol.publication import Position, Publication
from .protocol.relayed import Users, Whispered
from .protocol.subscription import Subscription

Frame = Any  # made by a transport and given back to it

# Connections that are remembered to be gone, for joins of theirs that are under way.
_MAX_GONE = 10_000


class Transport(Protocol):
    """Puts frames on connections.

    ``write`` never blocks, never raises for a connection that is gone, and keeps the
    order of the frames of one connection. What is droppable may be lost where a
    connection does not keep up; the hub's :meth:`Hub.evict` is called then.
    """

    def frame(self, room: str, epoch: str, publication: Publication) -> Frame:
        """Encode a publication once for all its subscribers."""

    def reset_frame(self, room: str) -> Frame:
        """Encode the request to come back with the position it has."""

    def revoked_frame(self, room: str, code: int) -> Frame:
        """Encode the notice that a connection may be in a room no more."""

    def whisper_frame(self, room: str, whisper: Whispered) -> Frame:
        """Encode a whisper once for all who hear it."""

    def presence_frame(self, room: str, joined: Users, left: Users) -> Frame:
        """Encode who came and went once for all who are told."""

    def write(
        self, sids: Sequence[str], frames: Sequence[Frame], *, droppable: bool = False
    ) -> None:
        """Put frames on each of the connections, in this order."""


class _Room:
    __slots__ = ("lock", "subscriptions")

    def __init__(self) -> None:
        # Guards the subscriptions, their state and the order of what is written to
        # them in this room.
        self.lock = threading.Lock()
        self.subscriptions: dict[str, Subscription] = {}


class Hub:
    """Who in this process is in which room.

    Args:
        transport: Where frames go.
        max_rooms: Rooms a subscriber may be in.
        max_held: Publications kept back for a subscriber that is still joining.
        opened: Called with a room's name when its first subscriber comes, under the
            registry's lock: it must not block.
        closed: The same, when its last one has gone.
        metrics: Counts subscriptions, deliveries and resets.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        max_rooms: int,
        max_held: int,
        opened: Callable[[str], None],
        closed: Callable[[str], None],
        metrics: Metrics = OFF,
    ) -> None:
        self._transport = transport
        self._max_rooms = max_rooms
        self._max_held = max_held
        self._opened = opened
        self._closed = closed
        self._metrics = metrics
        metrics.gauge("subscriptions", self._size)
        # Guards the two registries. Taken before a room's lock, never inside one.
        self._lock = threading.Lock()
        self._rooms: dict[str, _Room] = {}
        self._joined: dict[str, set[str]] = {}
        # Ids of connections are never given again.
        self._gone: dict[str, None] = {}

    def join(self, sid: str, room: str) -> Subscription:
        """Register a subscriber, holding back what arrives until :meth:`resume`.

        A subscriber that is in the room already starts anew.

        Raises:
            TooManyRooms: It is in as many rooms as it may be.
            Unavailable: Its connection is gone, or has been told that its login is.
        """
        subscription = Subscription(sid, room, max_held=self._max_held)
        with self._lock:
            if sid in self._gone:
                raise Unavailable("The connection has ended.")
            joined = self._joined.get(sid, set())
            if room not in joined and len(joined) >= self._max_rooms:
                raise TooManyRooms(
                    f"The connection is in {self._max_rooms} rooms already, the most "
                    "it may be in."
                )
            if room not in self._rooms:
                self._opened(room)
                self._rooms[room] = _Room()
            joined.add(room)
            self._joined[sid] = joined
            entry = self._rooms[room]
            with entry.lock:
                entry.subscriptions[sid] = subscription
        return subscription

    def leave(self, sid: str, room: str) -> None:
        """Forget a subscriber of a room; nothing happens if it is none."""
        with self._lock:
            if room in self._joined.get(sid, ()):
                self._forget(sid, room)

    def drop(self, sid: str) -> None:
        """Forget a subscriber in all its rooms: its connection is gone.

        For good: a join of its that is under way does not bring it back, and nothing of
        any room is written to it after this.
        """
        with self._lock:
            self._gone[sid] = None
            if len(self._gone) > _MAX_GONE:
                del self._gone[next(iter(self._gone))]
            for room in self._joined.pop(sid, ()):
                self._remove(sid, room)

    def revoke(
        self, sid: str, room: str, code: int, *, only: Subscription | None = None
    ) -> bool:
        """End a subscription that may not be any more, and tell the connection why.

        In one step: nothing of the room is written to it afterwards, neither what was
        held for it nor the history that a gap or a join under way is reading. Whoever
        is still joining is told by its join, which finds itself ended.

        Args:
            code: Why, as an error's code.
            only: The subscription that is meant; another of the same connection, which
                has joined anew meanwhile, stays.

        Returns:
            Whether there was such a subscription.
        """
        with self._lock:
            entry = self._rooms.get(room)
            found = None if entry is None else entry.subscriptions.get(sid)
            if found is None or (only is not None and found is not only):
                return False
            self._forget(sid, room, code=code)
        return True

    def rooms_of(self, sid: str) -> list[str]:
        """Return the names of the rooms that a connection is in, or is joining."""
        with self._lock:
            return list(self._joined.get(sid, ()))

    def subscribers_of(self, room: str) -> list[str]:
        """Return the ids of the connections that are in a room, or are joining it."""
        entry = self._rooms.get(room)
        if entry is None:
            return []
        with entry.lock:
            return list(entry.subscriptions)

    def _forget(self, sid: str, room: str, *, code: int | None = None) -> None:
        joined = self._joined[sid]
        joined.discard(room)
        if not joined:
            del self._joined[sid]
        self._remove(sid, room, code=code)

    def _remove(self, sid: str, room: str, *, code: int | None = None) -> None:
        entry = self._rooms[room]
        with entry.lock:
            ended = entry.subscriptions.pop(sid)
            empty = not entry.subscriptions
            ended.revoked = code is not None
            # A join that has had no answer yet gets the code as its answer.
            if code is not None and ended.begun:
                self._transport.write(
                    [sid], [self._transport.revoked_frame(room, code)]
                )
        if empty:
            del self._rooms[room]
            self._closed(room)

    def resume(
        self,
        subscription: Subscription,
        position: Position,
        publications: Sequence[Publication],
        *,
        first: Frame | None = None,
        presence: bool = False,
    ) -> bool:
        """Let a subscription go live from a position that is vouched for.

        Args:
            publications: What the history has after the position, to be written.
            first: A frame that must precede all others, such as the ack.
            presence: With it: whether the subscriber is told of who comes and goes.

        Returns:
            Whether it is live; False if what was held does not follow, so that its
            position must be vouched for again, or if the subscriber has gone.
        """
        entry = self._rooms.get(subscription.room)
        if entry is None:
            return False
        with entry.lock:
            if entry.subscriptions.get(subscription.sid) is not subscription:
                return False
            ready = subscription.resume(position, publications)
            frames = [
                self._transport.frame(subscription.room, subscription.position.epoch, p)
                for p in ready
            ]
            if first is not None:
                subscription.answered = True
                subscription.presence = presence
                frames.insert(0, first)
            if frames:
                self._transport.write([subscription.sid], frames)
            return not subscription.holding

    def deliver(
        self, room: str, epoch: str, publications: Sequence[Publication]
    ) -> list[Subscription]:
        """Write publications to the room's subscribers; the broker's listener calls it.

        Returns:
            The subscriptions that found a gap and hold now.
        """
        entry = self._rooms.get(room)
        if entry is None:
            return []
        started = self._metrics.start()
        end = Position(epoch, publications[-1].offset)
        gaps = []
        with entry.lock:
            # Nearly always all of it may be written to nearly all.
            all_of_it: list[str] = []
            some_of_it: list[tuple[str, Sequence[Publication]]] = []
            for sid, subscription in entry.subscriptions.items():
                was_live = not subscription.holding
                ready = subscription.receive(epoch, publications, end)
                if ready is publications:
                    all_of_it.append(sid)
                elif ready:
                    some_of_it.append((sid, ready))
                if was_live and subscription.holding:
                    gaps.append(subscription)
            frames = {}
            if all_of_it or some_of_it:
                frames = {
                    p.offset: self._transport.frame(room, epoch, p)
                    for p in publications
                }
            if all_of_it:
                written = list(frames.values())
                self._transport.write(all_of_it, written, droppable=True)
            for sid, ready in some_of_it:
                written = [frames[publication.offset] for publication in ready]
                self._transport.write([sid], written, droppable=True)
            handed = len(entry.subscriptions) * len(publications)
        self._metrics.took("delivery_seconds", started)
        self._metrics.count("deliveries_total", amount=handed)
        return gaps

    def find(self, sid: str, room: str) -> Subscription | None:
        """Return a connection's subscription of a room, if it has one."""
        entry = self._rooms.get(room)
        return None if entry is None else entry.subscriptions.get(sid)

    def whisper(self, room: str, whisper: Whispered) -> None:
        """Write a whisper to the room's subscribers, but not to its sender."""
        self._tell(
            room,
            lambda: self._transport.whisper_frame(room, whisper),
            lambda one: one.answered and one.sid != whisper.sid,
        )

    def presence(self, room: str, joined: Users, left: Users) -> None:
        """Write who came and went to the subscribers that asked for it."""
        self._tell(
            room,
            lambda: self._transport.presence_frame(room, joined, left),
            lambda one: one.presence,
        )

    def _tell(
        self,
        room: str,
        make: Callable[[], Frame],
        hears: Callable[[Subscription], bool],
    ) -> None:
        entry = self._rooms.get(room)
        if entry is None:
            return
        with entry.lock:
            sids = [sid for sid, one in entry.subscriptions.items() if hears(one)]
            if sids:
                self._transport.write(sids, [make()], droppable=True)

    def hold(self, room: str) -> list[Subscription]:
        """Make the room's subscriptions hold; return those that were live."""
        entry = self._rooms.get(room)
        if entry is None:
            return []
        with entry.lock:
            return [s for s in entry.subscriptions.values() if s.doubt()]

    def reset(self, subscription: Subscription) -> None:
        """End a subscription whose position nobody can vouch for, and tell it so."""
        sid, room = subscription.sid, subscription.room
        with self._lock:
            entry = self._rooms.get(room)
            if entry is None:
                return
            with entry.lock:
                if entry.subscriptions.get(sid) is not subscription:
                    return  # it left, or has joined anew meanwhile
                self._transport.write([sid], [self._transport.reset_frame(room)])
            self._forget(sid, room)
        self._metrics.count("resets_total")

    def evict(self, sid: str, then: Callable[[], None]) -> None:
        """End all subscriptions of a connection that has lost something; tell it so.

        Args:
            then: Called under the registry's lock when nothing is written to the
                connection any more that it could miss something before.
        """
        with self._lock:
            rooms = list(self._joined.get(sid, ()))
            self._joined.pop(sid, None)
            for room in rooms:
                self._remove(sid, room)
            then()
        for room in rooms:
            self._transport.write([sid], [self._transport.reset_frame(room)])
        self._metrics.count("resets_total", amount=len(rooms))

    def _size(self) -> int:
        with self._lock:
            return sum(map(len, self._joined.values()))
