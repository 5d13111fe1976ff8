"""A program in which publishing, and the sender, are interrupted as each mode does it.

Given a Redis URL; prints ``DONE`` when every room has what was committed, once.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from redis import Redis

from flask_livepush.brokers.redis import RedisBroker
from flask_livepush.emitter import Emitter
from flask_livepush.outgoing import Outgoing
from flask_livepush.protocol.batch import Batch
from flask_livepush.protocol.publication import Draft, Position

from .brokers import begun as begun_room
from .brokers import on_redis, spawn
from .servers import announce, current_mode
from .waiting import until

MODE = current_mode()
PAUSE = 0.6  # seconds for which Redis answers nobody
LIMIT = 0.1
STALE = "note.invalidated{}"


class Cut(BaseException):
    """The time limit of a program with threads."""


def _cut(*_: object) -> None:
    raise Cut


@contextmanager
def limit(seconds: float) -> Any:
    """Interrupt the block as an application would, and take the exception."""
    if MODE == "gevent":
        import gevent

        with gevent.Timeout(seconds, False):
            yield
    elif MODE == "eventlet":
        import eventlet

        with eventlet.Timeout(seconds, False):
            yield
    else:
        signal.signal(signal.SIGALRM, _cut)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        except Cut:
            pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def kill(greenlet: Any) -> None:
    """End a greenlet from outside; threads can't be."""
    if MODE != "threading":
        greenlet.kill()


def greenlet(function: Callable[[], object]) -> Any:
    """Begin what can be killed."""
    if MODE == "gevent":
        import gevent

        return gevent.spawn(function)
    if MODE == "eventlet":
        import eventlet

        return eventlet.spawn(function)
    return spawn(function)


def batch(number: int) -> Batch:
    """Return a commit into three rooms, with something for all."""
    found = Batch(time.monotonic())
    for room in "abc":
        found.event(room, Draft("x", str(number)))
    found.invalidate_everywhere("note", lambda room: True)
    return found


def told(broker: RedisBroker, room: str) -> list[str]:
    """Return what was published in a room."""
    start = Position(broker.position(room).epoch, 0)
    return [p.event + p.data for p in broker.history(room, start).publications or ()]


def main(url: str) -> None:
    """Interrupt what there is, and look whether it is told all the same."""
    broker = on_redis(url, prefix=f"interrupted-{MODE}")
    port = int(url.rpartition(":")[2])
    begun: list[Any] = []
    outgoing = Outgoing(
        broker,
        spawn=lambda function: begun.append(greenlet(function)),
        sleep=time.sleep,
        now=time.monotonic,
        max_bytes=1_000_000,
    )
    emitter = Emitter(outgoing)
    for room in "abcd":
        begun_room(broker, room)
    with Redis(port=port) as client:
        client.execute_command("CLIENT", "PAUSE", int(PAUSE * 1000))
        finished = False
        with limit(LIMIT):
            emitter.publish_batch(batch(1))
            finished = True
        assert not finished
        assert not outgoing.finish()
        if MODE != "threading":
            time.sleep(LIMIT)  # it waits for Redis
            kill(begun[0])
        until(outgoing.finish)
        for room in "abc":
            # To be told twice that a kind is stale is no harm.
            events = told(broker, room)
            assert events in (["x1", STALE], ["x1", STALE, STALE]), events
        assert told(broker, "d") == [STALE], told(broker, "d")
        assert len(begun) == (1 if MODE == "threading" else 2)
        # What it left behind is in order.
        assert set(emitter.publish_batch(batch(2))) == {"a", "b", "c"}
        until(outgoing.finish)
        assert told(broker, "a")[-2:] == ["x2", STALE]
    broker.close()
    announce(1)
    print("DONE", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
