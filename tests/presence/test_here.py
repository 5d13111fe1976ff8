"""One process's part in presence: several of them on one store, and a clock."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

import pytest

from flask_livepush.errors import BrokerUnavailable
from flask_livepush.presence.base import SILENT, Change
from flask_livepush.presence.here import BEAT, Presence
from flask_livepush.presence.memory import MemoryPresence
from flask_livepush.protocol.relayed import Moved, Users
from tests.support.brokers import Clock


class Store(MemoryPresence):
    """A store that can fail, and counts what it is asked."""

    failing = False
    asked = 0

    def beat(self, node: str | None, *, lasts: float | None = None) -> set[str]:
        self._ask()
        return super().beat(node, lasts=lasts)

    def change(self, changes: Sequence[Change]) -> list[Moved]:
        if changes:
            self._ask()
        return super().change(changes)

    def forget(self, room: str) -> None:
        """Lose a room's list."""
        self._lists.pop(room, None)

    def _ask(self) -> None:
        self.asked += 1
        if self.failing:
            raise BrokerUnavailable("no store")


class Nodes:
    """Several processes and what passes between them."""

    def __init__(self, count: int = 2, damping: float = 3) -> None:
        self.clock = Clock()
        self.store = Store(now=self.clock)
        self.relayed: deque[tuple[str, Moved]] = deque()
        self.told: list[list[tuple[str, list[str], list[str]]]] = []
        self.nodes = [self._node(damping) for _ in range(count)]
        self.alive = list(self.nodes)

    def _node(self, damping: float) -> Presence:
        told: list[tuple[str, list[str], list[str]]] = []
        self.told.append(told)

        def tell(room: str, joined: Users, left: Users) -> None:
            told.append((room, list(joined), list(left)))

        return Presence(
            self.store,
            relay=lambda room, step: self.relayed.append((room, step)),
            tell=tell,
            spawn=lambda work: None,
            sleep=lambda seconds: None,
            now=self.clock,
            damping=damping,
        )

    def settle(self) -> None:
        """Let every node that lives do what is due, and hear of it."""
        for _ in range(3):
            for node in self.alive:
                node.step()
            while self.relayed:
                room, step = self.relayed.popleft()
                for node in self.alive:
                    node.moved(room, step)

    def after(self, seconds: float) -> None:
        """Let time pass, with signs of life in it."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(end, self.clock.now + 1)
            self.settle()

    def shown(self, number: int = 0, room: str = "a") -> list[str]:
        """Return the list that a node shows."""
        return sorted(self.nodes[number].show(room, dict))


def test_several_connections_in_several_processes_are_one_user() -> None:
    it = Nodes()
    first, second = it.nodes
    first.join("s1", "a", "ada", '{"name":"Ada"}')
    first.join("s2", "a", "ada", '{"name":"Ada"}')
    second.join("s3", "a", "ada")
    second.join("s4", "a", "ben")
    second.join("s5", "a", None)
    it.settle()
    assert it.shown(0) == it.shown(1) == ["ada", "ben"]
    assert first.users("a") == {"ada": '{"name":"Ada"}', "ben": ""}
    first.drop("s1")
    first.leave("s2", "a")
    it.after(10)
    assert it.shown(1) == ["ada", "ben"]
    second.leave("s3", "a")
    second.leave("s3", "a")
    it.after(10)
    assert it.shown(1) == ["ben"]
    assert it.told[1][-1] == ("a", [], ["ada"])


class Killed(BaseException):
    """What ends a greenlet from outside."""


@pytest.mark.parametrize("at", ["beat", "change", "sleep"])
def test_a_worker_that_is_killed_is_followed_by_another_one(at: str) -> None:
    """Bug: the users of its process were taken for gone after 10 s, and stayed so."""
    clock = Clock()
    store = Store(now=clock)
    work: list[Callable[[], None]] = []

    def kill(*_: object, **options: object) -> None:
        raise Killed

    node = Presence(
        store,
        relay=lambda room, step: node.close(),  # it is told, so all is well
        tell=lambda room, joined, left: None,
        spawn=work.append,
        sleep=kill,
        now=clock,
        damping=3,
    )
    store.failing = at == "sleep"
    works = getattr(store, at, None)
    setattr(store, at, kill)
    node.join("s1", "a", "ada")
    with pytest.raises(Killed):
        work.pop()()
    store.failing = False
    setattr(store, at, works)
    work.pop()()
    assert store.read(["a"])[0].entries == {node.node: {"ada": ""}}


def test_an_outage_is_told_once_a_minute_and_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Bug: it was told each second, and filled the log."""
    clock = Clock()
    store = Store(now=clock)
    began = clock.now
    work: list[Callable[[], None]] = []

    def sleep(seconds: float) -> None:
        clock.now += seconds
        if clock.now - began >= 100:
            store.failing = False

    node = Presence(
        store,
        relay=lambda room, step: node.close(),  # it is told, so all is well
        tell=lambda room, joined, left: None,
        spawn=work.append,
        sleep=sleep,
        now=clock,
        damping=3,
    )
    store.failing = True
    node.join("s1", "a", "ada")
    work[0]()
    assert [record.getMessage() for record in caplog.records] == [
        *["Who is where is not told to other processes: no store"] * 2,
        "Who is where is told to other processes again",
    ]


def test_the_store_is_not_asked_on_the_way_of_a_join() -> None:
    it = Nodes(1)
    for number in range(100):
        it.nodes[0].join(f"s{number}", "a", str(number))
    assert it.store.asked == 0
    it.settle()
    assert it.store.asked == 2  # a sign of life, and all users at once
    assert len(it.shown()) == 100


def test_all_who_came_are_told_at_once() -> None:
    it = Nodes(2)
    it.nodes[0].join("s", "a", None)
    it.nodes[0].show("a", dict)
    for number in range(100):
        it.nodes[number % 2].join(f"s{number}", "a", str(number))
    it.settle()
    assert sum(len(joined) for _, joined, _ in it.told[0]) == 100
    assert len(it.told[0]) == 2  # of this process, and of the other


def test_a_step_that_is_known_is_not_looked_up() -> None:
    it = Nodes()
    it.nodes[1].join("t", "a", "ben")
    it.nodes[0].join("s", "a", "ada")
    for node in it.nodes:
        node.step()
    steps = list(it.relayed)
    it.settle()
    for room, step in steps:
        it.nodes[1].moved(room, step)
    assert it.nodes[1]._stale == set()


def test_a_user_who_is_soon_back_has_not_left() -> None:
    it = Nodes()
    it.nodes[0].join("s", "a", "ada")
    it.nodes[1].join("t", "a", "ben")
    it.settle()
    del it.told[1][:]
    it.nodes[0].drop("s")
    it.after(2)
    it.nodes[0].join("s2", "a", "ada")
    it.after(10)
    assert it.told[1] == []
    it.nodes[0].drop("s2")
    it.after(2)
    assert it.told[1] == []
    it.after(1)
    assert it.told[1] == [("a", [], ["ada"])]


def test_leaving_is_told_at_once_without_damping() -> None:
    it = Nodes(damping=0)
    it.nodes[0].join("s", "a", "ada")
    it.nodes[1].join("t", "a", "ben")
    it.settle()
    it.nodes[0].drop("s")
    it.settle()
    assert it.shown(1) == ["ben"]


def test_the_users_of_a_process_that_dies_are_gone_within_15_s() -> None:
    it = Nodes(3)
    for number, node in enumerate(it.nodes):
        node.join(f"s{number}", "a", str(number))
        node.join(f"s{number}", "a", str(number))
    it.settle()
    assert it.shown(1) == ["0", "1", "2"]
    it.alive.remove(it.nodes[0])
    it.after(SILENT + BEAT + 1)
    assert it.shown(1) == it.shown(2) == ["1", "2"]
    assert set(it.store.read(["a"])[0].entries) == {it.nodes[1].node, it.nodes[2].node}
    assert [told for told in it.told[2] if told[2]] == [("a", [], ["0"])]
    it.alive.append(it.nodes[0])  # it was only stopped
    it.after(2 * BEAT)
    assert it.shown(0) == it.shown(2) == ["0", "1", "2"]


def test_a_list_that_was_lost_is_entered_again() -> None:
    it = Nodes()
    it.nodes[0].join("s", "a", "ada")
    it.nodes[1].join("t", "a", "ben")
    it.settle()
    assert it.shown(0) == it.shown(1) == ["ada", "ben"]
    it.store.forget("a")
    it.after(2 * BEAT)
    assert it.shown(0) == it.shown(1) == ["ada", "ben"]
    assert sorted(it.nodes[0].users("a")) == ["ada", "ben"]


def test_a_step_that_was_not_heard_of_is_found_by_the_version() -> None:
    it = Nodes()
    it.nodes[1].join("t", "a", "ben")
    it.settle()
    assert it.shown(1) == ["ben"]
    it.nodes[0].join("s", "a", "ada")
    it.nodes[0].step()
    it.relayed.clear()
    it.after(BEAT)
    assert it.shown(1) == ["ada", "ben"]


def test_steps_out_of_turn_end_with_the_list() -> None:
    it = Nodes(damping=0)
    it.nodes[1].join("t", "a", "ben")
    it.settle()
    for user in ("ada", "cy"):
        it.nodes[0].join(user, "a", user)
        it.nodes[0].step()
    it.nodes[0].drop("ada")
    it.nodes[0].step()
    it.relayed.reverse()
    it.settle()
    assert it.shown(0) == it.shown(1) == ["ben", "cy"]


def test_what_is_told_adds_up_to_the_list() -> None:
    it = Nodes(damping=0)
    watcher = it.nodes[1]
    watcher.join("t", "a", None)
    seen = set(watcher.show("a", dict))
    for user in ("ada", "ben", "cy"):
        it.nodes[0].join(user, "a", user)
        it.settle()
    it.nodes[0].drop("ben")
    it.settle()
    for _, joined, left in it.told[1]:
        assert not seen & set(joined)
        seen = (seen | set(joined)) - set(left)
    assert sorted(seen) == it.shown(1) == ["ada", "cy"]


def test_a_failing_store_keeps_nobody_out(caplog: pytest.LogCaptureFixture) -> None:
    it = Nodes(1, damping=0)
    it.store.failing = True
    it.nodes[0].join("s", "a", "ada")
    with pytest.raises(BrokerUnavailable):
        it.nodes[0].step()
    with caplog.at_level(logging.ERROR):
        assert it.shown() == ["ada"]
    it.store.failing = False
    it.settle()
    it.store.failing = True
    it.nodes[0].join("s2", "a", "ben")
    it.nodes[0].drop("s")
    with pytest.raises(BrokerUnavailable):
        it.nodes[0].step()
    it.store.failing = False
    it.settle()
    assert it.shown() == sorted(it.nodes[0].users("a")) == ["ben"]


def test_a_failing_relay_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    it = Nodes(1)

    def fail(room: str, step: Moved) -> None:
        raise BrokerUnavailable("no relay")

    it.nodes[0]._relay = fail
    it.nodes[0].join("s", "a", "ada")
    with caplog.at_level(logging.WARNING):
        it.nodes[0].step()
    assert "was not relayed: no relay" in caplog.text
    assert it.shown() == ["ada"]


def test_nothing_is_kept_of_rooms_that_nobody_is_in() -> None:
    it = Nodes(1)
    node = it.nodes[0]
    node.join("s", "a", "ada")
    node.join("s", "b", None)
    node.join("t", "a", None)
    it.settle()
    node.drop("s")
    node.leave("t", "a")
    it.after(10)
    assert [node._rooms, node._joined, node._away, node._dirty] == [{}, {}, {}, set()]
    assert it.store._lists == {}
    assert it.shown() == []


def test_a_connection_may_come_back_as_somebody_else() -> None:
    it = Nodes(1, damping=0)
    it.nodes[0].join("s", "a", "ada")
    it.settle()
    it.nodes[0].join("s", "a", "ben")
    it.settle()
    assert it.shown() == ["ben"]


def test_who_moves_from_a_process_that_ends_has_not_left() -> None:
    it = Nodes(3, damping=0)
    goes, stays, watches = it.nodes
    for user in ("ada", "ben", "cy"):
        goes.join(user, "a", user)
        goes.join(user, "b", user)
    watches.join("w", "a", None)
    watches.join("w", "b", None)
    it.settle()
    assert it.shown(2) == ["ada", "ben", "cy"]
    del it.told[2][:]
    goes.expect_moves()
    for user in ("ada", "ben", "cy"):
        goes.drop(user)
    it.settle()
    stays.join("s", "a", "ada")  # at once
    stays.join("s", "b", "ada")
    it.settle()
    goes.retire()
    it.settle()
    assert goes.retired
    it.alive.remove(goes)
    it.after(1)
    stays.join("t", "a", "ben")  # when the process has gone
    stays.join("t", "b", "ben")
    it.settle()
    assert it.told[2] == []
    it.after(2 * BEAT)
    # cy really left, and is gone long before the silence of a dead process tells.
    assert sorted(it.told[2]) == [("a", [], ["cy"]), ("b", [], ["cy"])]
    assert it.shown(1) == it.shown(2) == ["ada", "ben"]


def test_a_process_retires_at_once_when_nobody_is_in_its_rooms() -> None:
    it = Nodes(1)
    it.nodes[0].retire()
    assert it.nodes[0].retired
    assert it.store.asked == 0


def test_a_process_leaves_nothing_behind_when_all_have_moved() -> None:
    it = Nodes(2)
    goes, stays = it.nodes
    goes.join("s", "a", "ada")
    it.settle()
    stays.join("t", "a", "ada")
    it.settle()
    goes.drop("s")
    goes.retire()
    it.settle()
    assert goes.retired
    assert set(it.store.read(["a"])[0].entries) == {stays.node}
    assert it.store.beat(None) == {stays.node}
    goes.drop("s")  # what comes late is no error


def test_a_process_goes_on_retiring_while_the_store_fails() -> None:
    it = Nodes(1)
    it.nodes[0].join("s", "a", "ada")
    it.settle()
    it.nodes[0].retire()
    it.store.failing = True
    with pytest.raises(BrokerUnavailable):
        it.nodes[0].step()
    assert not it.nodes[0].retired
    it.store.failing = False
    it.settle()
    assert it.nodes[0].retired
