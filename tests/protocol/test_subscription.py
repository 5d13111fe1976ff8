"""One subscriber in one room: everything once, in order, and nothing past a gap."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from flask_livepush.protocol.publication import Position, Publication
from flask_livepush.protocol.subscription import Subscription
from tests.support.vectors import vectors


def publications(offsets: Sequence[int]) -> list[Publication]:
    return [Publication(offset, "x", str(offset)) for offset in offsets]


def offsets(found: Sequence[Publication]) -> list[int]:
    return [publication.offset for publication in found]


@pytest.mark.parametrize("case", vectors("subscription"), ids=lambda case: case["name"])
def test_writes_what_it_may(case: dict[str, Any]) -> None:
    subscription = Subscription("s", "a", max_held=100)
    for step in case["steps"]:
        if "deliver" in step:
            given = step["deliver"]
            batch = publications(given["offsets"])
            found = subscription.receive(given["epoch"], batch)
        else:
            given = step["resume"]
            position = Position(given["epoch"], given["offset"])
            found = subscription.resume(position, publications(given["history"]))
        assert offsets(found) == step["written"], step
        assert subscription.holding is step["holding"], step


@pytest.mark.parametrize("case", vectors("client_sequence"), ids=str)
def test_follows_the_clients_rule(case: dict[str, Any]) -> None:
    seen, incoming = Position(**case["seen"]), Position(**case["incoming"])
    subscription = Subscription("s", "a", max_held=100)
    subscription.resume(seen, [])
    written = subscription.receive(incoming.epoch, publications([incoming.offset]))
    expected = {
        "next": ([incoming.offset], False, incoming),
        "duplicate": ([], False, seen),
        "gap": ([], True, seen),
        "foreign": ([], True, seen),
    }
    place = (offsets(written), subscription.holding, subscription.position)
    assert place == expected[case["place"]]


def test_lets_go_of_what_it_held_when_it_is_too_much() -> None:
    subscription = Subscription("s", "a", max_held=3)
    subscription.receive("e", publications([1, 2, 3, 4]))
    assert offsets(subscription.resume(Position("e", 0), [])) == []
    assert subscription.holding
    rest = subscription.resume(Position("e", 0), publications([1, 2, 3]))
    assert offsets(rest) == [1, 2, 3, 4]
    assert not subscription.holding


def test_holds_no_more_than_it_may() -> None:
    subscription = Subscription("s", "a", max_held=3)
    for offset in range(1, 100):
        subscription.receive("e", publications([offset]))
        assert len(subscription._held) <= 3


@pytest.mark.parametrize("seed", range(300))
def test_never_repeats_reorders_or_leaves_out(seed: int) -> None:
    """Drive it with a broker that repeats, leaves out, and begins new epochs.

    Whatever is written after a resume goes on from the position of that resume without
    a hole, and nothing is written while it holds.
    """
    dice = random.Random(seed)
    subscription = Subscription("s", "a", max_held=dice.choice([1, 4, 50]))
    epoch, top = "e0", dice.randint(0, 3)
    at: tuple[str, int] | None = None  # what the subscriber has
    for step in range(200):
        act = dice.random()
        if act < 0.05:
            epoch, top = f"e{step}", 0
        if act < 0.75:
            top += dice.randint(0, 2)
            first = max(1, top - dice.randint(0, 4))
            batch = publications(range(first, top + 1))
            if not batch:
                continue
            was_holding = subscription.holding
            sent = dice.choice([epoch, epoch, epoch, "old"])
            found = subscription.receive(sent, batch)
            if was_holding:
                assert found == []
                assert subscription.holding
                continue
            assert at is not None
            wanted = [n for n in offsets(batch) if n > at[1]]
            if sent == at[0] and wanted[:1] in ([], [at[1] + 1]):
                assert offsets(found) == wanted
                assert not subscription.holding
            else:
                assert found == []
                assert subscription.holding
            at = (at[0], at[1] + len(found))
        elif subscription.holding or dice.random() < 0.2:
            # The history is whole, and may be behind what is held or ahead of it.
            start = dice.randint(0, top)
            known = publications(range(start + 1, dice.randint(start, top) + 1))
            found = subscription.resume(Position(epoch, start), known)
            at = (epoch, start + len(found))
            assert offsets(found) == list(range(start + 1, at[1] + 1))
            assert offsets(found)[: len(known)] == offsets(known)
        if at is not None:
            assert subscription.position == Position(*at)
