"""Processes of the last release and of this one, on one Redis, with pages of both."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.login_client import Login, LoginSocket
from tests.support.redis import redis_server
from tests.support.servers import Server, running
from tests.support.waiting import until

APP = Path(__file__).parents[1] / "support" / "logins_app.py"
RELEASE = next((Path(__file__).parents[1] / "releases").glob("*.whl"))


@pytest.fixture(scope="module")
def sides(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Server, Server]]:
    """A process of the last release, and one of this."""
    release = tmp_path_factory.mktemp("release")
    with zipfile.ZipFile(RELEASE) as wheel:
        wheel.extractall(release)
    with (
        redis_server() as redis,
        running(APP, redis.url, env={"RELEASE": str(release)}) as old,
        running(APP, redis.url) as new,
    ):
        yield old, new


@pytest.fixture
def logins() -> Iterator[list[Login]]:
    """What is closed afterwards."""
    made: list[Login] = []
    yield made
    for one in made:
        one.close()


def said(socket: LoginSocket, text: str) -> bool:
    return any(name == "said" and data == text for _, name, data, _ in socket.events)


def test_rooms_whispers_and_presence_reach_both_sides(
    sides: tuple[Server, Server], logins: list[Login]
) -> None:
    old, new = sides
    first, second = Login(old.url, "1"), Login(new.url, "2")
    logins += [first, second]
    a, b = first.connect(), second.connect()
    assert a.is_in
    assert b.is_in
    for socket in (a, b):
        assert socket.join("chat:1", presence=True)["ok"]
    for server, text in ((old, "from-old"), (new, "from-new")):
        first.post(f"/emit/1/{text}", server.url)
        for socket in (a, b):
            socket.wait(lambda socket=socket, text=text: said(socket, text))
    message = {"v": 1, "room": "chat:1", "event": "typing", "data": 1}
    assert a.call("livepush.whisper", message)["ok"]
    b.wait(lambda: "typing" in [event[1] for event in b.events])
    assert b.call("livepush.whisper", message)["ok"]
    a.wait(lambda: "typing" in [event[1] for event in a.events])
    for server in sides:
        until(
            lambda server=server: first.get("/presence/1", server.url) == ["1", "2"],
            what="one side does not know who is there",
        )
    a.close()
    b.close()


def test_sessions_from_before_go_on_and_end_when_they_log_out(
    sides: tuple[Server, Server], logins: list[Login]
) -> None:
    """Nobody is logged out by a deploy; a login of the last release can be ended."""
    old, new = sides
    login = Login(old.url, "1")
    logins.append(login)
    before = login.cookie
    socket = login.connect(new.url)
    assert socket.is_in
    assert socket.join("chat:2")["ok"]
    assert login.get("/who", new.url) == "1"
    assert login.cookie != before  # it has an id now
    again = login.connect(new.url)
    assert again.join("chat:2")["ok"]
    login.post("/logout", new.url)
    for one in (socket, again):
        one.wait(lambda one=one: one.ended is not None)
        assert one.dismissed
    stale = login.connect(new.url, before)
    assert not stale.is_in
    assert stale.answer["code"] == 103
    for one in (socket, again, stale):
        one.close()


def test_a_cookie_of_this_release_is_good_for_the_last_one(
    sides: tuple[Server, Server], logins: list[Login]
) -> None:
    old, new = sides
    login = Login(new.url, "3")
    logins.append(login)
    socket = login.connect(old.url)
    assert socket.is_in
    assert socket.join("chat:3")["ok"]
    assert login.get("/who", old.url) == "3"
    socket.close()
