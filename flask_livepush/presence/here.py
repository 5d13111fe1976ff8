"""This process's part in presence: who is in its rooms, and what it tells of others.

It knows no connection but by its id, no rule and no wire. Nobody who joins waits for
the store: one worker a process enters what has gathered, in one go, and sees to the
rest: signs of life, users who stay away, and what other nodes have entered.

A user's way, as a timeline:

1. The first connection of Ada joins, and the worker tells the subscribers here.
2. It enters her under this node. If no other node had her, the step is relayed
   to all nodes that serve the room, with the version of the list that it follows.
3. Her last connection leaves. For ``damping`` seconds nothing is told.
4. She is not back: the worker takes her out, and relays that if no other node has her.

A node that gets a step out of turn, or finds another version than its own at a sign of
life, reads the whole list and tells the difference. A node that dies is found by its
silence; whoever reads a list that has it in takes its users out.

A process that ends hands its users over, as another timeline:

1. Ada's connection goes, to another node, whose worker enters her there as well.
2. This node takes her out after ``damping`` seconds, or when it retires: she is on
   another one, so nobody is told.
3. It retires with users who have left it and came nowhere else yet. They stay in the
   lists; its last sign of life counts as long as they may be away, and no longer.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from ..errors import BrokerError
from ..logs import logger
from ..protocol.relayed import Moved, Users
from .base import SILENT, Change, Listing, PresenceStore

log = logger(__name__)

T = TypeVar("T")

#: Seconds between two signs of life.
BEAT = 3.0
#: Seconds that a move to another node may take, whatever ``damping`` is.
MOVE = 3.0
# Rooms that nobody asked about are compared at each so many signs of life.
_SELDOM = 8
# Seconds before what failed is tried again.
_AGAIN = 1.0
# Seconds between two lines of the log that say so.
_COMPLAINT = 60.0
# Rooms that are asked for together.
_BATCH = 500


class _Room:
    __slots__ = ("asked", "entered", "listed", "lock", "members", "sids", "version")

    def __init__(self) -> None:
        # Guards what is listed and its version, and the order of what is told.
        self.lock = threading.Lock()
        self.listed: dict[str, str] = {}
        self.version: str | None = None  # None: never read
        # The rest is guarded by the registry's lock.
        self.sids: dict[str, str | None] = {}
        self.members: dict[str, str] = {}
        self.entered: dict[str, str] = {}
        self.asked = False


class Presence:
    """Who is in the rooms of this process, and in the same rooms elsewhere.

    Args:
        store: Has the lists.
        relay: Passes a step to all nodes that serve a room.
        tell: Told of the users that joined a room, and the ids of those that left,
            under the room's lock: it must not block.
        spawn: Runs a function in the background.
        sleep: Waits for seconds.
        now: Seconds of a clock that never falls.
        damping: Seconds a user may be away without having left.
    """

    def __init__(
        self,
        store: PresenceStore,
        *,
        relay: Callable[[str, Moved], None],
        tell: Callable[[str, Users, Users], None],
        spawn: Callable[[Callable[[], None]], object],
        sleep: Callable[[float], object],
        now: Callable[[], float],
        damping: float,
    ) -> None:
        self._store = store
        self._relay = relay
        self._tell = tell
        self._spawn = spawn
        self._sleep = sleep
        self._now = now
        self._damping = damping
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self.node = secrets.token_urlsafe(9)
        # Guards everything below, and wakes the worker. A leaf: nothing is called
        # under it, and a room's lock may be held when it is taken.
        self._changed = threading.Condition(threading.Lock())
        self._rooms: dict[str, _Room] = {}
        self._joined: dict[str, set[str]] = {}
        self._dirty: set[str] = set()
        self._stale: set[str] = set()
        self._away: dict[tuple[str, str], float] = {}
        self._gone: dict[tuple[str, str], set[str]] = {}
        self._working = False
        self._closed = False
        self._retiring = False
        # The worker's own.
        self._alive: set[str] = set()
        self._beats = 0
        self._next_beat = float("-inf")
        self._complained = float("-inf")
        self._is_over = True

    # -- what connections do; never waits for the store, except for a first list ------

    def join(self, sid: str, room: str, user: str | None, info: str = "") -> None:
        """Note that a connection is in a room; None: its visitor is anonymous."""
        with self._guarded():
            here = self._rooms.setdefault(room, _Room())
            before = here.sids.get(sid)
            here.sids[sid] = user
            self._joined.setdefault(sid, set()).add(room)
            if before is not None and before != user:
                self._maybe_away(room, here, before)
            if here.version is None:
                self._stale.add(room)
            if user is not None:
                self._away.pop((room, user), None)
                if here.members.get(user) != info:
                    here.members[user] = info
                    self._dirty.add(room)
            self._wake()

    def leave(self, sid: str, room: str) -> None:
        """Note that a connection is in a room no more; being in none is no error."""
        with self._guarded():
            rooms = self._joined.get(sid, set())
            if room in rooms:
                rooms.discard(room)
                if not rooms:
                    del self._joined[sid]
                self._forget(sid, room)

    def drop(self, sid: str) -> None:
        """Note that a connection is gone from all rooms."""
        with self._guarded():
            for room in self._joined.pop(sid, ()):
                self._forget(sid, room)

    def show(self, room: str, use: Callable[[Users], T]) -> T:
        """Call with the users of a room while nothing else of it is told.

        Args:
            use: Writes the list; it must not block.
        """
        with self._guarded():
            here = self._rooms.get(room)
            if here is not None:
                here.asked = True
        if here is None:
            return use({})  # the connection has gone meanwhile
        if here.version is None:
            try:
                self._read([room])
            except BrokerError as error:
                log.error("Who is elsewhere in a room is not known yet: %s", error)
        with here.lock:
            with self._changed:
                users = here.listed | here.members
            return use(users)

    def users(self, room: str) -> dict[str, str]:
        """Return who is in a room, here and elsewhere, by id.

        Raises:
            BrokerError: The store does not answer.
        """
        listing = self._store.read([room])[0]
        if isinstance(listing, BrokerError):
            raise listing
        found = self._living(listing, self._store.beat(None) | {self.node})
        with self._guarded():
            here = self._rooms.get(room)
            return found | (here.members if here else {})

    def moved(self, room: str, step: Moved) -> None:
        """Take a step that a node has relayed."""
        with self._guarded():
            here = self._rooms.get(room)
            if here is None:
                return
        with here.lock:
            if step.version == here.version or _later(here.version, step.version):
                return
            if step.was == here.version:
                here.version = step.version
                users = {k: v for k, v in here.listed.items() if k not in step.left}
                self._settle(room, here, users | dict(step.joined))
                return
        with self._guarded():
            self._stale.add(room)
            self._wake()

    def expect_moves(self) -> None:
        """Give every user who leaves the time to come to another node."""
        with self._guarded():
            self._damping = max(self._damping, MOVE)

    def retire(self) -> None:
        """Hand over, soon, who is entered here, and end; nobody is connected any more.

        Never waits; :attr:`retired` says when it is done.
        """
        with self._guarded():
            self._retiring = True
            if self._rooms:
                self._wake()
            else:
                self._closed = True

    @property
    def retired(self) -> bool:
        """Whether all is handed over, as far as the store answers."""
        return self._closed

    def close(self) -> None:
        """End the worker; what was entered is left to the silence."""
        with self._guarded():
            self._closed = True
            self._changed.notify()

    def _guarded(self) -> threading.Condition:
        if self._pid != os.getpid():
            self._begin()  # after a fork this is another node
        return self._changed

    def _forget(self, sid: str, room: str) -> None:
        here = self._rooms[room]
        user = here.sids.pop(sid)
        if user is not None:
            self._maybe_away(room, here, user)
        elif not here.sids:
            self._dirty.add(room)  # for the worker to forget the room
        self._wake()

    def _maybe_away(self, room: str, here: _Room, user: str) -> None:
        if user not in here.sids.values():
            self._away[room, user] = self._now() + self._damping

    def _wake(self) -> None:
        if self._working or self._closed:
            self._changed.notify()
            return
        self._working = True
        try:
            self._spawn(self._work)
        except BaseException:
            self._working = False
            raise

    # -- the worker --------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._see_to_it()
        except BaseException:
            # It is killed; without a worker the users here would be taken for gone.
            with self._changed:
                self._working = False
                if self._rooms and not self._closed:
                    self._wake()
            raise

    def _see_to_it(self) -> None:
        while True:
            try:
                self.step()
                self._rejoice()
            except BrokerError as error:
                self._complain(error)
                self._sleep(_AGAIN)
            except Exception:
                log.exception("Seeing to presence failed; going on")
                self._sleep(_AGAIN)
            with self._changed:
                if self._closed or not self._rooms:
                    self._working = False
                    return
                due = min([self._next_beat, *self._away.values()])
                wait = due - self._now()
                if wait > 0 and not (self._dirty or self._stale or self._retiring):
                    self._changed.wait(wait)

    def _complain(self, error: BrokerError) -> None:
        now = self._now()
        if now - self._complained >= _COMPLAINT:
            self._complained, self._is_over = now, False
            log.error("Who is where is not told to other processes: %s", error)

    def _rejoice(self) -> None:
        if not self._is_over:
            self._is_over = True
            log.warning("Who is where is told to other processes again")

    def step(self) -> None:
        """Do what is due.

        Raises:
            BrokerError: The store does not answer; what was due still is.
        """
        self._tell_own()
        away: BrokerError | None = None
        try:
            if self._now() >= self._next_beat:
                self._beat()
        except BrokerError as error:
            away = error  # of several servers, perhaps the one that has the nodes alone
        away = self._enter() or away
        with self._changed:
            stale = [room for room in self._stale if room in self._rooms]
            self._stale.clear()
        try:
            self._read(stale)
        except BrokerError as error:
            away = error
        except BaseException:
            with self._changed:
                self._stale.update(stale)
            raise
        away = self._enter() or away
        if away is not None:
            raise away
        with self._changed:
            retires = self._retiring
        if retires:
            self._hand_over()
            with self._changed:
                self._closed = True

    def _tell_own(self) -> None:
        """Tell who came here, all that have gathered at once, whatever the store does.

        Told one by one, a thousand that come back at once would be a million frames.
        """
        with self._changed:
            dirty = [(name, self._rooms.get(name)) for name in self._dirty]
        for name, here in dirty:
            if here is not None:
                with here.lock:
                    self._settle(name, here, dict(here.listed))

    def _beat(self) -> None:
        alive = self._store.beat(self.node)
        now = self._now()
        # Whoever was silent for so long itself may have been taken out.
        late = now - self._next_beat >= SILENT - BEAT
        self._next_beat = now + BEAT
        died, self._alive = self._alive - alive, alive
        seldom = late or self._beats % _SELDOM == 0
        self._beats += 1
        with self._changed:
            rooms = [
                (name, room.version)
                for name, room in self._rooms.items()
                if room.version is not None and (room.asked or seldom)
            ]
            if died:
                self._stale.update(self._rooms)
        for batch in _batches(rooms):
            found = self._store.versions([name for name, _ in batch])
            differing = {
                name
                for (name, known), version in zip(batch, found, strict=True)
                if version != known
            }  # also where it is not known: it is read when that can be
            with self._changed:
                self._stale |= differing

    def _enter(self) -> BrokerError | None:
        """Enter who came, and take out who stayed away or was on a node that died.

        Returns:
            What failed in some of the rooms, whose turn comes again.

        Raises:
            BrokerError: The store does not answer, for any of them.
        """
        changes = self._changes()
        failed: BrokerError | None = None
        for batch in _batches(changes):
            try:
                steps = self._store.change(batch)
            except BaseException:
                with self._changed:
                    self._dirty.update(change.room for change in changes)
                    self._stale.update(change.room for change in changes)
                raise
            for change, step in zip(batch, steps, strict=True):
                if isinstance(step, BrokerError):
                    failed = step
                    with self._changed:
                        self._dirty.add(change.room)
                        self._stale.add(change.room)
                    continue
                self._entered(change)
                if step.was != step.version:
                    self._announce(change.room, step)
            if all(isinstance(step, BrokerError) for step in steps) and failed:
                raise failed
        return failed

    def _changes(self) -> list[Change]:
        now = self._now()
        changes = []
        with self._changed:
            for (name, user), due in list(self._away.items()):
                if due <= now:
                    del self._away[name, user]
                    if self._rooms[name].members.pop(user, None) is not None:
                        self._dirty.add(name)
            for name in self._dirty:
                room = self._rooms.get(name)
                if room is None:
                    continue
                joined = {
                    user: info
                    for user, info in room.members.items()
                    if room.entered.get(user) != info
                }
                left = tuple(user for user in room.entered if user not in room.members)
                if joined or left:
                    changes.append(Change(name, self.node, joined, left))
                elif not room.sids and not room.members:
                    del self._rooms[name]
            self._dirty.clear()
            gone, self._gone = self._gone, {}
        changes += [
            Change(name, node, left=tuple(users))
            for (name, node), users in gone.items()
        ]
        return changes

    def _entered(self, change: Change) -> None:
        if change.node != self.node:
            return
        with self._changed:
            room = self._rooms[change.room]
            room.entered.update(change.joined)
            for user in change.left:
                room.entered.pop(user, None)
            if not room.sids and not room.members and not room.entered:
                del self._rooms[change.room]

    def _hand_over(self) -> None:
        """Take out who is on another node too, and give the others their time."""
        with self._changed:
            rooms = [name for name, room in self._rooms.items() if room.entered]
            dues = self._away.values()
            lasts = max(dues, default=self._now() + self._damping) - self._now()
        alive = self._store.beat(self.node)
        remain = False
        for batch in _batches(rooms):
            changes = []
            for name, listing in zip(batch, self._store.read(batch), strict=True):
                if isinstance(listing, BrokerError):
                    remain = True
                    continue
                mine = listing.entries.get(self.node, {})
                elsewhere = self._living(listing, alive)
                moved = tuple(user for user in mine if user in elsewhere)
                remain = remain or len(moved) < len(mine)
                if moved:
                    changes.append(Change(name, self.node, left=moved))
            for change, step in zip(changes, self._store.change(changes), strict=True):
                if isinstance(step, BrokerError):
                    remain = True
                else:
                    self._announce(change.room, step)
        self._store.beat(self.node, lasts=max(0.0, lasts) if remain else 0.0)

    def _announce(self, room: str, step: Moved) -> None:
        try:
            self._relay(room, step)
        except BrokerError as error:
            # Whoever misses it finds another version at the next sign of life.
            log.warning("A step of presence was not relayed: %s", error)

    # -- lists -------------------------------------------------------------------------

    def _read(self, rooms: Sequence[str]) -> None:
        failed: BrokerError | None = None
        for batch in _batches(rooms):
            listings: dict[str, Listing] = {}
            for name, answer in zip(batch, self._store.read(batch), strict=True):
                if isinstance(answer, BrokerError):
                    failed = answer
                    with self._changed:
                        self._stale.add(name)
                else:
                    listings[name] = answer
            alive = self._alive | {self.node}
            if any(
                node not in alive
                for found in listings.values()
                for node in found.entries
            ):
                # A node gives a sign of life before it enters anybody: asked after the
                # list was read, who is not among them is gone.
                alive = self._store.beat(None) | {self.node}
            for name, listing in listings.items():
                self._take(name, listing, alive)
        if failed is not None:
            raise failed

    def _take(self, name: str, listing: Listing, alive: set[str]) -> None:
        with self._guarded():
            here = self._rooms.get(name)
            if here is None:
                return
            for node, users in listing.entries.items():
                if node not in alive:
                    self._gone[name, node] = set(users)
            # What the store has lost is entered again.
            known = listing.entries.get(self.node, {})
            lost = [user for user in here.entered if user not in known]
        with here.lock:
            if _later(here.version, listing.version):
                return
            here.version = listing.version
            self._settle(name, here, self._living(listing, alive))
        if lost:
            with self._guarded():
                for user in lost:
                    here.entered.pop(user, None)
                self._dirty.add(name)

    def _living(self, listing: Listing, alive: set[str]) -> dict[str, str]:
        return {
            user: info
            for node, users in sorted(listing.entries.items())
            if node in alive and node != self.node
            for user, info in users.items()
        }

    def _settle(self, name: str, here: _Room, users: dict[str, str]) -> None:
        """Tell what is different from what was told; the room's lock is held."""
        with self._changed:
            users |= here.members
        joined = {u: info for u, info in users.items() if here.listed.get(u) != info}
        left = {u: info for u, info in here.listed.items() if u not in users}
        here.listed = users
        if joined or left:
            self._tell(name, joined, left)


def _later(version: str | None, other: str) -> bool:
    """Say whether a version is a later one of the same epoch as another."""
    if not version or not other:
        return False
    epoch, _, number = version.rpartition(":")
    other_epoch, _, other_number = other.rpartition(":")
    if not (number.isdecimal() and other_number.isdecimal()):
        return False  # what others have written
    return epoch == other_epoch and int(number) > int(other_number)


def _batches(things: Sequence[T]) -> Iterable[Sequence[T]]:
    for start in range(0, len(things), _BATCH):
        yield things[start : start + _BATCH]
