"""What tests of brokers and of their users share: a clock, a listener, the brokers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from flask_livepush.brokers.base import Broker
from flask_livepush.brokers.memory import MemoryBroker
from flask_livepush.brokers.redis import RedisBroker, servers
from flask_livepush.brokers.redis_format import Names
from flask_livepush.brokers.redis_servers import Command
from flask_livepush.outgoing import Outgoing
from flask_livepush.protocol.publication import Position, Publication

from .waiting import DEADLINE


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def until(self, condition: Callable[[], Any]) -> None:
        """Let time pass until something is true."""
        end = self.now + 100_000
        while not condition():
            assert self.now < end
            self.now += 1


class Recorder:
    """A listener that notes what it is given, and in which thread."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, str, list[Publication]]] = []
        self.mended: list[str] = []
        self.relays: list[tuple[str, str]] = []
        self.threads: set[int] = set()
        self.problem: Callable[[str], None] = lambda room: None
        self._changed = threading.Condition()

    def deliver(
        self, room: str, epoch: str, publications: Sequence[Publication]
    ) -> None:
        """Note a delivery; then do what the test wants, such as wait or raise."""
        with self._changed:
            self.threads.add(threading.get_ident())
            self.batches.append((room, epoch, list(publications)))
            self._changed.notify_all()
        self.problem(room)

    def mend(self, room: str) -> None:
        """Note that the room may have a hole."""
        with self._changed:
            self.threads.add(threading.get_ident())
            self.mended.append(room)
            self._changed.notify_all()

    def relayed(self, room: str, message: str) -> None:
        """Note what was relayed."""
        with self._changed:
            self.threads.add(threading.get_ident())
            self.relays.append((room, message))
            self._changed.notify_all()

    def offsets(self, room: str) -> list[int]:
        """Return the offsets delivered in a room, in the order of their arrival."""
        return [
            p.offset for name, _, found in self.batches for p in found if name == room
        ]

    def wait(self, condition: Callable[[], Any]) -> None:
        """Wait until something is true of what was noted."""
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE), self.batches[-5:]


def spawn(function: Callable[[], object]) -> None:
    """Run a function in a thread that does not outlive the tests."""
    threading.Thread(target=function, daemon=True).start()


def memory(**options: Any) -> Broker:
    """Make a broker inside this process."""
    return MemoryBroker(spawn=spawn, **options)


def begun(broker: Broker, room: str) -> Position:
    """Let a room's epoch begin, if it has none, and return where the room stands."""
    return broker.history(room, Position("none of it", 0)).position


def in_front_of(broker: Broker, *, max_bytes: int = 1_000_000) -> Outgoing:
    """Put a breaker and a queue in front of a broker."""
    return Outgoing(
        broker, spawn=spawn, sleep=time.sleep, now=time.monotonic, max_bytes=max_bytes
    )


#: By name, how each broker is made: history size and TTL, a clock, and how many
#: deliveries may wait for its listener.
BROKERS: dict[str, Callable[..., Broker]] = {"memory": memory}

_prefixes = count(1)

# Moves everything that a room's keys say of time into the past, as if it had passed:
# what records and rows are stamped with, and how long the keys are kept.
_AGE = """
    local milliseconds = tonumber(ARGV[1])
    for i, record in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
        local offset, time, rest = string.match(record, '^(%d+ )(%d+)(.*)$')
        time = string.format('%.0f', time - milliseconds)
        redis.call('LSET', KEYS[2], i - 1, offset .. time .. rest)
    end
    for _, row in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
        redis.call('ZINCRBY', KEYS[4], -milliseconds * 1000, row)
    end
    for _, key in ipairs(KEYS) do
        local left = redis.call('PTTL', key)
        if left >= 0 then
            redis.call('PEXPIRE', key, left - milliseconds)
        end
    end
"""


class Aging:
    """Time that passes on Redis when a test says so: what is there grows older.

    Real seconds pass as a busy machine likes, also between two lines of a test.

    Args:
        url: Of the server.
        prefix: Of the brokers whose rooms it is.
        rooms: Their names.
    """

    def __init__(self, url: str, prefix: str, rooms: Sequence[str]) -> None:
        self._servers = servers(url, quick=DEADLINE)
        self._rooms = [Names(prefix).room(room) for room in rooms]
        self._now = 0.0

    @property
    def now(self) -> float:
        """Seconds, to be added to."""
        return self._now

    @now.setter
    def now(self, now: float) -> None:
        milliseconds = int((now - self._now) * 1000)
        for room in self._rooms:
            keys = (room.meta, room.log, room.rows, room.seen)
            words = ("EVAL", _AGE, 4, *keys, milliseconds)
            self._servers.run([Command(room.meta, words)])
        self._now = now

    def until(self, condition: Callable[[], Any]) -> None:
        """Let time pass until something is true."""
        end = self.now + 1000
        while not condition():
            assert self.now < end
            self.now += 10

    def close(self) -> None:
        """Close its connections."""
        self._servers.close()


def new_prefix() -> str:
    """Return a prefix that no other test has."""
    return f"test{next(_prefixes)}"


def on_redis(url: str, **options: Any) -> RedisBroker:
    """Make a broker on Redis; with a prefix nobody else has unless one is given.

    It is patient, since the machine may be busy, unless ``quick`` says otherwise.
    """
    found = servers(url, quick=options.pop("quick", DEADLINE))
    options.setdefault("prefix", new_prefix())
    defaults = {"size": 100, "ttl": 300, "spawn": spawn, "sleep": time.sleep}
    defaults["confirm_within"] = DEADLINE
    return RedisBroker(found, **{**defaults, **options})
