"""What a hostile client tries, with real sockets: nothing leaks, all is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from itsdangerous import URLSafeTimedSerializer

from flask_livepush.brokers.logins import Recheck
from tests.support.login_client import Login, LoginSocket
from tests.support.redis import redis_server
from tests.support.servers import Server, running
from tests.support.table_app import User, app_of, create, db
from tests.support.waiting import until

APP = Path(__file__).parents[1] / "support" / "logins_app.py"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with redis_server() as redis, running(APP, redis.url) as found:
        yield found


def forged(secret: str = "secret", salt: str | None = None) -> str:
    """Return a cookie that says that somebody is logged in."""
    app = Flask("forger")
    app.secret_key = secret
    made = SecureCookieSessionInterface().get_signing_serializer(app)
    assert made is not None
    if salt is not None:
        made = URLSafeTimedSerializer(secret, salt=salt)
    return f"session={made.dumps({'_user_id': 'victim', '_fresh': True})}"


def code(socket: LoginSocket) -> Any:
    return True if socket.is_in else (socket.answer or {}).get("code")


@pytest.mark.parametrize(
    "cookie",
    [
        forged("another"),
        forged(salt="another"),
        "session=" + "a" * 8_000,
        "remember_token=victim|" + "0" * 128,
        "",
    ],
    ids=["other key", "other salt", "huge", "remember me", "none"],
)
def test_a_forged_cookie_opens_nothing(server: Server, cookie: str) -> None:
    socket = LoginSocket(server.url, cookie)
    try:
        assert code(socket) in (103, 109)
        assert not socket.events
    finally:
        socket.close()
    witness = Login(server.url, "witness")
    until(lambda: witness.get("/sockets") == 0, what="it stays")
    witness.close()


def test_another_users_room_and_a_room_that_is_none(server: Server) -> None:
    login = Login(server.url, "mallory")
    socket = login.connect()
    try:
        for room in ("user:victim", "user:nobody"):
            answer = socket.join(room, since={"epoch": "e", "offset": 0})
            assert answer["error"]["code"] == 103
        assert socket.join("none:1")["ok"] is False
        assert not socket.events
    finally:
        socket.close()
        login.close()


def test_a_ticket_opens_one_connection_of_a_login_that_holds(server: Server) -> None:
    login = Login(server.url, "bob")
    first, second = (login.get("/livepush/ticket")["ticket"] for _ in range(2))
    opened = []

    def connect(ticket: str) -> LoginSocket:
        opened.append(Ticketed(server.url, ticket))
        return opened[-1]

    try:
        assert code(connect(first)) is True
        assert code(connect(first)) == 103
        cookie = login.cookie
        login.post("/logout")
        opened[0].wait(lambda: opened[0].ended is not None)
        assert code(connect(second)) == 103
        for path in ("/livepush/login", "/livepush/ticket"):
            answer = login.http.get(server.url + path, headers={"Cookie": cookie})
            assert answer.status_code == 401
    finally:
        for one in opened:
            one.close()
        login.close()


class Ticketed(LoginSocket):
    """A connection without cookies that gives a ticket."""

    def __init__(self, url: str, ticket: str) -> None:
        self.ticket = ticket
        super().__init__(url, "")

    def _send(self, packet: str) -> None:
        text = f'40{{"ticket":"{self.ticket}"}}' if packet == "40" else packet
        super()._send(text)


def test_one_user_has_so_many_connections(server: Server) -> None:
    login = Login(server.url, "crowd")
    opened = [login.connect() for _ in range(60)]
    try:
        assert [code(one) for one in opened] == [True] * 50 + [107] * 10
        login.post("/logout")
        for one in opened[:50]:
            one.wait(lambda one=one: one.ended is not None)
    finally:
        for one in opened:
            one.close()
    until(lambda: login.get("/sockets") == 0, what="connections stay")
    login.close()


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_who_is_disconnected_before_the_commit_is_so_after_it(
    tmp_path: Path, end: str
) -> None:
    """Bug: whoever came back before the commit that banned them stayed."""
    file = str(tmp_path / "table.db")
    create(file)
    app = app_of(None, file)  # type: ignore[arg-type]
    orders: list[Recheck] = []

    class Listener:
        def ended(self, logins: Any) -> None:
            raise AssertionError

        def recheck(self, told: Any) -> None:
            orders.extend(one for one in told if one.close)

    livepush = app.extensions["livepush"]
    app.extensions["livepush.parts"].logins.listen(Listener())
    with app.app_context():
        user = db.session.get(User, 1)
        user.active = False
        db.session.flush()
        livepush.disconnect_user(user)
        assert orders == [Recheck(user="1", close=True)]
        getattr(db.session, end)()
    assert len(orders) == (2 if end == "commit" else 1)
