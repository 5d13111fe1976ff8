"""Users as Flask-Security has them: its logins, its tokens, its alternative ids."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from flask import Flask, current_app
from flask_security import (
    RoleMixin,
    Security,
    SQLAlchemyUserDatastore,
    UserMixin,
    current_user,
)
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column

from flask_livepush import LivePush
from tests.support.waiting import until

PASSWORD = "correct horse battery"
LOGIN = {"email": "ann@site.example", "password": PASSWORD}


class Site:
    """An application as Flask-Security's documentation has it."""

    def __init__(self) -> None:
        self.app = Flask("site")
        self.app.config.update(
            SECRET_KEY="secret",
            TESTING=True,
            SQLALCHEMY_DATABASE_URI="sqlite://",
            SECURITY_PASSWORD_SALT="salt",
            SECURITY_PASSWORD_HASH="plaintext",
            SECURITY_PASSWORD_SCHEMES=["plaintext"],
            SECURITY_CHANGEABLE=True,
            SECURITY_SEND_PASSWORD_CHANGE_EMAIL=False,
            SECURITY_EMAIL_VALIDATOR_ARGS={"check_deliverability": False},
            WTF_CSRF_ENABLED=False,
        )
        self.db = db = SQLAlchemy(self.app)
        self.livepush = livepush = LivePush(self.app)
        membership = db.Table(
            "membership",
            db.Column("user_id", db.ForeignKey("user.id")),
            db.Column("role_id", db.ForeignKey("role.id")),
        )

        class Role(RoleMixin, db.Model):  # type: ignore[name-defined,misc]
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str]

        class User(UserMixin, db.Model):  # type: ignore[name-defined,misc]
            id: Mapped[int] = mapped_column(primary_key=True)
            email: Mapped[str] = mapped_column(unique=True)
            password: Mapped[str]
            active: Mapped[bool]
            fs_uniquifier: Mapped[str] = mapped_column(unique=True)
            roles = db.relationship(Role, secondary=membership)

        self.users = SQLAlchemyUserDatastore(db, User, Role)
        Security(self.app, self.users)
        livepush.room("lobby")(lambda user: True)

        @livepush.room("staff")
        def staff(user: Any) -> bool:
            return bool(user.has_role("staff") and current_user == user)

        with self.app.app_context():
            db.create_all()
            role = self.users.create_role(name="staff")
            self.users.create_user(
                email=LOGIN["email"], password=PASSWORD, roles=[role]
            )
            self.users.create_user(email="bob@site.example", password=PASSWORD)
            db.session.commit()

    def browser(self, **login: str) -> Any:
        """Return a browser in which somebody has logged in."""
        client = self.app.test_client()
        answer = client.post("/login", json={**LOGIN, **login})
        assert answer.status_code == 200, answer.json
        return client

    def socket(self, browser: Any = None, **options: Any) -> Any:
        """Connect as a browser's page does."""
        socketio = self.livepush.socketio
        return socketio.test_client(self.app, flask_test_client=browser, **options)

    def token(self) -> str:
        """Return a token as an API's client has it."""
        client = self.app.test_client()
        answer = client.post("/login?include_auth_token", json=LOGIN)
        return str(answer.json["response"]["user"]["authentication_token"])

    def close(self) -> None:
        with self.app.app_context():
            self.db.engine.dispose()


@pytest.fixture
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        made = Site()
        stack.callback(made.close)
        yield made


def join(socket: Any, room: str) -> Any:
    return socket.emit("livepush.subscribe", {"v": 1, "room": room}, callback=True)


def test_its_session_opens_the_rooms_of_its_roles(site: Site) -> None:
    ann, bob = (
        site.socket(site.browser()),
        site.socket(site.browser(email="bob@site.example")),
    )
    assert join(ann, "staff")["ok"]
    assert join(ann, "user:1")["ok"]
    assert join(bob, "staff")["error"]["code"] == 103
    assert join(bob, "user:1")["error"]["code"] == 103
    assert join(bob, "user:2")["ok"]


def test_its_logout_ends_the_socket_of_that_browser_alone(site: Site) -> None:
    browser, other = site.browser(), site.browser()
    socket, stays = site.socket(browser), site.socket(other)
    assert socket.is_connected()
    assert stays.is_connected()
    browser.post("/logout", json={})
    until(lambda: not socket.is_connected())
    assert [told["name"] for told in socket.queue] == ["livepush.ended"]
    assert stays.is_connected()


def test_another_password_ends_what_was_open_elsewhere(site: Site) -> None:
    browser, other = site.browser(), site.browser()
    socket, copied = site.socket(browser), site.socket(other)
    passwords = {
        "password": PASSWORD,
        "new_password": "another battery staple",
        "new_password_confirm": "another battery staple",
    }
    answer = browser.post("/change", json=passwords)
    assert answer.status_code == 200, answer.json
    # Its uniquifier is another one: who has the old session is nobody.
    with site.app.app_context():
        site.livepush.recheck(user=site.users.find_user(email=LOGIN["email"]))
    until(lambda: not copied.is_connected())
    assert not site.socket(other).is_connected()
    assert site.socket(browser).is_connected()
    del socket


@pytest.mark.parametrize("how", ["deactivated", "deleted"])
def test_who_is_nobody_any_more_is_ended(site: Site, how: str) -> None:
    browser = site.browser()
    socket = site.socket(browser)
    assert join(socket, "lobby")["ok"]
    with site.app.app_context():
        user = site.users.find_user(email=LOGIN["email"])
        if how == "deleted":
            site.users.delete_user(user)
        else:
            site.users.deactivate_user(user)
        site.livepush.recheck(user=user)
        site.db.session.commit()
    until(lambda: not socket.is_connected())
    assert not site.socket(browser).is_connected()


def test_its_token_in_a_header_opens_a_socket_until_it_is_ended(site: Site) -> None:
    token = site.token()
    headers = {"Authentication-Token": token}
    socket = site.socket(headers=headers)
    assert join(socket, "staff")["ok"]
    assert join(socket, "user:1")["ok"]
    site.livepush.end_login(token)
    until(lambda: not socket.is_connected())
    assert not site.socket(headers=headers).is_connected()
    assert not site.socket(headers={"Authentication-Token": token + "x"}).is_connected()


def test_its_token_is_taken_with_the_connect_as_the_documentation_says(
    site: Site,
) -> None:
    @site.livepush.authenticate
    def authenticate(payload: Any) -> Any:
        headers = {"Authentication-Token": payload.get("token", "")}
        with current_app.test_request_context(headers=headers):
            return current_user._get_current_object()

    token = site.token()
    socket = site.socket(auth={"token": token})
    assert join(socket, "staff")["ok"]
    assert join(socket, "user:2")["error"]["code"] == 103
    assert not site.socket(auth={"token": token + "x"}).is_connected()
    assert not site.socket(auth={"token": ""}).is_connected()
