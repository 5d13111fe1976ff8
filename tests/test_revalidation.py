"""Logins and rights, asked about again: in turn, on order, and when nobody can say."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest

from flask_livepush.brokers.logins import Recheck
from flask_livepush.errors import (
    ClientError,
    NotAuthorised,
    RefreshLogin,
    Unavailable,
)
from flask_livepush.login.caller import Caller, Claim, Handshake, Source
from flask_livepush.revalidation import Revalidation
from flask_livepush.rooms import Pattern, Room
from flask_livepush.rooms import Rooms as Patterns
from tests.support.scripted import World

CHAT = "chat:<int:room_id>"


@dataclass(frozen=True)
class User:
    """A user as an application has it."""

    name: str
    is_authenticated: bool = True


@dataclass(frozen=True, eq=False)
class Line:
    """A connection as the registry has it."""

    sid: str
    handshake: Handshake
    caller: Caller


class Site:
    """An application, its connections, and what is found out about them.

    Args:
        users: Who there are.
    """

    def __init__(
        self, *users: str, interval: float = 60, rate: float = 50, dice: float = 1
    ) -> None:
        self.world = World()
        self.users = {name: User(name) for name in users}
        self.lines: dict[str, Line] = {}
        self.ended: list[tuple[str, int]] = []
        self.sent_away: list[str] = []
        # What is asked of the application.
        self.loads: list[list[str]] = []
        self.asked: list[tuple[str, str]] = []
        self.claims: list[str] = []
        self.bans: set[tuple[str, str]] = set()
        self.errors: dict[str, Exception] = {}
        self.at: Callable[[str], None] = lambda point: None
        self.patterns = Patterns()
        self.patterns.add(Room(Pattern(CHAT), lambda user, room_id: True, print))
        self.spawned: list[Callable[[], None]] = []
        self.revalidation = Revalidation(
            self,
            self,
            rules=self,
            rooms=self.world.hub,
            node=self.world.node,
            context=nullcontext,
            spawn=self.spawned.append,
            sleep=lambda seconds: None,
            now=self.world.clock,
            dice=lambda: dice,
            interval=interval,
            rate=rate,
        )

    # -- the registry --

    def connect(
        self,
        sid: str,
        user: str | None,
        *rooms: str,
        cookie: str = "",
        source: Source = "session",
    ) -> None:
        """Let a connection come, and join rooms."""
        key = user if source in ("session", "ticket") else None
        environ = {"HTTP_COOKIE": cookie or user or "", "user": user or ""}
        payload = {"token": user} if source in ("payload", "ticket") else None
        self.lines[sid] = Line(
            sid,
            Handshake(environ, payload),
            Caller(user, Claim(key, frozenset(), source)),
        )
        for room in rooms:
            self.world.join(sid, room, user=user)
        self.revalidation.begin()

    def find(self, sid: str) -> Line | None:
        return self.lines.get(sid)

    def all(self) -> list[Line]:
        return list(self.lines.values())

    def of_user(self, identity: str) -> list[Line]:
        return [one for one in self.all() if one.caller.identity == identity]

    def end(self, sid: str, error: ClientError) -> None:
        self.ended.append((sid, error.code))
        self._gone(sid)

    def send_away(self, sid: str) -> None:
        self.sent_away.append(sid)
        self._gone(sid)

    def _gone(self, sid: str) -> None:
        del self.lines[sid]
        self.world.node.disconnect(sid)

    # -- the judge --

    def _raise(self, where: str) -> None:
        self.at(where)
        if where in self.errors:
            raise self.errors[where]

    def claim(self, handshake: Handshake) -> Claim:
        cookie = handshake.environ["HTTP_COOKIE"]
        self.claims.append(cookie)
        self._raise(f"claim {cookie}")
        return Claim(handshake.environ["user"], frozenset(), "session")

    def caller(self, handshake: Handshake) -> Caller:
        name = handshake.environ["user"]
        self._raise(f"caller {name}")
        user = self.users.get(name)
        if user is None or not user.is_authenticated:
            raise NotAuthorised("Not logged in.")
        return Caller(user.name, Claim(name, frozenset(), "session"))

    def load(self, keys: Iterable[str]) -> Mapping[str, Any]:
        self.loads.append(list(keys))
        self._raise("load")
        return {key: self.users[key] for key in self.loads[-1] if key in self.users}

    @contextmanager
    def entered(self, handshake: Handshake, user: Any = None) -> Iterator[Any]:
        self._raise(f"entered {handshake.environ['HTTP_COOKIE']}")
        name = handshake.environ["user"]
        yield user or self.users.get(name) or User("", is_authenticated=False)

    # -- the rules --

    def check(self, room: str, user: User) -> None:
        self.asked.append((user.name, room))
        self._raise(f"check {room}")
        if (user.name, room) in self.bans:
            raise NotAuthorised("The rule says no.")

    def covers(self, given: str, room: str) -> bool:
        return self.patterns.covers(given, room)

    def identity(self, user: User) -> str | None:
        return user.name or None

    # -- what the test does --

    def run(self) -> None:
        """Do what is to be done now."""
        while self.revalidation.step() == 0:
            pass

    def wait(self, seconds: float) -> None:
        """Let time pass, a look a second."""
        for _ in range(round(seconds)):
            self.world.clock.now += 1
            self.run()

    def order(self, user: str | None = None, room: str | None = None) -> None:
        """Order that something is asked about, and let that happen."""
        self.revalidation.recheck([Recheck(user, room)])
        self.run()

    def shown(self, sid: str) -> list[Any]:
        """Return what was written to a connection."""
        return self.world.transport.offsets(sid)


def test_asks_about_each_user_once_an_interval_however_many_sockets() -> None:
    site = Site("ada", "bob")
    for number in range(3):
        site.connect(f"a{number}", "ada", "chat:1", "chat:2", cookie="one browser")
    site.connect("b", "bob", "chat:1")
    site.wait(59)
    assert site.loads == []
    site.wait(2)
    assert site.loads == [["ada", "bob"]]
    assert sorted(site.asked) == [
        ("ada", "chat:1"),
        ("ada", "chat:2"),
        ("bob", "chat:1"),
    ]
    assert sorted(site.claims) == ["bob", "one browser"]
    site.wait(60)
    assert len(site.asked) == 6
    assert site.ended == site.sent_away == []


def test_spreads_users_over_the_interval() -> None:
    site = Site()
    dice = iter((number + 0.5) / 60 for number in range(60))
    site.revalidation._dice = lambda: next(dice)
    for number in range(60):
        site.users[str(number)] = User(str(number))
        site.connect(str(number), str(number))
    site.run()
    site.loads.clear()
    for _ in range(2):
        site.wait(60)
        assert [len(keys) for keys in site.loads] == [1] * 60
        site.loads.clear()


def gone(site: Site) -> None:
    del site.users["ada"]


def deactivated(site: Site) -> None:
    site.users["ada"] = User("ada", is_authenticated=False)


def logged_out(site: Site) -> None:
    site.errors["claim ada"] = NotAuthorised("The login has ended.")


def ended_a_moment_ago(site: Site) -> None:
    site.errors["entered ada"] = NotAuthorised("The login has ended.")


def another_s(site: Site) -> None:
    site.lines["s"].handshake.environ["user"] = "bob"


@pytest.mark.parametrize(
    "change", [gone, deactivated, logged_out, ended_a_moment_ago, another_s]
)
@pytest.mark.parametrize("ordered", [False, True])
def test_ends_who_is_not_logged_in_any_more(
    change: Callable[[Site], None], ordered: bool
) -> None:
    site = Site("ada", "bob")
    site.connect("s", "ada", "chat:1")
    site.connect("t", "bob", "chat:1")
    change(site)
    if ordered:
        site.order("ada")
    else:
        site.wait(62)
    assert site.ended == [("s", 103)]
    assert list(site.lines) == ["t"]
    assert site.sent_away == []


def test_ends_all_connections_of_a_user_who_is_gone() -> None:
    site = Site("ada")
    for number in range(3):
        site.connect(str(number), "ada", cookie=f"browser {number}")
    gone(site)
    site.order("ada")
    assert site.ended == [("0", 103), ("1", 103), ("2", 103)]


def test_the_end_of_one_login_is_none_of_the_user_s_others() -> None:
    site = Site("ada")
    site.connect("s", "ada", "chat:1", cookie="old")
    site.connect("t", "ada", "chat:1", cookie="new")
    site.errors["entered old"] = NotAuthorised("The login has ended.")
    site.bans.add(("ada", "chat:1"))
    site.order("ada")
    assert site.ended == [("s", 103)]
    assert site.shown("t") == ["ack", "revoked"]


@pytest.mark.parametrize("where", ["claim ada", "entered ada"])
def test_sends_away_whose_cookie_is_old(where: str) -> None:
    site = Site("ada")
    site.connect("s", "ada", "chat:1")
    site.errors[where] = RefreshLogin("The session's time is over.")
    site.order("ada")
    assert site.sent_away == ["s"]
    assert site.ended == []


def test_a_user_whose_id_has_changed_comes_back() -> None:
    site = Site("ada")
    site.connect("s", "ada")
    site.users["ada"] = User("lovelace")
    site.order("ada")
    assert site.sent_away == ["s"]


@pytest.mark.parametrize("ordered", [False, True])
def test_takes_a_room_from_who_may_not_be_in_it(ordered: bool) -> None:
    site = Site("ada", "bob")
    site.connect("s", "ada", "chat:1", "chat:2")
    site.connect("t", "ada", "chat:1", cookie="another browser")
    site.connect("u", "bob", "chat:1")
    site.bans.add(("ada", "chat:1"))
    if ordered:
        site.order("ada", "chat:1")
        assert site.asked == [("ada", "chat:1")]
        assert site.loads == [["ada"]]
    else:
        site.wait(62)
    site.world.publish("chat:1")
    site.world.settle()
    assert site.shown("s") == ["ack", "ack", "revoked"]
    assert site.shown("t") == ["ack", "revoked"]
    assert site.shown("u") == ["ack", 1]
    assert site.world.hub.rooms_of("s") == ["chat:2"]
    assert site.ended == []


@pytest.mark.parametrize(
    ("user", "room", "expected"),
    [
        ("ada", "chat:1", {("ada", "chat:1")}),
        ("ada", CHAT, {("ada", "chat:1"), ("ada", "chat:2")}),
        ("ada", None, {("ada", "chat:1"), ("ada", "chat:2"), ("ada", "news")}),
        (None, "chat:1", {("ada", "chat:1"), ("bob", "chat:1")}),
        (None, CHAT, {("ada", "chat:1"), ("ada", "chat:2"), ("bob", "chat:1")}),
        (
            None,
            "<a pattern of another version>",
            {
                ("ada", "chat:1"),
                ("ada", "chat:2"),
                ("bob", "chat:1"),
                ("ada", "news"),
                ("bob", "news"),
            },
        ),
        (
            None,
            None,
            {
                ("ada", "chat:1"),
                ("ada", "chat:2"),
                ("bob", "chat:1"),
                ("ada", "news"),
                ("bob", "news"),
            },
        ),
        ("nobody here", None, set()),
        ("ada", "chat:77", set()),
        (None, "nowhere", set()),
    ],
)
def test_asks_about_what_was_ordered(
    user: str | None, room: str | None, expected: set[tuple[str, str]]
) -> None:
    site = Site("ada", "bob")
    site.connect("s", "ada", "chat:1", "chat:2", "news")
    site.connect("t", "bob", "chat:1", "news")
    site.wait(1)
    site.order(user, room)
    site.wait(1)
    assert set(site.asked) == expected
    assert len(site.asked) == len(expected)


def test_orders_that_wait_are_asked_about_together() -> None:
    site = Site("ada", "bob")
    site.connect("s", "ada", "chat:1", "chat:2", "chat:3")
    site.connect("t", "bob", "chat:1")
    orders = [Recheck("ada", "chat:1"), Recheck("ada", "chat:2"), Recheck("bob")]
    site.revalidation.recheck(orders * 100)
    assert site.revalidation._waiting() == 3
    site.run()
    assert site.loads == [["ada", "bob"]]
    assert sorted(site.asked) == [
        ("ada", "chat:1"),
        ("ada", "chat:2"),
        ("bob", "chat:1"),
    ]


def test_too_many_orders_become_one_for_everything() -> None:
    site = Site("ada", "bob")
    site.connect("s", "ada", "chat:1")
    site.connect("t", "bob", "chat:2")
    site.revalidation.recheck([Recheck(str(number)) for number in range(5_000)])
    assert site.revalidation._waiting() == 1
    site.wait(1)
    assert set(site.asked) == {("ada", "chat:1"), ("bob", "chat:2")}


def test_orders_for_one_user_do_not_wait_for_those_for_many() -> None:
    site = Site("ada")
    for number in range(200):
        site.users[str(number)] = User(str(number))
        site.connect(str(number), str(number), "chat:1")
    site.connect("s", "ada", "chat:1")

    def at(point: str) -> None:
        if point == "load" and len(site.loads) == 1:
            site.revalidation.recheck([Recheck("ada", "chat:1")])

    site.at = at
    site.order(None, CHAT)
    assert len(site.loads[0]) == 50
    assert site.loads[1] == ["ada"]
    assert {user for user, _ in site.asked} == {*map(str, range(200)), "ada"}


def test_loads_no_more_than_the_rate_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site(interval=10, rate=5, dice=0)
    for number in range(100):
        site.users[str(number)] = User(str(number))
        site.connect(str(number), str(number), "chat:1")
    with caplog.at_level(logging.WARNING):
        site.wait(30)
    loads = [len(keys) for keys in site.loads]
    assert max(loads) <= 5
    assert sum(loads) in range(140, 156)
    assert len({user for user, _ in site.asked}) == 100
    assert caplog.text.count("LIVEPUSH_REVALIDATE_RATE") == 1
    assert "20 s" in caplog.text


def test_orders_come_ahead_of_the_rate_but_for_that_for_everything() -> None:
    site = Site(rate=5)
    for number in range(100):
        site.users[str(number)] = User(str(number))
        site.connect(str(number), str(number), "chat:1")
    site.wait(1)
    site.order(None, "chat:1")
    assert sum(map(len, site.loads)) == 100
    site.loads.clear()
    site.order()
    site.wait(1)
    assert sum(map(len, site.loads)) <= 10
    site.wait(20)
    assert sum(map(len, site.loads)) >= 100


@pytest.mark.parametrize(
    "where", ["load", "claim ada", "entered ada", "check chat:1", "caller ada"]
)
@pytest.mark.parametrize("error", [Unavailable("away"), OSError("the database")])
@pytest.mark.parametrize("ordered", [False, True])
def test_an_outage_ends_nothing_and_is_tried_again_soon(
    where: str, error: Exception, ordered: bool, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site("ada")
    site.connect("s", "ada", "chat:1")
    if where == "caller ada":
        gone(site)
    site.bans.add(("ada", "chat:1"))
    site.errors[where] = error
    site.at = lambda point: None
    with caplog.at_level(logging.ERROR):
        if ordered:
            site.order("ada", "chat:1")
            site.wait(20)
        else:
            site.wait(80)
    assert site.ended == site.sent_away == []
    assert site.shown("s") == ["ack"]
    assert caplog.text.count("connections stay as they are") == 1
    del site.errors[where]
    site.wait(6)
    if where == "caller ada":
        assert site.ended == [("s", 103)]
    else:
        assert site.shown("s") == ["ack", "revoked"]


def test_one_user_whose_rule_fails_is_nobody_else_s_business() -> None:
    site = Site("ada", "bob")
    site.connect("s", "ada", "chat:1")
    site.connect("t", "bob", "chat:2")
    site.errors["check chat:1"] = OSError("a rule's own")
    site.bans.add(("bob", "chat:2"))
    site.order(None, CHAT)
    assert site.shown("s") == ["ack"]
    assert site.shown("t") == ["ack", "revoked"]


def test_asks_about_what_was_given_with_the_connect() -> None:
    site = Site("ada", "bob")
    site.connect("s", "ada", "chat:1", source="payload")
    site.connect("t", "bob", "chat:1", source="payload")
    del site.users["ada"]  # the token has expired
    site.wait(62)
    # Its client comes back with a newer one, or is refused then.
    assert (site.sent_away, site.ended) == (["s"], [])
    assert site.asked == [("bob", "chat:1")]
    assert site.loads == []


def test_asks_visitors_rules_too() -> None:
    site = Site()
    for number in range(3):
        site.connect(str(number), None, "chat:1", source="nobody", cookie="c")
    site.order(None, "chat:1")
    assert site.asked == [("", "chat:1")]
    site.bans.add(("", "chat:1"))
    site.order(None, "chat:1")
    assert all(site.shown(str(number)) == ["ack", "revoked"] for number in range(3))
    assert site.ended == []


def test_a_visitor_who_has_logged_in_meanwhile_comes_back_as_that_user() -> None:
    site = Site("ada")
    site.connect("s", None, "chat:1", source="nobody", cookie="c")
    site.lines["s"].handshake.environ["user"] = "ada"  # kept on the server
    site.order(None, "chat:1")
    assert site.sent_away == ["s"]


def test_a_subscription_that_is_made_anew_meanwhile_is_asked_about_again() -> None:
    """Bug: who had got the right back lost the room to an older answer."""
    site = Site("ada")
    site.connect("s", "ada", "chat:1")
    site.bans.add(("ada", "chat:1"))

    def at(point: str) -> None:
        if point == "check chat:1":
            site.at = lambda point: None
            site.world.join("s", "chat:1", user="ada")  # it had left in between

    site.at = at
    site.order("ada", "chat:1")
    assert site.shown("s") == ["ack", "ack"]
    site.bans.clear()
    site.wait(1)
    assert site.shown("s") == ["ack", "ack"]
    assert len(site.asked) == 2


def test_who_has_gone_meanwhile_is_not_ended() -> None:
    site = Site("ada")
    site.connect("s", "ada", "chat:1")
    gone(site)

    def at(point: str) -> None:
        if point == "load":
            site.at = lambda point: None
            site._gone("s")

    site.at = at
    site.order("ada")
    assert site.lines == {}


def test_whoever_joins_while_it_is_ordered_asks_again() -> None:
    site = Site("ada")
    site.connect("s", "ada")

    def at(point: str) -> None:
        if point == "admit":
            site.world.at = lambda point: None
            site.world.door.forbidden.add("chat:1")
            site.order("ada", "chat:1")

    site.world.at = at
    with pytest.raises(NotAuthorised):
        site.world.join("s", "chat:1", user="ada")


def test_begins_with_the_first_connection_and_ends_with_the_last() -> None:
    site = Site("ada")
    site.revalidation.recheck([Recheck("ada")])
    assert site.spawned == []
    assert site.revalidation._waiting() == 0
    site.connect("s", "ada")
    site.connect("t", "ada")
    assert len(site.spawned) == 1

    def at(point: str) -> None:
        for sid in list(site.lines) if point == "load" else ():
            site._gone(sid)

    site.at = at
    site.revalidation.recheck([Recheck("ada")])
    site.spawned.pop()()
    assert site.revalidation._due == {}
    site.connect("u", "ada")
    assert len(site.spawned) == 1


def test_a_worker_that_is_killed_is_followed_by_another() -> None:
    site = Site("ada")
    site.connect("s", "ada")

    def kill(point: str) -> None:
        raise SystemExit

    site.at = kill
    site.revalidation.recheck([Recheck("ada")])
    with pytest.raises(SystemExit):
        site.spawned.pop()()
    assert len(site.spawned) == 1


def test_goes_on_after_a_fault_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    site = Site("ada")
    site.connect("s", "ada", "chat:1")
    find, site.find = site.find, None  # type: ignore[method-assign, assignment]
    with caplog.at_level(logging.ERROR):
        site.order("ada", "chat:1")
    assert "connections stay as they are" in caplog.text
    site.find = find  # type: ignore[method-assign]
    site.bans.add(("ada", "chat:1"))
    site.wait(6)
    assert site.shown("s") == ["ack", "revoked"]
