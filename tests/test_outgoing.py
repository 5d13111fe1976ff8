"""What waits while the broker is away, in which order it goes out, what is dropped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pytest

from flask_livepush.brokers.memory import MemoryBroker
from flask_livepush.errors import (
    BrokerError,
    BrokerUnavailable,
    PublicationTooLarge,
)
from flask_livepush.outgoing import Outgoing
from flask_livepush.protocol.batch import Everywhere
from flask_livepush.protocol.publication import (
    ONCE,
    Attempt,
    Draft,
    Position,
    check_sizes,
)
from tests.support.brokers import Clock, spawn
from tests.support.figures import meters


class Patchy(MemoryBroker):
    """A broker that can be away, and notes what it is asked."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(size=1000, ttl=300, now=clock, spawn=spawn, max_bytes=1000)
        self.away = False
        self.refuses: set[str] = set()
        self.asked: list[str] = []
        self.attempts: list[tuple[str, Attempt]] = []

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.away:
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
    start = Position(MemoryBroker.position(broker, room).epoch, 0)
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


def test_rooms_that_cannot_be_asked_for_are_told_later(
    outgoing: Outgoing, broker: Patchy, sender: Sender
) -> None:
    stale = Everywhere("note", lambda room: room.startswith("board:"))
    for room in ("board:1", "board:2", "chat:1"):
        broker.position(room)
    assert sorted(outgoing.rooms_of(stale)) == ["board:1", "board:2"]
    broker.away = True
    assert outgoing.rooms_of(stale) == []
    assert outgoing.rooms_of(stale) == []
    outgoing.publish("board:1", event(1))
    broker.away = False
    sender.run()
    assert data(broker, "board:1") == ["note.invalidated{}", "x1"]
    assert data(broker, "board:2") == ["note.invalidated{}"]
    assert data(broker, "chat:1") == []


def test_rooms_are_told_again_of_what_is_committed_while_they_are_told(
    outgoing: Outgoing, broker: Patchy, sender: Sender
) -> None:
    """Bug: a bulk statement was taken for told by what had been sent before it."""
    stale = Everywhere("note", lambda room: room == "board:1")
    broker.position("board:1")
    broker.away = True
    outgoing.rooms_of(stale)
    broker.away = False
    works, commits = broker.rooms, [stale]

    def rooms(**options: bool) -> list[str]:
        if commits:
            # The room has been told by then, for all that anybody knows.
            assert outgoing.rooms_of(commits.pop()) == []
        return works(**options)

    broker.rooms = rooms  # type: ignore[method-assign]
    sender.run()
    assert data(broker, "board:1") == ["note.invalidated{}"] * 2


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
