"""Users of an API who have tokens, as Flask-JWT-Extended makes them."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from flask import Flask
from flask_jwt_extended import JWTManager, create_access_token, decode_token
from flask_jwt_extended.exceptions import JWTExtendedException
from jwt.exceptions import PyJWTError
from werkzeug.test import EnvironBuilder

from flask_livepush import LivePush
from flask_livepush.auth import Visitor
from flask_livepush.errors import NotAuthorised
from flask_livepush.login.caller import Handshake
from tests.support.judging import auth as auth_of

SECRET = "a secret of thirty-two bytes or more"


class User:
    """A user who has nothing of Flask-Login's."""

    is_authenticated = True

    def __init__(self, id: int) -> None:
        self.id = id


class Site:
    """An API without Flask-Login."""

    def __init__(self) -> None:
        self.app = Flask("api")
        self.app.config.update(SECRET_KEY="secret", JWT_SECRET_KEY=SECRET)
        JWTManager(self.app)
        self.livepush = livepush = LivePush(self.app)
        livepush.room("lobby")(lambda user: True)
        self.users = {"1": User(1)}

        @livepush.authenticate
        def by_token(payload: Any) -> User | None:
            try:
                claims = decode_token(payload["token"])
            except (KeyError, TypeError, PyJWTError, JWTExtendedException):
                return None
            return self.users.get(claims["sub"])

        self.auth = auth_of(self.app, livepush)

    def token(self, seconds: float = 60) -> str:
        with self.app.app_context():
            lifetime = datetime.timedelta(seconds=seconds)
            return create_access_token("1", expires_delta=lifetime)


def given(payload: Any) -> Handshake:
    return Handshake(EnvironBuilder(path="/socket.io/").get_environ(), payload)


def test_a_token_given_with_the_connect_opens_the_rooms_of_its_user() -> None:
    site = Site()
    assert site.auth.admit("lobby", given({"token": site.token()})) == Visitor("1")
    assert site.auth.admit("user:1", given({"token": site.token()})) == Visitor("1")
    with pytest.raises(NotAuthorised):
        site.auth.admit("user:2", given({"token": site.token()}))


@pytest.mark.parametrize(
    "payload", [None, {}, {"token": None}, {"token": "x"}, {"x": 1}]
)
def test_what_is_no_token_opens_nothing(payload: Any) -> None:
    with pytest.raises(NotAuthorised):
        Site().auth.admit("lobby", given(payload))


def test_one_that_has_expired_or_was_revoked_opens_nothing() -> None:
    site = Site()
    with pytest.raises(NotAuthorised):
        site.auth.admit("lobby", given({"token": site.token(-1)}))
    token = site.token()
    site.auth.admit("lobby", given({"token": token}))
    logins = site.app.extensions["livepush.parts"].logins
    auth = auth_of(site.app, site.livepush, logins=logins)
    auth.admit("lobby", given({"token": token}))
    site.livepush.end_login(token)
    with pytest.raises(NotAuthorised):
        auth.admit("lobby", given({"token": token}))
    auth.admit("lobby", given({"token": site.token(61)}))
