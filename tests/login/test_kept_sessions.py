"""Sessions that Flask-Session keeps on the server, with a whole application."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import flask
import flask_login
import pytest
from cachelib import FileSystemCache
from flask import Flask
from flask_session import Session
from flask_sqlalchemy import SQLAlchemy
from redis import Redis

from flask_livepush import LivePush
from tests.support.redis import redis_server
from tests.support.waiting import until

KINDS = ("redis", "sqlalchemy", "cachelib")


class User(flask_login.UserMixin):  # type: ignore[misc]
    """A user of Flask-Login's."""

    def __init__(self, id: int) -> None:
        self.id = id


class Site:
    """An application whose sessions are on the server.

    Args:
        kind: Where.
        home: A directory of its own.
        stack: Ends what was begun.
    """

    #: Returns all that is kept.
    kept: Callable[[], object]

    def __init__(self, kind: str, home: Path, stack: ExitStack) -> None:
        self.app = Flask("site")
        database = f"sqlite:///{home / 'sessions.db'}"
        self.app.config.update(
            SECRET_KEY="secret",
            TESTING=True,
            SQLALCHEMY_DATABASE_URI=database,
            SESSION_TYPE=kind,
        )
        db = SQLAlchemy(self.app)
        self.users = {"1": User(1), "2": User(2)}
        self.seen: list[Any] = []
        manager = flask_login.LoginManager(self.app)
        manager.user_loader(self.users.get)
        getattr(self, f"_on_{kind}")(home, db, stack)
        self.livepush = LivePush(self.app)

        @self.livepush.room("lobby")
        def lobby(user: Any) -> bool:
            # What a rule changes is nobody's.
            flask.session["rule"] = True
            self.seen.append(flask_login.current_user.id)
            return True

        @self.app.get("/login/<key>")
        def login(key: str) -> str:
            flask_login.login_user(self.users[key])
            return ""

        @self.app.get("/logout")
        def logout() -> str:
            flask_login.logout_user()
            return ""

        @self.app.get("/clear")
        def clear() -> str:
            flask.session.clear()
            return ""

    def _on_redis(self, home: Path, db: SQLAlchemy, stack: ExitStack) -> None:
        server = stack.enter_context(redis_server())
        client = stack.enter_context(closing(Redis.from_url(server.url)))
        self.app.config["SESSION_REDIS"] = client
        Session(self.app)
        self.kept = lambda: {key: client.get(key) for key in client.keys()}

    def _on_sqlalchemy(self, home: Path, db: SQLAlchemy, stack: ExitStack) -> None:
        self.app.config["SESSION_SQLALCHEMY"] = db
        Session(self.app)

        def kept() -> object:
            with self.app.app_context():
                return db.session.execute(db.text("SELECT * FROM sessions")).all()

        def dispose() -> None:
            with self.app.app_context():
                db.engine.dispose()

        self.kept = kept
        stack.callback(dispose)

    def _on_cachelib(self, home: Path, db: SQLAlchemy, stack: ExitStack) -> None:
        self.app.config["SESSION_CACHELIB"] = FileSystemCache(str(home / "cache"))
        Session(self.app)
        files = home / "cache"
        self.kept = lambda: {path: path.read_bytes() for path in files.iterdir()}

    def socket(self, browser: Any) -> Any:
        """Connect as a browser's page does."""
        return self.livepush.socketio.test_client(self.app, flask_test_client=browser)


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(request.param, tmp_path, stack)


def join(socket: Any, room: str = "lobby") -> Any:
    return socket.emit("livepush.subscribe", {"v": 1, "room": room}, callback=True)


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")
@pytest.mark.parametrize("end", ["logout", "clear", "login/2"])
def test_a_session_on_the_server_opens_a_socket_and_ends_it(
    site: Site, end: str
) -> None:
    browser, other = site.app.test_client(), site.app.test_client()
    browser.get("/login/1")
    other.get("/login/1")
    before = site.kept()
    socket, stays = site.socket(browser), site.socket(other)
    assert join(socket)["ok"]
    assert join(socket, "user:1")["ok"]
    assert join(socket, "user:2")["error"]["code"] == 103
    assert join(stays)["ok"]
    assert site.seen == [1, 1]
    assert site.kept() == before

    # As it was copied: what an attacker has of it.
    copied = site.app.test_client()
    cookie = browser.get_cookie("session")
    assert cookie is not None
    copied.set_cookie("session", cookie.value)
    browser.get(f"/{end}")
    until(lambda: not socket.is_connected())
    assert [told["name"] for told in socket.queue] == ["livepush.ended"]
    assert stays.is_connected()
    again = site.socket(copied)
    if end == "login/2":  # the same session, which is another's now
        assert join(again, "user:1")["error"]["code"] == 103
        assert join(again, "user:2")["ok"]
    else:
        assert not again.is_connected()
