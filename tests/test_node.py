"""Joins, recovery and mending, in every order in which things can happen.

The promise: the ack first, then each publication once, in order, none missing; or a
reset. What a client shows in the end is what was committed.
"""

from __future__ import annotations

import itertools
import logging
import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest

from flask_livepush.brokers.memory import MemoryBroker
from flask_livepush.errors import (
    BrokerError,
    BrokerUnavailable,
    ClientError,
    InvalidRoom,
    NotAuthorised,
    TooFast,
    TooManyRooms,
    Unavailable,
)
from flask_livepush.hub import Hub
from flask_livepush.node import Node
from flask_livepush.presence.here import Presence
from flask_livepush.presence.memory import MemoryPresence
from flask_livepush.protocol.messages import Subscribe, Unsubscribe, Whisper
from flask_livepush.protocol.publication import Draft, Position
from tests.support.brokers import Clock, spawn
from tests.support.scripted import Client, Recording, ScriptedDoor, World
from tests.support.waiting import DEADLINE

# What a join passes, at most; the last one is after it.
POINTS = (
    "is_room",
    "position",
    "admit",
    "confirm",
    "history",
    "history answered",
    "rows",
    "rows read",
    "end",
)


class Script:
    """Lets actions happen at chosen points, each once."""

    def __init__(self, plan: Sequence[tuple[str, str]]) -> None:
        self.plan = list(plan)
        self.world = World(self.at, size=3)
        self.busy = False
        self.others = 0

    @property
    def other(self) -> str:
        """The other connection; one that has left does not come back by its id."""
        return f"other {self.others}"

    def at(self, point: str) -> None:
        """Do what is planned for this point, and what should have been done before."""
        if self.busy:
            return
        due = POINTS.index(point) if point in POINTS else -1
        self.busy = True
        while self.plan and POINTS.index(self.plan[0][0]) <= due:
            self.do(self.plan.pop(0)[1])
        self.busy = False

    def finish(self) -> None:
        """Do what is left of the plan."""
        self.at("end")

    def do(self, action: str) -> None:
        """Do what other threads do."""
        world = self.world
        if action == "commit":
            world.commit()
        elif action == "publish":
            world.publish()
        elif action == "overflow":
            world.publish(full=True)
        elif action == "deliver":
            world.broker.deliver()
        elif action == "task":
            world.run()
        elif action == "lose":
            world.broker.lose("a")
        elif action == "other joins":
            if not world.node._flights:  # else it would wait for this very thread
                world.join(self.other)
        elif action == "other leaves":
            world.node.disconnect(self.other)
            self.others += 1
        else:
            raise AssertionError(action)


ACTIONS = ("commit", "publish", "overflow", "deliver")
MORE = (*ACTIONS, "publish", "deliver", "task", "other joins", "other leaves")


def plans(size: int, actions: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Return every way to spread that many actions over the points of a join."""
    return [
        list(zip(points, chosen, strict=True))
        for points in itertools.combinations_with_replacement(POINTS, size)
        for chosen in itertools.product(actions, repeat=size)
    ]


def play(
    plan: Sequence[tuple[str, str]], before: int, since: int | None, joins: int = 1
) -> Client:
    """Play a join among other things, and return the client when all has settled."""
    script = Script(())
    world = script.world
    for _ in range(before):
        world.publish()
    top = world.broker.top("a")
    position = None if since is None else Position(top.epoch, since)
    client = Client(position, range(1, (since or 0) + 1))
    seen = 0
    for number in range(joins):
        if number:
            written = world.transport.written["s"]
            client.read(written)
            seen, position = len(written), client.position
            client.ask_again()
        script.plan = list(plan)
        world.join("s", since=position)
    script.finish()
    world.settle()
    client.read(world.transport.written["s"][seen:])
    if client.joined:
        committed = set(world.committed.get("a", ()))
        assert client.rows == committed
        assert client.position == world.broker.top("a")
    else:
        assert client.reset
    world.node.disconnect("s")
    world.node.disconnect(script.other)
    world.settle()
    assert world.is_empty()
    return client


@pytest.mark.parametrize(
    ("since", "size", "actions"),
    [(None, 3, ACTIONS[1:]), (None, 2, ACTIONS), (0, 2, ACTIONS), (2, 2, ACTIONS)],
)
def test_each_interleaving_of_a_join_ends_well(
    since: int | None, size: int, actions: Sequence[str]
) -> None:
    for plan in plans(size, actions):
        try:
            client = play(plan, 2, since)
        except AssertionError as error:
            raise AssertionError(f"{plan}: {error}") from error
        assert client.joined


@pytest.mark.parametrize("seed", range(12))
def test_longer_interleavings_and_joins_again_end_well(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(250):
        length = dice.randint(4, 12)
        points = sorted(dice.choices(POINTS, k=length), key=POINTS.index)
        plan = [(point, dice.choice(MORE)) for point in points]
        since, joins = dice.choice([None, 0, 1, 3]), dice.choice([1, 1, 2])
        try:
            play(plan, 3, since, joins)
        except (AssertionError, Unavailable) as error:
            if isinstance(error, Unavailable) and "faster" in str(error):
                continue
            raise AssertionError(f"{plan} {since} {joins}: {error}") from error


@pytest.mark.parametrize("seed", range(6))
def test_ends_well_when_the_broker_loses_its_memory(seed: int) -> None:
    """A new epoch: whoever had a position of the old one is reset or starts anew."""
    dice = random.Random(seed)
    for _ in range(150):
        length = dice.randint(2, 6)
        points = sorted(dice.choices(POINTS, k=length), key=POINTS.index)
        actions = [dice.choice((*ACTIONS, "deliver", "task")) for _ in points]
        actions[dice.randrange(length)] = "lose"
        script = Script(list(zip(points, actions, strict=True)))
        world = script.world
        client = Client()
        try:
            world.join("s")
        except Unavailable:
            continue
        script.finish()
        world.publish()  # something follows, as it does
        world.settle()
        client.read(world.transport.written["s"])
        if client.joined:
            assert client.position == world.broker.top("a")
            assert client.rows == set(world.committed["a"])
        else:
            assert client.reset


def test_mends_a_hole_that_came_while_joining() -> None:
    """Bug: what the broker let go was asked for only for those who were live."""
    world = World()

    def at(point: str) -> None:
        if point == "history answered":
            world.at = lambda point: None
            world.publish(full=True)
            assert world.broker.deliver()  # "the room has a hole"

    world.at = at
    world.join("s")
    world.settle()
    assert world.transport.offsets("s") == ["ack", 1]


def test_mends_a_hole_that_came_while_mending() -> None:
    world = World()
    world.join("s")
    world.publish(full=True)
    assert world.broker.deliver()

    def at(point: str) -> None:
        if point == "history answered":
            world.at = lambda point: None
            world.publish(full=True)
            assert world.broker.deliver()

    world.at = at
    world.settle()
    assert world.transport.offsets("s")[-1] in ("reset", 2)


def test_mends_a_gap_from_the_history() -> None:
    world = World()
    world.join("s")
    world.publish()
    world.broker.queue.clear()  # lost on the way
    world.publish()
    world.settle()
    assert world.transport.offsets("s") == ["ack", 1, 2]


def test_resets_when_the_history_is_gone() -> None:
    world = World(size=1)
    world.join("s")
    world.join("t")
    for _ in range(2):
        world.publish()
    world.broker.queue.clear()
    world.publish()
    world.settle()
    assert world.transport.offsets("s") == ["ack", "reset"]
    assert world.transport.offsets("t") == ["ack", "reset"]
    assert world.is_empty()


@pytest.mark.parametrize("error", [BrokerUnavailable("away"), LookupError("a bug")])
def test_resets_everybody_when_mending_fails(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    for sid in ("s", "t"):
        world.join(sid)
    world.publish()
    world.broker.queue.clear()
    world.publish()

    def fail(point: str) -> None:
        if point == "history":
            raise error

    world.at = fail
    with caplog.at_level(logging.ERROR):
        world.settle()
    assert world.transport.offsets("s") == ["ack", "reset"]
    assert world.transport.offsets("t") == ["ack", "reset"]
    assert str(error) in caplog.text


def test_a_position_that_is_gone_gets_a_snapshot() -> None:
    world = World(size=2)
    for _ in range(4):
        world.publish()
    epoch = world.broker.top("a").epoch
    world.join("s", since=Position(epoch, 1))
    world.join("t", since=Position("other", 4))
    world.join("u", since=Position(epoch, 9))
    for sid in "stu":
        (frame,) = world.transport.written[sid]
        assert frame[1]["recovered"] is False
        assert frame[1]["offset"] == 4
        assert frame[1]["snapshot"]["kinds"]["m"]["rows"] == [1, 2, 3, 4]
    world.join("v", since=Position(epoch, 2))
    (frame,) = world.transport.written["v"]
    assert frame[1]["recovered"] is True
    assert [p["offset"] for p in frame[1]["publications"]] == [3, 4]
    assert "snapshot" not in frame[1]


def test_a_recovered_join_reads_no_snapshot_but_asks_the_rule() -> None:
    passed: list[str] = []
    world = World(passed.append)
    world.publish()
    world.join("s", since=world.broker.top("a"))
    assert passed == [
        "is_room",
        "position",
        "admit",
        "confirm",
        "history",
        "history answered",
    ]


def test_the_position_is_read_before_anything_can_query() -> None:
    passed: list[str] = []
    world = World(passed.append)
    world.join("s", state=1)
    assert passed.index("position") < passed.index("admit")
    assert passed.index("confirm") < passed.index("rows") < passed.index("state")
    assert passed[-2:] == ["history", "history answered"]


def test_the_rooms_own_state_stands_in_the_snapshot() -> None:
    world = World()
    world.join("s", state={"topic": "é"})
    assert world.transport.written["s"][0][1]["snapshot"]["state"] == {"topic": "é"}
    world.join("t", state=None)
    assert world.transport.written["t"][0][1]["snapshot"]["state"] is None
    world.join("u")
    assert "state" not in world.transport.written["u"][0][1]["snapshot"]


def test_reads_the_snapshot_anew_when_the_history_overtakes_it() -> None:
    world = World(size=1)
    overtaken = iter([True, True, False])

    def at(point: str) -> None:
        if point == "rows read" and next(overtaken):
            for _ in range(3):
                world.publish()

    world.at = at
    world.join("s")
    world.settle()
    ack = world.transport.written["s"][0][1]
    assert ack["offset"] == 6
    assert ack["snapshot"]["kinds"]["m"]["rows"] == [1, 2, 3, 4, 5, 6]
    assert world.transport.offsets("s") == ["ack"]


def test_gives_up_on_a_room_that_changes_too_fast() -> None:
    world = World(size=1)

    def at(point: str) -> None:
        if point == "rows read":
            for _ in range(3):
                world.publish()

    world.at = at
    with pytest.raises(Unavailable, match="faster"):
        world.join("s")
    world.settle()
    assert world.is_empty()


@pytest.mark.parametrize(
    ("point", "error", "answer"),
    [
        ("admit", NotAuthorised("no"), NotAuthorised),
        ("admit", InvalidRoom("no"), InvalidRoom),
        ("is_room", LookupError("a bug"), Unavailable),
        ("position", BrokerUnavailable("away"), Unavailable),
        ("position", BrokerError("away"), Unavailable),
        ("admit", LookupError("a bug"), Unavailable),
        ("confirm", BrokerUnavailable("away"), Unavailable),
        ("history", BrokerUnavailable("away"), Unavailable),
        ("rows", LookupError("a bug"), Unavailable),
        ("state", LookupError("a bug"), Unavailable),
        ("state", NotAuthorised("no"), NotAuthorised),
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_a_join_that_fails_leaves_nothing_behind(
    point: str,
    error: Exception,
    answer: type[ClientError],
    again: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    if again:
        world.join("s")

    def fail(passed: str) -> None:
        if passed == point:
            raise error

    world.at = fail
    with caplog.at_level(logging.ERROR), pytest.raises(answer) as caught:
        world.join("s")
    assert "bug" not in caught.value.message
    assert "away" not in caught.value.message
    if answer is Unavailable:
        assert str(error) in caplog.text
    world.settle()
    assert world.is_empty()
    assert world.transport.offsets("s") == (["ack"] if again else [])


def test_refuses_a_room_that_no_rule_knows() -> None:
    world = World()
    with pytest.raises(InvalidRoom):
        world.join("s", "no room")
    assert world.door.asked == []
    assert world.broker.rooms() == []


def test_refuses_one_room_too_many_and_keeps_the_others() -> None:
    world = World(max_rooms=2)
    world.join("s", "a")
    world.join("s", "b")
    with pytest.raises(TooManyRooms):
        world.join("s", "c")
    world.join("s", "b")
    world.publish("a")
    world.publish("c")
    world.settle()
    assert world.transport.offsets("s") == ["ack", "ack", "ack", 1]


def test_unsubscribe_ends_it_and_may_be_repeated() -> None:
    world = World()
    world.join("s")
    for _ in range(2):
        world.node.unsubscribe("s", Unsubscribe("a"))
    world.publish()
    world.settle()
    assert world.transport.offsets("s") == ["ack"]
    assert world.is_empty()


class Shared:
    """Two connections that join at once: the first is reading when the second comes."""

    def __init__(self, **options: Any) -> None:
        self.reading, self.go_on = threading.Event(), threading.Event()
        self.waiting = threading.Event()
        self.reads = 0
        self.fail: BaseException | None = None
        self.world = World(**options)
        self.world.at = self.at

    def at(self, point: str) -> None:
        if point == "confirm" and self.reading.is_set():
            self.waiting.set()
        if point == "rows read":
            self.reads += 1
            self.reading.set()
            assert self.go_on.wait(DEADLINE)
            if self.fail is not None:
                raise self.fail

    def start(self, sid: str, **environ: Any) -> Callable[[], str]:
        """Let a connection join in a thread; the answer waits for how it ended."""
        done, ended = threading.Event(), ["joined"]

        def join() -> None:
            try:
                self.world.join(sid, **environ)
            except BaseException as error:  # noqa: BLE001
                ended[0] = type(error).__name__
            done.set()

        def wait() -> str:
            assert done.wait(DEADLINE)
            return ended[0]

        spawn(join)
        return wait


def test_those_who_join_at_once_share_the_rows_and_nothing_else() -> None:
    it = Shared()
    first = it.start("s", user="1", state="of 1")
    assert it.reading.wait(DEADLINE)
    it.world.publish()  # committed after the rows were read
    assert it.world.broker.deliver()  # so that only the history has it for the second
    second = it.start("t", user="2", state="of 2")
    assert it.waiting.wait(DEADLINE)
    it.go_on.set()
    assert (first(), second()) == ("joined", "joined")
    assert it.reads == 1
    assert it.world.door.asked == [("a", "1"), ("a", "2")]
    it.world.settle()
    for sid, state in (("s", "of 1"), ("t", "of 2")):
        frames = it.world.transport.written[sid]
        ack = frames[0][1]
        # Its position is that of whoever began to read, and what came since follows.
        assert ack["offset"] == 0
        assert ack["snapshot"] == {
            "kinds": {"m": {"key": "id", "rows": [], "partial": False}},
            "state": state,
        }
        assert it.world.transport.offsets(sid) == ["ack", 1]


def test_who_joins_afterwards_reads_anew() -> None:
    it = Shared()
    it.go_on.set()
    it.world.join("s")
    it.world.publish()
    it.world.join("t")
    assert it.reads == 2
    ack = it.world.transport.written["t"][0][1]
    assert ack["snapshot"]["kinds"]["m"]["rows"] == [1]
    assert ack["offset"] == 1


def test_rooms_do_not_share() -> None:
    it = Shared()
    it.go_on.set()
    first = it.start("s")
    assert first() == "joined"
    it.world.join("s", "b")
    assert it.reads == 2


@pytest.mark.parametrize("error", [LookupError("a bug"), SystemExit("killed")])
def test_followers_are_refused_when_the_leader_fails(error: BaseException) -> None:
    """Bug: where the leader was ended by no Exception they were given no JSON."""
    it = Shared()
    it.fail = error
    first = it.start("s")
    assert it.reading.wait(DEADLINE)
    second = it.start("t")
    assert it.waiting.wait(DEADLINE)
    it.go_on.set()
    first()
    # The follower waits for the leader, or finds it gone and fails itself.
    assert second() != "joined"
    assert it.world.transport.written == {}
    it.world.settle()
    assert it.world.is_empty()
    it.fail = None
    it.world.join("s")
    assert it.world.transport.offsets("s") == ["ack"]


def test_a_follower_does_not_wait_for_ever() -> None:
    it = Shared(snapshot_timeout=0.05)
    first = it.start("s")
    assert it.reading.wait(DEADLINE)
    second = it.start("t")
    assert second() == "Unavailable"
    it.go_on.set()
    assert first() == "joined"
    it.world.settle()
    assert it.world.transport.offsets("t") == []
    assert it.world.hub._joined == {"s": {"a"}}


def test_a_follower_whose_rule_says_no_gets_no_rows() -> None:
    it = Shared()
    first = it.start("s", user="1")
    assert it.reading.wait(DEADLINE)

    def at(point: str) -> None:
        if point == "admit" and it.world.door.asked[-1][1] == "2":
            raise NotAuthorised("no")
        it.at(point)

    it.world.at = at
    assert it.start("t", user="2")() == "NotAuthorised"
    it.go_on.set()
    assert first() == "joined"
    assert "t" not in it.world.transport.written


def test_what_ends_a_join_leaves_no_subscription() -> None:
    """Bug: a timeout of gevent or eventlet, no Exception, left one that held on."""
    world = World()

    def fail(point: str) -> None:
        if point == "rows":
            raise SystemExit

    world.at = fail
    # Whether it is passed on or answered is not of interest here.
    with pytest.raises((SystemExit, Unavailable)):
        world.node.subscribe("s", {}, Subscribe("a"), world.transport.ack)
    world.settle()
    assert world.is_empty()


def test_resets_whom_it_can_not_mend_in_the_background() -> None:
    """Bug: where no thread could be started they held on for ever."""
    world = World()
    world.join("s")
    world.publish()
    world.broker.queue.clear()
    world.publish()

    class Refuses(type(world.tasks)):  # type: ignore[misc]
        def append(self, task: object) -> None:
            raise RuntimeError("can't start new thread")

    world.node._spawn = Refuses().append
    with suppress(RuntimeError):  # which the listener logs
        world.broker.deliver()
    assert world.transport.offsets("s")[-1] in ("reset", 2)


def test_serves_many_at_once_in_order() -> None:
    """Threads instead of a script: joins, leaves, commits and deliveries at once."""
    world = World(size=10_000)
    stop = threading.Event()

    def listen() -> None:
        while world.broker.deliver() or world.run() or not stop.is_set():
            pass

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()

    def write() -> None:
        for _ in range(300):
            with lock:
                world.publish()

    lock = threading.Lock()

    def join(number: int) -> None:
        for turn in range(20):
            world.join(f"s{number}.{turn}")
            if turn < 19:
                world.node.disconnect(f"s{number}.{turn}")

    threads = [threading.Thread(target=write, daemon=True)] + [
        threading.Thread(target=join, args=(n,), daemon=True) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    stop.set()
    listener.join(DEADLINE)
    world.settle()
    for number in range(4):
        client = Client()
        client.read(world.transport.written[f"s{number}.19"])
        assert client.rows == set(range(1, 301))


# -- whispers and presence ---------------------------------------------------------


def asking(world: World, sid: str, user: str | None, room: str = "a") -> None:
    """Let a user's connection join a room and ask who is there."""
    request = Subscribe(room, None, presence=True)
    environ = {} if user is None else {"user": user}
    world.node.subscribe(sid, environ, request, world.transport.ack)


def told(world: World, sid: str) -> list[Any]:
    """Return what a connection was written besides acks."""
    return [frame for frame in world.transport.written[sid] if frame[0] != "ack"]


def present(world: World, sid: str) -> list[str]:
    """Return who is there, by what a connection was told."""
    users: set[str] = set()
    for frame in world.transport.written[sid]:
        if frame[0] == "ack":
            users = {user["id"] for user in frame[1]["presence"]}
        elif frame[0] == "presence":
            users = (users | set(frame[2])) - set(frame[3])
    return sorted(users)


def test_a_whisper_goes_to_the_others_in_the_room() -> None:
    world = World()
    world.join("s", user="ada")
    world.join("t", user="ben")
    world.join("u")
    world.join("v", "b")
    before = world.broker.top("a")
    world.node.whisper("s", Whisper("a", "typing", '{"on":1}'))
    world.node.whisper("u", Whisper("a", "typing", "2"))
    world.settle()
    first = ("whisper", "a", "ada", "typing", '{"on":1}')
    second = ("whisper", "a", None, "typing", "2")
    assert told(world, "s") == [second]
    assert told(world, "t") == [first, second]
    assert told(world, "u") == [first]
    assert told(world, "v") == []
    assert world.broker.top("a") == before


def test_refuses_whispers_that_are_not_allowed() -> None:
    world = World()
    world.join("s")
    for room, event, problem in (
        ("a", "x.created", NotAuthorised),
        ("b", "typing", NotAuthorised),
        ("no room", "typing", InvalidRoom),
    ):
        with pytest.raises(problem):
            world.node.whisper("s", Whisper(room, event, "1"))
    with pytest.raises(NotAuthorised):
        world.node.whisper("t", Whisper("a", "typing", "1"))
    world.node.unsubscribe("s", Unsubscribe("a"))
    with pytest.raises(NotAuthorised):
        world.node.whisper("s", Whisper("a", "typing", "1"))
    assert not world.broker.relays


def test_refuses_whispers_while_joining() -> None:
    refused = []

    def at(point: str) -> None:
        if point == "rows":
            with pytest.raises(NotAuthorised):
                world.node.whisper("s", Whisper("a", "typing", "1"))
            refused.append(point)

    world = World(at)
    world.join("s")
    assert refused == ["rows"]


def test_refuses_whispers_that_come_too_fast() -> None:
    world = World()
    world.join("s")
    world.join("t")
    message = Whisper("a", "typing", "1")
    for _ in range(40):
        world.node.whisper("s", message)
    with pytest.raises(TooFast, match="20 times a second"):
        world.node.whisper("s", message)
    world.node.whisper("t", message)
    world.clock.now += 1
    world.node.whisper("s", message)


def test_refuses_joins_that_come_too_fast() -> None:
    """The connection is out of the room then, as after every join that fails."""
    world = World()
    for _ in range(250):
        world.join("s")
    with pytest.raises(TooFast, match="50 times a second"):
        world.join("s")
    assert world.hub.find("s", "a") is None
    world.join("t")
    world.clock.now += 1
    for _ in range(50):
        world.join("s")
    world.node.disconnect("s")
    world.node.disconnect("t")
    assert world.node._paces == {}


def test_a_whisper_that_the_broker_does_not_take_is_temporary() -> None:
    def at(point: str) -> None:
        if point == "relay":
            raise BrokerUnavailable("no broker")

    world = World(at)
    world.join("s")
    with pytest.raises(Unavailable):
        world.node.whisper("s", Whisper("a", "typing", "1"))


def test_what_is_relayed_by_others_than_nodes_is_skipped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.join("s")
    with caplog.at_level(logging.ERROR):
        world.node.relayed("a", "junk")
    assert "relayed to a room is skipped" in caplog.text
    assert told(world, "s") == []


def test_only_who_asked_is_told_who_comes_and_goes() -> None:
    world = World()
    asking(world, "s", "ada")
    world.join("t", user="ben", info='{"name":"Ben"}')
    asking(world, "u", None)
    ack = world.transport.written["s"][0][1]
    assert ack["presence"] == [{"id": "ada"}]
    assert told(world, "s") == []
    world.presence.step()
    world.settle()
    ben = ("presence", "a", {"ben": '{"name":"Ben"}'}, {})
    assert [frame for frame in told(world, "s") if "ben" in frame[2]] == [ben]
    assert told(world, "t") == []
    world.node.unsubscribe("t", Unsubscribe("a"))
    world.clock.now += 3
    world.presence.step()
    world.settle()
    assert present(world, "s") == present(world, "u") == ["ada"]
    assert "presence" not in world.transport.written["t"][0][1]


# Not while rows are read: the other one would wait for these very rows.
@pytest.mark.parametrize("point", ["position", "admit", "confirm", "history"])
def test_who_comes_while_one_joins_is_in_the_list_or_told_after_it(point: str) -> None:
    due = [point]

    def at(name: str) -> None:
        if due == [name]:
            due.clear()
            world.join("other", user="ben")

    world = World(at)
    asking(world, "s", "ada")
    assert due == []
    world.presence.step()
    world.settle()
    assert present(world, "s") == ["ada", "ben"]


def test_a_room_without_presence_has_none() -> None:
    world = World()
    asking(world, "s", "ada", "private")
    world.join("t", "private", user="ben")
    assert "presence" not in world.transport.written["s"][0][1]
    assert told(world, "s") == []
    assert world.presence._rooms == {}


def test_a_reset_is_no_leaving_but_a_refusal_is() -> None:
    refusing: list[str] = []

    def at(point: str) -> None:
        if point == "admit" and refusing:
            raise NotAuthorised("no")

    world = World(at, size=3)
    asking(world, "s", "ada")
    asking(world, "t", "ben")
    world.presence.step()
    world.settle()
    world.broker.lose("a")
    world.publish()
    world.settle()
    assert ("reset", "a") in told(world, "t")
    world.clock.now += 10
    world.presence.step()
    assert sorted(world.presence.users("a")) == ["ada", "ben"]
    asking(world, "s", "ada")
    refusing.append("now")
    with pytest.raises(NotAuthorised):
        asking(world, "t", "ben")
    world.clock.now += 10
    world.presence.step()
    assert sorted(world.presence.users("a")) == ["ada"]
    world.node.disconnect("s")
    world.node.disconnect("t")
    world.clock.now += 10
    world.presence.step()
    assert world.presence._rooms == {}
    assert world.node._paces == {}


# -- rooms that have no epoch yet ------------------------------------------------------


class Beginning:
    """A node on a broker in which there is nothing."""

    def __init__(self) -> None:
        self.points: list[str] = []
        self.refuses = False
        self.broker = MemoryBroker(size=9, ttl=300, now=Clock(), spawn=spawn)
        self.transport = Recording()
        self.hub = Hub(
            self.transport,
            max_rooms=9,
            max_held=9,
            opened=self.broker.subscribe,
            closed=self.broker.unsubscribe,
        )
        clock = Clock()
        self.presence = Presence(
            MemoryPresence(now=clock),
            relay=lambda room, step: None,
            tell=self.hub.presence,
            spawn=lambda work: None,
            sleep=lambda seconds: None,
            now=clock,
            damping=3,
        )
        self.node = Node(
            broker=self.broker,
            hub=self.hub,
            door=ScriptedDoor(self._at, lambda room: []),
            presence=self.presence,
            spawn=spawn,
            now=clock,
            snapshot_timeout=9,
        )

    def _at(self, point: str) -> None:
        begun = not self.broker.position("a").epoch.startswith("none.")
        self.points.append(f"{point} {int(begun)}")
        if point == "admit" and self.refuses:
            raise NotAuthorised("no")

    def join(self, since: Position | None = None) -> dict[str, Any]:
        self.node.subscribe("sid", {}, Subscribe("a", since), self.transport.ack)
        ack: dict[str, Any] = self.transport.written["sid"][-1][1]
        return ack


def test_nothing_is_made_for_whoever_may_not_join() -> None:
    """Bug: each refused join left a key for an hour, and an entry of the index."""
    world = Beginning()
    world.refuses = True
    with pytest.raises(NotAuthorised):
        world.join()
    assert world.broker.rooms() == []
    assert world.broker.position("a").epoch.startswith("none.")


def test_the_epoch_begins_after_the_rule_and_before_the_snapshot() -> None:
    world = Beginning()
    ack = world.join()
    assert world.points == ["is_room 0", "admit 0", "rows 1", "rows read 1", "state 1"]
    here = world.broker.position("a")
    assert (ack["epoch"], ack["offset"], ack["recovered"]) == (here.epoch, 0, False)


@pytest.mark.parametrize("count", [0, 2])
def test_a_page_from_before_the_room_had_an_epoch_recovers(count: int) -> None:
    world = Beginning()
    nothing = world.broker.position("a")
    for number in range(count):
        world.broker.publish("a", [Draft("x", str(number))])
    ack = world.join(nothing)
    assert ack["recovered"]
    assert [entry["offset"] for entry in ack["publications"]] == [1, 2][:count]
    here = world.broker.position("a")
    assert (ack["epoch"], ack["offset"]) == (here.epoch, count)
    assert not here.epoch.startswith("none.")


def test_a_page_that_missed_what_all_rooms_were_told_starts_anew() -> None:
    world = Beginning()
    nothing = world.broker.position("a")
    assert world.broker.rooms() == []
    assert not world.join(nothing)["recovered"]


@pytest.mark.parametrize("how", ["evicted", "reset"])
def test_a_join_that_is_ended_from_outside_is_answered_and_leaves_no_presence(
    how: str,
) -> None:
    """Bug: it got no answer, and its user stayed among those who are there."""
    world: World

    def at(point: str) -> None:
        if point == "rows read":
            if how == "evicted":
                world.hub.evict("sid", lambda: None)
            else:
                found = world.hub.find("sid", "a")
                assert found is not None
                world.hub.reset(found)

    world = World(at)
    with pytest.raises(Unavailable):
        world.join("sid", user="ada")
    world.clock.now += 10
    world.presence.step()
    assert world.presence.users("a") == {}
    world.settle()
    assert world.is_empty()


# -- rights that end -----------------------------------------------------------------


def lose(world: World, room: str = "a") -> None:
    """Lose the right to a room, commit that, and recheck."""
    world.door.forbidden.add(room)
    world.node.rechecking()
    for sid in world.hub.subscribers_of(room):
        world.node.revoke(sid, room, 103)


@pytest.mark.parametrize("point", POINTS[:-1])
@pytest.mark.parametrize("since", [None, 0])
def test_a_right_that_is_lost_while_joining_is_lost(
    point: str, since: int | None
) -> None:
    """Bug: what was rechecked before the subscription was there, went live.

    The rule has said yes at "admit"; the recheck of that moment finds nobody.
    """
    world = World()
    world.publish()
    position = Position(world.broker.top("a").epoch, since) if since == 0 else None

    def at(passed: str) -> None:
        if passed == point:
            world.at = lambda point: None
            lose(world)

    world.at = at
    lost = point in ("is_room", "position", "admit", "confirm", "history")
    lost = lost or point == "history answered" or since is None
    if lost:
        with pytest.raises(NotAuthorised):
            world.join("s", since=position)
    else:
        world.join("s", since=position)  # it reads no rows, and got in before that
        lose(world)
    world.publish()
    world.settle()
    assert world.transport.offsets("s") == ([] if lost else ["ack", "revoked"])
    assert world.presence._joined == {}
    assert world.is_empty()


def test_a_join_asks_its_rule_once_where_nothing_is_rechecked() -> None:
    world = World()
    world.node.rechecking()
    world.join("s")
    assert world.door.asked == [("a", "")]


def test_a_recheck_that_changes_nothing_lets_a_join_go_on() -> None:
    world = World()

    def at(point: str) -> None:
        if point == "admit":
            world.node.rechecking()

    world.at = at
    world.join("s")
    assert world.door.asked == [("a", "")] * 2
    assert world.transport.offsets("s") == ["ack"]


def test_a_mended_gap_writes_nothing_to_who_has_lost_the_room() -> None:
    world = World()
    for sid in ("s", "t"):
        world.join(sid)
    world.publish()
    world.broker.queue.clear()
    world.publish()

    def at(point: str) -> None:
        if point == "history answered":
            world.at = lambda point: None
            assert world.node.revoke("s", "a", 103)

    world.at = at
    world.settle()
    assert world.transport.offsets("s") == ["ack", "revoked"]
    assert world.transport.offsets("t") == ["ack", 1, 2]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_nothing_follows_a_lost_room(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(200):
        length = dice.randint(1, 5)
        points = sorted(dice.choices(POINTS, k=length), key=POINTS.index)
        actions = (*ACTIONS, "deliver", "task")
        script = Script([(point, dice.choice(actions)) for point in points])
        world = script.world
        moment = dice.choice(POINTS)

        def at(
            point: str,
            world: World = world,
            moment: str = moment,
            follow: Callable[[str], None] = script.at,
        ) -> None:
            follow(point)
            if point == moment:
                lose(world)

        world.at = at
        refused = False
        try:
            world.join("s", since=dice.choice([None, Position("e1", 0)]))
        except (NotAuthorised, Unavailable):
            refused = True
        script.finish()
        lose(world)
        world.publish()
        world.settle()
        written = world.transport.offsets("s")
        assert refused == (written == []), (written, points)
        assert refused or written[-1] == "revoked" or written[-1] == "reset"
        assert "revoked" not in written[:-1]


def test_who_has_lost_a_room_whispers_there_no_more_and_is_not_seen() -> None:
    world = World()
    for sid in ("s", "t"):
        request = Subscribe("a", presence=True)
        world.node.subscribe(sid, {"user": sid}, request, world.transport.ack)
    assert world.node.revoke("s", "a", 103)
    with pytest.raises(NotAuthorised):
        world.node.whisper("s", Whisper("a", "typing", "1"))
    world.node.whisper("t", Whisper("a", "typing", "1"))
    world.clock.now += 4
    world.presence.step()
    world.settle()
    assert world.transport.offsets("s") == ["ack", "revoked"]
    assert world.transport.written["t"][-1] == ("presence", "a", {}, {"s": ""})


@pytest.mark.parametrize("point", POINTS[:-1])
def test_a_login_that_ends_while_joining_leaves_nothing(point: str) -> None:
    """Bug: the join registered the connection again, and went on writing to it."""
    world = World()

    def at(passed: str) -> None:
        if passed == point:
            world.at = lambda point: None
            world.node.disconnect("s")

    world.at = at
    with suppress(Unavailable):
        world.join("s")
    world.publish()
    world.settle()
    assert world.transport.offsets("s") == []
    assert world.hub.rooms_of("s") == []
