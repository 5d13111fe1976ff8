"""What the emitter does with what the broker refuses, and with what is much."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from flask_livepush import emitter as emitter_module
from flask_livepush.brokers.memory import MemoryBroker
from flask_livepush.emitter import Emitter
from flask_livepush.errors import PublicationTooLarge
from flask_livepush.outgoing import Outgoing
from flask_livepush.protocol.batch import Batch
from flask_livepush.protocol.publication import Draft, Position
from tests.support.brokers import DEADLINE, begun, in_front_of, spawn
from tests.support.waiting import until


@pytest.fixture
def broker() -> MemoryBroker:
    """A broker that takes 100 bytes."""
    return MemoryBroker(
        size=100, ttl=300, now=time.monotonic, spawn=spawn, max_bytes=100
    )


def test_emit_refuses_what_is_too_large(broker: MemoryBroker) -> None:
    emitter = Emitter(in_front_of(broker))
    with pytest.raises(PublicationTooLarge, match="LIVEPUSH_MAX_PUBLICATION_BYTES"):
        emitter.publish("a", [emitter.draft("x", "y" * 100)])
    assert broker.position("a").offset == 0


def test_a_change_that_is_too_large_is_told_as_its_kind_being_stale(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    start = begun(broker, "a")
    batch = Batch()
    for key, size in (("1", 5), ("2", 200), ("3", 300)):
        data = '"' + "y" * size + '"'
        batch.put("a", Draft("note.created", data, "note", key, 7))
    batch.event("a", Draft("large", '"' + "z" * 200 + '"'))
    batch.event("a", Draft("small", "1"))
    batch.event("b", Draft("small", "1"))
    with caplog.at_level(logging.ERROR):
        positions = Emitter(in_front_of(broker)).publish_batch(batch)
    found = broker.history("a", start).publications or []
    assert [p.event for p in found] == ["note.created", "note.invalidated", "small"]
    assert positions["a"] == Position(start.epoch, 3)
    assert positions["b"].offset == 1
    assert "LIVEPUSH_MAX_PUBLICATION_BYTES is 100" in caplog.text


def created(room: str, key: str, data: str = "1") -> tuple[str, Draft]:
    return room, Draft("note.created", data, "note", key, 7)


def published(broker: MemoryBroker, room: str) -> list[str]:
    """Return the events that were published in a room."""
    start = Position(begun(broker, room).epoch, 0)
    return [p.event for p in broker.history(room, start).publications or ()]


def test_what_is_too_large_in_one_room_takes_no_other_down(
    broker: MemoryBroker,
) -> None:
    batch = Batch()
    for number in range(9):
        data = '"' + "y" * (200 if number % 3 == 0 else 5) + '"'
        batch.put(*created(f"r{number}", "1", data))
    positions = Emitter(in_front_of(broker)).publish_batch(batch)
    assert {position.offset for position in positions.values()} == {1}
    for number in range(9):
        verb = "invalidated" if number % 3 == 0 else "created"
        assert published(broker, f"r{number}") == [f"note.{verb}"]


@pytest.mark.parametrize("limit", ["_MAX_DRAFTS", "_MAX_TEXT"])
def test_a_room_that_would_be_sent_too_much_at_once_reads_anew(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """Bug: 300 rows of 100 KB in one room never got through to Redis in time, and all
    that waited behind them was never sent either."""
    monkeypatch.setattr(emitter_module, limit, 10)
    batch = Batch()
    for number in range(11):
        batch.put(*created("a", str(number)))
    batch.delete("a", Draft("task.deleted", "{}", "task", "1", 7))
    batch.event("a", Draft("x", "1"))
    batch.event("a", Draft("x", "1"))
    batch.put(*created("b", "1"))
    Emitter(in_front_of(broker)).publish_batch(batch)
    expected = ["task.invalidated", "note.invalidated", "x", "x"]
    assert published(broker, "a") == expected
    assert published(broker, "b") == ["note.created"]


def everywhere(room: str) -> bool:
    return room != "other"


def test_rooms_that_a_commit_names_are_told_of_all_rooms_with_it(
    broker: MemoryBroker,
) -> None:
    for room in ("a", "b", "other"):
        begun(broker, room)
    outgoing = in_front_of(broker)
    batch = Batch()
    batch.put(*created("a", "1"))
    batch.put(*created("other", "1"))
    batch.invalidate_everywhere("note", everywhere)
    Emitter(outgoing, patience=lambda: DEADLINE).publish_batch(batch)
    assert published(broker, "a") == ["note.created", "note.invalidated"]
    assert published(broker, "b") == ["note.invalidated"]
    assert published(broker, "other") == ["note.created"]


def test_rooms_that_know_of_one_commit_are_told_of_another_one(
    broker: MemoryBroker,
) -> None:
    """The sender tells both together, but not those who know of the first alone."""
    for room in "abc":
        begun(broker, room)
    begins: list[Callable[[], None]] = []
    outgoing = Outgoing(
        broker,
        spawn=begins.append,
        sleep=time.sleep,
        now=time.monotonic,
        max_bytes=1000,
    )
    emitter = Emitter(outgoing)
    for rooms in ("ab", "bc"):
        batch = Batch()
        for room in rooms:
            batch.put(*created(room, rooms))
        batch.invalidate_everywhere("note", everywhere)
        emitter.publish_batch(batch)
    assert len(begins) == 1
    begins.pop()()
    stale = [published(broker, room).count("note.invalidated") for room in "abc"]
    assert stale == [2, 2, 2]  # in b with each commit, in the others with one


class Interrupt(BaseException):
    """What gevent's Timeout and a KeyboardInterrupt are."""


@pytest.mark.parametrize("number", range(3))
def test_an_interruption_loses_nothing_of_a_commit_and_goes_on(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Bug: the room under way and all after it were never told."""
    begun(broker, "elsewhere")
    outgoing = in_front_of(broker)
    batch = Batch()
    for room in "abc":
        batch.put(*created(room, "1"))
    batch.invalidate_everywhere("note", everywhere)
    works, calls = broker.publish, iter(range(3))

    def publish(room: str, drafts: Any, **options: Any) -> Position:
        if next(calls, None) == number:
            raise Interrupt
        return works(room, drafts, **options)

    monkeypatch.setattr(broker, "publish", publish)
    with pytest.raises(Interrupt):
        Emitter(outgoing, patience=lambda: DEADLINE).publish_batch(batch)
    until(outgoing.finish)
    for room in "abc":
        assert published(broker, room)[:2] == ["note.created", "note.invalidated"]
    assert published(broker, "elsewhere") == ["note.invalidated"]


def test_publishes_later_what_is_known_of_a_commit(broker: MemoryBroker) -> None:
    for room in ("a", "b", "large"):
        begun(broker, room)
    begins: list[Callable[[], None]] = []
    outgoing = Outgoing(
        broker,
        spawn=begins.append,
        sleep=time.sleep,
        now=time.monotonic,
        max_bytes=10_000,
    )
    batch = Batch()
    batch.put(*created("a", "1"))
    batch.put(*created("large", "1", '"' + "y" * 200 + '"'))
    batch.invalidate_everywhere("task", everywhere)
    Emitter(outgoing).publish_later(batch)
    assert published(broker, "a") == []
    begins.pop()()
    assert published(broker, "a") == ["note.created", "task.invalidated"]
    assert published(broker, "large") == ["note.invalidated", "task.invalidated"]
    assert published(broker, "b") == ["task.invalidated"]


def test_publishing_later_never_raises(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    outgoing = in_front_of(broker)
    batch = Batch()
    batch.invalidate_everywhere("note", everywhere)
    del outgoing._lines, outgoing._everywhere
    batch.put(*created("a", "1"))
    with caplog.at_level(logging.ERROR):
        Emitter(outgoing).publish_later(batch)
    assert "Putting off" in caplog.text


@pytest.mark.parametrize("seconds", [0.0, DEADLINE])
def test_a_commit_waits_for_the_sender_where_it_may_alone(
    broker: MemoryBroker, seconds: float
) -> None:
    begun(broker, "a")
    gate = threading.Event()
    outgoing = Outgoing(
        broker,
        spawn=lambda function: spawn(lambda: gate.wait(DEADLINE) and function()),
        sleep=time.sleep,
        now=time.monotonic,
        max_bytes=1000,
    )
    batch = Batch()
    batch.invalidate_everywhere("note", everywhere)
    if seconds:
        gate.set()
    Emitter(outgoing, patience=lambda: seconds).publish_batch(batch)
    assert bool(published(broker, "a")) == bool(seconds)
    gate.set()
    until(outgoing.finish)
