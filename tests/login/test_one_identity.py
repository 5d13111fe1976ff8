"""One identity of a user, from the model that is tracked to the page that shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import flask_login
import pytest
import sqlalchemy as sa
from flask import Flask, render_template_string
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column
from werkzeug.test import EnvironBuilder

from flask_livepush import LivePush, UsageError
from flask_livepush.auth import Auth, Visitor
from flask_livepush.door import Door
from flask_livepush.errors import NotAuthorised
from flask_livepush.login.caller import Handshake
from tests.support.following import outgoing_of
from tests.support.judging import auth as auth_of

from .test_session import cookies

CREDENTIAL = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"


class Site:
    """An application as Flask-Security makes them: ``get_id()`` is a credential."""

    def __init__(self) -> None:
        self.app = Flask("site")
        self.app.config.update(
            SECRET_KEY="secret", TESTING=True, SQLALCHEMY_DATABASE_URI="sqlite://"
        )
        self.db = db = SQLAlchemy(self.app)
        self.livepush = livepush = LivePush(self.app)
        manager = flask_login.LoginManager(self.app)

        class User(flask_login.UserMixin, db.Model):  # type: ignore[name-defined,misc]
            id: Mapped[int] = mapped_column(primary_key=True)
            fs_uniquifier: Mapped[str] = mapped_column(unique=True)

            def get_id(self) -> str:
                return str(self.fs_uniquifier)

        @livepush.track(rooms=livepush.user, fields=("id", "text"))
        class Note(db.Model):  # type: ignore[name-defined,misc]
            id: Mapped[int] = mapped_column(primary_key=True)
            user_id: Mapped[int]
            text: Mapped[str]

        self.user, self.note = User, Note
        self.lobby = livepush.room("lobby")(lambda user: True)
        self.queries: list[str] = []

        @manager.user_loader
        def load(key: str) -> Any:
            return db.session.scalar(db.select(User).filter_by(fs_uniquifier=key))

        @self.app.get("/login")
        def login() -> str:
            flask_login.login_user(db.session.get(User, 7))
            return ""

        @self.app.get("/")
        @livepush.page(livepush.user)
        def home() -> str:
            return render_template_string("{{ livepush_room() }}")

        @self.app.get("/write")
        @livepush.push_changes
        def write() -> str:
            db.session.add(Note(user_id=7, text="mine"))
            db.session.add(Note(user_id=8, text="another's"))
            db.session.commit()
            return ""

        with self.app.app_context():
            db.create_all()
            db.session.add(User(id=7, fs_uniquifier=CREDENTIAL))
            db.session.add(Note(user_id=7, text="first"))
            db.session.commit()
        self.client = self.app.test_client()
        self.client.get("/login")
        headers = {"Cookie": cookies(self.client)}
        environ = EnvironBuilder(path="/socket.io/", headers=headers).get_environ()
        self.handshake = Handshake(environ)

    @property
    def auth(self) -> Auth:
        return auth_of(self.app, self.livepush)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    with site.app.app_context():
        site.db.engine.dispose()


def test_the_room_with_the_rows_is_the_users_own(site: Site) -> None:
    """Bug: the join of ``user:<get_id()>`` was answered ok, with no rows, for ever."""
    door = Door(
        site.app, site.livepush._rooms, site.auth, models=lambda: site.livepush._models
    )
    assert door.admit("user:7", site.handshake) == Visitor("7")
    (row,) = json.loads(door.rows("user:7"))["note"]["rows"]
    assert row["text"] == "first"
    for name in (f"user:{CREDENTIAL}", "user:8"):
        with pytest.raises(NotAuthorised):
            door.admit(name, site.handshake)


def test_presence_and_notifications_know_no_credential(site: Site) -> None:
    """Bug: presence showed what logs a user in to the whole room."""
    assert site.auth.admit("lobby", site.handshake) == Visitor("7")
    with site.app.app_context():
        user = site.db.session.get(site.user, 7)
        for given in (user, 7, "7"):
            site.livepush.notify(given, "hello", after_commit=False)
        position = site.livepush.position("user:7")
        assert position.offset == 1 + 3  # the note, and these
        with pytest.raises(UsageError, match="identity") as caught:
            site.livepush.notify(site.user(), "hello")
        assert CREDENTIAL not in str(caught.value)


def test_a_page_knows_it_before_any_query(site: Site) -> None:
    with site.app.app_context():
        site.livepush.notify(7, "hello")
        engine = site.db.engine
    seen: list[str] = []
    position = outgoing_of(site.livepush).position

    def asked(room: str) -> Any:
        seen.append(f"position of {room}")
        return position(room)

    outgoing_of(site.livepush).position = asked
    sa.event.listen(engine, "before_cursor_execute", lambda *_: seen.append("a query"))
    text = site.client.get("/").text
    assert CREDENTIAL not in text
    (place,) = re.findall(r"data-livepush-room>(.*?)</script>", text)
    assert json.loads(place)["room"] == "user:7"
    assert json.loads(place)["offset"] == 2
    assert seen[0] == "position of user:7"


def test_the_header_of_positions_names_the_own_room_alone(site: Site) -> None:
    header = site.client.get("/write").headers["Livepush-Position"]
    assert "user:7" in header or "user%3A7" in header
    assert "8" not in header.replace("user%3A7", "").split("=")[0]
    assert CREDENTIAL not in header


def test_the_application_may_say_another(site: Site) -> None:
    site.livepush.identity(lambda user: f"no-{user.id}")
    site.livepush.user_info(lambda user: {"name": "Ada"})
    assert site.auth.admit("lobby", site.handshake) == Visitor("no-7", '{"name":"Ada"}')
    assert site.auth.admit("user:no-7", site.handshake).user == "no-7"
    with pytest.raises(NotAuthorised):
        site.auth.admit("user:7", site.handshake)
