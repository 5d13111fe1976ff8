"""A room's history: what it recovers, what it drops, and against a naive model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from flask_livepush.protocol.history import RoomHistory
from flask_livepush.protocol.publication import (
    Draft,
    Position,
    Publication,
    invalidated,
)
from tests.support.vectors import vectors

STALE = "message.invalidated"


def put(key: str, stamp: int | None, kind: str = "message") -> Draft:
    return Draft(f"{kind}.updated", f'{{"at":{stamp}}}', kind, key, stamp)


def events(publications: Sequence[Publication]) -> list[tuple[str, int | None]]:
    return [(p.event, p.stamp) for p in publications]


@pytest.mark.parametrize("case", vectors("recovery"), ids=lambda case: case["name"])
def test_recovers_all_or_nothing(case: dict[str, Any]) -> None:
    history = RoomHistory("e", size=case.get("size", 100), ttl=case.get("ttl", 300))
    for at, count in case["commits"]:
        history.append([Draft("x", str(i)) for i in range(count)], at)
    found = history.since(Position(**case["since"]), case["at"])
    assert (found and [p.offset for p in found]) == case["recovered"]


def test_gives_one_commit_contiguous_offsets_and_marks_all_but_the_last() -> None:
    history = RoomHistory("e", size=10, ttl=10)
    assert history.position == Position("e", 0)
    history.append([Draft("a", "1")], 0)
    found = history.append([Draft("b", "1"), Draft("c", "1"), Draft("d", "1")], 0)
    assert [(p.offset, p.event, p.more) for p in found] == [
        (2, "b", True),
        (3, "c", True),
        (4, "d", False),
    ]
    assert history.position == Position("e", 4)
    assert history.since(Position("e", 0), 0) == [
        Publication(1, "a", "1"),
        *found,
    ]


@pytest.mark.parametrize("stamp", [4, 5])
def test_drops_what_is_not_above_the_rows_last_stamp(stamp: int) -> None:
    history = RoomHistory("e", size=10, ttl=10)
    history.append([put("1", 5)], 0)
    assert history.append([put("1", stamp)], 0) == []
    assert history.position == Position("e", 1)
    assert events(history.append([put("1", 6)], 0)) == [("message.updated", 6)]


def test_rows_of_other_kinds_and_keys_have_stamps_of_their_own() -> None:
    history = RoomHistory("e", size=10, ttl=10)
    history.append([put("1", 5)], 0)
    found = history.append([put("2", 5), put("1", 5, "note"), put("1", None)], 0)
    assert len(found) == 3


def test_marks_the_last_that_is_left_after_dropping() -> None:
    history = RoomHistory("e", size=10, ttl=10)
    history.append([put("2", 9)], 0)
    found = history.append([put("1", 5), put("3", 5), put("2", 5)], 0)
    assert [(p.offset, p.more) for p in found] == [(2, True), (3, False)]


def test_what_is_dropped_keeps_the_rows_stamp_remembered() -> None:
    history = RoomHistory("e", size=10, ttl=10)
    history.append([put("1", 5)], 0)
    assert history.append([put("1", 4)], 9) == []
    assert history.append([put("1", 4)], 18) == []


def test_what_can_not_be_compared_any_more_invalidates() -> None:
    history = RoomHistory("e", size=10, ttl=10)
    history.append([put("1", 5)], 0)
    assert events(history.append([put("1", 5)], 10.5)) == [(STALE, None)]
    assert events(history.append([put("2", 4)], 10.5)) == [(STALE, None)]
    assert events(history.append([put("2", 6)], 10.5)) == [("message.updated", 6)]
    assert events(history.append([put("2", 3, "note")], 11)) == [("note.updated", 3)]


def test_an_evicted_row_can_not_be_compared_any_more() -> None:
    history = RoomHistory("e", size=10, ttl=10, max_rows=2)
    history.append([put("1", 7), put("2", 1), put("3", 2)], 0)
    assert events(history.append([put("1", 7)], 0)) == [(STALE, None)]
    assert events(history.append([put("1", 8)], 0)) == [("message.updated", 8)]


def test_invalidates_once_a_commit() -> None:
    history = RoomHistory("e", size=10, ttl=10, max_rows=1)
    history.append([put("1", 7), put("2", 7)], 0)
    found = history.append([put("1", 3), put("3", 3), invalidated("message")], 0)
    assert [(p.event, p.more) for p in found] == [(STALE, False)]


def test_keeps_equal_events_of_one_commit() -> None:
    """Bug: an application's two equal events arrived as one."""
    history = RoomHistory("e", size=10, ttl=10)
    found = history.append([Draft("ding", "{}"), Draft("ding", "{}")], 0)
    assert [p.offset for p in found] == [1, 2]


class Model:
    """The same rules, written so that nobody can get them wrong: lists, no deques."""

    def __init__(self, size: int, ttl: float, max_rows: int) -> None:
        self.size, self.ttl, self.max_rows = size, ttl, max_rows
        self.log: list[tuple[float, Publication]] = []
        self.rows: list[tuple[str, str, int, float]] = []  # the last touched last
        self.floors: dict[str, int] = {}

    def forget(self, row: tuple[str, str, int, float]) -> None:
        self.rows.remove(row)
        self.floors[row[0]] = max(row[2], self.floors.get(row[0], row[2]))

    def expire(self, now: float) -> None:
        for row in [row for row in self.rows if now - row[3] > self.ttl]:
            self.forget(row)

    def judge(self, draft: Draft, now: float) -> Draft | None:
        if draft.kind is None or draft.key is None or draft.stamp is None:
            return draft
        known = [r for r in self.rows if r[:2] == (draft.kind, draft.key)]
        if known:
            self.rows.remove(known[0])
            last = max(known[0][2], draft.stamp)
            self.rows.append((draft.kind, draft.key, last, now))
            return draft if draft.stamp > known[0][2] else None
        if draft.kind in self.floors and draft.stamp <= self.floors[draft.kind]:
            return invalidated(draft.kind)
        self.rows.append((draft.kind, draft.key, draft.stamp, now))
        if len(self.rows) > self.max_rows:
            self.forget(self.rows[0])
        return draft

    def append(self, drafts: Sequence[Draft], now: float) -> list[Publication]:
        self.expire(now)
        kept: list[Draft] = []
        for draft in drafts:
            judged = self.judge(draft, now)
            if judged is not None and not (
                judged.event.endswith(".invalidated") and judged in kept
            ):
                kept.append(judged)
        first = len(self.log) + 1
        found = [
            Publication(first + i, d.event, d.data, d.stamp, more=i + 1 < len(kept))
            for i, d in enumerate(kept)
        ]
        self.log.extend((now, p) for p in found)
        return found

    def since(self, offset: int, now: float) -> list[Publication] | None:
        self.expire(now)
        missed = self.log[offset:]
        if offset > len(self.log):
            return None
        if len(missed) > self.size or any(now - t > self.ttl for t, _ in missed):
            return None
        return [p for _, p in missed]


class Screen:
    """Shows a room by its publications alone; never an older version than it could."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], int] = {}
        self.stale: dict[str, int] = {}

    def take(self, publications: Sequence[Publication], latest: int) -> None:
        for p in publications:
            kind, _, what = p.event.rpartition(".")
            if what == "invalidated":
                self.stale[kind] = latest
            elif p.stamp is not None:
                self.rows[kind, p.data.partition(" ")[0]] = p.stamp

    def shows(self, row: tuple[str, str], stamp: int, since: int) -> bool:
        """Whether it has this version, or was told later that it is stale."""
        return self.rows.get(row) == stamp or self.stale.get(row[0], -1) >= since


@pytest.mark.parametrize("seed", range(40))
def test_agrees_with_a_naive_model(seed: int) -> None:
    dice = random.Random(seed)
    size, ttl = dice.choice([0, 1, 3, 10]), dice.choice([5.0, 20.0])
    max_rows = dice.choice([1, 3, 100])
    history = RoomHistory("e", size=size, ttl=ttl, max_rows=max_rows)
    model, screen, now, clock = Model(size, ttl, max_rows), Screen(), 0.0, 100
    newest: dict[tuple[str, str], tuple[int, int]] = {}
    for step in range(120):
        now += dice.choice([0, 0, 0.5, 3, ttl, ttl * 2.5])
        drafts = []
        for _ in range(dice.randint(0, 4)):
            clock += 1
            kind, key = dice.choice(["message", "note"]), str(dice.randint(1, 5))
            late = dice.choice([0, 0, 0, 3, 30])
            stamp = max(0, clock - late)
            if dice.random() < 0.15:
                drafts.append(Draft("ding", str(dice.randint(1, 2))))
                continue
            drafts.append(Draft(f"{kind}.updated", f"{key} {stamp}", kind, key, stamp))
            if stamp > newest.get((kind, key), (-1, 0))[0]:
                newest[kind, key] = (stamp, step)
        found = history.append(drafts, now)
        assert found == model.append(drafts, now)
        screen.take(found, step)
        for row, (stamp, when) in newest.items():
            assert screen.shows(row, stamp, when)
        for offset in range(max(0, history.offset - 12), history.offset + 2):
            position = Position("e", offset)
            assert history.since(position, now) == model.since(offset, now)
        assert history.since(Position("f", history.offset), now) is None
        assert len(history._stamps) <= max_rows
        assert len(history._kept) <= size
