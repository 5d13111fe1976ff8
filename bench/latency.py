"""From a commit in one process to the clients of another; and what a third receives.

Flask-SocketIO with its Redis message queue is measured in the same run, in turn.
"""

from __future__ import annotations

import statistics
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.support.redis import RedisServer, Wiretap, redis_server, until
from tests.support.servers import Mode, Server

from .load import Load, subscribe
from .processes import DEADLINE, KINDS, Kind, post, site

WARMUP = 20


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured.

    Args:
        mode: The async mode of all processes.
        subscribers: Clients of the process that does not write.
        rate: Commits a second.
        seconds: How long each round is.
        rounds: How many rounds each has.
    """

    mode: Mode
    subscribers: int
    rate: float
    seconds: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Latency:
    """The latencies of one round, in milliseconds."""

    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What was found of one kind: medians over its rounds.

    Args:
        p50: Milliseconds.
        p99: Milliseconds.
        deliveries: Events that were read, in all rounds.
        bytes_elsewhere: What Redis sends, for one event, to a process that does not
            serve the event's room.
    """

    kind: str
    p50: float
    p99: float
    deliveries: int
    bytes_elsewhere: int


def measure(options: Options, folder: Path) -> list[Figures]:
    """Run both, in turn; return the figures of livepush, then those of its peer."""
    latencies: dict[Kind, list[Latency]] = {kind: [] for kind in KINDS}
    deliveries = dict.fromkeys(KINDS, 0)
    elsewhere = {}
    with ExitStack() as stack:
        writers, showers = {}, {}
        redis = stack.enter_context(redis_server())
        for kind in KINDS:
            for processes in (writers, showers):
                processes[kind] = stack.enter_context(
                    site(kind, folder, redis.url, options.mode)
                )
        for turn in range(options.rounds):
            for kind in KINDS if turn % 2 == 0 else KINDS[::-1]:
                with Load(
                    showers[kind].port, options.subscribers, subscribe("chat:1")
                ) as load:
                    load.connect(deadline=DEADLINE)
                    _await_listeners(redis, kind, 1)
                    ages = _round(writers[kind], load, options)
                latencies[kind].append(Latency(_at(ages, 0.5), _at(ages, 0.99)))
                deliveries[kind] += len(ages)
        for kind in KINDS:
            with (
                Wiretap(redis.port) as tap,
                site(
                    kind, folder, f"redis://127.0.0.1:{tap.port}", options.mode
                ) as third,
                Load(third.port, 1, subscribe("chat:2")) as load,
            ):
                load.connect(deadline=DEADLINE)
                _await_listeners(redis, kind, 2)
                elsewhere[kind] = _bytes(writers[kind], load, tap, events=100)
    return [
        Figures(
            kind,
            statistics.median(round.p50 for round in latencies[kind]),
            statistics.median(round.p99 for round in latencies[kind]),
            deliveries[kind],
            elsewhere[kind],
        )
        for kind in KINDS
    ]


def _await_listeners(redis: RedisServer, kind: Kind, count: int) -> None:
    """Wait until so many processes of Flask-SocketIO listen to Redis.

    It begins to with its first connection, which does not wait for it: what is emitted
    until then is lost.
    """
    if kind == "peer":
        until(lambda: redis.ask("PUBSUB", "NUMSUB", "flask-socketio")[1] == count)


def _round(writer: Server, load: Load, options: Options) -> list[float]:
    """Return the latencies of one round, ascending, in milliseconds."""
    events = max(1, round(options.rate * options.seconds))
    for count in (WARMUP, events):
        del load.ages[:]
        address = f"{writer.url}/write/1?count={count}&gap={1 / options.rate}"
        thread = threading.Thread(target=post, args=(address,))
        thread.start()
        expected = count * options.subscribers
        load.pump(
            lambda expected=expected: len(load.ages) >= expected, deadline=DEADLINE
        )
        thread.join()
    return sorted(age * 1000 for age in load.ages)


def _bytes(writer: Server, load: Load, tap: Wiretap, *, events: int) -> int:
    """Return what a process receives from Redis for an event of another's room.

    A last event, in a room that it serves, shows that all before it have passed.
    """
    found = []
    for count in (0, 0, events):  # the first also pays for what is set up once
        del load.ages[:]
        before = tap.received
        if count:
            post(f"{writer.url}/write/1?count={count}")
        post(f"{writer.url}/write/2")
        load.pump(lambda: len(load.ages) == 1, deadline=DEADLINE)
        found.append(tap.received - before)
    # The last events themselves differ by the digits of their times and offsets.
    return round((found[2] - found[1]) / events)


def _at(ascending: list[float], share: float) -> float:
    return ascending[int(share * (len(ascending) - 1))]


def lines(figures: list[Figures]) -> list[str]:
    """Return the figures as text."""
    ours, peer = figures
    found = [
        f"{'':10} {'p50 ms':>8} {'p99 ms':>8} {'deliveries':>11} {'B elsewhere':>12}"
    ]
    found += [
        f"{row.kind:10} {row.p50:8.2f} {row.p99:8.2f} {row.deliveries:11} "
        f"{row.bytes_elsewhere:12}"
        for row in figures
    ]
    ratios = (
        f"{ours.p50 / peer.p50:.2f} of its p50, {ours.p99 / peer.p99:.2f} of its p99"
    )
    return [*found, f"livepush has {ratios}"]
