"""The index of rooms: all that somebody may hold a position of, in parts.

Who tells all rooms something has their names from here. It must never lose one of them
silently, and knows nothing of what they have published. Times are Redis's own: a
process whose clock is wrong, or an entry that others have made, is no room's business.

A room is entered by whoever learns where it stands, and again with every check of
those who serve it. If it has an epoch and is not in the index, then the index has lost
it, and nobody knows what it was not told meanwhile: its epoch ends.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import BrokerError, BrokerUnavailable, InvalidRoom
from ..logs import logger
from ..protocol.rooms import check_room_name
from .redis_format import Names
from .redis_servers import Command, Script, Servers, Words, WrongType
from .redis_url import Address

log = logger(__name__)

# Rooms are written into the index again after this many seconds.
AGAIN = 3600.0
# Seconds for which a server that was away is not asked again where rooms are entered: a
# view waits with them.
_PAUSE = 30.0
_MAX_KNOWN = 100_000
# Rooms that are asked about together.
_BATCH = 500
_LOG_AGAIN = 60.0


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index says of a room.

    Args:
        token: Another one each time that all rooms are told something.
        was: Whether the room was in it before.
    """

    token: str
    was: bool


class RoomIndex:
    """The index of one application's rooms.

    Args:
        servers: Where Redis is.
        keys: The names of its keys.
        keep: Seconds that a room is kept after its last use, if it has no epoch then.
        now: Seconds of a clock that never falls.
        corrupt: Told of each thing in it that is none of ours.
    """

    def __init__(
        self,
        servers: Servers,
        keys: Names,
        *,
        keep: float,
        now: Callable[[], float],
        corrupt: Callable[[], None],
    ) -> None:
        self._servers = servers
        self._keys = keys
        self._keep = int(keep)
        self._now = now
        self._corrupt = corrupt
        self._enter = Script("index.lua", head=None)
        self._list = Script("index_list.lua", head=None)
        self._prune = Script("index_prune.lua", head=None)
        # By room: its epoch, and when it was written into the index.
        self._known: dict[str, tuple[str, float]] = {}
        # By server: until when it is not asked, since it was away.
        self._paused: dict[Address | None, float] = {}
        self._logged = float("-inf")

    # -- entering --------------------------------------------------------------------

    def knows(self, room: str) -> bool:
        """Say whether this process has entered a room, not long ago."""
        known = self._known.get(room)
        return known is not None and self._now() - known[1] < AGAIN

    def enter(self, rooms: Iterable[str], *, make: bool = True) -> dict[str, Entry]:
        """Enter rooms; return what the index says of those whose part answers.

        Args:
            make: False: a room that is not in it is not entered.
        """
        parts: dict[str, list[str]] = {}
        for room in rooms:
            parts.setdefault(self._keys.index(room), []).append(room)
        parts = {key: found for key, found in parts.items() if not self._waits(key)}
        commands = [
            self._command(
                self._enter, key, secrets.token_urlsafe(9), int(make), *members
            )
            for key, members in parts.items()
        ]
        entries: dict[str, Entry] = {}
        for (key, members), reply in zip(
            parts.items(), self._ask(commands), strict=True
        ):
            if isinstance(reply, BrokerError):
                log.debug("A part of the index of rooms is away: %s", reply)
                self._pause(key)
                continue
            self._paused.pop(self._servers.address(key), None)
            token = reply[0].decode()
            for room, was in zip(members, reply[1:], strict=True):
                entries[room] = Entry(token, bool(was))
        return entries

    def entered(self, room: str, epoch: str) -> None:
        """Take notice that a room is in the index, and of its epoch."""
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[room] = (epoch, self._now())

    def moved(self, room: str, epoch: str) -> bool:
        """Say whether a room that was entered has another epoch: Redis lost something.

        Perhaps the index too, so that the room is known no more.
        """
        known = self._known.get(room)
        if known is None or known[0] == epoch:
            return False
        self._known.pop(room, None)
        return True

    def ping(self) -> None:
        """Return if one of the servers answers.

        Raises:
            BrokerUnavailable: None of them does.
        """
        keys = {self._servers.address(key): key for key in self._keys.indexes}
        pings = [Command(key, ("PING",)) for key in keys.values()]
        replies = self._servers.run_each(pings, apart=True)
        errors = [reply for reply in replies if isinstance(reply, BrokerError)]
        if len(errors) == len(replies):
            raise errors[0]

    def _still_away(self, keys: Sequence[str]) -> dict[Address | None, BrokerError]:
        """Return those of the servers that were away and still are, and why.

        They are given a moment only, as what others answer waits meanwhile.
        """
        asked = {self._servers.address(key): key for key in keys}
        asked = {where: key for where, key in asked.items() if where in self._paused}
        pings = [Command(key, ("PING",)) for key in asked.values()]
        replies = self._servers.run_each(pings, apart=True) if pings else []
        return {
            where: reply
            for where, reply in zip(asked, replies, strict=True)
            if isinstance(reply, BrokerError)
        }

    def _pause(self, key: str) -> None:
        self._paused[self._servers.address(key)] = self._now() + _PAUSE

    def _waits(self, key: str) -> bool:
        until = self._paused.get(self._servers.address(key))
        return until is not None and self._now() < until

    # -- listing ---------------------------------------------------------------------

    def names(
        self, parts: Collection[int], *, patient: bool
    ) -> tuple[set[str], dict[int, BrokerError]]:
        """Return the names of all rooms in some parts, which are pruned.

        Args:
            parts: Their numbers.

        Returns:
            The names; and of each part that can't be read why not.
        """
        numbers = sorted(parts)
        keys = [self._keys.indexes[number] for number in numbers]
        away = self._still_away(keys)
        asked = [key for key in keys if self._servers.address(key) not in away]
        commands = [
            self._command(self._list, key, secrets.token_urlsafe(9), self._keep)
            for key in asked
        ]
        found_in: dict[str, Any] = dict(
            zip(asked, self._ask(commands, patient=patient), strict=True)
        )
        replies: list[Any] = [
            found_in[key] if key in found_in else away[self._servers.address(key)]
            for key in keys
        ]
        names: set[str] = set()
        failed: dict[int, BrokerError] = {}
        for number, key, reply in zip(numbers, keys, replies, strict=True):
            if isinstance(reply, BrokerError):
                failed[number] = reply
                if isinstance(reply, BrokerUnavailable):
                    self._pause(key)
                continue
            found, foreign = _read(reply[0])
            if foreign:
                self._remove_entries(key, foreign)
            gone = self._gone(key, _read(reply[1])[0])
            names |= found - gone
        return names, failed

    def _gone(self, key: str, old: set[str]) -> set[str]:
        """Take out those of the old entries whose rooms are no more; return them."""
        gone: set[str] = set()
        for room, found in self._types(sorted(old)).items():
            if found == b"none":
                gone.add(room)
            else:
                # Whoever has written its last use had another clock.
                self.enter([room])
        members = sorted(gone)
        for start in range(0, len(members), _BATCH):
            batch = members[start : start + _BATCH]
            self._ask([self._command(self._prune, key, self._keep, *batch)])
        return gone

    def _types(self, rooms: Sequence[str]) -> dict[str, Any]:
        types: dict[str, Any] = {}
        for start in range(0, len(rooms), _BATCH):
            batch = rooms[start : start + _BATCH]
            metas = [self._keys.room(room).meta for room in batch]
            commands = [Command(meta, ("TYPE", meta)) for meta in metas]
            replies = self._servers.run_each(commands, patient=True)
            types.update(zip(batch, replies, strict=True))
        return types

    def _remove_entries(self, key: str, members: Sequence[bytes]) -> None:
        self._say("It has entries that are no names of rooms; they are removed")
        for start in range(0, len(members), _BATCH):
            words: Words = ("ZREM", key, *members[start : start + _BATCH])
            self._servers.run_each([Command(key, words)], patient=True)

    # -- asking ----------------------------------------------------------------------

    def _command(self, script: Script, key: str, *args: str | int) -> Command:
        return Command(key, (key, self._keys.mark(key), *args), script, 2)

    def _ask(self, commands: Sequence[Command], *, patient: bool = False) -> list[Any]:
        """Return the answers, and errors among them; foreign keys are removed first."""
        if not commands:
            return []
        replies = self._servers.run_each(commands, patient=patient, apart=True)
        wrong = [n for n, r in enumerate(replies) if isinstance(r, WrongType)]
        if wrong:
            self._say("A key of it is of another type; it is removed")
            self._known.clear()  # whoever is in it knows of no more than that
            for number in wrong:
                self._remove_foreign(commands[number].key)
            again = self._servers.run_each(
                [commands[n] for n in wrong], patient=patient
            )
            for number, reply in zip(wrong, again, strict=True):
                replies[number] = reply
        return replies

    def _remove_foreign(self, key: str) -> None:
        for name, kind in ((key, b"zset"), (self._keys.mark(key), b"hash")):
            if self._servers.run_each([Command(key, ("TYPE", name))]) != [kind]:
                self._servers.run_each([Command(key, ("DEL", name))])

    def _say(self, what: str) -> None:
        self._corrupt()
        if self._now() - self._logged >= _LOG_AGAIN:
            self._logged = self._now()
            log.error("The index of rooms is not as it was written. %s", what)


def _read(members: Sequence[bytes]) -> tuple[set[str], list[bytes]]:
    """Divide entries into names of rooms and what is none."""
    names: set[str] = set()
    foreign = []
    for member in members:
        try:
            names.add(check_room_name(member.decode()))
        except (UnicodeDecodeError, InvalidRoom):
            foreign.append(member)
    return names, foreign


def unavailable(failed: dict[int, BrokerError]) -> BrokerUnavailable | None:
    """Return an error that says that parts can't be read; None: all were."""
    for error in failed.values():
        if isinstance(error, BrokerUnavailable):
            return error
        return BrokerUnavailable(f"A part of the index of rooms can't be read: {error}")
    return None
