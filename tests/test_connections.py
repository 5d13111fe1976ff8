"""The registry of connections: whose they are, how many, and how they end."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from flask_livepush.brokers.logins import Ended, Recheck
from flask_livepush.connections import NOBODY, Connection, Connections
from flask_livepush.errors import (
    ClientError,
    NotAuthorised,
    RefreshLogin,
    TooManyConnections,
    Unavailable,
)
from flask_livepush.login.caller import Caller, Handshake
from flask_livepush.metrics import Metrics
from tests.support.brokers import Clock
from tests.support.ends import DictLogins, by_header, caller


class Told:
    """A line that notes who was told what."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, int]] = []
        self.away: list[str] = []
        self.silent: list[str] = []
        self.problem: Callable[[str], object] = lambda sid: None

    def silence(self, connection: Connection) -> None:
        self.silent.append(connection.sid)

    def end(self, connection: Connection, error: ClientError) -> None:
        assert connection.sid in self.silent
        self.problem(connection.sid)
        self.ended.append((connection.sid, error.code))

    def send_away(self, connection: Connection) -> None:
        self.problem(connection.sid)
        self.away.append(connection.sid)


class Counts(Metrics):
    """Keeps what is counted."""

    def __init__(self) -> None:
        self.found: Counter[tuple[str, str]] = Counter()

    def count(self, name: str, label: str = "", amount: float = 1) -> None:
        self.found[name, label] += int(amount)


class World:
    """A registry, and the tasks it has spawned."""

    def __init__(
        self,
        judge: Callable[[Handshake], Caller] | None = None,
        *,
        max_per_user: int = 3,
        may_be_somebody: Callable[[Handshake], bool] | None = None,
    ) -> None:
        self.logins = DictLogins()
        self.line = Told()
        self.tasks: deque[Callable[[], None]] = deque()
        self.rechecks: list[Recheck] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self.counts = Counts()
        self.turns: list[float] = []
        self.clock = Clock()
        self.connections = Connections(
            judge or by_header(self._meanwhile),
            self.logins,
            may_be_somebody=may_be_somebody,
            recheck=self._recheck,
            max_per_user=max_per_user,
            spawn=self.tasks.append,
            sleep=self.turns.append,
            now=self.clock,
            metrics=self.counts,
        )
        self.connections.carried_by(self.line)
        self.logins.listen(self.connections)

    def _meanwhile(self) -> None:
        self.meanwhile()

    def _recheck(self, orders: Sequence[Recheck]) -> None:
        self.rechecks += orders

    def enter(self, sid: str, **environ: Any) -> Caller:
        return self.connections.enter(sid, f"e-{sid}", Handshake(environ))

    def run(self) -> None:
        while self.tasks:
            self.tasks.popleft()()

    def sids(self) -> list[str]:
        return [one.sid for one in self.connections.all()]

    def emptied(self) -> bool:
        found = self.connections
        return not (found._by_sid or found._by_user or found._by_login or found._due)


def test_keeps_whose_a_connection_is() -> None:
    world = World()
    assert world.enter("a", user="1", login="x") == caller("1", "x")
    world.enter("b", user="1", login="y")
    world.enter("c", user="2", login="z")
    world.enter("d")
    found = world.connections
    one = found.find("a")
    assert one is not None
    assert (one.sid, one.eio_sid, one.since) == ("a", "e-a", 1000.0)
    assert one.handshake.environ == {"user": "1", "login": "x"}
    assert [c.sid for c in found.of_user("1")] == ["a", "b"]
    assert [c.sid for c in found.of_login("z")] == ["c"]
    assert found.of_user("3") == found.of_login("3") == []
    assert world.sids() == ["a", "b", "c", "d"]
    assert found.left("b") is not None
    assert found.left("b") is None
    assert [c.sid for c in found.of_user("1")] == ["a"]
    for sid in "acd":
        found.left(sid)
    assert world.emptied()


def test_nobody_is_asked_for_who_says_nothing() -> None:
    asked: list[Handshake] = []

    def judge(handshake: Handshake) -> Caller:
        asked.append(handshake)
        return caller("1")

    world = World(judge, may_be_somebody=lambda handshake: bool(handshake.environ))
    assert world.connections.asks_nobody(Handshake({}))
    assert world.enter("a") is NOBODY
    assert asked == []
    assert not world.connections.asks_nobody(Handshake({"user": "1"}))
    world.enter("b", user="1")
    assert len(asked) == 1
    assert world.sids() == ["a", "b"]


def test_who_may_not_connect_is_not_kept() -> None:
    def judge(handshake: Handshake) -> Caller:
        raise handshake.environ["error"]

    world = World(judge)
    for error in (NotAuthorised("no"), Unavailable("later"), LookupError("a bug")):
        with pytest.raises(type(error)):
            world.enter("a", error=error)
    assert world.emptied()


# -- how many ----------------------------------------------------------------------


def test_one_user_may_have_so_many_and_others_too() -> None:
    world = World(max_per_user=2)
    world.enter("a", user="1", login="x")
    world.enter("b", user="1", login="y")
    with pytest.raises(TooManyConnections, match="2 connections"):
        world.enter("c", user="1", login="z")
    world.enter("d", user="2")
    for number in range(5):
        world.enter(f"nobody-{number}")
    world.enter("a", user="1", login="x")  # the same again is not one more
    world.connections.left("a")
    world.enter("c", user="1", login="z")
    assert [c.sid for c in world.connections.of_user("1")] == ["b", "c"]
    assert world.connections.of_login("x") == []


def test_a_user_without_an_id_is_counted_by_login() -> None:
    world = World(lambda handshake: caller(None, "token", source="request"))
    for sid in "abc":
        world.enter(sid)
    with pytest.raises(TooManyConnections):
        world.enter("d")


# -- logins that end ---------------------------------------------------------------


def test_ends_exactly_the_connections_of_a_login() -> None:
    world = World()
    world.enter("a", user="1", login="x")
    world.enter("b", user="1", login="x")
    world.enter("c", user="1", login="y")
    world.logins.end([Ended("x"), Ended("nobody's")])
    assert world.line.ended == []  # the listener is not kept waiting
    assert world.connections.find("a") is None
    world.run()
    assert world.line.ended == [("a", 103), ("b", 103)]
    assert world.sids() == ["c"]
    assert world.counts.found == {("ends_total", "told"): 2}
    world.logins.end([Ended("x")])
    world.run()
    assert len(world.line.ended) == 2


def test_who_has_logged_in_anew_is_sent_away_to_come_back() -> None:
    world = World()
    world.enter("a", user="1", login="x")
    world.logins.end([Ended("x", again=True)])
    world.run()
    assert (world.line.ended, world.line.away) == ([], ["a"])
    assert world.counts.found == {("ends_total", "sent_away"): 1}


def test_a_login_that_ended_before_is_not_let_in() -> None:
    world = World()
    world.logins.end([Ended("x")])
    with pytest.raises(RefreshLogin):
        world.enter("a", user="1", login="x")
    assert world.emptied()


def test_no_login_ends_between_asking_and_keeping() -> None:
    world = World()
    world.meanwhile = lambda: world.logins.end([Ended("x")])
    with pytest.raises(RefreshLogin):
        world.enter("a", user="1", login="x")
    world.run()
    assert world.emptied()
    assert world.line.ended == []


def test_no_login_ends_between_keeping_and_looking_again() -> None:
    """The listener finds it; whichever comes first, it does not stay."""
    world = World()
    has_ended = world.logins.has_ended

    def ends_now(login: str) -> bool:
        world.logins.end([Ended("x")])
        return has_ended(login)

    world.logins.has_ended = ends_now  # type: ignore[method-assign]
    with pytest.raises(RefreshLogin):
        world.enter("a", user="1", login="x")
    world.run()
    assert world.emptied()


def test_asks_once_more_when_rights_change_while_somebody_comes() -> None:
    """Bug: whoever was being loaded when its user was banned came in for good."""
    banned: set[str] = set()

    def judge(handshake: Handshake) -> Caller:
        is_banned = "1" in banned
        world.meanwhile()
        if is_banned:
            raise NotAuthorised("banned")
        return caller("1")

    world = World(judge)

    def ban() -> None:
        world.meanwhile = lambda: None
        banned.add("1")
        world.logins.recheck([Recheck(user="1", close=True)])

    world.meanwhile = ban
    with pytest.raises(NotAuthorised, match="banned"):
        world.enter("a")
    assert world.emptied()


def test_a_connect_does_not_wait_for_ever_for_rights_to_hold_still() -> None:
    world = World()
    world.meanwhile = lambda: world.logins.recheck([Recheck(user="2")])
    with pytest.raises(Unavailable):
        world.enter("a", user="1")
    assert world.emptied()


def test_connections_of_a_user_are_closed_and_other_orders_handed_on() -> None:
    world = World()
    world.enter("a", user="1", login="x")
    world.enter("b", user="1", login="y")
    world.enter("c", user="2")
    others = [Recheck(), Recheck(user="2"), Recheck(room="chat:1")]
    world.logins.recheck([others[0], Recheck(user="1", close=True), *others[1:]])
    world.run()
    assert world.line.ended == [("a", 103), ("b", 103)]
    assert world.rechecks == others
    world.logins.recheck([Recheck(close=True)])
    world.run()
    assert world.emptied()


def test_many_end_in_turn_and_one_that_fails_keeps_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(max_per_user=1000)
    for number in range(500):
        world.enter(str(number), user="1", login=str(number % 10))

    def fail(sid: str) -> None:
        assert len(world.line.silent) == 500  # all before the first is told
        if sid == "3":
            raise OSError("its socket")

    world.line.problem = fail
    with caplog.at_level(logging.ERROR):
        world.logins.end([Ended(str(number)) for number in range(10)])
        world.logins.end([Ended("0")])
        assert len(world.tasks) == 1
        world.run()
    assert len(world.line.ended) == 499
    assert world.emptied()
    assert world.turns == [0] * 10  # others get their turn
    assert "could not be ended" in caplog.text


def test_who_comes_due_meanwhile_is_ended_too() -> None:
    world = World()
    world.enter("a", user="1", login="x")
    world.enter("b", user="2", login="y")

    def another(sid: str) -> None:
        world.line.problem = lambda sid: None
        world.logins.end([Ended("y")])

    world.line.problem = another
    world.logins.end([Ended("x")])
    world.run()
    assert [sid for sid, _ in world.line.ended] == ["a", "b"]
    world.enter("c", user="3", login="z")
    world.logins.end([Ended("z")])
    world.run()
    assert len(world.line.ended) == 3


def test_ends_even_where_no_thread_can_begin() -> None:
    world = World()

    def fail(work: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    world.connections._spawn = fail
    world.enter("a", user="1", login="x")
    world.logins.end([Ended("x")])
    assert world.line.ended == [("a", 103)]


def test_one_is_ended_or_sent_away_once() -> None:
    world = World()
    world.enter("a", user="1")
    world.enter("b", user="1")
    world.connections.end("a", NotAuthorised("gone"))
    world.connections.end("a", NotAuthorised("gone"))
    world.connections.send_away("a")
    world.connections.send_away("b")
    world.connections.send_away("nobody")
    assert (world.line.ended, world.line.away) == ([("a", 103)], ["b"])
    assert world.emptied()


# -- what is asked of one ----------------------------------------------------------


def test_vouches_without_waiting_where_the_mirror_is_current() -> None:
    world = World()
    world.enter("a", user="1")
    assert world.connections.vouch("a").sid == "a"
    assert world.logins.confirmed == 0
    with pytest.raises(NotAuthorised):
        world.connections.vouch("nobody")


def test_waits_a_moment_where_the_mirror_is_not_current() -> None:
    world = World()
    world.enter("a", user="1")
    world.enter("b")
    world.logins.current = False
    with pytest.raises(Unavailable):
        world.connections.vouch("a")
    assert world.connections.vouch("b").sid == "b"  # it has no login that may end
    assert world.logins.confirmed == 1
    world.logins.recovers = True
    assert world.connections.vouch("a").sid == "a"


def test_does_not_wait_to_connect_where_the_mirror_is_not_current() -> None:
    world = World()
    world.logins.current = False
    world.enter("a", user="1")
    assert world.logins.confirmed == 0


def test_does_not_vouch_for_what_the_mirror_has_and_nobody_was_told_yet() -> None:
    world = World()
    world.enter("a", user="1", login="x")
    world.logins.known["x"] = Ended("x")
    with pytest.raises(NotAuthorised):
        world.connections.vouch("a")


def test_ends_and_comings_at_once_leave_nothing() -> None:
    """Threads that come, go and end each other, as they like."""
    world = World(max_per_user=1000)
    world.connections._spawn = lambda work: work()
    problems: list[BaseException] = []

    def come(name: int) -> None:
        try:
            for number in range(200):
                login = f"{number % 7}-{number}"
                sid = f"{name}-{number}"
                try:
                    world.enter(sid, user=str(number % 3), login=login)
                except RefreshLogin:
                    continue
                if number % 2:
                    world.connections.left(sid)
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    def end() -> None:
        for number in range(200):
            world.logins.end([Ended(f"{number % 7}-{number}")])

    threads = [threading.Thread(target=come, args=(n,)) for n in range(4)]
    threads.append(threading.Thread(target=end))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert world.emptied()
