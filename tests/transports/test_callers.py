"""The application's own handlers and namespaces know whose a connection is."""

from __future__ import annotations

import logging
from typing import Any

import flask_login
import pytest
from flask_socketio import Namespace, SocketIO, join_room

from tests.support.connections import Site
from tests.support.waiting import until


@pytest.fixture(params=["loop", "stock"], autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve connections by both."""
    monkeypatch.setattr(Site, "engine", request.param)


@pytest.fixture(params=["own", "adopted"])
def site(request: pytest.FixtureRequest) -> Site:
    return Site(None if request.param == "own" else SocketIO())


def seen(site: Site, namespace: str = "/") -> list[Any]:
    """Return what handlers of the application find: users as of now."""
    found: list[Any] = []
    own = site.livepush.socketio

    def look(*_: Any) -> None:
        found.append(getattr(flask_login.current_user, "id", None))

    own.on("connect", namespace=namespace)(look)
    own.on("ping", namespace=namespace)(look)
    return found


def browser(site: Site, user: str = "1") -> Any:
    client = site.app.test_client()
    client.get(f"/login/{user}")
    return client


def ticket(site: Site, user: str = "1") -> dict[str, Any]:
    answer = browser(site, user).get("/livepush/ticket")
    return {"ticket": answer.get_json()["ticket"]}


def ping(connection: Any) -> None:
    connection.send('21["ping"]')
    assert connection.read().startswith("31")


def test_the_user_of_a_session_is_known_and_loaded_each_time(site: Site) -> None:
    found = seen(site)
    connection = site.connection("1")
    assert connection.connect() is None
    ping(connection)
    del site.users["1"]
    ping(connection)
    assert found == ["1", "1", None]


def test_the_user_of_a_ticket_is_known(site: Site) -> None:
    """Bug: handlers saw nobody, where rules saw the user."""
    found = seen(site)
    connection = site.connection()
    assert connection.connect(ticket(site)) is None
    ping(connection)
    del site.users["1"]
    ping(connection)
    assert found == ["1", "1", None]


def test_the_user_of_a_token_is_known_and_asked_for_each_time(site: Site) -> None:
    tokens = {"a": "1"}

    @site.livepush.authenticate
    def authenticate(payload: Any) -> Any:
        return site.users.get(tokens.get(payload["token"], ""))

    found = seen(site)
    # The cookie is another user's: what is given with the CONNECT decides.
    connection = site.connection("2")
    assert connection.connect({"token": "a"}) is None
    ping(connection)
    tokens.clear()
    ping(connection)
    assert found == ["1", "1", None]


def test_another_namespace_knows_whom_the_default_one_let_in(site: Site) -> None:
    found = seen(site, "/own")
    connection = site.connection()
    assert connection.connect(ticket(site)) is None
    connection.send('0/own,{"of":"the application"}')
    assert connection.read().startswith('0/own,{"sid"')
    assert found == ["1"]


def test_handlers_of_a_class_know_it_too() -> None:
    site = Site()
    found: list[Any] = []

    class Own(Namespace):  # type: ignore[misc]
        def on_ping(self) -> None:
            found.append(flask_login.current_user.id)

    site.livepush.socketio.on_namespace(Own("/"))
    connection = site.connection()
    assert connection.connect(ticket(site)) is None
    ping(connection)
    assert found == ["1"]


def test_no_handler_runs_for_whom_nobody_can_load(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()
    broken: list[bool] = []

    @site.livepush.authenticate
    def authenticate(payload: Any) -> Any:
        if broken:
            raise RuntimeError("the database is away")
        return site.users["1"]

    found = seen(site)
    connection = site.connection()
    assert connection.connect({"token": "a"}) is None
    broken.append(True)
    with caplog.at_level(logging.ERROR):
        connection.send('21["ping"]')
        until(lambda: "hook @livepush.authenticate" in caplog.text)
    assert found == ["1"]


# -- logins in other namespaces --------------------------------------------------------


def guest(site: Site, user: str | None) -> Any:
    """Open a connection to the application's namespace alone; return it."""
    connection = site.connection(user)
    connection.send("0/own,")
    assert connection.read().startswith('0/own,{"sid"')
    return connection


def test_a_connection_to_another_namespace_alone_ends_with_its_login(
    site: Site,
) -> None:
    """Bug: it went on, and heard all that was sent there."""
    site.livepush.socketio.on("connect", namespace="/own")(lambda: join_room("a"))
    connection, stays = guest(site, "1"), guest(site, "2")
    assert [one.is_guest for one in site.events._connections.all()] == [True, True]
    site.livepush.disconnect_user("1")
    assert connection.read() == "1/own,"
    until(lambda: connection.socket.closed)
    site.livepush.socketio.emit("news", 1, namespace="/own")
    assert stays.read() == '2/own,["news",1]'
    until(lambda: len(site.events._connections.all()) == 1)


def test_visitors_of_another_namespace_are_the_applications_to_judge(
    site: Site,
) -> None:
    site.livepush.socketio.on("connect", namespace="/own")(lambda: None)
    guest(site, None)
    assert site.events._connections.all() == []


def test_guests_count_for_no_limit() -> None:
    own = Site(LIVEPUSH_MAX_CONNECTIONS_PER_USER=2)
    own.livepush.socketio.on("connect", namespace="/own")(lambda: None)
    for _ in range(4):
        guest(own, "1")
    for _ in range(2):
        assert own.connection("1").connect() is None
    refused = own.connection("1").connect()
    assert refused["data"]["code"] == 107
    guest(own, "1")


def test_both_namespaces_of_one_connection_are_told_of_its_end(site: Site) -> None:
    site.livepush.socketio.on("connect", namespace="/own")(lambda: None)
    connection = site.connection("1")
    assert connection.connect() is None
    connection.send("0/own,")
    assert connection.read().startswith('0/own,{"sid"')
    site.livepush.disconnect_user("1")
    assert connection.read().startswith('2["livepush.ended"')
    assert [connection.read() for _ in range(2)] == ["1", "1/own,"]
    until(lambda: site.events._connections.all() == [])
