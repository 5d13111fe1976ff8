"""Who may join: the user as of now, the rule, and nobody by default."""

from __future__ import annotations

import logging
from typing import Any

import flask
import flask_login
import pytest
from flask import Flask
from werkzeug.exceptions import Forbidden, NotFound
from werkzeug.test import EnvironBuilder

from flask_livepush import LivePush
from flask_livepush.auth import Auth, Visitor, id_of
from flask_livepush.errors import InvalidRoom, NotAuthorised, Unavailable
from tests.support.connections import Site, User


def auth(site: Site, *, allow_anonymous: bool = False) -> Auth:
    return Auth(site.app, site.livepush._rooms, allow_anonymous=allow_anonymous)


def test_asks_the_rule_with_the_user_and_the_values() -> None:
    site = Site()
    asked: list[Any] = []

    def rule(user: Any, room_id: int) -> bool:
        asked.append((user.id, room_id, flask.request.path))
        return True

    site.chat.rule = rule
    auth(site).admit("chat:42", site.environ("1"))
    assert asked == [("1", 42, "/socket.io/")]


def test_a_rule_can_build_urls() -> None:
    site = Site()
    built: list[str] = []

    def rule(user: Any, room_id: int) -> bool:
        built.append(flask.url_for("login", name="1"))
        built.append(flask.url_for("login", name="1", _external=True))
        return True

    site.chat.rule = rule
    auth(site).admit("chat:42", site.environ("1"))
    assert built == ["/login/1", "http://localhost/login/1"]


@pytest.mark.parametrize("answer", [False, None, 0, "", [], ()])
def test_what_is_not_true_is_a_no(answer: Any) -> None:
    site = Site()
    site.chat.rule = lambda user, room_id: answer
    with pytest.raises(NotAuthorised, match="does not allow"):
        auth(site).admit("chat:42", site.environ("1"))


def test_nobody_is_let_in_by_default() -> None:
    site = Site()
    asked: list[Any] = []
    site.chat.rule = lambda user, room_id: asked.append(user) or True
    with pytest.raises(NotAuthorised, match="Not logged in"):
        auth(site).admit("chat:42", site.environ())
    assert asked == []
    with pytest.raises(InvalidRoom):
        auth(site).admit("chat:042", site.environ("1"))
    with pytest.raises(InvalidRoom):
        auth(site).admit("other", site.environ("1"))
    assert not auth(site).may_connect(site.environ())
    assert auth(site).may_connect(site.environ("1"))


def test_visitors_are_asked_about_where_they_are_allowed() -> None:
    site = Site()
    asked: list[bool] = []

    def rule(user: Any, room_id: int) -> bool:
        asked.append(user.is_authenticated)
        return True

    site.chat.rule = rule
    open_door = auth(site, allow_anonymous=True)
    assert open_door.may_connect(site.environ())
    open_door.admit("chat:42", site.environ())
    assert asked == [False]
    with pytest.raises(NotAuthorised):
        open_door.admit("user:1", site.environ())


def test_a_user_is_in_the_own_room_alone() -> None:
    site = Site()
    door = auth(site)
    door.admit("user:1", site.environ("1"))
    with pytest.raises(NotAuthorised):
        door.admit("user:2", site.environ("1"))
    assert id_of(site.users["1"]) == id_of("1") == id_of(1) == "1"


@pytest.mark.parametrize("error", [NotFound(), Forbidden("no"), NotAuthorised("no")])
def test_a_rule_that_aborts_says_no(error: Exception) -> None:
    site = Site()

    def rule(user: Any, room_id: int) -> bool:
        raise error

    site.chat.rule = rule
    with pytest.raises(NotAuthorised):
        auth(site).admit("chat:42", site.environ("1"))


def test_a_rule_that_raises_is_logged_with_its_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()

    def broken_rule(user: Any, room_id: int) -> bool:
        raise LookupError("a bug")

    site.chat.rule = broken_rule
    with caplog.at_level(logging.ERROR), pytest.raises(Unavailable) as caught:
        auth(site).admit("chat:42", site.environ("1"))
    assert "broken_rule" in caplog.text
    assert "chat:<int:room_id>" in caplog.text
    assert "a bug" in caplog.text
    assert "bug" not in caught.value.message


def test_a_rule_that_returns_an_awaitable_lets_nobody_in(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()

    class Later:
        def __await__(self) -> Any:
            yield

    site.chat.rule = lambda user, room_id: Later()
    with caplog.at_level(logging.ERROR), pytest.raises(Unavailable):
        auth(site).admit("chat:42", site.environ("1"))


def test_the_user_is_loaded_anew_each_time() -> None:
    site = Site()
    door, environ = auth(site), site.environ("1")
    seen: list[User] = []
    site.chat.rule = lambda user, room_id: seen.append(user) or True
    door.admit("chat:42", environ)
    site.users["1"] = User("1")
    door.admit("chat:42", environ)
    assert seen[0] is not seen[1]
    assert site.loaded.count("1") >= 2
    del site.users["1"]
    with pytest.raises(NotAuthorised, match="Not logged in"):
        door.admit("chat:42", environ)
    assert not door.may_connect(environ)


def test_a_session_that_was_kept_is_not_believed() -> None:
    """Flask-SocketIO keeps a copy, frozen at the first event; a handler may edit it."""
    site = Site()
    environ = site.environ("1")
    environ["saved_session"] = {"_user_id": "2", "_fresh": True}
    with site.app.request_context(site.environ("2")):
        environ["werkzeug.request"] = flask.request._get_current_object()
    seen: list[str] = []
    site.chat.rule = lambda user, room_id: seen.append(user.id) or True
    auth(site).admit("chat:42", environ)
    assert seen == ["1"]
    assert environ["saved_session"]["_user_id"] == "2"  # and is left alone


def test_each_decision_has_a_fresh_application_context() -> None:
    site = Site()
    contexts: list[int] = []
    torn: list[int] = []

    def rule(user: Any, room_id: int) -> bool:
        assert not hasattr(flask.g, "mark")
        flask.g.mark = True
        contexts.append(id(flask.g._get_current_object()))
        return True

    site.app.teardown_appcontext(lambda error: torn.append(1))
    site.chat.rule = rule
    environ = site.environ("1")
    torn.clear()
    with site.app.app_context():
        flask.g.mark = True
        outer = id(flask.g._get_current_object())
        auth(site).admit("chat:42", environ)
        assert torn == [1]
        assert flask.g.mark
    with site.app.test_request_context():
        auth(site).admit("chat:42", environ)
    assert outer not in contexts
    assert not flask.has_app_context()


def test_an_application_without_flask_login_has_visitors_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Flask(__name__)
    livepush = LivePush(app)
    livepush.room("lobby")(lambda user: not user.is_authenticated)
    environ = EnvironBuilder().get_environ()
    with caplog.at_level(logging.WARNING):
        door = Auth(app, livepush._rooms, allow_anonymous=True)
        door.admit("lobby", environ)
        door.admit("lobby", environ)
    assert caplog.text.count("LoginManager") == 1
    assert not Auth(app, livepush._rooms, allow_anonymous=False).may_connect(environ)


def test_the_rooms_own_snapshot_is_for_the_user() -> None:
    site = Site()
    door = auth(site)
    assert door.state("chat:42", site.environ("1")) is None
    site.chat.snapshot(lambda user, room_id: [user.id, room_id])
    assert door.state("chat:42", site.environ("2")) == '["2",42]'


def test_a_snapshot_that_raises_is_logged_with_its_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()

    @site.chat.snapshot
    def broken_snapshot(user: Any, room_id: int) -> None:
        raise LookupError("a bug")

    with caplog.at_level(logging.ERROR), pytest.raises(Unavailable):
        auth(site).state("chat:42", site.environ("1"))
    assert "broken_snapshot" in caplog.text


def test_nothing_writes_the_session() -> None:
    site = Site()
    saved: list[Any] = []

    class Interface(type(site.app.session_interface)):  # type: ignore[misc]
        def save_session(self, *args: Any) -> None:
            saved.append(args)

    environ = site.environ("1")
    site.app.session_interface = Interface()

    def rule(user: Any, room_id: int) -> bool:
        flask.session["x"] = 1
        flask_login.logout_user()
        return True

    site.chat.rule = rule
    auth(site).admit("chat:42", environ)
    auth(site).admit("chat:42", environ)
    assert saved == []


def identified(site: Site, hook: Any) -> Auth:
    return Auth(
        site.app, site.livepush._rooms, allow_anonymous=True, identity=lambda: hook
    )


def test_returns_the_user_and_what_the_identity_hook_tells() -> None:
    site = Site()
    hook = identified(site, lambda user: {"name": f"User {user.id}", "at": None})
    site.chat.rule = lambda user, room_id: True
    found = hook.admit("chat:42", site.environ("1"))
    assert found == Visitor("1", '{"name":"User 1","at":null}')
    assert identified(site, None).admit("chat:42", site.environ("1")) == Visitor("1")
    assert identified(site, lambda user: {}).admit(
        "chat:42", site.environ("1")
    ) == Visitor("1")
    assert hook.admit("chat:42", site.environ()) == Visitor(None)


def test_the_identity_hook_is_asked_where_the_rule_was_and_after_it() -> None:
    site = Site()
    asked: list[Any] = []
    site.chat.rule = lambda user, room_id: asked.append(flask.request) or False
    auth = identified(site, lambda user: asked.append(flask.request) or {})
    with pytest.raises(NotAuthorised):
        auth.admit("chat:42", site.environ("1"))
    site.chat.rule = lambda user, room_id: asked.append(flask.request) or True
    auth.admit("chat:42", site.environ("1"))
    assert len(asked) == 3
    site.chat.presence = False
    auth.admit("chat:42", site.environ("1"))
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("told", "info"),
    [
        (None, ""),
        ("Ada", ""),
        (["Ada"], ""),
        ({"at": b"x"}, ""),
        ({"at": b"x", "name": "Ada"}, '{"name":"Ada"}'),
        ({"name": "\ud83d", "n": 2**53, "f": float("inf")}, ""),
    ],
    ids=repr,
)
def test_an_identity_that_can_not_be_sent_keeps_nobody_out(
    told: Any, info: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Bug: a user whose name ends with half an emoji could join no room any more."""
    site = Site()
    site.chat.rule = lambda user, room_id: True
    hook = identified(site, lambda user: told)
    for _ in range(2):
        assert hook.admit("chat:42", site.environ("1")) == Visitor("1", info)
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    assert "identity" in caplog.text
    assert "Ada" not in caplog.text


def test_an_identity_hook_that_raises_keeps_nobody_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()
    site.chat.rule = lambda user, room_id: True

    def hook(user: Any) -> Any:
        raise LookupError("a bug")

    found = identified(site, hook).admit("chat:42", site.environ("1"))
    assert found == Visitor("1")
    assert "a bug" in caplog.text


@pytest.mark.parametrize(
    ("state", "sent"),
    [
        ({"topic": "x", "ratio": float("nan")}, '{"topic":"x"}'),
        ({"users": [{"name": "\udc00"}]}, "{}"),
        ([1, float("inf")], None),
    ],
    ids=repr,
)
def test_what_a_snapshot_returns_is_sent_without_what_can_not_be(
    state: Any, sent: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Bug: one such value, and nobody could join the room."""
    site = Site()
    site.chat.snapshot(lambda user, room_id: state)
    door = auth(site)
    for _ in range(2):
        assert door.state("chat:42", site.environ("1")) == sent
    assert [r.levelname for r in caplog.records] == ["ERROR"]
