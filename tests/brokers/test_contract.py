"""What every broker guarantees, one body for all of them."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_livepush.brokers.base import Broker
from flask_livepush.errors import PublicationTooLarge
from flask_livepush.protocol.publication import (
    Attempt,
    Draft,
    Parcel,
    Position,
    Publication,
)
from tests.support.brokers import (
    BROKERS,
    Aging,
    Clock,
    Recorder,
    begun,
    new_prefix,
    on_redis,
)
from tests.support.redis import until
from tests.support.servers import ROOT
from tests.support.waiting import DEADLINE

Make = Callable[..., tuple[Broker, Recorder]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def prefix() -> str:
    """The prefix of a test's brokers on Redis."""
    return new_prefix()


@pytest.fixture(params=[*BROKERS, "redis", "sentinel", "cluster"])
def make(request: pytest.FixtureRequest, clock: Clock, prefix: str) -> Iterator[Make]:
    """Return a function that makes a broker, and its listener."""
    made: list[Broker] = []

    def build(
        size: int = 100,
        ttl: float = 300,
        max_queue: int = 10_000,
        max_bytes: int = 256 * 1024,
    ) -> tuple[Broker, Recorder]:
        options = {"size": size, "ttl": ttl, "max_bytes": max_bytes}
        if request.param in BROKERS:
            broker = BROKERS[request.param](now=clock, max_queue=max_queue, **options)
        else:
            url = request.getfixturevalue(f"{request.param}_url")
            broker = on_redis(url, prefix=prefix, **options)
        made.append(broker)
        recorder = Recorder()
        broker.listen(recorder)
        return broker, recorder

    yield build
    for broker in made:
        broker.close()


#: For what only a clock that a test sets can show.
with_fake_clock = pytest.mark.parametrize("make", BROKERS, indirect=True)


@pytest.fixture
def passing(
    request: pytest.FixtureRequest, make: Make, clock: Clock, prefix: str
) -> Iterator[Clock | Aging]:
    """Time that passes, in the rooms ``a`` and ``later`` at least."""
    kind = request.node.callspec.params["make"]
    if kind in BROKERS:
        yield clock
        return
    aging = Aging(request.getfixturevalue(f"{kind}_url"), prefix, ("a", "later"))
    yield aging
    aging.close()


def drafts(*data: int) -> list[Draft]:
    return [Draft("x", str(number)) for number in data]


def row(key: str, stamp: int) -> Draft:
    return Draft("message.updated", str(stamp), "message", key, stamp)


def test_relays_to_whoever_serves_the_room_and_keeps_nothing(make: Make) -> None:
    broker, recorder = make()
    broker.relay("a", "nobody hears")
    broker.subscribe("a")
    broker.confirm("a")
    before = broker.publish("a", drafts(1))
    message = '["é💬"]\n{"a": 1}'
    broker.relay("b", "elsewhere")
    broker.relay("a", message)
    recorder.wait(lambda: recorder.relays)
    assert recorder.relays == [("a", message)]
    assert broker.position("a") == before
    broker.publish("a", drafts(2))
    recorder.wait(lambda: recorder.offsets("a") == [1, 2])
    assert recorder.mended == []
    assert len(recorder.threads) == 1


def together(*functions: Callable[[], None]) -> None:
    """Run functions in threads at once and raise what any of them raised."""
    problems: list[BaseException] = []

    def run(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    threads = [threading.Thread(target=run, args=(f,), daemon=True) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    if problems:
        raise problems[0]


def test_offsets_begin_at_one_and_go_on_by_one(make: Make) -> None:
    broker, _ = make()
    start = begun(broker, "a")
    assert start.offset == 0
    assert start.epoch
    assert len(start.epoch) <= 64
    assert broker.publish("a", drafts(1)) == Position(start.epoch, 1)
    assert broker.publish("a", drafts(2, 3, 4)) == Position(start.epoch, 4)
    assert broker.position("a") == Position(start.epoch, 4)
    history = broker.history("a", start)
    assert history.position == Position(start.epoch, 4)
    assert history.publications == [
        Publication(1, "x", "1"),
        Publication(2, "x", "2", more=True),
        Publication(3, "x", "3", more=True),
        Publication(4, "x", "4"),
    ]


def test_an_epoch_fits_into_a_header_and_an_attribute(make: Make) -> None:
    broker, _ = make()
    for number in range(50):
        epoch = begun(broker, f"room:{number}").epoch
        assert all(c.isascii() and (c.isalnum() or c in "-_.~") for c in epoch)


def test_each_room_has_its_own_order_and_epoch(make: Make) -> None:
    broker, _ = make()
    first, second = broker.publish("a", drafts(1, 2)), broker.publish("b", drafts(1))
    assert (first.offset, second.offset) == (2, 1)
    assert first.epoch != second.epoch
    assert broker.history("a", Position(second.epoch, 2)).publications is None


def test_recovers_all_or_nothing_by_size(make: Make) -> None:
    broker, _ = make(size=3)
    epoch = broker.publish("a", drafts(1, 2, 3, 4, 5)).epoch
    for offset in range(7):
        found = broker.history("a", Position(epoch, offset))
        assert found.position == Position(epoch, 5)
        whole = list(range(offset + 1, 6)) if 2 <= offset <= 5 else None
        assert (found.publications and [p.offset for p in found.publications]) == (
            whole if whole != [] else found.publications
        )
    assert broker.history("a", Position(epoch, 5)).publications == []
    assert broker.history("a", Position("other", 5)).publications is None


@with_fake_clock
def test_recovers_all_or_nothing_by_time_to_the_second(
    make: Make, clock: Clock
) -> None:
    broker, _ = make(ttl=300)
    epoch = broker.publish("a", drafts(1)).epoch
    clock.now += 200
    broker.publish("a", drafts(2))
    clock.now += 99
    assert len(broker.history("a", Position(epoch, 0)).publications or ()) == 2
    clock.now += 2
    assert broker.history("a", Position(epoch, 0)).publications is None
    assert len(broker.history("a", Position(epoch, 1)).publications or ()) == 1
    clock.now += 300
    assert broker.history("a", Position(epoch, 1)).publications is None
    assert broker.history("a", Position(epoch, 2)).publications == []


def test_recovers_all_or_nothing_by_time(make: Make, passing: Clock | Aging) -> None:
    broker, _ = make(ttl=300)
    epoch = broker.publish("a", drafts(1)).epoch

    def since(offset: int) -> list[Publication] | None:
        return broker.history("a", Position(epoch, offset)).publications

    assert since(0) == [Publication(1, "x", "1")]
    passing.now += 200
    broker.publish("a", drafts(2))
    passing.now += 200
    assert since(0) is None
    assert since(1) == [Publication(2, "x", "2")]
    passing.until(lambda: since(1) is None)
    assert since(2) == []


def test_keeps_nothing_when_told_so(make: Make) -> None:
    broker, recorder = make(size=0)
    broker.subscribe("a")
    broker.confirm("a")
    epoch = broker.publish("a", drafts(1, 2)).epoch
    assert broker.history("a", Position(epoch, 1)).publications is None
    assert broker.history("a", Position(epoch, 2)).publications == []
    recorder.wait(lambda: recorder.offsets("a") == [1, 2])


@with_fake_clock
def test_an_epoch_outlives_its_history_by_a_day(make: Make, clock: Clock) -> None:
    broker, _ = make(ttl=300)
    position = broker.publish("a", drafts(1))
    for number in range(100):
        clock.now += 24 * 60 * 60 / 100
        broker.publish(f"other:{number}", drafts(1))
    assert broker.position("a") == position


@with_fake_clock
def test_an_epoch_is_kept_while_its_room_is_served(make: Make, clock: Clock) -> None:
    broker, _ = make(ttl=300)
    broker.subscribe("a")
    position = broker.publish("a", drafts(1))
    for number in range(10):
        clock.now += 24 * 60 * 60
        broker.publish(f"other:{number}", drafts(1))
    assert broker.position("a") == position
    broker.unsubscribe("a")
    clock.now += 24 * 60 * 60
    broker.publish("other", drafts(1))
    assert broker.position("a") == position


def test_drops_what_is_stale_and_says_where_the_room_stands(make: Make) -> None:
    broker, recorder = make()
    broker.subscribe("a")
    broker.confirm("a")
    epoch = broker.publish("a", [row("1", 5)]).epoch
    assert broker.publish("a", [row("1", 5)]) == Position(epoch, 1)
    assert broker.publish("a", []) == Position(epoch, 1)
    found = broker.publish("a", [row("2", 1), row("1", 6), row("1", 3)])
    assert found == Position(epoch, 3)
    recorder.wait(lambda: len(recorder.offsets("a")) == 3)
    assert [[(p.offset, p.more) for p in batch[2]] for batch in recorder.batches] == [
        [(1, False)],
        [(2, True), (3, False)],
    ]
    history = broker.history("a", Position(epoch, 0)).publications or []
    assert history == [p for batch in recorder.batches for p in batch[2]]


@with_fake_clock
def test_a_stamp_is_remembered_when_its_publication_is_not(
    make: Make, clock: Clock
) -> None:
    broker, _ = make(size=1, ttl=300)
    broker.publish("a", [row("1", 5)])
    clock.now += 299
    broker.publish("a", drafts(1, 2, 3))
    assert broker.publish("a", [row("1", 4)]).offset == 4
    clock.now += 601
    position = broker.publish("a", [row("1", 4)])
    assert position.offset == 5
    found = broker.history("a", Position(position.epoch, 4)).publications
    assert found == [Publication(5, "message.invalidated", "{}")]


def test_what_is_older_than_the_memory_of_rows_is_invalidated(
    make: Make, passing: Clock | Aging
) -> None:
    broker, recorder = make(ttl=300)
    start = begun(broker, "a")
    broker.publish("a", [row("1", 5), row("2", 3)])
    broker.publish("a", [row("1", 4), row("2", 2)])
    assert broker.position("a") == Position(start.epoch, 2)
    later = broker.publish("later", drafts(1))
    passing.until(
        lambda: broker.history("later", Position(later.epoch, 0)).publications is None
    )
    assert broker.publish("a", [row("1", 4)]).offset == 3
    again = broker.publish("a", [row("1", 6), row("2", 2), row("3", 4), row("4", 1)])
    assert again.offset == 5  # told once for all that can't be compared
    found = broker.history("a", Position(start.epoch, 2)).publications
    assert found is not None
    assert [(p.offset, p.event, p.data, p.stamp) for p in found] == [
        (3, "message.invalidated", "{}", None),
        (4, "message.updated", "6", 6),
        (5, "message.invalidated", "{}", None),
    ]
    assert recorder.batches == []


def test_a_room_that_is_none_yet_has_a_position_too(make: Make) -> None:
    broker, _ = make()
    nothing = broker.position("a")
    assert nothing.offset == 0
    assert broker.rooms() == []
    nothing = broker.position("a")
    began = broker.publish("a", drafts(1, 2))
    found = broker.history("a", nothing)
    assert found.position == began
    assert found.start == Position(began.epoch, 0)
    assert [p.offset for p in found.publications or ()] == [1, 2]
    # Somebody has joined, and nothing was published.
    nothing = broker.position("b")
    broker.subscribe("b")
    broker.confirm("b")
    found = broker.history("b", nothing)
    assert (found.publications, found.start) == ([], found.position)


def test_a_room_that_is_none_yet_recovers_all_or_nothing(make: Make) -> None:
    broker, _ = make(size=2)
    nothing = broker.position("a")
    broker.publish("a", drafts(1, 2))
    assert broker.history("a", nothing).publications
    broker.publish("a", drafts(3))
    assert broker.history("a", nothing).publications is None


def test_what_all_rooms_were_told_is_not_told_to_one_that_was_none(make: Make) -> None:
    """A page is rendered, a bulk statement is told everywhere, the page joins."""
    broker, _ = make()
    nothing = broker.position("a")
    assert broker.rooms() == []
    broker.subscribe("a")
    broker.confirm("a")
    assert broker.history("a", nothing).publications is None
    later = broker.position("b")
    assert broker.history("b", later).publications == []


def test_knows_the_rooms_somebody_may_have_a_position_of(make: Make) -> None:
    broker, _ = make()
    begun(broker, "read")
    broker.publish("written", drafts(1))
    broker.subscribe("served")
    assert {"read", "written", "served"} <= set(broker.rooms())


def test_delivers_only_what_is_wanted(make: Make) -> None:
    broker, recorder = make()
    broker.subscribe("a")
    broker.subscribe("a")
    broker.subscribe("b")
    for room in "ab":
        broker.confirm(room)
    broker.publish("c", drafts(1))
    broker.publish("a", drafts(1))
    recorder.wait(lambda: recorder.offsets("a") == [1])
    broker.unsubscribe("a")
    broker.unsubscribe("a")
    broker.unsubscribe("never")
    broker.publish("a", drafts(2))
    broker.publish("b", drafts(1))
    recorder.wait(lambda: recorder.offsets("b") == [1])
    assert recorder.offsets("c") == []
    assert recorder.offsets("a") == [1]
    broker.subscribe("a")
    broker.confirm("a")
    broker.publish("a", drafts(3))
    recorder.wait(lambda: recorder.offsets("a") == [1, 3])


def test_delivers_in_its_own_thread(make: Make) -> None:
    broker, recorder = make()
    gate = threading.Event()
    recorder.problem = lambda room: gate.wait(DEADLINE) and None
    broker.subscribe("a")
    broker.confirm("a")
    broker.publish("a", drafts(1))
    broker.publish("a", drafts(2))  # which does not wait for the first delivery
    gate.set()
    recorder.wait(lambda: recorder.offsets("a") == [1, 2])
    assert threading.get_ident() not in recorder.threads


def test_one_order_everywhere_under_concurrent_publishers(make: Make) -> None:
    rooms, commits = ("a", "b", "c"), 60
    broker, recorder = make(size=10_000)
    for room in rooms:
        broker.subscribe(room)
        broker.confirm(room)
    answers: list[tuple[str, Position, int, str]] = []

    def publisher(number: int) -> Callable[[], None]:
        def publish() -> None:
            dice = random.Random(number)
            for step in range(commits):
                room, count = dice.choice(rooms), dice.randint(1, 3)
                name = f"{number}.{step}"
                batch = [Draft(name, str(i)) for i in range(count)]
                answers.append((room, broker.publish(room, batch), count, name))

        return publish

    together(*map(publisher, range(8)))
    total = sum(answer[2] for answer in answers)
    recorder.wait(lambda: sum(len(batch[2]) for batch in recorder.batches) == total)
    for room in rooms:
        epoch = begun(broker, room).epoch
        delivered = [
            p for name, _, batch in recorder.batches if name == room for p in batch
        ]
        assert [p.offset for p in delivered] == list(range(1, len(delivered) + 1))
        assert delivered == broker.history(room, Position(epoch, 0)).publications
        # The publications of a commit stand together, under the position it was given.
        for name, position, count, event in answers:
            if name == room:
                part = delivered[position.offset - count : position.offset]
                assert [p.event for p in part] == [event] * count
                assert [p.data for p in part] == [str(i) for i in range(count)]
                assert [p.more for p in part] == [True] * (count - 1) + [False]
    for _, _, batch in recorder.batches:
        first = batch[0].offset
        assert [p.offset for p in batch] == list(range(first, first + len(batch)))


def test_history_and_delivery_have_no_hole_between_them(make: Make) -> None:
    broker, recorder = make(size=10_000)
    commits = 40

    def publish() -> None:
        for number in range(30):
            for _ in range(commits):
                broker.publish(f"r{number}", drafts(1, 2))

    found: dict[str, list[int]] = {}

    def join() -> None:
        for number in range(30):
            room = f"r{number}"
            start = begun(broker, room)
            broker.subscribe(room)
            broker.confirm(room)
            history = broker.history(room, Position(start.epoch, 0))
            assert history.publications is not None
            found[room] = [p.offset for p in history.publications]
            assert history.position.offset == len(found[room])

    together(publish, join)
    for room, before in found.items():

        def seen(room: str = room, before: list[int] = before) -> list[int]:
            return sorted({*before, *recorder.offsets(room)})

        recorder.wait(lambda seen=seen: seen() == list(range(1, 2 * commits + 1)))
        assert before == list(range(1, len(before) + 1))
        later = recorder.offsets(room)
        assert later == sorted(set(later))


# -- several rooms at once -----------------------------------------------------------


def everything(broker: Broker, rooms: dict[str, list[Draft]]) -> dict[str, Any]:
    """Publish to rooms together; return what became of each."""
    parcels = [
        Parcel(room, drafts, Attempt(f"id-{number}"))
        for number, (room, drafts) in enumerate(rooms.items())
    ]
    return {parcels[n].room: answer for n, answer in broker.publish_all(parcels)}


def test_publishes_to_many_rooms_as_to_each(make: Make) -> None:
    broker, recorder = make()
    rooms = {f"r{number}": drafts(*range(number % 4 + 1)) for number in range(700)}
    starts = {}
    for room in list(rooms)[::20]:
        broker.subscribe(room)
        broker.confirm(room)
        starts[room] = begun(broker, room)
    before = broker.publish("r1", drafts(7))
    found = everything(broker, rooms)
    assert sorted(found) == sorted(rooms)
    for room, batch in rooms.items():
        assert found[room] == broker.position(room)
        assert found[room].offset == len(batch) + (room == "r1")
    history = broker.history("r1", before).publications
    assert history == [Publication(2, "x", "0", more=True), Publication(3, "x", "1")]
    for room, start in starts.items():
        recorder.wait(lambda room=room: len(recorder.offsets(room)) == len(rooms[room]))
        (delivered,) = [batch for name, _, batch in recorder.batches if name == room]
        assert delivered == broker.history(room, start).publications
    assert {*rooms} <= set(broker.rooms())
    again = everything(broker, rooms)
    assert all(again[room].offset > found[room].offset for room in rooms)


def test_what_is_refused_in_one_room_takes_no_other_down(make: Make) -> None:
    broker, _ = make(max_bytes=1000)
    broken = [Draft("x", "\ud83d")]  # half of a character, which no wire takes
    rooms = {
        "a": drafts(1),
        "large": [*drafts(1), Draft("x", "y" * 1001)],
        "b": drafts(1, 2),
        "broken": broken,
        "c": drafts(1),
        "empty": [],
    }
    found = everything(broker, rooms)
    assert sorted(found) == sorted(rooms)
    assert isinstance(found["large"], PublicationTooLarge)
    assert [found[room].offset for room in "abc"] == [1, 2, 1]
    assert found["empty"].offset == 0
    assert broker.position("large").offset == 0
    assert [broker.position(room) for room in "abc"] == [found[r] for r in "abc"]
    assert list(broker.publish_all([])) == []


def test_versions_and_ids_are_judged_in_each_room(make: Make) -> None:
    broker, _ = make()
    broker.publish("a", [row("1", 5)])
    rooms = {room: [row("1", 4), row("2", 6)] for room in "abc"}
    found = everything(broker, rooms)
    assert {room: position.offset for room, position in found.items()} == {
        "a": 2,
        "b": 2,
        "c": 2,
    }
    again = everything(broker, rooms)
    assert again == found


@with_fake_clock
def test_gives_notice_of_what_did_not_fit_into_its_queue(make: Make) -> None:
    broker, recorder = make(max_queue=2)
    gate, busy = threading.Event(), threading.Event()

    def block(room: str) -> None:
        busy.set()
        assert gate.wait(DEADLINE)

    recorder.problem = block
    for room in ("a", "b", "c"):
        broker.subscribe(room)
        broker.confirm(room)
    broker.publish("a", drafts(1))
    assert busy.wait(DEADLINE)
    for _ in range(20):
        broker.publish("a", drafts(2))
    position = broker.publish("b", drafts(1))
    gate.set()
    recorder.wait(lambda: {"a", "b"} <= set(recorder.mended))
    assert "c" not in recorder.mended
    got = recorder.offsets("a")
    assert got == list(range(1, len(got) + 1))  # in order, up to where it was full
    assert broker.history("b", Position(position.epoch, 0)).publications
    broker.publish("b", drafts(2))
    recorder.wait(lambda: recorder.offsets("b")[-1:] == [2])


def test_goes_on_when_the_listener_raises(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    broker, recorder = make()

    def fail(room: str) -> None:
        if room == "bad":
            raise LookupError("a bug")

    recorder.problem = fail
    for room in ("bad", "good"):
        broker.subscribe(room)
        broker.confirm(room)
    with caplog.at_level(logging.ERROR):
        broker.publish("bad", drafts(1))
        broker.publish("good", drafts(1))
        recorder.wait(lambda: recorder.offsets("good") == [1])
        until(lambda: "a bug" in caplog.text)


class Killed(BaseException):
    """What ends a greenlet from outside."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_listener_that_is_killed_is_followed_by_another_one(make: Make) -> None:
    """Bug: nothing was delivered any more in this process."""
    broker, recorder = make()
    kills = [Killed("its greenlet")]

    def kill(room: str) -> None:
        if kills:
            raise kills.pop()

    for room in ("a", "b"):
        broker.subscribe(room)
        broker.confirm(room)
    recorder.problem = kill
    broker.publish("a", drafts(1))
    recorder.wait(lambda: not kills)
    until(lambda: broker.publish("b", drafts(1)) and recorder.offsets("b"))
    broker.confirm("a")
    broker.publish("a", drafts(2))
    recorder.wait(lambda: recorder.offsets("a")[-1:] == [2] or "a" in recorder.mended)


def test_a_fork_begins_new_epochs() -> None:
    """Parent and child would give the same offsets to different publications."""
    program = """
        import os, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        from flask_livepush.protocol.publication import Draft
        from tests.support.brokers import BROKERS, Clock, Recorder

        broker = BROKERS["memory"](size=9, ttl=9, now=Clock(), max_queue=9)
        recorder = Recorder()
        broker.listen(recorder)
        broker.subscribe("a")
        before = broker.publish("a", [Draft("x", "1"), Draft("x", "2")])
        recorder.wait(lambda: recorder.offsets("a") == [1, 2])
        pid = os.fork()
        if pid == 0:
            broker.subscribe("a")
            child = broker.publish("a", [Draft("x", "3")])
            recorder.wait(lambda: recorder.offsets("a")[2:] == [1])
            history = broker.history("a", before).publications
            told = child.epoch != before.epoch and child.offset == 1 and not history
            os._exit(0 if told and history is None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert broker.publish("a", [Draft("x", "3")]).epoch == before.epoch
        recorder.wait(lambda: recorder.offsets("a") == [1, 2, 3])
    """
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
