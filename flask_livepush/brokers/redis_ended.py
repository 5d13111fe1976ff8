"""What is asked of Redis about logins: who has ended, who is to be asked again.

``lua/logins*.lua`` say what is in which key. It keeps nothing itself; when Redis is
asked, and what follows from the answer, is for :mod:`.redis_logins`.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..errors import BrokerError, BrokerUnavailable
from .ended_mirror import MOST
from .logins import Ended, Recheck
from .redis_format import Names
from .redis_servers import Command, Script, Servers

# Entries that are read at once; ids and orders that one entry has at most.
_READ = 1000
_IDS = 100
_ORDERS = 100
# Orders that are kept at most, and for how many milliseconds.
_MOST_ORDERS = 10_000
_ORDERS_MS = 3_600_000
# For how many milliseconds one process may write back before another one may.
_LOCKED_MS = 2000
# An id; what later versions may say of it follows.
_ID = re.compile(rb"([A-Za-z0-9_-]{22})(\+?)(?:@(\d{1,12}))?(?![A-Za-z0-9_-])")


@dataclass(frozen=True, slots=True)
class Place:
    """Up to where a process has read.

    Args:
        epoch: In which epoch; empty: it has read nothing.
        ended: The last entry of ended logins.
        order: The last entry of orders.
    """

    epoch: str = ""
    ended: str = ""
    order: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """What Redis has said.

    Args:
        place: Up to where this goes.
        begun: Whether another epoch has begun; then there is nothing else in here.
        wait: Seconds for which this can't be all, for whoever knows nothing itself.
        more: Whether there is more to read.
        ended: The logins, each with how many seconds ago it ended.
        orders: What other processes want asked again.
        missed: Whether orders were missed.
        corrupt: How much was there that is none of ours.
    """

    place: Place
    begun: bool
    wait: float
    more: bool
    ended: Sequence[tuple[Ended, float]] = ()
    orders: Sequence[Recheck] = ()
    missed: bool = False
    corrupt: int = 0


class RedisEnded:
    """The ended logins of an application in Redis.

    Args:
        servers: Where Redis is.
        prefix: What stands before all names; whoever shares it shares logins.
        node: This process, in its orders.
        lifetime: Seconds for which ended logins are kept.
        most: How many entries of them, at most.
    """

    def __init__(
        self,
        servers: Servers,
        *,
        prefix: str,
        node: str,
        lifetime: float,
        most: int = MOST,
    ) -> None:
        self._servers = servers
        self._names = Names(prefix)
        self.keys = self._names.logins
        self._node = node
        self._lifetime_ms = math.ceil(lifetime * 1000)
        self._most = most
        self._reading = Script("logins_read.lua", head="logins.lua")
        self._writing = Script("logins_write.lua", head="logins.lua")

    def read(
        self, place: Place, *, listens: bool, servers: Servers | None = None
    ) -> Reading:
        """Read what there is since a place.

        Args:
            listens: Whether this process has subscribed to the channel.
            servers: Which connections to use.

        Raises:
            BrokerError: Redis does not answer, or refuses.
        """
        args = self._args(place, listens=listens)
        asked = [*args, place.order, _READ]
        reply = self._run(self._reading, asked, servers)
        epoch, now, wait = reply[0].decode(), int(reply[1]), int(reply[2]) / 1000
        if len(reply) < 6:
            return Reading(Place(epoch), begun=True, wait=wait, more=True)
        last, text, order, gap, told = reply[4:]
        ended, corrupt = _read_ended(text, now)
        orders, others = self._read_orders(told)
        return Reading(
            Place(epoch, last.decode(), order.decode()),
            begun=False,
            wait=wait,
            more=bool(reply[3]),
            ended=ended,
            orders=orders,
            missed=bool(gap),
            corrupt=corrupt + others,
        )

    def write(
        self,
        ended: Iterable[tuple[Ended, float]],
        orders: Iterable[Recheck] = (),
        *,
        place: Place,
        listens: bool,
        servers: Servers | None = None,
        strict: bool = False,
    ) -> bool:
        """Write ended logins, each with how many seconds ago it ended, and orders.

        Args:
            place: Up to where this process has read.
            listens: Whether it has subscribed to the channel.
            servers: Which connections to use.
            strict: Write nothing where the place is of another epoch.

        Returns:
            Whether the place is of the present epoch, or of none.

        Raises:
            BrokerError: Redis does not answer, or refuses; it may be written.
        """
        entries = list(_entries(ended))
        args = self._args(Place(place.epoch), listens=listens)
        asked = [*args, self._most, _MOST_ORDERS, _ORDERS_MS, self._node, int(strict)]
        asked += [len(entries), *entries, *_order_entries(orders)]
        reply = self._run(self._writing, asked, servers)
        return not place.epoch or reply.decode() == place.epoch

    def lock(self, servers: Servers) -> bool:
        """Say whether it is this process's turn to write back.

        Raises:
            BrokerError: Redis does not answer, or refuses.
        """
        key = self.keys.lock
        words = ("SET", key, self._node, "NX", "PX", _LOCKED_MS)
        if servers.run([Command(key, words)])[0]:
            return True
        return bool(servers.run([Command(key, ("GET", key))])[0] == self._node.encode())

    def keep_lock(self, servers: Servers) -> None:
        """Go on having the turn."""
        key = self.keys.lock
        servers.run([Command(key, ("PEXPIRE", key, _LOCKED_MS))])

    def unlock(self, servers: Servers) -> None:
        """Let others have their turn."""
        servers.run([Command(self.keys.lock, ("DEL", self.keys.lock))])

    def spend(self, ticket: str, seconds: float) -> bool:
        """Say whether a ticket's number is given for the first time.

        Raises:
            BrokerUnavailable: Nobody can say.
        """
        key = self._names.ticket(ticket)
        words = ("SET", key, 1, "NX", "PX", max(1, math.ceil(seconds * 1000)))
        try:
            return self._servers.run([Command(key, words)])[0] is not None
        except BrokerUnavailable:
            raise
        except BrokerError as error:
            raise BrokerUnavailable(str(error)) from error

    def _args(self, place: Place, *, listens: bool) -> list[str | int]:
        sharded = self._servers.sharded
        return [
            self.keys.meta,
            self.keys.ended,
            self.keys.orders,
            secrets.token_urlsafe(9),
            place.epoch,
            place.ended,
            self._lifetime_ms,
            "SPUBLISH" if sharded else "PUBLISH",
            self.keys.channel,
            int(listens),
        ]

    def _run(
        self, script: Script, args: Sequence[str | int], servers: Servers | None
    ) -> Any:
        command = Command(self.keys.ended, tuple(args), script, 3)
        return (servers or self._servers).run([command])[0]

    def _read_orders(self, told: Sequence[bytes]) -> tuple[list[Recheck], int]:
        orders: list[Recheck] = []
        corrupt = 0
        own = self._node.encode()
        for node, text in zip(told[::2], told[1::2], strict=True):
            if node == own:
                continue  # this process was told at once
            try:
                orders += [_order(entry) for entry in json.loads(text)]
            except (ValueError, TypeError, RecursionError):
                corrupt += 1
        return orders, corrupt


def _order(entry: Any) -> Recheck:
    user, room, close, *_ = entry  # later versions may say more
    for name in (user, room):
        if name is not None and not isinstance(name, str):
            raise TypeError("a name is no text")
    if not isinstance(close, int):
        raise TypeError("it is neither true nor false")
    return Recheck(user, room, bool(close))


def _read_ended(text: bytes, now: int) -> tuple[list[tuple[Ended, float]], int]:
    """Return the logins in lines of entries, and how many of them are none of ours."""
    found: list[tuple[Ended, float]] = []
    corrupt = 0
    for line in text.split(b"\n") if text else ():
        stamp, _, logins = line.partition(b" ")
        good = len(found)
        whole = stamp.isdigit() and len(stamp) < 16
        for word in logins.split(b" ") if whole else ():
            match = _ID.match(word)
            if match is None:
                whole = False
                continue
            login, again, since = match.groups()
            at = int(stamp) if since is None else int(since) * 1000
            found.append((Ended(login.decode(), bool(again)), (now - at) / 1000))
        if not whole or len(found) == good:
            corrupt += 1
    return found, corrupt


def _entries(ended: Iterable[tuple[Ended, float]]) -> Iterator[str]:
    rest = iter(ended)
    while some := list(islice(rest, _IDS)):
        yield " ".join(_word(login, age) for login, age in some)


def _word(ended: Ended, age: float) -> str:
    # The script makes a time of it, by the only clock that all share.
    since = f"~{int(age)}" if age >= 1 else ""
    return f"{ended.login}{'+' if ended.again else ''}{since}"


def _order_entries(orders: Iterable[Recheck]) -> Iterator[str]:
    rest = iter(orders)
    while some := list(islice(rest, _ORDERS)):
        yield json.dumps([(each.user, each.room, each.close) for each in some])
