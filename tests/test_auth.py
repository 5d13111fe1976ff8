"""Who may join: the user as of now, the rule, and nobody by default."""

from __future__ import annotations

import logging
from typing import Any

import flask
import flask_login
import pytest
from werkzeug.exceptions import Forbidden, NotFound

from flask_livepush.auth import Auth, Visitor
from flask_livepush.errors import InvalidRoom, NotAuthorised, Unavailable
from tests.support.connections import Site, User
from tests.support.judging import auth_of as auth


def test_asks_the_rule_with_the_user_and_the_values() -> None:
    site = Site()
    asked: list[Any] = []

    def rule(user: Any, room_id: int) -> bool:
        asked.append((user.id, room_id, flask.request.path))
        return True

    site.chat.rule = rule
    auth(site).admit("chat:42", site.handshake("1"))
    assert asked == [("1", 42, "/socket.io/")]


def test_a_rule_can_build_urls() -> None:
    site = Site()
    built: list[str] = []

    def rule(user: Any, room_id: int) -> bool:
        built.append(flask.url_for("login", name="1"))
        built.append(flask.url_for("login", name="1", _external=True))
        return True

    site.chat.rule = rule
    auth(site).admit("chat:42", site.handshake("1"))
    assert built == ["/login/1", "http://localhost/login/1"]


@pytest.mark.parametrize("answer", [False, None, 0, "", [], ()])
def test_what_is_not_true_is_a_no(answer: Any) -> None:
    site = Site()
    site.chat.rule = lambda user, room_id: answer
    with pytest.raises(NotAuthorised, match="does not allow"):
        auth(site).admit("chat:42", site.handshake("1"))


def test_nobody_is_let_in_by_default() -> None:
    site = Site()
    asked: list[Any] = []
    site.chat.rule = lambda user, room_id: asked.append(user) or True
    with pytest.raises(NotAuthorised, match="Not logged in"):
        auth(site).admit("chat:42", site.handshake())
    assert asked == []
    with pytest.raises(InvalidRoom):
        auth(site).admit("chat:042", site.handshake("1"))
    with pytest.raises(InvalidRoom):
        auth(site).admit("other", site.handshake("1"))


def test_visitors_are_asked_about_where_they_are_allowed() -> None:
    site = Site()
    asked: list[bool] = []

    def rule(user: Any, room_id: int) -> bool:
        asked.append(user.is_authenticated)
        return True

    site.chat.rule = rule
    open_door = auth(site, allow_anonymous=True)
    open_door.admit("chat:42", site.handshake())
    assert asked == [False]
    with pytest.raises(NotAuthorised):
        open_door.admit("user:1", site.handshake())


def test_a_user_is_in_the_own_room_alone() -> None:
    site = Site()
    door = auth(site)
    door.admit("user:1", site.handshake("1"))
    with pytest.raises(NotAuthorised):
        door.admit("user:2", site.handshake("1"))


@pytest.mark.parametrize("error", [NotFound(), Forbidden("no"), NotAuthorised("no")])
def test_a_rule_that_aborts_says_no(error: Exception) -> None:
    site = Site()

    def rule(user: Any, room_id: int) -> bool:
        raise error

    site.chat.rule = rule
    with pytest.raises(NotAuthorised):
        auth(site).admit("chat:42", site.handshake("1"))


def test_a_rule_that_raises_is_logged_with_its_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()

    def broken_rule(user: Any, room_id: int) -> bool:
        raise LookupError("a bug")

    site.chat.rule = broken_rule
    with caplog.at_level(logging.ERROR), pytest.raises(Unavailable) as caught:
        auth(site).admit("chat:42", site.handshake("1"))
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
        auth(site).admit("chat:42", site.handshake("1"))


def test_the_user_is_loaded_anew_each_time() -> None:
    site = Site()
    door, handshake = auth(site), site.handshake("1")
    seen: list[User] = []
    site.chat.rule = lambda user, room_id: seen.append(user) or True
    door.admit("chat:42", handshake)
    site.users["1"] = User("1")
    door.admit("chat:42", handshake)
    assert seen[0] is not seen[1]
    assert site.loaded.count("1") >= 2
    del site.users["1"]
    with pytest.raises(NotAuthorised, match="Not logged in"):
        door.admit("chat:42", handshake)


def test_a_session_that_was_kept_is_not_believed() -> None:
    """Flask-SocketIO keeps a copy, frozen at the first event; a handler may edit it."""
    site = Site()
    handshake = site.handshake("1")
    environ = handshake.environ
    environ["saved_session"] = {"_user_id": "2", "_fresh": True}
    with site.app.request_context(site.environ("2")):
        environ["werkzeug.request"] = flask.request._get_current_object()
    seen: list[str] = []
    site.chat.rule = lambda user, room_id: seen.append(user.id) or True
    auth(site).admit("chat:42", handshake)
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
    handshake = site.handshake("1")
    torn.clear()
    with site.app.app_context():
        flask.g.mark = True
        outer = id(flask.g._get_current_object())
        auth(site).admit("chat:42", handshake)
        assert torn == [1]
        assert flask.g.mark
    with site.app.test_request_context():
        auth(site).admit("chat:42", handshake)
    assert outer not in contexts
    assert not flask.has_app_context()


def test_the_rooms_own_snapshot_is_for_the_user() -> None:
    site = Site()
    door = auth(site)
    assert door.state("chat:42", site.handshake("1")) is None
    site.chat.snapshot(lambda user, room_id: [user.id, room_id])
    assert door.state("chat:42", site.handshake("2")) == '["2",42]'


def test_a_snapshot_that_raises_is_logged_with_its_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()

    @site.chat.snapshot
    def broken_snapshot(user: Any, room_id: int) -> None:
        raise LookupError("a bug")

    with caplog.at_level(logging.ERROR), pytest.raises(Unavailable):
        auth(site).state("chat:42", site.handshake("1"))
    assert "broken_snapshot" in caplog.text


def test_nothing_writes_the_session() -> None:
    site = Site()
    saved: list[Any] = []

    class Interface(type(site.app.session_interface)):  # type: ignore[misc]
        def save_session(self, *args: Any) -> None:
            saved.append(args)

    handshake = site.handshake("1")
    site.app.session_interface = Interface()

    def rule(user: Any, room_id: int) -> bool:
        flask.session["x"] = 1
        flask_login.logout_user()
        return True

    site.chat.rule = rule
    auth(site).admit("chat:42", handshake)
    auth(site).admit("chat:42", handshake)
    assert saved == []


def identified(site: Site, hook: Any) -> Auth:
    site.livepush._identities.info_hook = hook
    return auth(site, allow_anonymous=True)


def test_returns_the_user_and_what_others_may_know() -> None:
    site = Site()
    hook = identified(site, lambda user: {"name": f"User {user.id}", "at": None})
    site.chat.rule = lambda user, room_id: True
    found = hook.admit("chat:42", site.handshake("1"))
    assert found == Visitor("1", '{"name":"User 1","at":null}')
    assert hook.admit("chat:42", site.handshake()) == Visitor(None)
    assert identified(site, None).admit("chat:42", site.handshake("1")) == Visitor("1")
    assert identified(site, lambda user: {}).admit(
        "chat:42", site.handshake("1")
    ) == Visitor("1")


def test_the_hook_is_asked_where_the_rule_was_and_after_it() -> None:
    site = Site()
    asked: list[Any] = []
    site.chat.rule = lambda user, room_id: asked.append(flask.request) or False
    auth = identified(site, lambda user: asked.append(flask.request) or {})
    with pytest.raises(NotAuthorised):
        auth.admit("chat:42", site.handshake("1"))
    site.chat.rule = lambda user, room_id: asked.append(flask.request) or True
    auth.admit("chat:42", site.handshake("1"))
    assert len(asked) == 3
    site.chat.presence = False
    auth.admit("chat:42", site.handshake("1"))
    assert len(asked) == 4


def test_a_rule_is_asked_with_a_user_that_was_loaded_before() -> None:
    site = Site()
    user = User("2")
    seen: list[Any] = []
    site.chat.rule = lambda user, room_id: (
        seen.append((user, flask_login.current_user._get_current_object())) or True
    )
    handshake = site.handshake("1")
    site.loaded.clear()
    assert auth(site).admit("chat:42", handshake, user=user) == Visitor("2")
    assert seen == [(user, user)]
    assert site.loaded == []


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
        assert door.state("chat:42", site.handshake("1")) == sent
    assert [r.levelname for r in caplog.records] == ["ERROR"]
