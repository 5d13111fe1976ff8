"""The broker inside one process: what it forgets, and what it survives."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flask_livepush.brokers import memory
from flask_livepush.brokers.memory import MemoryBroker
from flask_livepush.protocol.publication import Draft
from tests.support.brokers import Clock, Recorder, begun, spawn

DAY = 24 * 60 * 60


def test_forgets_a_room_a_day_after_its_history() -> None:
    clock = Clock()
    broker = MemoryBroker(size=9, ttl=300, now=clock, spawn=spawn)
    epoch = broker.publish("a", [Draft("x", "1")]).epoch
    clock.now += DAY + 301
    begun(broker, "b")
    assert broker.rooms() == ["b"]
    assert broker.position("a").epoch != epoch


def test_bounds_the_rooms_that_were_only_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "_MAX_IDLE_ROOMS", 50)
    broker = MemoryBroker(size=9, ttl=300, now=Clock(), spawn=spawn)
    broker.listen(Recorder())
    broker.subscribe("served")
    kept = broker.publish("written", [Draft("x", "1")])
    served = broker.position("served")
    for number in range(1000):
        begun(broker, f"asked:{number}")
        assert len(broker.rooms()) <= 110
    assert broker.position("written") == kept
    assert broker.position("served") == served


def test_listens_again_when_its_listener_could_not_be_started() -> None:
    """Bug: it took the listener for started, and never delivered anything again."""
    starts: list[Callable[[], None]] = []

    def fail_once(function: Callable[[], None]) -> None:
        starts.append(function)
        if len(starts) == 1:
            raise RuntimeError("can't start new thread")
        spawn(function)

    broker = MemoryBroker(size=9, ttl=300, now=Clock(), spawn=fail_once)
    recorder = Recorder()
    broker.listen(recorder)
    with pytest.raises(RuntimeError):
        broker.subscribe("a")
    broker.subscribe("a")
    broker.publish("a", [Draft("x", "1")])
    recorder.wait(lambda: recorder.offsets("a") == [1])
