"""The addresses that renew a login and give tickets, and the verbs beside them."""

from __future__ import annotations

from typing import Any

import flask
import flask_login
import pytest
from flask import Flask
from werkzeug.test import EnvironBuilder, TestResponse

from flask_livepush import ConfigError, LivePush, UsageError
from flask_livepush.brokers.logins import Ended, Recheck
from flask_livepush.errors import NotAuthorised
from flask_livepush.login.caller import Claim, Handshake
from flask_livepush.login.handshakes import Handshakes
from flask_livepush.login.tickets import LIFETIME
from tests.support.judging import handshakes_of

from .test_session import User, cookies

ORIGIN = "https://shop.example"


class Site:
    """An application set up as users do.

    Args:
        config: Settings.
    """

    def __init__(self, **config: Any) -> None:
        self.app = Flask("site")
        self.app.config.update(SECRET_KEY="secret", TESTING=True, **config)
        self.users = {"t1": User(1, "t1"), "t2": User(2, "t2")}
        self.manager = flask_login.LoginManager(self.app)
        self.manager.user_loader(self.users.get)
        self.livepush = LivePush(self.app)
        self.parts = self.app.extensions["livepush.parts"]

        @self.app.get("/login/<token>")
        def login(token: str) -> str:
            remember = "remember" in flask.request.args
            flask_login.login_user(self.users[token], remember=remember)
            return ""

        @self.app.get("/logout")
        def logout() -> str:
            flask_login.logout_user()
            return ""

    def ask(self, path: str, sent: str = "", **headers: str) -> TestResponse:
        client = self.app.test_client(use_cookies=False)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if sent:
            given["Cookie"] = sent
        return client.get(f"/livepush/{path}", headers=given)

    def browser(self, token: str = "t1", query: str = "") -> Any:
        client = self.app.test_client()
        client.get(f"/login/{token}{query}")
        return client

    def judge(self) -> Handshakes:
        """Return what judges handshakes, with the logins of the application."""
        parts = self.parts
        return handshakes_of(
            self.app,
            logins=parts.logins,
            ids=parts.login_ids,
            tickets=parts.tickets,
            identities=self.livepush._identities,
        )


def handshake(payload: Any = None, sent: str = "") -> Handshake:
    headers = {"Cookie": sent} if sent else {}
    return Handshake(
        EnvironBuilder(path="/socket.io/", headers=headers).get_environ(), payload
    )


def test_says_whether_somebody_is_logged_in() -> None:
    site = Site()
    answer = site.ask("login")
    assert (answer.status_code, answer.get_json()["ok"]) == (401, False)
    assert answer.headers["Cache-Control"] == "no-store"
    answer = site.browser().get("/livepush/login")
    assert (answer.status_code, answer.get_json()) == (200, {"ok": True})
    assert answer.headers["Cache-Control"] == "no-store"


def test_remember_me_becomes_a_session_that_opens_a_connection() -> None:
    site = Site()
    ada = site.browser(query="?remember")
    ada.delete_cookie("session")
    assert ada.get("/livepush/login").get_json() == {"ok": True}
    caller = site.judge().caller(handshake(sent=cookies(ada, "session")))
    assert caller.identity == "1"
    assert len(caller.claim.logins) == 2
    ada.get("/logout")
    assert all(map(site.parts.logins.has_ended, caller.claim.logins))


def test_a_session_whose_time_is_over_is_taken_away() -> None:
    for config in ({}, {"LIVEPUSH_ALLOW_ANONYMOUS": True}):
        site = Site(**config)
        answer = site.ask("login", "session=e30.x.y")
        assert answer.status_code == (200 if config else 401)
        assert answer.headers["Set-Cookie"].startswith("session=;")
        assert "Set-Cookie" not in site.ask("login").headers


def test_a_ticket_is_of_the_login_that_asks() -> None:
    site = Site()
    ada = site.browser()
    answer = ada.get("/livepush/ticket")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.get_json()["seconds"] == LIFETIME
    given = handshake({"ticket": answer.get_json()["ticket"]})
    claim = site.judge().claim(given)
    session = site.judge().claim(handshake(sent=cookies(ada)))
    assert claim == Claim("t1", session.logins, "ticket")
    assert site.judge().caller(given).identity == "1"
    ada.get("/logout")
    with pytest.raises(NotAuthorised):
        site.judge().claim(given)
    assert site.ask("ticket").status_code == 401
    assert ada.get("/livepush/ticket").status_code == 401


def test_a_ticket_by_a_token_ends_with_it() -> None:
    site = Site()

    @site.manager.request_loader
    def load(request: Any) -> User | None:
        return site.users.get(request.headers.get("Authorization", "")[7:])

    answer = site.ask("ticket", Authorization="Bearer t1")
    given = handshake({"ticket": answer.get_json()["ticket"]})
    assert site.judge().caller(given).identity == "1"
    with site.app.app_context():
        site.livepush.end_login("t1")
    with pytest.raises(NotAuthorised):
        site.judge().caller(given)
    more = {f"X_Token_{n}": str(n) for n in range(100)}
    assert site.ask("ticket", Authorization="Bearer t2", **more).status_code == 401


def test_a_ticket_needs_what_loads_its_user() -> None:
    site = Site()
    site.manager._user_callback = None
    site.manager.request_loader(lambda request: site.users["t1"])
    with pytest.raises(UsageError, match="user_loader"):
        site.ask("ticket")
    site.livepush.users_loader(lambda keys: [site.users[key] for key in keys])
    assert site.ask("ticket").status_code == 200


@pytest.mark.parametrize("path", ["login", "ticket"])
def test_pages_of_listed_origins_alone_may_ask(path: str) -> None:
    site = Site(LIVEPUSH_CORS_ORIGINS=[ORIGIN])
    client = site.browser()
    answer = client.get(f"/livepush/{path}", headers={"Origin": ORIGIN})
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert "Origin" in answer.headers["Vary"]
    refused = site.ask(path, Origin=ORIGIN)
    assert refused.status_code == 401
    assert refused.headers["Access-Control-Allow-Origin"] == ORIGIN
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization",
    }
    before = client.options(f"/livepush/{path}", headers=asked)
    assert before.status_code == 204
    assert before.headers["Access-Control-Allow-Headers"] == "authorization"
    assert before.headers["Access-Control-Allow-Methods"] == "GET"
    assert "Set-Cookie" not in before.headers
    for other in ("https://evil.example", "null", ORIGIN + ".evil.example", ""):
        for method in (client.get, client.options):
            answer = method(f"/livepush/{path}", headers={"Origin": other})
            assert "Access-Control-Allow-Origin" not in answer.headers
            assert "Access-Control-Allow-Credentials" not in answer.headers


def test_one_origin_may_be_given_as_text() -> None:
    site = Site(LIVEPUSH_CORS_ORIGINS=ORIGIN)
    answer = site.ask("login", Origin=ORIGIN)
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN


def test_an_application_without_flask_login_has_nobody() -> None:
    app = Flask("app")
    LivePush(app)
    client = app.test_client()
    assert client.get("/livepush/login").status_code == 401
    assert client.get("/livepush/ticket").status_code == 401


# -- verbs ----------------------------------------------------------------------------


def test_a_token_ends_with_its_scheme_or_without() -> None:
    site = Site()
    ids = site.parts.login_ids.of_credential("abc")
    site.livepush.end_login("Bearer abc")
    assert all(map(site.parts.logins.has_ended, ids))


@pytest.mark.parametrize("credential", ["", "  ", None, 7, b"abc"])
def test_refuses_what_is_no_credential(credential: Any) -> None:
    with pytest.raises(UsageError, match="end_login"):
        Site().livepush.end_login(credential)


def test_a_credential_needs_a_secret_key() -> None:
    site = Site()
    site.app.secret_key = None
    with pytest.raises(UsageError, match="SECRET_KEY"):
        site.livepush.end_login("abc")


def test_a_ticket_needs_a_secret_key() -> None:
    """Bug: without one, asking for a ticket failed with an IndexError."""
    site = Site()
    site.app.secret_key = None
    site.app.login_manager.request_loader(lambda asked: site.users["t1"])  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="SECRET_KEY"):
        site.app.test_client().get("/livepush/ticket")


def test_a_user_is_disconnected_by_id() -> None:
    site = Site()
    orders: list[Any] = []

    class Listener:
        def ended(self, logins: Any) -> None:
            raise AssertionError

        def recheck(self, told: Any) -> None:
            orders.extend(told)

    site.parts.logins.listen(Listener())
    site.livepush.disconnect_user(site.users["t1"])
    site.livepush.disconnect_user("1")
    site.livepush.disconnect_user(1)
    assert orders == [Recheck(user="1", close=True)] * 3
    for wrong in (None, object(), b"1"):
        with pytest.raises(UsageError, match="identity"):
            site.livepush.disconnect_user(wrong)


@pytest.mark.parametrize(
    "name", ["identity", "user_info", "authenticate", "users_loader"]
)
def test_there_is_one_hook_of_a_kind(name: str) -> None:
    decorate = getattr(LivePush(), name)

    def hook(given: Any) -> Any:
        return None

    assert decorate(hook) is hook
    with pytest.raises(ConfigError, match=f"@livepush.{name} was used already"):
        decorate(hook)


def test_the_end_of_a_login_reaches_the_applications_logins() -> None:
    site = Site()
    ada = site.browser()
    (login,) = site.judge().claim(handshake(sent=cookies(ada))).logins
    assert not site.parts.logins.has_ended(login)
    ada.get("/logout")
    assert site.parts.logins.has_ended(login)
    assert Ended(login) == Ended(login, again=False)
