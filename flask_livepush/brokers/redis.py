"""The broker on Redis or Valkey: one order per room for all processes.

It must not be asked for anything that Redis does not decide: offsets, epochs and what
is stale are found by ``lua/publish.lua``, in one step, on the server that has the room.

**Delivery.** A process subscribes to one channel for each room that its own
subscribers are in. What arrives is compared with the last position delivered in that
room: what was seen is dropped, what follows is delivered, and before a hole the history
is read. So a room's subscribers get each publication once and in order from here, or
the listener is told to mend.

**Holes.** A connection that was lost may have missed anything. When its channels are
subscribed again, each room's position is read and compared; so it is every
``check_interval`` seconds, for what is lost without a sign.

**Failover.** Redis replicates asynchronously: a replica that takes over may lack the
last publications, and would give their offsets to others. Told as a timeline:

1. The primary gives offset 7 in epoch A, and dies before the replica has it.
2. The replica is promoted; for it the room stands at 6.
3. Somebody publishes. Offset 7 of epoch A would be a second one, and whoever has the
   first would take the room for unchanged.

Each promotion, and each start of a server from a file, which may lack the last second
as well, gives the server a new replication id. The scripts compare it with the one
that the room's last offset was given under, and begin a new epoch where it differs: at
3. the room begins anew, at B 1, and subscribers at A 7 are reset.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence

from ..errors import BrokerError, BrokerUnavailable, PublicationTooLarge
from ..logs import logger
from ..metrics import OFF, Metrics
from ..protocol.publication import (
    ONCE,
    Attempt,
    Draft,
    Parcel,
    Position,
    Publication,
    check_sizes,
)
from .base import Broker, History, Listed, Listener
from .redis_format import RELAYED, published_at, read_message
from .redis_reader import Reader
from .redis_rooms import RedisRooms
from .redis_servers import QUICK, Servers
from .redis_topologies import servers_of
from .redis_url import Address, parse

log = logger(__name__)

_BATCH = 500


class _Served:
    """A room that this process has subscribers in."""

    __slots__ = ("channel", "confirmed", "lock", "name", "position", "reader")

    def __init__(self, name: str, channel: str, reader: Reader) -> None:
        self.name = name
        self.channel = channel
        self.reader = reader
        # Guards the position and the order of what is delivered.
        self.lock = threading.Lock()
        # What the listener has been given or needs not be given; None: not known yet.
        self.position: Position | None = None
        self.confirmed = threading.Event()


class RedisBroker(Broker):
    """A broker whose rooms live in Redis.

    A connection is made when it is needed. Each that listens has a thread or greenlet,
    begun by the first subscription.

    Args:
        servers: Where Redis is.
        prefix: The application's name, before all keys and channels.
        size: Publications kept per room.
        ttl: Seconds they are kept, and the stamps of rows.
        spawn: Runs a function in the background.
        sleep: Waits for seconds.
        now: Seconds of a clock that never falls.
        max_bytes: What a publication may have, its event and data together.
        max_rows: Rows per room whose stamps are kept.
        check_interval: Seconds between two looks for holes.
        confirm_within: Seconds a join waits for its subscription.
        dice: A random number from 0 to 1; by default of a generator of its own.
        metrics: Counts what is late, lost or stale, and outages.
        wall: Seconds since 1970.
    """

    def __init__(
        self,
        servers: Servers,
        *,
        prefix: str,
        size: int,
        ttl: float,
        spawn: Callable[[Callable[[], None]], object],
        sleep: Callable[[float], object],
        now: Callable[[], float] = time.monotonic,
        max_bytes: int = 256 * 1024,
        max_rows: int = 10_000,
        check_interval: float = 30.0,
        confirm_within: float = 5.0,
        dice: Callable[[], float] | None = None,
        metrics: Metrics = OFF,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._servers = servers
        self._spawn = spawn
        self._sleep = sleep
        self._now = now
        self.max_bytes = max_bytes
        self._check_interval = check_interval
        self._confirm_within = confirm_within
        self._dice = dice or random.Random().random
        self._metrics = metrics
        self._wall = wall
        self._listener: Listener | None = None
        #: What went wrong and was put right: ``corrupt``, ``reread`` (publications that
        #: were not received), ``mended`` (rooms), ``interrupted`` (connections).
        self.counts: Counter[str] = Counter()
        self._rooms = RedisRooms(
            servers,
            prefix=prefix,
            size=size,
            ttl=ttl,
            max_rows=max_rows,
            now=now,
            counts=self.counts,
            metrics=metrics,
        )
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()  # guards everything below
        self._served: dict[str, _Served] = {}
        self._channels: dict[str, _Served] = {}
        self._readers: dict[Address | None, Reader] = {}
        self._checks: dict[Reader, float] = {}
        # Readers without a connection, and until when that has been counted.
        self._outages: dict[Reader, float] = {}

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    def publish(
        self, room: str, drafts: Sequence[Draft], *, attempt: Attempt = ONCE
    ) -> Position:
        check_sizes(drafts, self.max_bytes)
        return self._rooms.publish(room, drafts, attempt)

    def publish_all(
        self, parcels: Sequence[Parcel]
    ) -> Iterator[tuple[int, Position | Exception]]:
        fit = []
        for number, parcel in enumerate(parcels):
            try:
                check_sizes(parcel.drafts, self.max_bytes)
            except PublicationTooLarge as error:
                yield number, error
            else:
                fit.append((number, parcel))
        yield from self._rooms.publish_all(fit)

    def ping(self, room: str) -> None:
        self._rooms.ping(room)

    def relay(self, room: str, message: str) -> None:
        self._rooms.relay(room, message)

    def position(self, room: str, *, patient: bool = False) -> Position:
        return self._rooms.position(room, patient=patient)

    def history(self, room: str, since: Position) -> History:
        return self._rooms.history(room, since)

    def rooms(self, *, patient: bool = True) -> list[str]:
        found = self._rooms.all_names(patient=patient)
        with self._guarded():
            return list(found.union(self._served))

    def list_rooms(self, left: frozenset[int] | None = None) -> Listed:
        found, failed = self._rooms.names(left)
        with self._guarded():
            if left is None:
                found.update(self._served)
        return Listed(found, frozenset(failed), next(iter(failed.values()), None))

    def shard(self, room: str) -> Hashable:
        if self._servers.target.kind != "cluster":
            return None
        return self._servers.address(self._rooms.keys.room(room).meta)

    def subscribe(self, room: str) -> None:
        with self._guarded():
            if room in self._served:
                return
            channel = self._rooms.keys.room(room).channel
            reader = self._reader(self._servers.address(channel))
            served = _Served(room, channel, reader)
            self._served[room] = self._channels[channel] = served
            reader.look_at([channel])

    def confirm(self, room: str) -> None:
        with self._guarded():
            served = self._served.get(room)
        if served is not None and not served.confirmed.wait(self._confirm_within):
            raise BrokerUnavailable(
                f"{self._servers.target.url} did not confirm a subscription in "
                f"{self._confirm_within:g} s."
            )

    def unsubscribe(self, room: str) -> None:
        with self._guarded():
            served = self._served.pop(room, None)
            if served is not None:
                del self._channels[served.channel]
                served.confirmed.set()  # nobody has to wait for it any more
                served.reader.look_at([served.channel])

    def close(self) -> None:
        with self._guarded():
            for served in self._served.values():
                served.confirmed.set()
            self._served.clear()
            self._channels.clear()
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()
        self._servers.close()

    # -- what the readers tell; each in its own thread or greenlet -------------------

    def wants(self, reader: Reader, channel: str) -> bool:
        """Say whether the channel belongs to a room that is served by this reader."""
        served = self._channels.get(channel)
        return served is not None and served.reader is reader

    def subscribed(self, reader: Reader, channels: list[str]) -> None:
        """Compare the rooms with where they stand; then they are confirmed."""
        found = [self._channels.get(channel) for channel in channels]
        rooms = [
            s for s in found if s and s.reader is reader and not s.confirmed.is_set()
        ]
        self._compare(rooms)
        with self._lock:
            for served in rooms:
                if served.reader is reader:
                    served.confirmed.set()

    def received(self, reader: Reader, channel: str, message: bytes) -> None:
        """Deliver what follows the position; read the history where it does not."""
        served = self._channels.get(channel)
        if served is None or served.reader is not reader:
            return
        if message.startswith(RELAYED):
            self._relayed(served, message.removeprefix(RELAYED))
            return
        with served.lock:
            last = served.position
            if last is None:
                return  # whoever joins reads the history after the confirmation
            try:
                epoch, publications = read_message(message)
            except ValueError as error:
                self._rooms.corrupt(f"a message: {error}")
                self._mend(served)
                return
            seen = last.offset + 1 - publications[0].offset
            if epoch != last.epoch or seen < 0:
                self._catch_up(served)
            elif seen < len(publications):
                if self._metrics.on:
                    lag = max(0.0, self._wall() - published_at(message))
                    self._metrics.observe("broker_lag_seconds", lag)
                self._deliver(served, epoch, publications[seen:])

    def _relayed(self, served: _Served, message: bytes) -> None:
        try:
            text = message.decode()
        except UnicodeDecodeError as error:
            self._rooms.corrupt(f"a relayed message: {error}")
            return
        self._tell(lambda to: to.relayed(served.name, text))

    def interrupted(self, reader: Reader) -> None:
        """Confirm the reader's rooms no more until they are subscribed again."""
        self._count("interrupted")
        self._count_outage(reader)
        self._outages[reader] = self._now()
        with self._lock:
            for served in self._served.values():
                if served.reader is reader:
                    served.confirmed.clear()
            reader.look_at([s.channel for s in self._of(reader)])

    def killed(self, reader: Reader) -> None:
        """Give the reader's rooms to a new one: nobody else would see to them."""
        with self._lock:
            if self._readers.get(reader.address) is not reader:
                return
            del self._readers[reader.address]
            self._checks.pop(reader, None)
            self._outages.pop(reader, None)
            for served in self._of(reader):
                served.confirmed.clear()
                served.reader = self._reader(reader.address)
                served.reader.look_at([served.channel])

    def may_end(self, reader: Reader) -> bool:
        """Give the reader's rooms to where they are now; say whether none is left."""
        try:
            self._servers.refresh()
        except BrokerError as error:
            log.debug("Nobody says where rooms are: %s", error)
        with self._lock:
            self._move()
            ends = self._of(reader) == []
            if ends and self._readers.get(reader.address) is reader:
                del self._readers[reader.address]
                self._checks.pop(reader, None)
            if ends:
                self._outages.pop(reader, None)
            return ends

    def tick(self, reader: Reader) -> float:
        """Look for holes when it is time, and give a sign of life."""
        self._count_outage(reader)
        # Refused, the reader loses its connection, and makes none before it is let in.
        next_sign = self._servers.renew()
        now = self._now()
        due = self._checks.get(reader)
        if due is None:
            due = now + self._check_interval * self._dice()
        elif due <= now:
            self._check(reader)
            # Spread, so that processes that began together do not ask together.
            due = self._now() + self._check_interval * (0.75 + self._dice() / 2)
        self._checks[reader] = due
        return min(due - now, next_sign)

    def _check(self, reader: Reader) -> None:
        if self._servers.target.kind != "server":
            try:
                self._servers.refresh()
            except BrokerError as error:
                log.warning("Nobody says where rooms are: %s", error)
            with self._lock:
                self._move()
        with self._lock:
            rooms = [served for served in self._of(reader) if served.confirmed.is_set()]
        self._compare(rooms)

    # -- positions and holes ---------------------------------------------------------

    def _compare(self, rooms: Sequence[_Served]) -> None:
        """Bring rooms to where they stand; one that is there already costs a read."""
        for start in range(0, len(rooms), _BATCH):
            batch = rooms[start : start + _BATCH]
            positions = self._rooms.positions([served.name for served in batch])
            for served, position in zip(batch, positions, strict=True):
                if isinstance(position, BrokerUnavailable):
                    raise position
                if isinstance(position, BrokerError):
                    # Of this one alone; the next check asks again.
                    self._rooms.corrupt(f"what Redis refuses: {position}")
                    continue
                with served.lock:
                    if served.position is None:
                        served.position = position
                    elif not _at_least(served.position, position):
                        self._catch_up(served)

    def _catch_up(self, served: _Served) -> None:
        """Deliver what the history has after the position, or have the room mended."""
        since = served.position
        assert since is not None
        found = self._rooms.history(served.name, since)
        if found.publications is None:
            log.info("Publications of a room are lost; it is mended")
            served.position = found.position
            self._mend(served)
        elif found.publications:
            self._count("reread", len(found.publications))
            self._deliver(served, since.epoch, found.publications)

    def _deliver(
        self, served: _Served, epoch: str, publications: Sequence[Publication]
    ) -> None:
        served.position = Position(epoch, publications[-1].offset)
        self._tell(lambda to: to.deliver(served.name, epoch, publications))

    def _mend(self, served: _Served) -> None:
        self._count("mended")
        self._tell(lambda to: to.mend(served.name))

    def _tell(self, what: Callable[[Listener], None]) -> None:
        assert self._listener is not None
        try:
            what(self._listener)
        except Exception:
            log.exception("Delivering a publication failed; going on")

    def _count(self, kind: str, amount: int = 1) -> None:
        self.counts[kind] += amount
        self._metrics.count("holes_total", kind, amount)

    def _count_outage(self, reader: Reader) -> None:
        since = self._outages.pop(reader, None)
        if since is not None:
            seconds = max(0.0, self._now() - since)
            self._metrics.count("broker_outage_seconds_total", amount=seconds)

    # -- readers ---------------------------------------------------------------------

    def _guarded(self) -> threading.Lock:
        if self._pid != os.getpid():
            self._begin()  # a fork took a copy of everything but the threads
        return self._lock

    def _reader(self, address: Address | None) -> Reader:
        reader = self._readers.get(address)
        if reader is None:
            reader = Reader(
                address,
                self,
                connect=self._servers.connect,
                sharded=self._servers.sharded,
                now=self._now,
                sleep=self._sleep,
            )
            self._spawn(reader.run)
            self._readers[address] = reader
        return reader

    def _of(self, reader: Reader) -> list[_Served]:
        return [s for s in self._served.values() if s.reader is reader]

    def _move(self) -> None:
        """Give each room to the reader of the server that has it now."""
        for served in self._served.values():
            address = self._servers.address(served.channel)
            old = served.reader
            if address is None or address == old.address:
                continue
            served.reader = self._reader(address)
            served.confirmed.clear()
            old.look_at([served.channel])
            served.reader.look_at([served.channel])


def _at_least(position: Position, other: Position) -> bool:
    return position.epoch == other.epoch and position.offset >= other.offset


def servers(url: str, *, quick: float = QUICK) -> Servers:
    """Return the servers that a URL names; none is connected to yet.

    Args:
        quick: Seconds to wait where a view waits too.

    Raises:
        ConfigError: The URL is wrong.
    """
    return servers_of(parse(url), quick=quick)
