"""Whose a connection is: its handshake judged, and its user loaded."""

from __future__ import annotations

import importlib.metadata
import logging
from typing import Any

import flask
import flask_login
import pytest
from cachelib import SimpleCache
from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from flask.signals import appcontext_popped
from flask_session import Session
from werkzeug.exceptions import Unauthorized
from werkzeug.test import EnvironBuilder

from flask_livepush.brokers.logins import Ended
from flask_livepush.errors import NotAuthorised, RefreshLogin, Unavailable
from flask_livepush.login.caller import Caller, Claim, Handshake
from flask_livepush.login.handshakes import Handshakes, SignedOut
from flask_livepush.login.identity import Identities
from flask_livepush.login.ids import LoginIds
from flask_livepush.login.session import LoginSessions
from flask_livepush.login.tickets import Tickets
from tests.support.judging import FakeLogins, handshakes_of, own_rooms

from .test_session import ALL, User, cookies, old_session


class Site:
    """An application, its browsers, and what judges its handshakes.

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
        self.loaded: list[str] = []
        self.now = 1_000.0
        self.manager = flask_login.LoginManager(self.app)
        self.manager.user_loader(self._load)
        self.logins = FakeLogins()
        self.ids = LoginIds(self.app)
        self.identities = Identities(own_rooms())
        self.tickets = Tickets(self.app, self.ids, now=lambda: self.now)
        self.sessions = LoginSessions(
            self.app, self.logins, self.ids, self.identities, now=lambda: self.now
        )

        @self.app.get("/login/<token>")
        def login(token: str) -> str:
            remember = "remember" in flask.request.args
            flask_login.login_user(self.users[token], remember=remember)
            flask.session.permanent = "permanent" in flask.request.args
            return ""

        @self.app.get("/logout")
        def logout() -> str:
            flask_login.logout_user()
            return ""

    def _load(self, key: str) -> User | None:
        self.loaded.append(key)
        return self.users.get(key)

    def judge(self, **options: Any) -> Handshakes:
        """Return what judges its handshakes."""
        return handshakes_of(
            self.app,
            logins=self.logins,
            ids=self.ids,
            identities=self.identities,
            tickets=self.tickets,
            **options,
        )

    def cookies(self, token: str = "t1", query: str = "", names: Any = ALL) -> str:
        """Return the cookies of a browser in which a user has logged in."""
        client = self.app.test_client()
        client.get(f"/login/{token}{query}")
        return cookies(client, *names)


def handshake(sent: str = "", payload: Any = None, **environ: Any) -> Handshake:
    """Return a handshake with these cookies; keywords are headers."""
    headers = {"Cookie": sent} if sent else {}
    builder = EnvironBuilder(
        path="/socket.io/?EIO=4&transport=polling", headers=headers
    )
    # As Flask's test client has them, with which users log in.
    client = {"REMOTE_ADDR": "127.0.0.1", "HTTP_USER_AGENT": AGENT}
    return Handshake({**builder.get_environ(), **client, **environ}, payload)


AGENT = f"Werkzeug/{importlib.metadata.version('werkzeug')}"
SOCKET = {"HTTP_UPGRADE": "websocket", "HTTP_CONNECTION": "Upgrade"}
KINDS = pytest.mark.parametrize("kind", ["cookie", "cache"])


@KINDS
def test_a_session_says_whose_it_is_and_which_login(kind: str) -> None:
    site = Site(kind)
    judge, given = site.judge(), handshake(site.cookies())
    claim = judge.claim(given)
    assert (claim.key, claim.source, len(claim.logins)) == ("t1", "session", 1)
    assert site.loaded == []
    assert judge.caller(given) == Caller("1", claim)
    assert site.loaded == ["t1"]
    other = judge.claim(handshake(site.cookies()))
    assert other.logins != claim.logins
    assert "t1" not in repr(claim)


@KINDS
def test_an_ended_login_opens_nothing(kind: str) -> None:
    site = Site(kind)
    judge, given = site.judge(), handshake(site.cookies())
    site.logins.end(Ended(login) for login in judge.claim(given).logins)
    for ask in (judge.claim, judge.caller, judge.entered):
        with pytest.raises(SignedOut):
            with_it(ask, given)
    assert site.loaded == []
    adopted = site.judge(adopted=True, allow_anonymous=True)
    with pytest.raises(SignedOut):
        adopted.caller(given)


def with_it(ask: Any, given: Handshake) -> Any:
    """Ask, and enter what that returns."""
    found = ask(given)
    if hasattr(found, "__enter__"):
        with found as user:
            return user
    return found


def test_visitors_may_come_where_they_are_allowed() -> None:
    site = Site()
    nobody = Caller(None, Claim(None, frozenset(), "nobody"))
    with pytest.raises(NotAuthorised, match="Not logged in"):
        site.judge().caller(handshake())
    assert site.judge(allow_anonymous=True).caller(handshake()) == nobody
    assert site.judge(adopted=True).caller(handshake()) == nobody
    with site.judge().entered(handshake()) as user:
        assert not user.is_authenticated
        assert user is flask_login.current_user._get_current_object()
    assert site.loaded == []


def test_says_without_waiting_who_is_certainly_nobody() -> None:
    site = Site()
    judge = site.judge(allow_anonymous=True)
    assert not judge.may_be_somebody(handshake())
    assert not judge.may_be_somebody(handshake("theme=dark"))
    assert judge.may_be_somebody(handshake("session=x"))
    assert judge.may_be_somebody(handshake("a=b; remember_token=x"))
    assert judge.may_be_somebody(handshake(payload={"token": "x"}))
    assert site.judge().may_be_somebody(handshake())
    site.manager.request_loader(lambda request: None)
    assert judge.may_be_somebody(handshake())


def test_a_session_of_the_last_release_has_the_id_that_http_gives_it() -> None:
    site = Site()
    sent = old_session(site)  # type: ignore[arg-type]
    claim = site.judge().claim(handshake(sent))
    assert (claim.key, claim.source) == ("t1", "session")
    site.app.test_client(use_cookies=False).get("/logout", headers={"Cookie": sent})
    assert site.logins.ended == claim.logins
    with pytest.raises(SignedOut):
        site.judge().claim(handshake(sent))


@KINDS
@pytest.mark.parametrize("allow_anonymous", [False, True])
def test_remember_me_alone_opens_nothing(kind: str, allow_anonymous: bool) -> None:
    site = Site(kind)
    judge = site.judge(allow_anonymous=allow_anonymous)
    sent = site.cookies(query="?remember", names=["remember_token"])
    for ask in (judge.claim, judge.caller, judge.entered):
        with pytest.raises(RefreshLogin, match="over HTTP"):
            with_it(ask, handshake(sent))
    assert site.loaded == []
    both = site.cookies(query="?remember")
    assert judge.caller(handshake(both)).identity == "1"
    adopted = site.judge(adopted=True)
    assert adopted.caller(handshake(sent)).claim.source == "nobody"


@pytest.mark.parametrize(
    "sent", ["remember_token=t1|forged", "remember_token=t1|é", "remember_token=x"]
)
def test_a_forged_remember_me_is_nobodys(sent: str) -> None:
    site = Site()
    with pytest.raises(NotAuthorised, match="Not logged in"):
        site.judge().caller(handshake(sent))
    site.app.secret_key = None
    with pytest.raises(NotAuthorised, match="Not logged in"):
        site.judge().caller(handshake(sent))


def test_a_session_whose_time_is_over_is_to_be_renewed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site(PERMANENT_SESSION_LIFETIME=60)
    sent, plain = site.cookies(), "session=" + signed(site, {"theme": "dark"})
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: 5e9)
    for judge in (site.judge(), site.judge(allow_anonymous=True)):
        with pytest.raises(RefreshLogin, match="time is over"):
            judge.caller(handshake(sent))
    # A visitor's own may be sent for ever.
    assert site.judge(allow_anonymous=True).caller(handshake(plain)).identity is None
    assert site.judge(adopted=True).caller(handshake(sent)).identity is None
    for forged in ("session=x", "session=e30.x.y"):
        assert site.judge(allow_anonymous=True).caller(
            handshake(forged)
        ).claim == Claim(None, frozenset(), "nobody")
        with pytest.raises(RefreshLogin):
            site.judge().caller(handshake(forged))


def signed(site: Site, held: dict[str, Any]) -> str:
    signer = site.app.session_interface.get_signing_serializer(site.app)  # type: ignore[attr-defined]
    return str(signer.dumps(held))


def test_a_server_side_session_that_is_gone_is_to_be_renewed() -> None:
    site = Site("cache")
    sent = site.cookies()
    site.app.config["SESSION_CACHELIB"].clear()
    with pytest.raises(RefreshLogin):
        site.judge().caller(handshake(sent))
    assert site.judge(allow_anonymous=True).caller(handshake(sent)).identity is None


@pytest.mark.parametrize(
    ("mode", "query", "fresh"),
    [
        ("strong", "", None),
        ("strong", "?permanent", False),
        ("basic", "", False),
        (None, "", True),
    ],
)
def test_protection_is_judged_on_a_copy(
    mode: str | None, query: str, fresh: bool | None
) -> None:
    site = Site(SESSION_PROTECTION=mode)
    sent = site.cookies(query=query)
    given = handshake(sent, HTTP_USER_AGENT="another")
    if fresh is None:
        with pytest.raises(RefreshLogin, match="another client or address"):
            site.judge().caller(given)
    else:
        with site.judge().entered(given) as user:
            assert user.id == 1
            assert flask_login.login_fresh() is fresh
    with site.judge().entered(handshake(sent)) as user:
        assert user.id == 1
        assert flask_login.login_fresh()
    assert site.logins.told == []


def test_a_user_who_is_gone_is_nobody() -> None:
    site = Site()
    given = handshake(site.cookies(query="?remember", names=["session"]))
    remembered = handshake(site.cookies(query="?remember"))
    del site.users["t1"]
    with pytest.raises(NotAuthorised, match="Not logged in"):
        site.judge().caller(given)
    # Over HTTP the cookie of "remember me" would decide.
    with pytest.raises(RefreshLogin):
        site.judge().caller(remembered)


def test_a_deactivated_user_is_not_logged_in() -> None:
    site = Site()
    given = handshake(site.cookies())
    site.users["t1"].active = False
    with pytest.raises(NotAuthorised, match="Not logged in"):
        site.judge().caller(given)
    caller = site.judge(allow_anonymous=True).caller(given)
    assert caller.identity is None
    assert caller.claim.logins  # its end closes the connection all the same


# -- the request itself ----------------------------------------------------------------


def by_header(site: Site, name: str = "Authorization") -> None:
    @site.manager.request_loader
    def load(request: Any) -> User | None:
        found = request.headers.get(name) or request.cookies.get(name, "")
        return site.users.get(found.removeprefix("Bearer "))


def test_a_request_loader_knows_users_by_their_credentials() -> None:
    site = Site()
    by_header(site)
    judge = site.judge()
    given = handshake(HTTP_AUTHORIZATION="Bearer t1")
    claim = judge.claim(given)
    assert (claim.key, claim.source) == (None, "request")
    assert claim.logins == frozenset(site.ids.of_credential("t1"))
    assert judge.caller(given) == Caller("1", claim)
    with pytest.raises(NotAuthorised, match="Not logged in"):
        judge.caller(handshake(HTTP_AUTHORIZATION="Bearer t3"))
    site.logins.end(Ended(login) for login in site.ids.of_credential("Bearer t1"))
    with pytest.raises(SignedOut):
        judge.caller(given)
    assert judge.caller(handshake(HTTP_AUTHORIZATION="t2")).identity == "2"


def test_a_rotated_key_finds_the_same_login() -> None:
    site = Site()
    by_header(site)
    before = site.judge().claim(handshake(HTTP_AUTHORIZATION="Bearer t1")).logins
    site.app.config.update(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["secret"])
    after = site.judge().claim(handshake(HTTP_AUTHORIZATION="Bearer t1")).logins
    assert before < after
    assert set(site.ids.of_credential("t1")) == after


def test_a_session_comes_before_the_request_loader_and_a_dead_one_does_not() -> None:
    site = Site()
    by_header(site)
    sent = site.cookies("t2")
    given = handshake(sent, HTTP_AUTHORIZATION="Bearer t1")
    assert site.judge().caller(given).identity == "2"
    del site.users["t2"]
    caller = site.judge().caller(given)
    assert (caller.identity, caller.claim.source) == ("1", "request")


def test_who_loads_requests_alone_needs_no_user_loader() -> None:
    app = Flask("app")
    app.secret_key = "secret"
    manager = flask_login.LoginManager(app)
    manager.request_loader(lambda request: User(1, "t1"))
    judge = handshakes_of(app)
    assert judge.caller(handshake()).identity == "1"
    with pytest.raises(RefreshLogin):
        judge.caller(handshake("session=x"))
    signer = app.session_interface.get_signing_serializer(app)  # type: ignore[attr-defined]
    sent = "session=" + signer.dumps({"_user_id": "t2"})
    assert judge.caller(handshake(sent)).identity == "1"


# -- what is given with the CONNECT ----------------------------------------------------


def by_token(site: Site) -> dict[str, Any]:
    """Return options with which a token in the payload is a user's."""
    return {
        "authenticate": lambda: lambda payload: site.users.get(payload.get("token"))
    }


def test_what_is_given_with_the_connect_decides_alone() -> None:
    """A page that gives a token is never another's whose cookie the browser has."""
    site = Site()
    by_header(site)
    judge = site.judge(**by_token(site))
    sent = site.cookies("t2")
    given = handshake(sent, {"token": "t1"}, HTTP_AUTHORIZATION="t2")
    caller = judge.caller(given)
    assert (caller.identity, caller.claim.key) == ("1", None)
    assert caller.claim.source == "payload"
    assert caller.claim.logins == frozenset(site.ids.of_credential("t1"))
    with judge.entered(given) as user:
        assert flask_login.current_user == user == site.users["t1"]
    for payload in ({"token": "over"}, {"token": None}, {"x": 1}):
        with pytest.raises(NotAuthorised, match="Not logged in"):
            judge.caller(handshake(sent, payload))
    for nothing in (None, {}):
        assert judge.caller(handshake(sent, nothing)).identity == "2"
    # Without such a hook, what is given is the application's own business.
    assert site.judge().caller(given).identity == "2"


def test_an_ended_token_opens_nothing() -> None:
    site = Site()
    judge = site.judge(**by_token(site))
    site.logins.end(Ended(login) for login in site.ids.of_credential("t1"))
    with pytest.raises(SignedOut):
        judge.caller(handshake(payload={"token": "t1"}))
    with pytest.raises(SignedOut):
        judge.caller(handshake(payload={"deep": [{"token": "Bearer t1"}]}))


def test_the_hook_is_asked_anew_each_time() -> None:
    site = Site()
    judge, given = site.judge(**by_token(site)), handshake(payload={"token": "t1"})
    assert judge.caller(given).identity == "1"
    del site.users["t1"]
    with pytest.raises(NotAuthorised):
        judge.caller(given)
    with judge.entered(given) as user:
        assert not user.is_authenticated


def test_the_hook_may_ask_the_request_loader() -> None:
    """As docs/logins.md has it for Flask-Security."""
    site = Site()
    by_header(site, "Authentication-Token")

    def hook(payload: Any) -> Any:
        headers = {"Authentication-Token": payload.get("token", "")}
        with flask.current_app.test_request_context(headers=headers):
            return flask_login.current_user._get_current_object()

    judge = site.judge(authenticate=lambda: hook)
    sent = site.cookies("t2")
    assert judge.caller(handshake(sent, {"token": "t1"})).identity == "1"
    with judge.entered(handshake(sent, {"token": "t1"})) as user:
        assert flask_login.current_user == user == site.users["t1"]
    with pytest.raises(NotAuthorised):
        judge.caller(handshake(sent, {"token": "over"}))


def test_an_application_without_flask_login_may_know_tokens() -> None:
    app = Flask("app")
    app.secret_key = "secret"
    judge = handshakes_of(app, authenticate=lambda: lambda payload: User(5, "x"))
    given = handshake(payload={"token": "x"})
    assert judge.caller(given).identity == "5"
    with judge.entered(given) as user:
        assert flask_login.current_user == user
    with pytest.raises(NotAuthorised):
        judge.caller(handshake())


def test_one_without_flask_login_has_visitors_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Flask("app")
    judge = handshakes_of(app, allow_anonymous=True)
    for _ in range(2):
        assert judge.caller(handshake("session=x")).identity is None
        with judge.entered(handshake()) as user:
            assert not user.is_authenticated
    assert caplog.text.count("LoginManager") == 1


# -- what fails ------------------------------------------------------------------------


def failing(site: Site, what: str, error: Exception) -> tuple[Handshakes, Handshake]:
    """Return what judges, and a handshake of which something fails."""

    def fail(*args: Any) -> Any:
        raise error

    sent = site.cookies()
    if what == "user loader":
        site.manager.user_loader(fail)
    elif what == "users_loader":
        return site.judge(users_loader=lambda: fail), handshake(sent)
    elif what == "request loader":
        site.manager.request_loader(fail)
        return site.judge(), handshake()
    elif what == "authenticate":
        given = handshake(payload={"token": "a secret"})
        return site.judge(authenticate=lambda: fail), given
    else:
        interface = SecureCookieSessionInterface()
        interface.open_session = fail  # type: ignore[method-assign]
        site.app.session_interface = interface
    return site.judge(), handshake(sent)


WHATS = ["user loader", "users_loader", "request loader", "authenticate", "session"]


@pytest.mark.parametrize("what", WHATS)
def test_what_fails_is_noted_and_tried_again(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    judge, given = failing(Site(), what, LookupError("a bug"))
    for _ in range(2):
        with caplog.at_level(logging.ERROR), pytest.raises(Unavailable) as caught:
            judge.caller(given)
        assert not flask.has_app_context()
    assert "bug" not in caught.value.message
    assert caplog.text.count("a bug") == 1
    assert "a secret" not in caplog.text


@pytest.mark.parametrize("what", WHATS[:-1])
def test_what_aborts_says_no(what: str) -> None:
    judge, given = failing(Site(), what, Unauthorized())
    with pytest.raises(NotAuthorised):
        judge.caller(given)


# -- WebSockets without an Origin ------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "refused"),
    [
        ("cookie", True),
        ("cookie of the request loader", True),
        ("header", False),
        ("payload", False),
        ("ticket", False),
        ("nobody", False),
    ],
)
def test_a_cookie_opens_no_websocket_without_an_origin(who: str, refused: bool) -> None:
    site = Site()
    judge = site.judge(allow_anonymous=True, **by_token(site))
    sent, payload, more = "", None, {}
    if who == "cookie":
        sent = site.cookies()
    elif who == "cookie of the request loader":
        by_header(site, "access_token")
        sent = "access_token=t1"
    elif who == "header":
        by_header(site)
        more = {"HTTP_AUTHORIZATION": "t1"}
    elif who == "payload":
        payload = {"token": "t1"}
    elif who == "ticket":
        payload = {"ticket": site.tickets.issue("t1", frozenset({"x" * 22}))}
    given = handshake(sent, payload, **SOCKET, **more)
    if refused:
        for ask in (judge.claim, judge.caller, judge.entered):
            with pytest.raises(NotAuthorised, match="Origin"):
                with_it(ask, given)
    else:
        assert judge.caller(given).identity == (None if who == "nobody" else "1")
    polling = {**given.environ}
    del polling["HTTP_UPGRADE"]
    if payload is None:
        judge.caller(Handshake(polling, payload))
    given.environ["HTTP_ORIGIN"] = "http://localhost"
    judge.caller(given)


# -- tickets ---------------------------------------------------------------------------


def ticket_of(site: Site, token: str = "t1") -> tuple[str, frozenset[str]]:
    logins = site.judge().claim(handshake(site.cookies(token))).logins
    return site.tickets.issue(token, logins), logins


def test_a_ticket_opens_one_connection_and_that_again() -> None:
    site = Site()
    text, logins = ticket_of(site)
    judge, given = site.judge(), handshake(payload={"ticket": text})
    assert judge.caller(given) == Caller("1", Claim("t1", logins, "ticket"))
    site.now += 3_600
    assert judge.claim(given).logins == logins
    with judge.entered(given) as user:
        assert flask_login.current_user == user == site.users["t1"]
    with pytest.raises(NotAuthorised, match="older than 60 seconds"):
        judge.claim(handshake(payload={"ticket": text}))
    site.now -= 3_600
    with pytest.raises(NotAuthorised, match="used already"):
        judge.claim(handshake(payload={"ticket": text}))
    # Another one in its place is another one.
    other = Handshake({**given.environ}, {"ticket": ticket_of(site, "t2")[0]})
    assert judge.caller(other).identity == "2"
    site.logins.end(Ended(login) for login in logins)
    with pytest.raises(SignedOut):
        judge.claim(given)


def test_a_tickets_user_is_judged_anew() -> None:
    site = Site()
    judge = site.judge()
    given = handshake(payload={"ticket": ticket_of(site)[0]})
    judge.claim(given)
    del site.users["t1"]
    with pytest.raises(NotAuthorised, match="Not logged in"):
        judge.caller(given)


def test_a_ticket_comes_before_all_else() -> None:
    site = Site()
    judge = site.judge(**by_token(site))
    payload = {"ticket": ticket_of(site)[0], "token": "t2"}
    assert judge.caller(handshake(site.cookies("t2"), payload)).identity == "1"


@pytest.mark.parametrize("text", ["", "x", "a.b", "é", "\ud800"])
def test_what_is_no_ticket_is_no_login(text: str) -> None:
    site = Site()
    sent = site.cookies()
    with pytest.raises(NotAuthorised, match="none of this application's"):
        site.judge().caller(handshake(sent, {"ticket": text}))
    with pytest.raises(NotAuthorised, match="Not logged in"):
        site.judge(**by_token(site)).caller(handshake(sent, {"ticket": text}))


def test_a_ticket_of_another_application_is_none() -> None:
    site, other = Site(), Site()
    other.app.secret_key = "another"
    with pytest.raises(NotAuthorised, match="none of this"):
        site.judge().claim(handshake(payload={"ticket": ticket_of(other)[0]}))


def test_nobody_can_say_whether_a_ticket_was_used() -> None:
    site = Site()
    given = handshake(payload={"ticket": ticket_of(site)[0]})
    site.logins.away = True
    with pytest.raises(Unavailable):
        site.judge().claim(given)
    site.logins.away = False
    assert site.judge().caller(given).identity == "1"


# -- loading and entering --------------------------------------------------------------


def test_many_users_are_loaded_at_once() -> None:
    site = Site()
    asked: list[Any] = []

    def in_any_order(keys: list[str]) -> Any:
        asked.append(keys)
        return [site.users["t2"], None, User(9, "t9"), site.users["t1"]]

    judge = site.judge(users_loader=lambda: in_any_order)
    assert judge.load(["t1", "t2", "t1", "gone"]) == site.users
    assert asked == [["t1", "t2", "gone"]]
    mapped = site.judge(users_loader=lambda: lambda keys: {1: None, "t1": "u", 2: "v"})
    assert mapped.load(["t1", "2", "1"]) == {"t1": "u", "2": "v"}
    assert site.loaded == []
    assert site.judge().load(["t1", "t2", "gone"]) == site.users
    assert site.loaded == ["t1", "t2", "gone"]
    assert site.judge().load([]) == {}
    assert handshakes_of(Flask("app")).load(["t1"]) == {}


def test_users_live_in_the_context_at_hand() -> None:
    site = Site()
    contexts: list[Any] = []
    site.manager.user_loader(
        lambda key: contexts.append(flask.g._get_current_object()) or site.users[key]
    )
    judge = site.judge()
    with site.app.app_context():
        judge.load(["t1"])
        assert contexts.pop() is flask.g._get_current_object()
        with Flask("other").app_context():
            judge.load(["t1"])
            assert contexts.pop() is not flask.g._get_current_object()
    judge.load(["t1"])
    assert not flask.has_app_context()


def test_flask_logins_user_is_the_one_that_was_loaded() -> None:
    """Pins where Flask-Login keeps the user of a request."""
    site = Site()
    given = handshake(site.cookies())
    mine = User(1, "t1")
    with site.judge().entered(given, mine) as user:
        assert user is mine
        assert flask_login.current_user._get_current_object() is mine
        assert flask.g._login_user is mine
    assert site.loaded == []
    with site.judge().entered(given) as user:
        assert flask_login.current_user._get_current_object() is user
    assert site.loaded == ["t1"]


def test_whoever_is_given_is_entered_only_while_the_login_holds() -> None:
    site = Site()
    judge, given = site.judge(), handshake(site.cookies())
    site.logins.end(Ended(login) for login in judge.claim(given).logins)
    with pytest.raises(SignedOut), judge.entered(given, site.users["t1"]):
        raise AssertionError


def test_a_session_is_neither_written_nor_ended_by_what_a_rule_does() -> None:
    site = Site(SESSION_TYPE="none")
    saved: list[Any] = []

    class Interface(type(site.app.session_interface)):  # type: ignore[misc]
        def save_session(self, *args: Any) -> None:
            saved.append(args)

    given = handshake(site.cookies())
    site.app.session_interface = Interface()
    with site.judge().entered(given):
        flask.session.clear()
        flask_login.login_user(site.users["t2"])
    assert site.judge().caller(given).identity == "1"
    assert saved == []
    assert site.logins.told == []
    with site.judge().entered(given):
        flask_login.logout_user()
    assert len(site.logins.told) == 1
    assert saved == []


def test_contexts_are_left_whatever_happens() -> None:
    site = Site()
    left: list[Any] = []

    def leave(sender: Flask, **_: Any) -> None:
        left.append(sender)

    given = handshake(site.cookies())
    with appcontext_popped.connected_to(leave, site.app):
        site.judge().caller(given)
        with pytest.raises(ZeroDivisionError), site.judge().entered(given):
            raise ZeroDivisionError
        with pytest.raises(RefreshLogin):
            site.judge().caller(handshake("session=x"))
    assert len(left) == 3
    assert not flask.has_request_context()
