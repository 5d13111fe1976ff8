"""What one commit pushes: its rooms, its order, and what becomes of doubtful ones."""

from __future__ import annotations

from flask_livepush.protocol.batch import Batch
from flask_livepush.protocol.publication import Draft, invalidated


def row(event: str, key: int, stamp: int = 1) -> Draft:
    return Draft(f"message.{event}", f'{{"id":{key}}}', "message", str(key), stamp)


def events(batch: Batch, room: str = "a") -> list[str]:
    return [f"{d.event} {d.data}" for d in batch.rooms().get(room, [])]


def test_puts_deletions_first_then_rows_then_events() -> None:
    batch = Batch()
    batch.event("a", Draft("ding", "{}"))
    batch.put("a", row("created", 2))
    batch.delete("a", row("deleted", 1))
    batch.put("a", row("updated", 3))
    batch.delete("a", row("deleted", 4))
    assert events(batch) == [
        'message.deleted {"id":1}',
        'message.deleted {"id":4}',
        'message.created {"id":2}',
        'message.updated {"id":3}',
        "ding {}",
    ]


def test_a_row_deleted_and_put_is_updated() -> None:
    batch = Batch()
    batch.delete("a", row("deleted", 1))
    batch.put("a", row("created", 1))
    batch.delete("b", row("deleted", 1))
    assert events(batch) == ['message.updated {"id":1}']
    assert events(batch, "b") == ['message.deleted {"id":1}']


def test_rows_of_two_kinds_with_one_key_are_two() -> None:
    batch = Batch()
    batch.delete("a", row("deleted", 1))
    batch.put("a", Draft("note.created", "{}", "note", "1", 1))
    assert events(batch) == ['message.deleted {"id":1}', "note.created {}"]


def test_the_last_put_of_a_row_stands() -> None:
    batch = Batch()
    batch.put("a", row("created", 1, 1))
    batch.put("a", row("updated", 1, 2))
    assert events(batch) == ['message.updated {"id":1}']


def test_equal_events_are_kept_and_equal_invalidations_are_one() -> None:
    batch = Batch()
    for _ in range(2):
        batch.event("a", Draft("ding", "{}"))
        batch.invalidate("a", "message")
    batch.invalidate("a", "note")
    assert events(batch) == [
        "ding {}",
        "message.invalidated {}",
        "ding {}",
        "note.invalidated {}",
    ]


def test_says_once_what_is_stale_everywhere() -> None:
    def matches(room: str) -> bool:
        return room == "a"

    batch = Batch()
    batch.invalidate_everywhere("message", matches)
    batch.invalidate_everywhere("message", matches)
    batch.invalidate_everywhere("note", matches)
    assert [stale.kind for stale in batch.everywhere] == ["message", "note"]
    assert batch.rooms() == {}


def test_includes_another_batchs_events_in_order() -> None:
    first, second = Batch(), Batch()
    first.event("a", Draft("one", "{}"))
    first.invalidate("a", "message")
    second.event("a", Draft("two", "{}"))
    second.event("b", Draft("three", "{}"))
    second.invalidate("a", "message")
    second.invalidate_everywhere("note", bool)
    first.include(second)
    assert events(first) == ["one {}", "message.invalidated {}", "two {}"]
    assert events(first, "b") == ["three {}"]
    assert [stale.kind for stale in first.everywhere] == ["note"]


def test_in_doubt_shows_nothing_but_that_rows_are_stale() -> None:
    batch = Batch()
    batch.delete("a", row("deleted", 1))
    batch.put("a", row("created", 2))
    batch.put("b", row("created", 3))
    batch.event("a", Draft("ding", "{}"))
    batch.event("c", Draft("ding", "{}"))
    batch.invalidate("c", "note")
    batch.invalidate_everywhere("note", bool)
    doubted = batch.doubted()
    assert doubted.rooms() == {
        "a": [invalidated("message")],
        "b": [invalidated("message")],
        "c": [invalidated("note")],
    }
    assert doubted.everywhere == batch.everywhere
