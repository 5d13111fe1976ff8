"""What the emitter does with what the broker refuses."""

from __future__ import annotations

import logging
import time

import pytest

from flask_livepush.brokers.memory import MemoryBroker
from flask_livepush.emitter import Emitter
from flask_livepush.errors import PublicationTooLarge
from flask_livepush.protocol.batch import Batch
from flask_livepush.protocol.publication import Draft, Position
from tests.support.brokers import in_front_of, spawn


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
    start = broker.position("a")
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
