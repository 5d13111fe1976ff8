"""The hub: who is in which room, and who is written what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from flask_livepush.errors import TooManyRooms, Unavailable
from flask_livepush.hub import Hub
from flask_livepush.protocol.publication import Position, Publication
from flask_livepush.protocol.relayed import Whispered
from tests.support.scripted import Recording

START = Position("e", 0)


class Registry:
    """A hub, its transport, and the rooms that were opened and closed."""

    def __init__(self, *, max_rooms: int = 100, max_held: int = 100) -> None:
        self.calls: list[tuple[str, str]] = []
        self.transport = Recording()
        self.hub = Hub(
            self.transport,
            max_rooms=max_rooms,
            max_held=max_held,
            opened=lambda room: self.calls.append(("opened", room)),
            closed=lambda room: self.calls.append(("closed", room)),
        )

    def live(self, sid: str, room: str = "a") -> None:
        subscription = self.hub.join(sid, room)
        assert self.hub.resume(subscription, START, [])

    def written(self, sid: str) -> list[Any]:
        return self.transport.offsets(sid)


def batch(*offsets: int) -> Sequence[Publication]:
    return [Publication(offset, "x", str(offset)) for offset in offsets]


def test_opens_a_room_with_its_first_subscriber_and_closes_it_with_its_last() -> None:
    it = Registry()
    it.live("s")
    it.live("t")
    it.live("s", "b")
    it.live("s")
    assert it.calls == [("opened", "a"), ("opened", "b")]
    it.hub.leave("s", "a")
    it.hub.leave("s", "a")
    it.hub.leave("s", "never")
    it.hub.leave("nobody", "a")
    assert it.calls[2:] == []
    it.hub.leave("t", "a")
    it.hub.drop("s")
    it.hub.drop("s")
    assert it.calls[2:] == [("closed", "a"), ("closed", "b")]
    assert it.hub._rooms == {}
    assert it.hub._joined == {}


def test_writes_to_the_rooms_live_subscribers_alone() -> None:
    it = Registry()
    it.live("s")
    it.live("t")
    it.live("u", "b")
    it.hub.join("joining", "a")
    assert it.hub.deliver("a", "e", batch(1, 2)) == []
    it.hub.leave("t", "a")
    assert it.hub.deliver("a", "e", batch(3)) == []
    assert it.hub.deliver("nowhere", "e", batch(1)) == []
    assert it.written("s") == [1, 2, 3]
    assert it.written("t") == [1, 2]
    assert it.written("u") == it.written("joining") == []


def test_encodes_a_publication_once_for_all() -> None:
    it = Registry()
    for number in range(10):
        it.live(f"s{number}")
    behind = it.hub.join("behind", "a")
    it.hub.resume(behind, Position("e", 1), [])
    it.hub.deliver("a", "e", batch(1, 2))
    assert it.written("behind") == [2]
    assert [frame[3] for frame in it.transport.framed] == [1, 2]


def test_writes_the_first_frame_then_the_history_then_what_was_held() -> None:
    it = Registry()
    subscription = it.hub.join("s", "a")
    it.hub.deliver("a", "e", batch(2, 3))
    assert it.written("s") == []
    assert it.hub.resume(subscription, START, batch(1, 2), first=("ack", {}))
    it.hub.deliver("a", "e", batch(4))
    assert it.written("s") == ["ack", 1, 2, 3, 4]


def test_says_who_found_a_gap_and_writes_them_nothing_more() -> None:
    it = Registry()
    it.live("s")
    behind = it.hub.join("behind", "a")
    it.hub.resume(behind, Position("e", 2), [])
    gaps = it.hub.deliver("a", "e", batch(3))
    assert [gap.sid for gap in gaps] == ["s"]
    assert it.hub.deliver("a", "e", batch(4)) == []
    assert it.written("s") == []
    assert it.written("behind") == [3, 4]
    assert it.hub.resume(gaps[0], gaps[0].position, batch(1, 2))
    assert it.written("s") == [1, 2, 3, 4]


def test_another_epoch_is_a_gap() -> None:
    it = Registry()
    it.live("s")
    assert [gap.sid for gap in it.hub.deliver("a", "f", batch(1))] == ["s"]
    assert it.written("s") == []


def test_resumes_to_nowhere_when_what_was_held_does_not_follow() -> None:
    it = Registry()
    subscription = it.hub.join("s", "a")
    it.hub.deliver("a", "e", batch(5))
    assert not it.hub.resume(subscription, START, batch(1), first=("ack", {}))
    assert it.written("s") == ["ack", 1]
    assert it.hub.resume(subscription, Position("e", 1), batch(2, 3, 4))
    assert it.written("s") == ["ack", 1, 2, 3, 4, 5]


@pytest.mark.parametrize("end", ["leave", "drop", "join"])
def test_writes_nothing_for_a_subscription_that_has_ended(end: str) -> None:
    it = Registry()
    old = it.hub.join("s", "a")
    if end == "leave":
        it.hub.leave("s", "a")
    elif end == "drop":
        it.hub.drop("s")
    else:
        it.hub.join("s", "a")
    assert not it.hub.resume(old, START, batch(1), first=("ack", {}))
    it.hub.reset(old)
    assert it.written("s") == []
    assert ("a" in it.hub._rooms) == (end == "join")


def test_joining_again_starts_anew() -> None:
    it = Registry()
    it.live("s")
    it.hub.deliver("a", "e", batch(1))
    again = it.hub.join("s", "a")
    it.hub.deliver("a", "e", batch(2))
    assert it.written("s") == [1]
    assert it.hub.resume(again, Position("e", 1), [], first=("ack", {}))
    assert it.written("s") == [1, "ack", 2]
    it.hub.drop("s")
    assert it.hub._rooms == {}


def test_reset_tells_and_forgets() -> None:
    it = Registry()
    it.live("s")
    it.live("t")
    (subscription,) = (s for s in it.hub.hold("a") if s.sid == "s")
    it.hub.reset(subscription)
    it.hub.reset(subscription)
    it.hub.deliver("a", "e", batch(1))
    assert it.written("s") == ["reset"]
    assert it.hub._joined == {"t": {"a"}}
    it.hub.drop("t")
    assert it.calls[-1] == ("closed", "a")


def test_evict_ends_all_subscriptions_of_a_connection_and_tells_it_in_the_end() -> None:
    it = Registry()
    it.live("s")
    it.live("s", "b")
    it.live("t")
    told_before: list[Any] = []

    def then() -> None:
        # From here on what is written to it can't come after something it has missed.
        assert it.hub.find("s", "a") is it.hub.find("s", "b") is None
        told_before.extend(it.written("s"))

    it.hub.evict("s", then)
    assert told_before == []
    assert it.written("s") == ["reset", "reset"]
    it.hub.deliver("a", "e", batch(1))
    assert it.written("s") == ["reset", "reset"]
    assert it.written("t") == [1]
    assert it.calls[2:] == [("closed", "b")]
    it.hub.evict("nobody", lambda: told_before.append("called"))
    assert told_before == ["called"]


def test_hold_returns_those_who_were_live_once() -> None:
    it = Registry()
    it.live("s")
    it.live("t")
    it.hub.join("joining", "a")
    assert {s.sid for s in it.hub.hold("a")} == {"s", "t"}
    assert it.hub.hold("a") == []
    assert it.hub.hold("nowhere") == []
    it.hub.deliver("a", "e", batch(1))
    assert it.written("s") == []


def test_refuses_one_room_too_many() -> None:
    it = Registry(max_rooms=2)
    it.live("s", "a")
    it.live("s", "b")
    with pytest.raises(TooManyRooms, match="2 rooms"):
        it.hub.join("s", "c")
    assert ("opened", "c") not in it.calls
    it.live("s", "a")  # it is in it already
    it.live("t", "c")
    it.hub.leave("s", "a")
    it.live("s", "c")


def test_a_refused_first_room_leaves_nothing_behind() -> None:
    it = Registry(max_rooms=0)
    with pytest.raises(TooManyRooms):
        it.hub.join("s", "a")
    assert it.hub._joined == {}
    assert it.hub._rooms == {}


def test_opens_the_room_again_when_opening_failed() -> None:
    """Bug: the room counted as opened, and got nothing from the broker ever after."""
    answers = [RuntimeError("can't start new thread"), None]
    opened = []

    def open_room(room: str) -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        opened.append(room)

    hub = Hub(
        Recording(),
        max_rooms=9,
        max_held=9,
        opened=open_room,
        closed=lambda room: None,
    )
    with pytest.raises(RuntimeError):
        hub.join("s", "a")
    assert hub._rooms == {}
    assert hub._joined == {}
    hub.join("t", "a")
    assert opened == ["a"]


def test_nothing_is_written_after_a_subscription_is_revoked() -> None:
    it = Registry()
    it.live("s")
    it.live("t")
    it.live("s", "b")
    for sid in "st":
        subscription = it.hub.find(sid, "a")
        assert subscription is not None
        subscription.answered = subscription.presence = True
    it.hub.deliver("a", "e", batch(1))
    assert it.hub.subscribers_of("a") == ["s", "t"]
    assert it.hub.revoke("s", "a", 103)
    assert it.hub.subscribers_of("a") == ["t"]
    assert it.hub.rooms_of("s") == ["b"]
    it.hub.deliver("a", "e", batch(2))
    it.hub.whisper("a", Whispered("u", None, "typing", "1"))
    it.hub.presence("a", {"ada": ""}, {})
    it.hub.deliver("b", "e", batch(1))
    assert it.written("s") == [1, "revoked", 1]
    assert it.written("t") == [1, 2, "whisper", "presence"]
    assert not it.hub.revoke("s", "a", 103)
    assert not it.hub.revoke("nobody", "nowhere", 103)


def test_revokes_in_one_step_with_telling_so() -> None:
    """A delivery between the two would come after what is to be the last."""
    it = Registry()
    it.live("s")
    write, there = it.transport.write, []

    def look(sids: Sequence[str], frames: Sequence[Any], **options: Any) -> None:
        there.append("s" in it.hub._rooms["a"].subscriptions)
        assert it.hub._rooms["a"].lock.locked()
        write(sids, frames, **options)

    it.transport.write = look  # type: ignore[method-assign]
    assert it.hub.revoke("s", "a", 103)
    assert there == [False]
    assert it.calls == [("opened", "a"), ("closed", "a")]


def test_what_a_revoked_subscription_held_is_not_written() -> None:
    it = Registry()
    it.live("s")
    it.live("t")
    held = it.hub.find("s", "a")
    assert held is not None
    it.hub.deliver("a", "e", batch(2))
    assert it.hub.revoke("s", "a", 103)
    assert not it.hub.resume(held, START, batch(1))
    it.hub.reset(held)
    assert it.written("s") == ["revoked"]


def test_who_is_still_joining_is_revoked_without_a_frame() -> None:
    """Its subscribe is not answered yet, and is to be with the refusal."""
    it = Registry()
    subscription = it.hub.join("s", "a")
    it.hub.deliver("a", "e", batch(1))
    assert it.hub.revoke("s", "a", 103)
    assert subscription.revoked
    assert not it.hub.resume(subscription, START, batch(1))
    assert it.written("s") == []
    assert it.hub._rooms == it.hub._joined == {}


def test_revokes_only_the_subscription_that_is_meant() -> None:
    it = Registry()
    it.live("s")
    asked = it.hub.find("s", "a")
    it.live("s")  # it has joined anew, and been let in, since somebody asked
    assert not it.hub.revoke("s", "a", 103, only=asked)
    assert it.hub.revoke("s", "a", 103, only=it.hub.find("s", "a"))
    assert it.written("s") == ["revoked"]


def test_a_connection_that_is_gone_joins_nothing_any_more() -> None:
    """Bug: a join under way brought back a connection whose login had ended."""
    it = Registry()
    it.live("s")
    it.hub.drop("s")
    with pytest.raises(Unavailable):
        it.hub.join("s", "a")
    assert it.hub._rooms == it.hub._joined == {}
    for number in range(20_000):
        it.hub.drop(str(number))
    assert len(it.hub._gone) == 10_000
