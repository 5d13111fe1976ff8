"""Connections that end since their login did: what is written, and what is not."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from flask_socketio import SocketIO

from flask_livepush.brokers.logins import Ended, Recheck
from flask_livepush.errors import NotAuthorised
from flask_livepush.metrics import Meters
from tests.support.connections import Connection, Site
from tests.support.ends import DictLogins, wire
from tests.support.waiting import DEADLINE, until

SUBSCRIBE = "livepush.subscribe"
ROOM = {"v": 1, "room": "chat:42"}
WHISPER = {"v": 1, "room": "chat:42", "event": "typing", "data": 1}
SIGNED_OUT = {"code": 103, "message": "The login has ended."}


@pytest.fixture(params=["loop", "stock"], autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve connections by both."""
    monkeypatch.setattr(Site, "engine", request.param)


def made(**config: Any) -> tuple[Site, DictLogins]:
    site = Site(**config)
    return site, wire(site)


def event(packet: str) -> list[Any]:
    found: list[Any] = json.loads(packet[packet.index("[") :])
    return found


def quiet(connection: Connection) -> bool:
    """Say whether nothing was written but the end."""
    return connection.silent() or connection.read() is None


def emptied(site: Site) -> bool:
    server, events = site.livepush.socketio.server, site.events
    return (
        site.emptied()
        and events._connections.all() == []
        and events._known == events._ended == set()
        and events._mailboxes._queues == {}
        and server.environ == {}
        and server.manager.rooms == {}
        and server.manager.pending_disconnect == {}
    )


def test_says_why_then_leaves_the_namespace_then_ends() -> None:
    site, logins = made()
    connection, other = site.joined("1"), site.joined("2")
    logins.end([Ended("login-1")])
    assert event(connection.read()) == ["livepush.ended", SIGNED_OUT]
    assert connection.read() == "1"
    assert connection.read() is None
    assert connection.socket.closed
    site.livepush.emit("chat:42", "ding")
    assert event(other.read())[0] == "ding"
    assert quiet(connection)
    until(lambda: len(site.events._connections.all()) == 1)
    other.close()
    until(lambda: emptied(site))


def test_all_its_namespaces_end_with_it() -> None:
    site, logins = made()
    told: list[str] = []
    on = site.livepush.socketio.on
    on("disconnect", namespace="/own")(lambda reason: told.append("/own"))
    on("disconnect")(lambda reason: told.append("/"))
    connection = site.joined("1")
    connection.send("0/own,")
    assert connection.read().startswith("0/own,")
    logins.end([Ended("login-1")])
    assert event(connection.read())[0] == "livepush.ended"
    assert {connection.read(), connection.read()} == {"1", "1/own,"}
    assert connection.read() is None
    until(lambda: sorted(told) == ["/", "/own"])
    until(lambda: emptied(site))


def test_who_is_to_come_back_is_closed_without_a_word() -> None:
    site, logins = made()
    connection = site.joined("1")
    logins.end([Ended("login-1", again=True)])
    assert connection.read() is None
    until(lambda: emptied(site))


def test_is_refused_when_it_comes_back() -> None:
    site, logins = made()
    logins.end([Ended("login-1")])
    refused = site.connection("1").connect()
    assert refused["data"]["code"] == 109
    assert refused["data"]["temporary"] is True
    assert site.events._connections.all() == []


def test_what_waits_in_its_mailbox_is_not_handled_any_more() -> None:
    """Bug: a whisper that was sent before the logout was heard after it."""
    site, logins = made()
    site.chat.whispers = frozenset({"typing"})
    handled: list[Any] = []
    asked, go_on = threading.Event(), threading.Event()

    @site.livepush.socketio.on("mine")
    def mine(data: Any) -> None:
        handled.append(data)
        asked.set()
        go_on.wait(DEADLINE)

    connection, other = site.joined("1"), site.joined("2")
    connection.event("mine", 1)
    assert asked.wait(DEADLINE)
    connection.event("mine", 2)
    connection.event("livepush.whisper", WHISPER)
    connection.event(SUBSCRIBE, {"room": "user:1"})
    logins.end([Ended("login-1")])
    until(lambda: connection.socket.closed)
    go_on.set()
    until(lambda: len(site.events._known) == 1)
    assert handled == [1]
    assert other.silent()
    assert list(site.hub._joined) == [other.sid]


def test_nothing_is_written_of_a_join_under_way() -> None:
    site, logins = made()
    connection = site.connection("1")
    connection.connect()
    asked, go_on = threading.Event(), threading.Event()

    def rule(user: Any, room_id: int) -> bool:
        asked.set()
        return go_on.wait(DEADLINE)

    site.chat.rule = rule
    connection.event(SUBSCRIBE, ROOM)
    assert asked.wait(DEADLINE)
    logins.end([Ended("login-1")])  # it does not wait for the rule
    assert event(connection.read())[0] == "livepush.ended"
    assert connection.read() == "1"
    assert connection.read() is None
    go_on.set()
    until(lambda: emptied(site))
    assert quiet(connection)


def test_who_ends_while_it_connects_is_closed_and_refused_later() -> None:
    site, logins = made()
    asked, go_on = threading.Event(), threading.Event()

    @site.livepush.socketio.on("connect")
    def connect(auth: Any = None) -> None:
        asked.set()
        go_on.wait(DEADLINE)

    connection = site.connection("1")
    connection.send("0")
    assert asked.wait(DEADLINE)
    logins.end([Ended("login-1")])
    assert connection.read() is None
    go_on.set()
    until(lambda: emptied(site))
    assert quiet(connection)


def test_ends_where_anybody_may_connect_too() -> None:
    site, logins = made(LIVEPUSH_ALLOW_ANONYMOUS=True)
    site.chat.rule = lambda user, room_id: True
    connection, nobody = site.joined("1"), site.connection()
    assert nobody.connect() is None
    assert nobody.call(SUBSCRIBE, ROOM)["ok"]
    logins.end([Ended("login-1")])
    assert event(connection.read())[0] == "livepush.ended"
    site.livepush.emit("chat:42", "ding")
    assert event(nobody.read())[0] == "ding"


def test_ends_on_an_adopted_instance_too() -> None:
    site = Site(SocketIO())
    logins = wire(site)
    connection = site.joined("1")
    logins.end([Ended("login-1")])
    assert event(connection.read())[0] == "livepush.ended"
    assert connection.read() == "1"
    assert connection.read() is None
    until(lambda: emptied(site))


def test_a_test_client_is_told_and_disconnected() -> None:
    site, logins = made()
    browser = site.app.test_client()
    browser.get("/login/1")
    client = site.livepush.socketio.test_client(site.app, flask_test_client=browser)
    assert client.is_connected()
    logins.end([Ended("login-1")])
    until(lambda: not client.is_connected())
    assert client.queue[0]["name"] == "livepush.ended"
    assert site.emptied()
    assert site.events._ended == set()


def test_an_applications_broadcast_reaches_nobody_who_has_ended() -> None:
    site, logins = made()
    connection = site.joined("1")
    logins.end([Ended("login-1")])
    for _ in range(3):
        connection.read()
    site.livepush.socketio.emit("news", 1)
    assert quiet(connection)


def test_a_disconnect_handler_of_the_application_runs_once() -> None:
    site, logins = made()
    reasons: list[str] = []
    site.livepush.socketio.on("disconnect")(reasons.append)
    site.joined("1")
    logins.end([Ended("login-1")])
    until(lambda: emptied(site))
    assert reasons == ["server disconnect"]


def test_a_user_can_be_disconnected_everywhere() -> None:
    site, logins = made()
    connections = [site.joined("1"), site.joined("1"), site.joined("2")]
    logins.recheck([Recheck(user="1", close=True)])
    for connection in connections[:2]:
        assert event(connection.read())[0] == "livepush.ended"
    assert not connections[2].socket.closed
    site.events._connections.end(connections[2].sid, NotAuthorised("You must go."))
    told = event(connections[2].read())
    assert told == ["livepush.ended", {"code": 103, "message": "You must go."}]


def test_leaves_nothing_when_it_ends_twice_at_once() -> None:
    """By the client and by its login, in either order."""
    for number in range(20):
        site, logins = made()
        connection = site.joined("1")
        ends = [
            connection.close,
            lambda logins=logins: logins.end([Ended("login-1")]),
        ]
        threads = [threading.Thread(target=end) for end in ends[:: (-1) ** number]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        until(lambda site=site: emptied(site))


# -- where the mirror is not current -----------------------------------------------


def test_joins_and_whispers_wait_for_the_mirror_and_a_connect_does_not() -> None:
    site, logins = made()
    site.chat.whispers = frozenset({"typing"})
    connection = site.joined("1")
    logins.current = False
    assert site.connection("2").connect() is None
    assert logins.confirmed == 0
    for name, message in ((SUBSCRIBE, ROOM), ("livepush.whisper", WHISPER)):
        error = connection.call(name, message)["error"]
        assert (error["code"], error["temporary"]) == (120, True)
    # Refused is out of the room, as after every join that fails.
    assert site.emptied()
    logins.recovers = True
    assert connection.call(SUBSCRIBE, ROOM)["ok"]


def test_does_not_join_by_a_login_that_the_mirror_knows_to_have_ended() -> None:
    site, logins = made()
    connection = site.joined("1")
    logins.known["login-1"] = Ended("login-1")  # the listener comes later
    for name, message in ((SUBSCRIBE, ROOM), ("livepush.whisper", WHISPER)):
        assert connection.call(name, message)["error"]["code"] == 103


# -- how many and how often --------------------------------------------------------


def test_a_user_may_have_so_many_connections() -> None:
    site, _ = made(LIVEPUSH_MAX_CONNECTIONS_PER_USER=2)
    connections = [site.joined("1"), site.joined("1")]
    third = site.connection("1")
    refused = third.connect()["data"]
    assert (refused["code"], refused["temporary"]) == (107, True)
    assert site.connection("2").connect() is None
    connections[0].close()
    until(lambda: len(site.events._connections.of_user("1")) == 1)
    assert third.connect() is None


def test_a_page_may_join_all_its_rooms_at_once_and_once_more() -> None:
    site, _ = made(LIVEPUSH_MAX_ROOMS=100)
    site.chat.rule = lambda user, room_id: True
    connection = site.connection("1")
    connection.connect()
    for _ in range(2):
        for room_id in range(100):
            assert connection.call(SUBSCRIBE, {"room": f"chat:{room_id}"})["ok"]


def test_who_joins_too_fast_is_told_to_try_later() -> None:
    site, _ = made(LIVEPUSH_MAX_JOINS_PER_SECOND=1)
    connection = site.connection("1")
    connection.connect()
    answers = [connection.call(SUBSCRIBE, ROOM) for _ in range(6)]
    assert [answer["ok"] for answer in answers] == [True] * 5 + [False]
    error = answers[-1]["error"]
    assert (error["code"], error["temporary"]) == (111, True)
    other = site.connection("2")
    other.connect()
    assert other.call(SUBSCRIBE, ROOM)["ok"]


def test_refusals_are_counted_by_their_codes() -> None:
    site, _ = made(LIVEPUSH_MAX_CONNECTIONS_PER_USER=1)
    meters = site.events._metrics
    assert isinstance(meters, Meters)
    meters.switch_on()
    connection = site.joined("1")
    site.connection("1").connect()
    connection.call(SUBSCRIBE, {"room": "chat:7"})
    connection.call("livepush.nonsense")
    page = meters.page()[0].decode()
    for code in (100, 103, 107):
        assert f'livepush_refusals_total{{app="site",code="{code}"}} 1.0' in page
    site.events._connections.end(connection.sid, NotAuthorised("gone"))
    page = meters.page()[0].decode()
    assert 'livepush_ends_total{app="site",outcome="told"} 1.0' in page


def test_ends_of_logins_go_on_where_they_were_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bug: nothing ended any more in that process."""
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    site, logins = made()
    connections = [site.joined("1") for _ in range(3)]
    registry = site.events._connections
    sleep, killed = registry._sleep, threading.Event()

    def die(seconds: float) -> None:
        registry._sleep = sleep
        killed.set()
        raise SystemExit

    registry._sleep = die
    logins.recheck([Recheck(user="1", close=True)])
    assert killed.wait(DEADLINE)
    late = site.joined("2")
    logins.recheck([Recheck(user="2", close=True)])
    for connection in (*connections, late):
        until(lambda connection=connection: connection.socket.closed)
