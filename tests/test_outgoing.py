"""What waits while the broker is away, in which order it goes out, what is dropped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from flask_livepush import outgoing as outgoing_module
from flask_livepush.brokers.base import Listed
from flask_livepush.brokers.memory import MemoryBroker
from flask_livepush.errors import (
    BrokerError,
    BrokerUnavailable,
    PublicationTooLarge,
)
from flask_livepush.outgoing import Outgoing, Receipt
from flask_livepush.protocol.batch import Everywhere
from flask_livepush.protocol.publication import (
    ONCE,
    Attempt,
    Draft,
    Parcel,
    Position,
    check_sizes,
)
from tests.support.brokers import Clock, begun, spawn
from tests.support.figures import meters


class Patchy(MemoryBroker):
    """A broker that can be away, and notes what it is asked."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(size=1000, ttl=300, now=clock, spawn=spawn, max_bytes=1000)
        self.away = False
        self.refuses: set[str] = set()
        self.asked: list[str] = []
        self.attempts: list[tuple[str, Attempt]] = []
        #: What it is away for alone, and at the how manieth question from now on.
        self.trip: tuple[str, int] = ("", 0)

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if what == self.trip[0]:
            self.trip = (what, self.trip[1] - 1)
        if self.away or self.trip == (what, 0):
            raise BrokerUnavailable("It is away.")

    def publish(
        self, room: str, drafts: Sequence[Draft], *, attempt: Attempt = ONCE
    ) -> Position:
        check_sizes(drafts, self.max_bytes)
        self.attempts.append((room, attempt))
        self._ask("publish")
        if room in self.refuses:
            raise BrokerError("It refuses.")
        return super().publish(room, drafts, attempt=attempt)

    def position(self, room: str, *, patient: bool = False) -> Position:
        self._ask("position")
        return super().position(room)

    def ping(self, room: str) -> None:
        self._ask(f"ping {room}")

    def rooms(self, *, patient: bool = True) -> list[str]:
        self._ask("rooms")
        return super().rooms(patient=patient)


class Sender:
    """Runs what was spawned when the test says so; each pause is a chance to act."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.spawned: list[Callable[[], None]] = []
        self.pauses: list[float] = []
        self.on_pause: Callable[[], None] = lambda: None

    def spawn(self, function: Callable[[], None]) -> None:
        self.spawned.append(function)

    def sleep(self, seconds: float) -> None:
        if seconds > outgoing_module._BREATH:
            self.pauses.append(seconds)
        self._clock.now += seconds
        self.on_pause()

    def run(self) -> None:
        """Run what waits to be run, to its end."""
        while self.spawned:
            self.spawned.pop(0)()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def broker(clock: Clock) -> Patchy:
    return Patchy(clock)


@pytest.fixture
def sender(clock: Clock) -> Sender:
    return Sender(clock)


@pytest.fixture
def outgoing(broker: Patchy, sender: Sender, clock: Clock) -> Outgoing:
    return Outgoing(
        broker, spawn=sender.spawn, sleep=sender.sleep, now=clock, max_bytes=5000
    )


def event(number: int) -> list[Draft]:
    return [Draft("x", str(number))]


def row(key: str, stamp: int) -> list[Draft]:
    return [Draft("note.updated", str(stamp), "note", key, stamp)]


def data(broker: Patchy, room: str) -> list[str]:
    """Return what was published in a room."""
    broker.away = False
    start = Position(begun(broker, room).epoch, 0)
    return [p.event + p.data for p in broker.history(room, start).publications or ()]


def test_goes_out_at_once_while_the_broker_answers(
    outgoing: Outgoing, broker: Patchy, sender: Sender
) -> None:
    receipt = outgoing.publish("a", event(1))
    assert receipt.outcome == "stored"
    assert receipt.position == broker.position("a")
    assert sender.spawned == []


def test_waits_in_order_while_it_does_not(
    outgoing: Outgoing, broker: Patchy, sender: Sender
) -> None:
    broker.away = True
    outcomes = [outgoing.publish("a", event(n)).outcome for n in range(5)]
    assert outcomes == ["queued"] * 5
    # The first one found out; nobody else has waited for the broker.
    assert broker.asked == ["publish"]
    assert outgoing.depth == 5
    assert outgoing.waiting_bytes > 0
    broker.away = False
    assert outgoing.publish("a", event(5)).outcome == "queued"  # behind the others
    sender.run()
    assert data(broker, "a") == [f"x{n}" for n in range(6)]
    assert (outgoing.depth, outgoing.waiting_bytes) == (0, 0)
    assert outgoing.publish("a", event(6)).outcome == "stored"


def test_asks_for_a_sign_of_life_less_and_less_often(
    outgoing: Outgoing, broker: Patchy, sender: Sender
) -> None:
    broker.away = True
    outgoing.publish("a", event(1))
    sender.on_pause = lambda: setattr(broker, "away", len(sender.pauses) < 8)
    sender.run()
    assert sender.pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    assert broker.asked == ["publish", *["ping a"] * 9, "publish"]
    assert data(broker, "a") == ["x1"]


def test_what_may_have_been_accepted_is_sent_again_as_such(
    outgoing: Outgoing, broker: Patchy, sender: Sender
) -> None:
    broker.away = True
    outgoing.publish("a", event(1))
    outgoing.publish("b", event(2))

    def away_again(room: str) -> None:
        broker.away = len(broker.attempts) == 1

    broker.ping = away_again  # type: ignore[method-assign]
    sender.on_pause = lambda: setattr(broker, "away", False)
    sender.run()
    first, second = [a for r, a in broker.attempts if r == "a"], broker.attempts[-1][1]
    assert len({a.id for a in first}) == 1
    assert [a.again for a in first] == [False, *[True] * (len(first) - 1)]
    assert second.id not in ("", first[0].id)
    assert second.again is False


def test_pauses_when_the_broker_lives_but_takes_nothing(
    outgoing: Outgoing, broker: Patchy, sender: Sender
) -> None:
    """Bug: Redis was asked without a pause while its memory was full."""
    broker.away = True
    outgoing.publish("a", event(1))
    broker.ping = lambda room: None  # type: ignore[method-assign]
    sender.on_pause = lambda: setattr(broker, "away", len(sender.pauses) < 3)
    sender.run()
    assert sender.pauses == [0.05, 0.1, 0.2]
    assert data(broker, "a") == ["x1"]


def test_says_when_it_was_committed_and_began_to_wait(
    outgoing: Outgoing, broker: Patchy, sender: Sender, clock: Clock
) -> None:
    outgoing.publish("a", event(0))
    broker.away = True
    outgoing.publish("a", event(1), since=990)
    clock.now += 1
    outgoing.publish("a", event(2), since=1000.5)
    clock.now += 40
    broker.away = False
    sender.run()
    assert [(a.since, a.queued) for _, a in broker.attempts] == [
        (1000, None),
        (990, None),
        (990, 1000),
        (1000.5, 1001),
    ]


def test_a_full_queue_drops_and_tells_rooms_to_read_anew(
    outgoing: Outgoing,
    broker: Patchy,
    sender: Sender,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker.away = True
    with caplog.at_level(logging.ERROR):
        outcomes = [outgoing.publish("a", row("1", n)).outcome for n in range(1, 21)]
        outgoing.publish("b", [*row("1", 30), *event(7)])
        outgoing.publish("b", [Draft("other.invalidated", "{}")])
        outgoing.publish("c", event(7))
    kept = outcomes.count("queued")
    assert 0 < kept < 20
    assert outcomes == ["queued"] * kept + ["dropped"] * (20 - kept)
    assert outgoing.waiting_bytes <= 5000
    full = [r for r in caplog.records if "LIVEPUSH_MAX_QUEUED_BYTES" in r.message]
    assert len(full) == 1  # once a second
    clock.now += 1
    outgoing.publish("a", row("1", 40))
    assert len(caplog.records) == 2
    broker.away = False
    sender.run()
    changes = [f"note.updated{n}" for n in range(1, kept + 1)]
    assert data(broker, "a") == [*changes, "note.invalidated{}"]
    assert data(broker, "b") == ["note.invalidated{}", "other.invalidated{}"]
    assert data(broker, "c") == []
    assert outgoing.waiting_bytes == 0


def test_nothing_waits_when_told_so(broker: Patchy, sender: Sender) -> None:
    outgoing = Outgoing(
        broker, spawn=sender.spawn, sleep=sender.sleep, now=Clock(), max_bytes=0
    )
    broker.away = True
    assert outgoing.publish("a", row("1", 1)).outcome == "dropped"
    broker.away = False
    sender.run()
    assert data(broker, "a") == ["note.invalidated{}"]


def test_what_the_broker_refuses_does_not_stop_the_rest(
    broker: Patchy, sender: Sender, caplog: pytest.LogCaptureFixture
) -> None:
    counts, total = meters()
    outgoing = Outgoing(
        broker,
        spawn=sender.spawn,
        sleep=sender.sleep,
        now=Clock(),
        max_bytes=5000,
        metrics=counts,
    )
    broker.away = True
    for number, room in enumerate("abc"):
        outgoing.publish(room, event(number))
    broker.away, broker.refuses = False, {"b"}
    with caplog.at_level(logging.ERROR):
        sender.run()
    assert [data(broker, room) for room in "abc"] == [["x0"], [], ["x2"]]
    assert "refused" in caplog.text
    assert total("drops_total", "refused") == 1
    assert total("queue_sent_total") == 2
    assert outgoing.publish("a", event(3)).outcome == "stored"


def test_a_refusal_at_once_is_raised_and_opens_nothing(
    outgoing: Outgoing, broker: Patchy
) -> None:
    broker.refuses = {"a"}
    with pytest.raises(BrokerError, match="refuses"):
        outgoing.publish("a", event(1))
    assert outgoing.publish("b", event(1)).outcome == "stored"


def test_what_is_too_large_is_refused_also_while_the_broker_is_away(
    outgoing: Outgoing, broker: Patchy
) -> None:
    broker.away = True
    for _ in range(2):
        with pytest.raises(PublicationTooLarge):
            outgoing.publish("a", [Draft("x", "y" * 1001)])
        outgoing.publish("a", event(1))


def test_a_position_is_not_waited_for_while_the_broker_is_away(
    outgoing: Outgoing, broker: Patchy, sender: Sender
) -> None:
    broker.away = True
    for _ in range(3):
        with pytest.raises(BrokerUnavailable):
            outgoing.position("a")
    assert broker.asked == ["position"]
    broker.away = False
    sender.run()
    assert outgoing.position("a").offset == 0


# -- what concerns all rooms ---------------------------------------------------------


def boards(room: str) -> bool:
    return room.startswith("board:")


STALE = Everywhere("note", boards)


def told(broker: Patchy) -> list[list[str]]:
    """Return what was published in three rooms."""
    return [data(broker, room) for room in ("board:1", "board:2", "chat:1")]


@pytest.fixture
def rooms(broker: Patchy) -> None:
    """Three rooms that somebody may have a position of."""
    for room in ("board:1", "board:2", "chat:1"):
        begun(broker, room)
    del broker.asked[:]


@pytest.mark.usefixtures("rooms")
def test_the_sender_alone_tells_what_is_stale_everywhere(
    outgoing: Outgoing, broker: Patchy, sender: Sender
) -> None:
    """Bug: a view asked for all rooms, and told them one by one: 2.6 s for 3,000."""
    outgoing.tell_everywhere([STALE])
    assert broker.asked == []
    assert not outgoing.finish()
    assert outgoing.depth == 1
    # The breaker is closed: what else there is goes out at once.
    assert outgoing.publish("board:1", event(1)).outcome == "stored"
    sender.run()
    assert outgoing.finish()
    assert told(broker) == [["x1", "note.invalidated{}"], ["note.invalidated{}"], []]
    assert sender.spawned == []


@pytest.mark.usefixtures("rooms")
def test_what_is_stale_everywhere_waits_for_a_broker_that_is_away(
    outgoing: Outgoing, broker: Patchy, sender: Sender
) -> None:
    broker.away = True
    for _ in range(3):
        outgoing.tell_everywhere([STALE, Everywhere("task", boards)])
    assert outgoing.depth == 2
    sender.on_pause = lambda: setattr(broker, "away", len(sender.pauses) < 3)
    sender.run()
    expected = ["note.invalidated{}", "task.invalidated{}"]
    assert told(broker) == [expected, expected, []]
    # Nobody else had to find out that the broker was away.
    assert outgoing.publish("chat:1", event(1)).outcome == "stored"


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize("what", ["rooms", "publish"])
def test_rooms_that_were_told_are_not_told_again_when_the_broker_goes_away(
    outgoing: Outgoing, broker: Patchy, sender: Sender, what: str
) -> None:
    outgoing.tell_everywhere([STALE])

    broker.trip = (what, 2 if what == "publish" else 1)
    sender.run()
    assert sender.pauses == [0.05]
    assert told(broker) == [["note.invalidated{}"], ["note.invalidated{}"], []]
    again = [attempt.again for _, attempt in broker.attempts]
    assert again == ([False] * 2 if what == "rooms" else [False, False, True])


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize("what", ["rooms", "publish"])
def test_rooms_are_told_again_of_what_is_committed_while_they_are_told(
    outgoing: Outgoing, broker: Patchy, sender: Sender, what: str
) -> None:
    """Bug: a bulk statement was taken for told by what had been sent before it."""
    outgoing.tell_everywhere([STALE])
    commits = [STALE]
    works = broker._ask

    def ask(asked: str) -> None:
        if asked == what and commits:
            # The room has been told by then, for all that anybody knows, and another
            # one begins that the broker has not listed.
            outgoing.tell_everywhere([commits.pop()])
        works(asked)

    broker._ask = ask  # type: ignore[method-assign]
    sender.run()
    assert told(broker) == [["note.invalidated{}"] * 2, ["note.invalidated{}"] * 2, []]


@pytest.mark.usefixtures("rooms")
def test_what_waits_is_sent_before_what_is_stale_everywhere(
    outgoing: Outgoing, broker: Patchy, sender: Sender
) -> None:
    broker.away = True
    outgoing.tell_everywhere([STALE])
    outgoing.publish("board:1", event(1))
    broker.away = False
    sender.run()
    assert told(broker)[0] == ["x1", "note.invalidated{}"]


@pytest.mark.usefixtures("rooms")
def test_bounds_what_is_stale_everywhere(
    outgoing: Outgoing,
    broker: Patchy,
    sender: Sender,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outgoing_module, "_MAX_EVERYWHERE", 10)
    broker.away = True
    for number in range(100):
        # As of a declaration that holds for one request alone.
        outgoing.tell_everywhere([Everywhere("note", f"board:{number}".__eq__)])
    assert outgoing.depth == 11
    broker.away = False
    sender.run()
    assert told(broker) == [["note.invalidated{}"]] * 3


@pytest.mark.usefixtures("rooms")
def test_a_rule_that_raises_for_a_room_lets_it_be_told(
    outgoing: Outgoing,
    broker: Patchy,
    sender: Sender,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def matches(room: str) -> bool:
        if room == "board:1":
            raise LookupError("a converter's bug")
        return False

    outgoing.tell_everywhere([Everywhere("note", matches)])
    with caplog.at_level(logging.ERROR):
        sender.run()
    assert told(broker) == [["note.invalidated{}"], [], []]
    assert "a converter's bug" in caplog.text


def test_counts_the_rooms_that_are_told(broker: Patchy, sender: Sender) -> None:
    counts, total = meters()
    outgoing = Outgoing(
        broker,
        spawn=sender.spawn,
        sleep=sender.sleep,
        now=Clock(),
        max_bytes=5000,
        metrics=counts,
    )
    begun(broker, "board:1")
    outgoing.tell_everywhere([STALE])
    sender.run()
    assert total("publications_total", "stored") == 1
    assert total("queue_sent_total") == 0


def test_waits_a_moment_until_all_rooms_are_told(clock: Clock) -> None:
    broker, sender = Patchy(clock), Sender(clock)
    begun(broker, "board:1")
    outgoing = Outgoing(
        broker, spawn=sender.spawn, sleep=sender.sleep, now=clock, max_bytes=5000
    )
    assert outgoing.wait_until_told(1)
    outgoing.tell_everywhere([STALE])
    started = clock.now
    assert not outgoing.wait_until_told(1)
    assert started + 1 <= clock.now < started + 1.1
    sender.on_pause = sender.run
    assert outgoing.wait_until_told(1)
    # Nor for a broker that is away.
    outgoing.tell_everywhere([STALE])
    broker.away = True
    outgoing.publish("a", event(1))
    sender.on_pause = lambda: pytest.fail("it waits")
    assert not outgoing.wait_until_told(1)


# -- several rooms at once -----------------------------------------------------------


def test_publishes_to_rooms_each_with_its_own_outcome(
    outgoing: Outgoing, broker: Patchy, sender: Sender
) -> None:
    broker.refuses = {"c"}
    large = [Draft("x", "y" * 1001)]
    found = outgoing.publish_all(
        {"a": event(1), "b": large, "c": event(1), "d": event(2)}, since=990
    )
    assert list(found) == ["a", "b", "c", "d"]
    assert found["a"] == Receipt("stored", broker.position("a"))
    assert isinstance(found["b"], PublicationTooLarge)
    assert "It refuses" in str(found["c"])
    assert found["d"] == Receipt("stored", broker.position("d"))
    assert sender.spawned == []
    assert {attempt.since for _, attempt in broker.attempts} == {990}
    assert len({attempt.id for _, attempt in broker.attempts}) == 3


def test_rooms_that_were_not_asked_for_wait_when_the_broker_goes_away(
    outgoing: Outgoing, broker: Patchy, sender: Sender
) -> None:
    broker.trip = ("publish", 2)
    large = [Draft("x", "y" * 1001)]
    rooms = {"a": event(1), "b": event(2), "c": event(3), "d": large}
    found = outgoing.publish_all(rooms)
    outcomes = [getattr(found[room], "outcome", "") for room in "abcd"]
    assert outcomes == ["stored", "queued", "queued", ""]
    assert isinstance(found["d"], PublicationTooLarge)
    assert broker.asked == ["publish", "publish"]  # nobody waits twice
    sender.run()
    assert [data(broker, room) for room in "abc"] == [["x1"], ["x2"], ["x3"]]
    again = [(room, attempt.again) for room, attempt in broker.attempts]
    assert again == [("a", False), ("b", False), ("b", True), ("c", False)]
    assert len({attempt.id for _, attempt in broker.attempts}) == 3


def test_the_sender_keeps_the_order_of_each_room(
    outgoing: Outgoing, broker: Patchy, sender: Sender
) -> None:
    """The first of a room is refused for the moment; no second one overtakes it."""

    def publish_all(parcels: Sequence[Parcel]) -> Any:
        # As Redis does, which answers for each of a pipeline.
        for number, parcel in enumerate(parcels):
            yield from (
                (number, a) for _, a in MemoryBroker.publish_all(broker, [parcel])
            )

    broker.publish_all = publish_all  # type: ignore[method-assign]
    broker.away = True
    for number in range(9):
        outgoing.publish("abc"[number % 3], event(number))
    broker.away = False
    broker.trip = ("publish", 2)
    sender.run()
    assert sender.pauses == [0.05]
    assert [data(broker, room) for room in "abc"] == [
        [f"x{number}" for number in range(first, 9, 3)] for first in range(3)
    ]


def test_publishes_later_without_asking_the_broker(
    outgoing: Outgoing, broker: Patchy, sender: Sender
) -> None:
    rooms = {"a": event(1), "b": [Draft("x", "y" * 1001)]}
    found = outgoing.publish_later(rooms)
    assert broker.asked == []
    assert found["a"] == Receipt("queued")
    assert isinstance(found["b"], PublicationTooLarge)
    assert outgoing.publish("a", event(2)).outcome == "queued"  # behind it
    sender.run()
    assert data(broker, "a") == ["x1", "x2"]
    assert data(broker, "b") == []


# -- interruptions -------------------------------------------------------------------


class Interrupt(BaseException):
    """What gevent's Timeout and a KeyboardInterrupt are."""


class Interrupted(Patchy):
    """A broker in which somebody is interrupted, each time before or after the deed.

    Args:
        at: For which questions, as they are noted.
        done: Whether the broker does what it is asked for all the same.
        error: What is raised.
    """

    def __init__(
        self, clock: Clock, *at: str, done: bool = False, error: type = Interrupt
    ) -> None:
        super().__init__(clock)
        self.at = list(at)
        self.done = done
        self.error = error
        self.accepted: set[str] = set()

    def publish(
        self, room: str, drafts: Sequence[Draft], *, attempt: Attempt = ONCE
    ) -> Position:
        if attempt.again and attempt.id in self.accepted:
            drafts = []  # as Redis, which knows what it has
        self.accepted.add(attempt.id)
        interrupt = f"publish {room}" in self.at
        if interrupt:
            self.at.remove(f"publish {room}")
            if self.done:
                super().publish(room, drafts, attempt=attempt)
            else:
                self.accepted.discard(attempt.id)
            raise self.error
        return super().publish(room, drafts, attempt=attempt)

    def _ask(self, what: str) -> None:
        super()._ask(what)
        if what in self.at:
            self.at.remove(what)
            raise self.error


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done"])
@pytest.mark.parametrize("room", ["a", "b", "c"])
@pytest.mark.parametrize("number", [1, 3])
def test_what_is_interrupted_is_sent_once_all_the_same(
    clock: Clock, sender: Sender, room: str, number: int, *, done: bool
) -> None:
    """Bug: that room and the rest were never told."""
    broker = Interrupted(clock, f"publish {room}", done=done)
    outgoing = Outgoing(
        broker, spawn=sender.spawn, sleep=sender.sleep, now=clock, max_bytes=5000
    )
    rooms = {name: event(1) for name in "abc"} if number == 3 else {room: event(1)}
    with pytest.raises(Interrupt):
        outgoing.publish_all(rooms)
    assert not outgoing.finish()
    assert outgoing.publish(room, event(2)).outcome == "queued"  # in its order
    sender.run()
    assert outgoing.finish()
    assert [data(broker, name) for name in rooms if name != room] == [["x1"]] * (
        len(rooms) - 1
    )
    assert data(broker, room) == ["x1", "x2"]
    assert [a.again for name, a in broker.attempts if name == room][-2:] == [
        True,
        False,
    ]
    assert outgoing.publish(room, event(3)).outcome == "stored"


def test_an_interrupted_emit_is_sent_all_the_same(clock: Clock, sender: Sender) -> None:
    broker = Interrupted(clock, "publish a", done=True)
    outgoing = Outgoing(
        broker, spawn=sender.spawn, sleep=sender.sleep, now=clock, max_bytes=5000
    )
    with pytest.raises(Interrupt):
        outgoing.publish("a", event(1))
    sender.run()
    assert data(broker, "a") == ["x1"]


def test_a_time_limit_that_is_an_error_loses_nothing_either(
    clock: Clock, sender: Sender, caplog: pytest.LogCaptureFixture
) -> None:
    """Bug: Celery's SoftTimeLimitExceeded, raised while a room was published to, was
    taken for an error of the broker, and the room was never told."""
    broker = Interrupted(clock, "publish b", done=True, error=RuntimeError)
    outgoing = Outgoing(
        broker, spawn=sender.spawn, sleep=sender.sleep, now=clock, max_bytes=5000
    )
    with caplog.at_level(logging.ERROR):
        found = outgoing.publish_all({name: event(1) for name in "abc"})
    assert [type(found[room]) for room in "abc"] == [Receipt, RuntimeError, Receipt]
    assert "RuntimeError" in caplog.text
    sender.run()
    assert [data(broker, room) for room in "abc"] == [["x1"]] * 3


def test_a_late_publication_that_is_too_large_lets_its_room_read_anew(
    clock: Clock, sender: Sender
) -> None:
    broker = Interrupted(clock, "publish a")
    outgoing = Outgoing(
        broker, spawn=sender.spawn, sleep=sender.sleep, now=clock, max_bytes=5000
    )
    large = [Draft("note.updated", "y" * 1001, "note", "1", 1)]
    with pytest.raises(Interrupt):
        outgoing.publish_all({"a": event(1), "b": large})
    sender.run()
    assert data(broker, "a") == ["x1"]
    assert data(broker, "b") == ["note.invalidated{}"]


KILLS = ("ping a", "rooms", "publish a", "publish b", "publish board:1")


@pytest.mark.parametrize("at", KILLS)
@pytest.mark.parametrize("done", [False, True], ids=["not done", "done"])
def test_a_sender_that_is_killed_is_followed_by_another_one(
    clock: Clock, sender: Sender, at: str, *, done: bool
) -> None:
    """Bug: nothing that waited was ever sent, and nothing after it either."""
    broker = Interrupted(clock, done=done)
    begun(broker, "board:1")
    outgoing = Outgoing(
        broker, spawn=sender.spawn, sleep=sender.sleep, now=clock, max_bytes=5000
    )
    outgoing.publish_later({"a": event(1), "b": event(2)})
    outgoing.tell_everywhere([STALE])
    broker.at.append(at)
    with pytest.raises(Interrupt):
        sender.run()
    assert not outgoing.is_empty
    # Whoever comes next begins it, such as a process that leaves.
    assert not outgoing.finish()
    sender.run()
    assert outgoing.finish()
    assert [data(broker, room) for room in "ab"] == [["x1"], ["x2"]]
    assert data(broker, "board:1") == ["note.invalidated{}"]
    assert outgoing.publish("a", event(3)).outcome == "stored"


def test_a_sender_that_is_killed_in_its_sleep_is_followed_by_another_one(
    outgoing: Outgoing, broker: Patchy, sender: Sender
) -> None:
    def kill() -> None:
        raise Interrupt

    broker.away = True
    outgoing.publish("a", event(1))
    sender.on_pause = kill
    with pytest.raises(Interrupt):
        sender.run()
    broker.away = False
    with pytest.raises(BrokerUnavailable):
        outgoing.position("a")
    sender.run()
    assert data(broker, "a") == ["x1"]


@pytest.mark.parametrize("begins", [False, True], ids=["lost", "begins yet"])
def test_a_beginning_of_the_sender_that_is_interrupted_is_made_again(
    clock: Clock, broker: Patchy, sender: Sender, *, begins: bool
) -> None:
    interrupts = [Interrupt()]

    def spawn_then(function: Callable[[], None]) -> None:
        if begins or not interrupts:
            sender.spawn(function)
        if interrupts:
            raise interrupts.pop()

    outgoing = Outgoing(
        broker, spawn=spawn_then, sleep=sender.sleep, now=clock, max_bytes=5000
    )
    with pytest.raises(Interrupt):
        outgoing.publish_later({"a": event(1)})
    assert not outgoing.finish()
    sender.run()
    assert outgoing.finish()
    assert data(broker, "a") == ["x1"]
    assert len(broker.attempts) == 1


def test_a_sender_that_never_ran_is_followed_by_another_one(
    outgoing: Outgoing, broker: Patchy, sender: Sender, clock: Clock
) -> None:
    """A greenlet can be killed before it has begun, and nobody hears of it."""
    outgoing.publish_later({"a": event(1)})
    late = sender.spawned.pop()
    outgoing.finish()
    assert sender.spawned == []
    clock.now += 100
    outgoing.finish()
    sender.run()
    assert data(broker, "a") == ["x1"]
    outgoing.publish_later({"a": event(2)})
    late()  # it has no say any more
    assert data(broker, "a") == ["x1"]
    sender.run()
    assert data(broker, "a") == ["x1", "x2"]


def test_a_sender_that_waits_for_minutes_is_not_taken_for_dead(
    outgoing: Outgoing, broker: Patchy, sender: Sender
) -> None:
    broker.away = True
    outgoing.publish("a", event(1))

    def publish_more() -> None:
        outgoing.finish()
        assert sender.spawned == []
        broker.away = len(sender.pauses) < 200

    sender.on_pause = publish_more
    sender.run()
    assert sum(sender.pauses) > 180
    assert data(broker, "a") == ["x1"]


@pytest.mark.usefixtures("rooms")
def test_the_breaker_that_opens_while_rooms_are_told_waits_for_a_sign_of_life(
    outgoing: Outgoing, broker: Patchy, sender: Sender
) -> None:
    outgoing.tell_everywhere([STALE])
    works, finds = broker._ask, [True]

    def ask(what: str) -> None:
        works(what)
        if what == "rooms" and finds:
            finds.clear()
            broker.away = True
            assert outgoing.publish("chat:1", event(1)).outcome == "queued"

    broker._ask = ask  # type: ignore[method-assign]

    def be_back() -> None:
        broker.away = broker.away and len(sender.pauses) < 3

    sender.on_pause = be_back
    sender.run()
    pings = ["ping chat:1"] * 3
    assert broker.asked == ["rooms", "publish", *pings, *["publish"] * 3]
    assert told(broker) == [["note.invalidated{}"], ["note.invalidated{}"], ["x1"]]


def test_a_bug_of_the_broker_costs_nobody_else_what_waits(
    outgoing: Outgoing,
    broker: Patchy,
    sender: Sender,
    caplog: pytest.LogCaptureFixture,
) -> None:
    works = broker.publish_all

    def fail(parcels: Sequence[Parcel]) -> Any:
        for answer in works(parcels):
            yield answer
            raise LookupError("a bug")

    broker.publish_all = fail  # type: ignore[method-assign]
    outgoing.publish_later({room: event(1) for room in "abc"})
    with caplog.at_level(logging.ERROR):
        sender.run()
    assert "a bug" in caplog.text
    assert outgoing.finish()
    assert [data(broker, room)[:1] for room in "abc"] == [["x1"]] * 3
    assert sender.pauses == []


# -- the sender ----------------------------------------------------------------------


def test_a_sender_that_cannot_begin_is_tried_again(
    broker: Patchy, sender: Sender, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [RuntimeError("can't start new thread")]

    def spawn_later(function: Callable[[], None]) -> None:
        if failures:
            raise failures.pop()
        sender.spawn(function)

    outgoing = Outgoing(
        broker,
        spawn=spawn_later,
        sleep=sender.sleep,
        now=Clock(),
        max_bytes=5000,
    )
    broker.away = True
    with caplog.at_level(logging.ERROR):
        assert outgoing.publish("a", event(1)).outcome == "queued"
    with pytest.raises(BrokerUnavailable):
        outgoing.position("a")
    broker.away = False
    sender.run()
    assert data(broker, "a") == ["x1"]
    assert outgoing.position("a").offset == 1


def test_says_whether_the_broker_answers_and_asks_it_only_while_nobody_knows() -> None:
    clock = Clock()
    broker = Patchy(clock)
    work: list[Callable[[], None]] = []
    outgoing = Outgoing(
        broker, spawn=work.append, sleep=lambda s: None, now=clock, max_bytes=1000
    )
    assert outgoing.answers()
    broker.away = True
    assert not outgoing.answers()
    assert outgoing.is_empty
    outgoing.publish("a", [Draft("x", "1")])
    del broker.asked[:]
    assert not outgoing.answers()
    assert not outgoing.is_empty
    assert broker.asked == []
    broker.away = False
    work.pop()()
    assert outgoing.answers()
    assert outgoing.is_empty


# -- several servers -------------------------------------------------------------------


class Shards(Patchy):
    """A broker of several servers, each with the rooms that begin with its letter."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.gone: set[str] = set()
        #: Rooms that are somewhere else by now.
        self.moved: dict[str, str] = {}

    def shard(self, room: str) -> str | None:
        return self.moved.get(room, room[:1]) or None

    def _ask(self, what: str) -> None:
        super()._ask(what)
        room = what.removeprefix("ping ")
        if room != what and room and self.shard(room) in self.gone:
            raise BrokerUnavailable("Its server is away.")

    def publish(
        self, room: str, drafts: Sequence[Draft], *, attempt: Attempt = ONCE
    ) -> Position:
        if self.shard(room) in self.gone:
            self.attempts.append((room, attempt))
            raise BrokerUnavailable("Its server is away.")
        return super().publish(room, drafts, attempt=attempt)

    def list_rooms(self, left: frozenset[int] | None = None) -> Listed:
        letters = {ord(room[0]) for room in self.rooms()}
        asked = letters if left is None else left
        away = frozenset(number for number in asked if chr(number) in self.gone)
        found = [r for r in self.rooms() if ord(r[0]) in asked - away]
        error = BrokerUnavailable("Its server is away.") if away else None
        return Listed(found, away, error)


@pytest.fixture
def shards(clock: Clock) -> Shards:
    return Shards(clock)


@pytest.fixture
def in_front(shards: Shards, sender: Sender, clock: Clock) -> Outgoing:
    return Outgoing(
        shards, spawn=sender.spawn, sleep=sender.sleep, now=clock, max_bytes=8000
    )


def test_a_server_that_is_away_delays_no_room_of_another(
    in_front: Outgoing, shards: Shards, sender: Sender
) -> None:
    """Bug: all rooms of a cluster waited for the one server that was away."""
    shards.gone = {"a"}
    assert in_front.publish("a1", event(1)).outcome == "queued"
    assert in_front.publish("b1", event(1)).outcome == "stored"
    assert in_front.position("b1").offset == 1
    with pytest.raises(BrokerUnavailable):
        in_front.position("a1")
    found = in_front.publish_all({"a1": event(2), "b1": event(2), "b2": event(2)})
    outcomes = [
        receipt.outcome if isinstance(receipt, Receipt) else receipt
        for receipt in found.values()
    ]
    assert sorted(map(str, outcomes)) == ["queued", "stored", "stored"]
    # It was asked for once, by the first.
    assert [room for room, _ in shards.attempts].count("a1") == 1
    assert not in_front.answers()
    sender.on_pause = lambda: shards.gone.clear() if len(sender.pauses) > 3 else None
    sender.run()
    assert data(shards, "a1") == ["x1", "x2"]
    assert data(shards, "b1") == ["x1", "x2"]
    assert in_front.is_empty


def test_a_commit_waits_once_for_servers_that_are_away(
    in_front: Outgoing, shards: Shards, sender: Sender
) -> None:
    shards.gone = {"a", "b"}
    found = in_front.publish_all({r: event(1) for r in ("a1", "b1", "c1")})
    assert found == dict.fromkeys(("a1", "b1", "c1"), Receipt("queued"))
    assert len(shards.attempts) == 1
    # The third answers, and gets what is its in a moment.
    sender.on_pause = shards.gone.clear
    for run in reversed(take(sender.spawned)):
        run()
    assert [data(shards, room) for room in ("a1", "b1", "c1")] == [["x1"]] * 3


def test_a_room_that_moves_keeps_its_order(
    in_front: Outgoing, shards: Shards, sender: Sender
) -> None:
    shards.gone = {"a"}
    in_front.publish("a1", event(1))
    shards.moved = {"a1": "b"}
    assert in_front.publish("a1", event(2)).outcome == "queued"
    sender.run()
    assert data(shards, "a1") == ["x1", "x2"]
    assert in_front.publish("a1", event(3)).outcome == "stored"
    assert in_front._pinned == {}


def test_one_server_s_queue_leaves_room_for_the_others(
    in_front: Outgoing, shards: Shards
) -> None:
    shards.gone = {"a", "b"}
    for number in range(50):
        in_front.publish("a1", event(number))
    assert in_front.publish("a1", event(0)).outcome == "dropped"
    assert in_front.publish("b1", event(0)).outcome == "queued"


def test_what_is_stale_everywhere_reaches_those_that_answer_at_once(
    in_front: Outgoing, shards: Shards, sender: Sender
) -> None:
    for room in ("a1", "b1", "c1"):
        begun(shards, room)
    shards.gone = {"a"}
    in_front.tell_everywhere([Everywhere("note", lambda room: True)])
    # The first to run has found the rooms; the others tell them, each its own.
    told: list[list[str]] = []

    def look() -> None:
        for run in take(sender.spawned):
            run()
        if shards.gone:
            told.append(data(shards, "b1") + data(shards, "c1"))
        if len(sender.pauses) > 5:
            shards.gone.clear()

    sender.on_pause = look
    sender.run()
    assert told[-1] == ["note.invalidated{}"] * 2
    # Once, however often the third was asked for.
    assert [data(shards, room) for room in ("b1", "c1")] == [["note.invalidated{}"]] * 2
    assert data(shards, "a1") == ["note.invalidated{}"]
    assert in_front.is_empty


def take(spawned: list[Callable[[], None]]) -> list[Callable[[], None]]:
    found = list(spawned)
    spawned.clear()
    return found


@pytest.mark.parametrize("problem", [BrokerError("no"), ValueError("a bug")])
def test_what_all_rooms_are_to_be_told_is_never_given_up(
    outgoing: Outgoing,
    broker: Patchy,
    sender: Sender,
    problem: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Bug: one bad entry among the rooms, and a bulk statement was told to nobody."""
    begun(broker, "a")
    works = broker.rooms
    failing = [problem] * 10

    def rooms(*, patient: bool = True) -> list[str]:
        if failing:
            raise failing.pop()
        return works(patient=patient)

    broker.rooms = rooms  # type: ignore[method-assign]
    outgoing.tell_everywhere([Everywhere("note", lambda room: True)])
    with caplog.at_level(logging.WARNING):
        sender.run()
    assert data(broker, "a") == ["note.invalidated{}"]
    assert caplog.text.count("put off") == 1
