"""The id of a login in Flask's session: how it comes there, and how the login ends."""

from __future__ import annotations

from typing import Any

import flask
import flask_login
import pytest
from cachelib import SimpleCache
from flask import Flask
from flask.testing import FlaskClient
from flask_session import Session
from werkzeug.test import TestResponse

from flask_livepush.brokers.logins import Ended
from flask_livepush.login.identity import Identities
from flask_livepush.login.ids import LoginIds, is_id
from flask_livepush.login.session import KEY, Kept, LoginSessions
from tests.support.judging import FakeLogins, own_rooms


class User(flask_login.UserMixin):  # type: ignore[misc]
    """A user that Flask-Login knows by another id than ours."""

    def __init__(self, number: int, token: str) -> None:
        self.id = number
        self.token = token
        self.active = True

    @property
    def is_active(self) -> bool:
        return self.active

    def get_id(self) -> str:
        return self.token


class Site:
    """An application with logins; ``kept`` is what a session keeps of one.

    Args:
        kind: "cookie", or "cache" for sessions on the server.
        config: Settings.
    """

    def __init__(self, kind: str = "cookie", **config: Any) -> None:
        self.app = Flask("site")
        self.app.config.update(SECRET_KEY="secret", TESTING=True, **config)
        if kind == "cache":
            self.app.config.update(
                SESSION_TYPE="cachelib", SESSION_CACHELIB=SimpleCache()
            )
            Session(self.app)
        self.users = {"t1": User(1, "t1"), "t2": User(2, "t2")}
        self.now = 1_000.0
        self.manager = flask_login.LoginManager(self.app)
        self.manager.user_loader(self.users.get)
        self.logins = FakeLogins()
        self.identities = Identities(own_rooms())
        self.sessions = LoginSessions(
            self.app,
            self.logins,
            LoginIds(self.app),
            self.identities,
            now=lambda: self.now,
        )

        @self.app.get("/login/<token>")
        def login(token: str) -> str:
            remember = "remember" in flask.request.args
            flask_login.login_user(self.users[token], remember=remember)
            return ""

        @self.app.get("/logout")
        def logout() -> str:
            flask_login.logout_user()
            return ""

        @self.app.get("/who")
        def who() -> str:
            return str(getattr(flask_login.current_user, "id", "nobody"))

        @self.app.get("/run/<name>")
        def run(name: str) -> str:
            return str(self.views[name]())

        @self.app.get("/public")
        def public() -> str:
            return "public"

        self.views: dict[str, Any] = {
            "clear": lambda: flask.session.clear() or "",
            "by hand": lambda: flask.session.pop("_user_id"),
            "kept": lambda: flask.session.get(KEY),
            "other by hand": lambda: flask.session.update(_user_id="t2"),
        }

    def client(self, token: str | None = None) -> FlaskClient:
        """Return a browser, of a user who has logged in or of nobody."""
        client = self.app.test_client()
        if token is not None:
            client.get(f"/login/{token}")
        return client

    def kept(self, client: FlaskClient) -> Kept | None:
        """Return what the browser's session keeps, as it is now."""
        with self.app.test_request_context(headers={"Cookie": cookies(client)}):
            value = flask.session.get(KEY)
        if value is None:
            return None
        ids, _, identity = value.partition(" ")
        return Kept(tuple(ids.split(".")), identity or None)

    def login(self, client: FlaskClient) -> str:
        """Return the one id of the browser's login."""
        kept = self.kept(client)
        assert kept is not None
        (login,) = kept.logins
        assert is_id(login)
        return login


def cookies(client: FlaskClient, *names: str) -> str:
    """Return what a browser sends."""
    found = ((name, client.get_cookie(name)) for name in names or ALL)
    return "; ".join(f"{name}={cookie.value}" for name, cookie in found if cookie)


ALL = ("session", "remember_token")
KINDS = pytest.mark.parametrize("kind", ["cookie", "cache"])


def replayed(site: Site, sent: str, path: str = "/who") -> TestResponse:
    """Ask with these cookies alone."""
    return site.app.test_client(use_cookies=False).get(path, headers={"Cookie": sent})


@KINDS
def test_a_login_has_an_id_and_the_identity_of_its_user(kind: str) -> None:
    site = Site(kind)
    ada, phone = site.client("t1"), site.client("t1")
    assert site.kept(ada) == Kept((site.login(ada),), "1")
    assert site.login(ada) != site.login(phone)
    before = site.login(ada)
    assert ada.get("/who").text == "1"
    assert site.login(ada) == before
    assert site.logins.told == []


@KINDS
def test_a_logout_ends_it_and_leaves_nothing(kind: str) -> None:
    site = Site(kind)
    ada, phone = site.client("t1"), site.client("t1")
    login, other = site.login(ada), site.login(phone)
    ada.get("/logout")
    assert site.logins.told == [Ended(login)]
    assert site.kept(ada) is None
    assert ada.get("/who").text == "nobody"
    assert phone.get("/who").text == "1"
    assert site.login(phone) == other


@KINDS
@pytest.mark.parametrize("view", ["clear", "by hand"])
def test_a_response_that_has_lost_it_ends_it(kind: str, view: str) -> None:
    site = Site(kind)
    ada = site.client("t1")
    login = site.login(ada)
    ada.get(f"/run/{view}")
    assert site.logins.told == [Ended(login)]
    assert site.kept(ada) is None


@KINDS
@pytest.mark.parametrize(("token", "again"), [("t1", True), ("t2", False)])
def test_another_login_over_it_ends_it(kind: str, token: str, again: bool) -> None:
    site = Site(kind)
    ada = site.client("t1")
    login = site.login(ada)
    ada.get(f"/login/{token}")
    assert site.logins.told == [Ended(login, again)]
    assert site.login(ada) != login
    assert ada.get("/who").text == token[1]


def test_it_ends_with_the_response_where_another_takes_its_place() -> None:
    """A client that comes back must find the new cookie."""
    site = Site()
    told: list[Any] = []
    site.app.after_request(lambda answer: told.append(site.logins.told[:]) or answer)
    ada = site.client("t1")
    ada.get("/login/t1")
    assert told == [[], []]
    assert len(site.logins.told) == 1


@KINDS
@pytest.mark.parametrize("same", [True, False])
def test_a_user_put_there_by_hand_is_another_login(kind: str, same: bool) -> None:
    """As after a change of the password, or where an administrator looks as another."""
    site = Site(kind)
    ada = site.client("t1")
    login = site.login(ada)

    def view() -> None:
        if same:
            flask_login.current_user.token = "t2"
        assert flask_login.current_user.id == 1
        flask.session["_user_id"] = "t2"

    site.views["by hand"] = view
    ada.get("/run/by hand")
    assert site.logins.told == [Ended(login, same)]
    assert site.login(ada) != login
    assert site.kept(ada).identity == ("1" if same else None)
    assert ada.get("/who").text == "2"


def test_an_error_of_a_view_ends_nothing_that_is_still_there() -> None:
    site = Site()
    site.app.config.update(TESTING=False, PROPAGATE_EXCEPTIONS=False)
    site.views["fails"] = lambda: 1 / 0

    def clears_and_fails() -> None:
        flask.session.clear()
        raise LookupError

    site.views["clears and fails"] = clears_and_fails
    ada = site.client("t1")
    login = site.login(ada)
    assert ada.get("/run/fails").status_code == 500
    assert site.logins.told == []
    assert ada.get("/run/clears and fails").status_code == 500
    assert site.logins.told == [Ended(login)]


@KINDS
def test_an_ended_login_is_refused_over_http(kind: str) -> None:
    """Bug: a replayed session was renewed by each request, for ever."""
    site = Site(kind, SESSION_PERMANENT=False)
    site.app.before_request(lambda: setattr(flask.session, "permanent", True))
    ada = site.client("t1")
    stolen, login = cookies(ada), site.login(ada)
    if kind == "cookie":
        ada.get("/logout")
    else:
        site.logins.end([Ended(login)])
    answer = replayed(site, stolen)
    assert answer.text == "nobody"
    renewed = answer.headers.get("Set-Cookie", "")
    assert replayed(site, renewed.partition(";")[0]).text == "nobody"
    assert replayed(site, renewed.partition(";")[0], "/run/kept").text == "None"
    assert site.logins.told == [Ended(login)]


@KINDS
@pytest.mark.parametrize("path", ["/public", "/run/writes", "/static/nothing.css"])
@pytest.mark.parametrize("permanent", [True, False])
def test_an_ended_login_is_not_renewed_by_views_that_ask_for_no_user(
    kind: str, path: str, permanent: bool
) -> None:
    """Bug: signed anew by each of them, a replayed cookie was good for ever."""
    site = Site(kind, SESSION_PERMANENT=False)
    site.views["writes"] = lambda: flask.session.update(seen=1)
    if permanent:
        site.app.before_request(lambda: setattr(flask.session, "permanent", True))
    ada = site.client("t1")
    if permanent:
        ada.get("/public")
    stolen, login = cookies(ada), site.login(ada)
    site.logins.end([Ended(login)])
    answer = replayed(site, stolen, path)
    renewed = answer.headers.get("Set-Cookie", "").partition(";")[0]
    # Where all that knew it has forgotten, what was renewed opens nothing either.
    site.logins.told.clear()
    if renewed:
        assert replayed(site, renewed).text == "nobody"
    else:
        assert not permanent or kind == "cache"
    assert site.logins.told == []


def test_a_request_on_its_way_does_not_take_the_new_cookie_away() -> None:
    site = Site()
    ada = site.client("t1")
    sent = cookies(ada)
    ada.get("/login/t1")
    answer = replayed(site, sent)
    assert answer.text == "nobody"
    assert "Set-Cookie" not in answer.headers


# -- sessions from before there were ids ---------------------------------------------


def old_session(site: Site, token: str = "t1", **more: Any) -> str:
    """Return the cookie of a session of the last release."""
    interface = site.app.session_interface
    signer = interface.get_signing_serializer(site.app)  # type: ignore[attr-defined]
    with site.app.test_request_context():
        client = site.manager._session_identifier_generator()
    held = {"_user_id": token, "_fresh": True, "_id": client, **more}
    return f"session={signer.dumps(held)}"


def set_cookie(answer: TestResponse) -> str:
    return answer.headers["Set-Cookie"].partition(";")[0]


def test_a_session_of_the_last_release_gets_an_id_and_nobody_is_logged_out() -> None:
    site = Site()
    first, second = (replayed(site, old_session(site)) for _ in range(2))
    assert first.text == second.text == "1"
    one, other = (
        replayed(site, set_cookie(a), "/run/kept").text for a in (first, second)
    )
    # Two requests at once: the browser keeps either answer.
    assert one == other
    assert one.endswith(" 1")
    assert is_id(one.partition(" ")[0])
    assert site.logins.told == []


@pytest.mark.parametrize("path", ["/logout", "/run/clear", "/login/t2"])
def test_a_session_of_the_last_release_ends_as_any_does(path: str) -> None:
    site = Site()
    sent = old_session(site)
    login = replayed(site, set_cookie(replayed(site, sent)), "/run/kept").text
    replayed(site, sent, path)
    assert site.logins.told == [Ended(login.partition(" ")[0])]
    assert replayed(site, sent).text == "nobody"


# -- remember me ---------------------------------------------------------------------


def restored(site: Site, remembered: str, **headers: str) -> set[str]:
    """Return the ids of a login that a tab gets by "remember me" alone."""
    client = site.app.test_client(use_cookies=False)
    answer = client.get("/who", headers={"Cookie": remembered, **headers})
    assert answer.text == "1"
    sent = set_cookie(answer)
    kept = replayed(site, sent, "/run/kept").text
    assert kept.endswith(" 1")
    return set(kept.partition(" ")[0].split("."))


def test_tabs_that_are_restored_at_once_have_one_login() -> None:
    """The last answer's cookie stays; a connection may have another's."""
    site = Site()
    ada = site.client()
    ada.get("/login/t1?remember")
    remembered = cookies(ada, "remember_token")
    for begin in range(0, 60, 7):
        site.now = 6_000 + begin
        one = restored(site, remembered)
        site.now += 29
        assert one & restored(site, remembered)
        site.now += 61
        assert not one & restored(site, remembered)
        site.now -= 90
        assert not one & restored(site, remembered, **{"User-Agent": "a phone"})


def test_a_login_by_remember_me_is_another_one_where_that_has_ended() -> None:
    site = Site()
    ada = site.client()
    ada.get("/login/t1?remember")
    remembered = cookies(ada, "remember_token")
    seen: set[str] = set()
    for _ in range(3):
        found = restored(site, remembered)
        assert not found & seen
        site.logins.end(Ended(one) for one in found)
        seen |= found


def test_a_logout_ends_all_ids_of_a_login_by_remember_me() -> None:
    site = Site()
    ada = site.client()
    ada.get("/login/t1?remember")
    ada.delete_cookie("session")
    ada.get("/who")
    site.logins.told.clear()
    kept = site.kept(ada)
    assert kept is not None
    assert len(kept.logins) == 2
    ada.get("/logout")
    assert site.logins.ended == set(kept.logins)
    assert ada.get("/who").text == "nobody"


# -- protection ----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/who", "/logout", "/run/clear", "/run/by hand"])
def test_whoever_takes_a_cookie_does_not_log_its_owner_out(path: str) -> None:
    site = Site(SESSION_PROTECTION="strong")
    ada = site.client("t1")
    headers = {"Cookie": cookies(ada), "User-Agent": "another"}
    answer = site.app.test_client(use_cookies=False).get(path, headers=headers)
    assert site.logins.told == []
    assert ada.get("/who").text == "1"
    # A key of ours that stays would make Flask-Login write each visitor's session.
    assert replayed(site, set_cookie(answer), "/run/kept").text == "None"


def test_a_session_that_protection_has_emptied_ends_no_login() -> None:
    """On the server there is one session for both; that is Flask-Login's doing."""
    site = Site("cache", SESSION_PROTECTION="strong", SESSION_PERMANENT=False)
    ada = site.client("t1")
    headers = {"Cookie": cookies(ada), "User-Agent": "another"}
    thief = site.app.test_client(use_cookies=False)
    assert thief.get("/who", headers=headers).text == "nobody"
    assert site.logins.told == []


def test_basic_protection_ends_nothing() -> None:
    site = Site(SESSION_PROTECTION="basic")
    ada = site.client("t1")
    login = site.login(ada)
    answer = ada.get("/who", headers={"User-Agent": "another"})
    assert answer.text == "1"
    assert site.login(ada) == login
    assert site.logins.told == []


# -- outside of responses ------------------------------------------------------------


def test_a_logout_where_nothing_is_answered_ends_it() -> None:
    """As in a handler of the application's own Socket.IO events."""
    site = Site()
    ada = site.client("t1")
    login = site.login(ada)
    with site.app.test_request_context(headers={"Cookie": cookies(ada)}):
        flask_login.logout_user()
        assert KEY not in flask.session
    assert site.logins.told == [Ended(login)]
    with site.app.test_request_context(headers={"Cookie": old_session(site)}):
        flask_login.logout_user()
    assert len(site.logins.told) == 2
    assert replayed(site, old_session(site)).text == "nobody"


def test_a_login_over_it_where_nothing_is_answered_ends_it() -> None:
    site = Site()
    ada = site.client("t1")
    login = site.login(ada)
    with site.app.test_request_context(headers={"Cookie": cookies(ada)}):
        flask_login.login_user(site.users["t2"])
    assert site.logins.told == [Ended(login)]


def test_an_ended_login_is_nobody_in_handlers() -> None:
    site = Site()
    ada = site.client("t1")
    site.logins.end([Ended(site.login(ada))])
    with site.app.test_request_context(headers={"Cookie": cookies(ada)}):
        assert not flask_login.current_user.is_authenticated


# -- what others must not notice -----------------------------------------------------


def test_responses_do_not_vary_by_the_cookie_for_us() -> None:
    """Flask-Login's do in any case, as it looks into the session after each request."""
    site = Site()
    ada = site.client("t1")
    del site.app.after_request_funcs[None][0]  # Flask-Login's
    for sent in ("", cookies(ada)):
        answer = replayed(site, sent, "/public")
        assert "Vary" not in answer.headers
        assert "Set-Cookie" not in answer.headers
    without = Flask("without")
    without.secret_key = "secret"
    LoginSessions(
        without,
        FakeLogins(),
        LoginIds(without),
        Identities(own_rooms()),
        now=lambda: 0.0,
    )
    without.add_url_rule("/", "home", lambda: "")
    assert "Vary" not in without.test_client().get("/").headers


@pytest.mark.parametrize("path", ["/public", "/who"])
def test_visitors_get_no_cookie(path: str) -> None:
    site = Site()
    assert "Set-Cookie" not in site.client().get(path).headers
    ada = site.client("t1")
    ada.get("/logout")
    assert "Set-Cookie" not in ada.get(path).headers


def test_a_user_without_flask_login_is_nobodys_business() -> None:
    app = Flask("app")
    app.secret_key = "secret"
    sessions = LoginSessions(
        app, FakeLogins(), LoginIds(app), Identities(own_rooms()), now=lambda: 0.0
    )

    @app.get("/")
    def home() -> str:
        flask.session["x"] = 1
        return f"{sessions.current()} {sessions.expected()}"

    assert app.test_client().get("/").text == "None None"


@pytest.mark.parametrize("value", [7, "", "x", None, ["x"], "a" * 22 + ".", "é" * 22])
def test_what_is_not_ours_in_a_session_is_no_id(value: Any) -> None:
    site = Site()
    sent = old_session(site, **{KEY: value})
    answer = replayed(site, sent)
    assert answer.text == "1"
    assert is_id(replayed(site, set_cookie(answer), "/run/kept").text.partition(" ")[0])


def test_the_session_says_whose_it_is_by_the_hook_of_now() -> None:
    site = Site()
    ada = site.client("t1")
    assert site.kept(ada).identity == "1"
    site.identities.hook = lambda user: f"user-{user.id}"
    site.views["current"] = lambda: (
        f"{site.sessions.expected()} {site.sessions.current()}"
    )
    assert ada.get("/run/current").text == "1 user-1"
    assert ada.get("/run/current").text == "user-1 user-1"
    assert site.logins.told == []


def test_a_user_whose_get_id_raises_does_not_fail_the_view() -> None:
    """Bug: whose session is another's than the request loader's user got a 500."""
    site = Site()
    client = site.client("t1")

    class Odd(User):
        def get_id(self) -> str:
            raise NotImplementedError

    del site.users["t1"]
    site.manager.request_loader(lambda asked: Odd(9, ""))
    site.views["current"] = site.sessions.current
    assert client.get("/run/current").text == "9"
