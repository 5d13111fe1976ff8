"""``LivePush``: set up once or several times, and its verbs in and out of contexts."""

from __future__ import annotations

import gc
import weakref
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app
from flask_sqlalchemy import SQLAlchemy
from werkzeug.test import EnvironBuilder

from flask_livepush import ConfigError, EncodingError, LivePush, UsageError
from flask_livepush.protocol.publication import Position
from tests.support.connections import Site, User, connected
from tests.support.waiting import until


def history(livepush: LivePush, app: Flask, room: str) -> list[tuple[str, str]]:
    """Return what was published in a room: events and data."""
    state = livepush._state_of(app)
    until(state.outgoing.finish)
    epoch = state.broker.position(room).epoch
    found = state.broker.history(room, Position(epoch, 0)).publications
    assert found is not None
    return [(p.event, p.data) for p in found]


def declared() -> LivePush:
    livepush = LivePush()
    livepush.room("lobby")(lambda user: True)
    livepush.room("chat:<int:room_id>")(lambda user, room_id: True)
    return livepush


def test_both_ways_of_setting_up_are_the_same() -> None:
    first, second = Flask("first"), Flask("second")
    direct, later = LivePush(first), LivePush()
    later.init_app(second)
    assert first.extensions["livepush"] is direct
    assert second.extensions["livepush"] is later
    for app in (first, second):
        rules = {rule.endpoint for rule in app.url_map.iter_rules()}
        assert "livepush.script" in rules
        assert {"livepush_room", "livepush_script"} <= set(app.jinja_env.globals)


def test_refuses_to_be_set_up_twice_on_one_application() -> None:
    app = Flask("app")
    livepush = LivePush(app)
    with pytest.raises(UsageError, match="already"):
        livepush.init_app(app)
    with pytest.raises(UsageError, match="already"):
        LivePush(app)


def test_a_refused_setting_leaves_the_application_alone() -> None:
    app = Flask("app")
    app.config["LIVEPUSH_MAX_ROOM"] = 1
    with pytest.raises(ConfigError):
        LivePush(app)
    assert "livepush" not in app.extensions
    assert "livepush" not in app.blueprints


def test_verbs_need_no_context_with_one_application() -> None:
    livepush, app = declared(), Flask("app")
    livepush.init_app(app)
    receipt = livepush.emit("lobby", "ding", {"price": Decimal("1.10")})
    assert receipt.outcome == "stored"
    assert receipt.position == livepush.position("lobby")
    assert receipt.position is not None
    assert receipt.position.offset == 1
    assert history(livepush, app, "lobby") == [("ding", '{"price":"1.10"}')]


def test_verbs_say_what_is_missing_without_an_application() -> None:
    livepush = declared()
    for verb in (
        lambda: livepush.emit("lobby", "ding"),
        lambda: livepush.position("lobby"),
        lambda: livepush.notify("1", "ding"),
        lambda: livepush.invalidate("lobby"),
    ):
        with pytest.raises(UsageError, match="no application; call livepush"):
            verb()


def test_several_applications_share_rules_and_nothing_else() -> None:
    livepush, first, second = declared(), Flask("first"), Flask("second")
    livepush.init_app(first)
    livepush.init_app(second)
    for verb in (
        lambda: livepush.emit("lobby", "ding"),
        lambda: livepush.position("lobby"),
        lambda: livepush.socketio,
    ):
        with pytest.raises(UsageError, match=r"several applications.*app_context"):
            verb()
    with first.app_context():
        livepush.emit("lobby", "ding", 1)
        one = livepush.socketio
    with second.app_context():
        livepush.emit("lobby", "ding", 2)
        assert livepush.socketio is not one
    assert history(livepush, first, "lobby") == [("ding", "1")]
    assert history(livepush, second, "lobby") == [("ding", "2")]
    with pytest.raises(UsageError, match="not set up on this application"):
        livepush.run(Flask("third"))


def test_handlers_declared_before_are_kept_for_each_application() -> None:
    livepush = declared()
    livepush.socketio.on("mine")(lambda value: value)
    first, second = Flask("first"), Flask("second")
    livepush.init_app(first)
    livepush.init_app(second)
    for app in (first, second):
        with app.app_context():
            assert "mine" in livepush.socketio.server.handlers["/"]


def test_emits_by_name_and_by_room() -> None:
    livepush, app = declared(), Flask("app")
    livepush.init_app(app)
    chat = livepush._rooms.of_pattern("chat:<int:room_id>")
    lobby = livepush._rooms.of_pattern("lobby")
    assert chat is not None
    assert lobby is not None
    livepush.emit(lobby, "a")
    livepush.emit("chat:42", "b")
    chat.emit("c", [1], room_id=42)
    assert history(livepush, app, "lobby") == [("a", "null")]
    assert history(livepush, app, "chat:42") == [("b", "null"), ("c", "[1]")]


@pytest.mark.parametrize("room", ["chat:042", "nothing", "", None, 42, "chat:"])
def test_refuses_to_emit_to_no_room(room: Any) -> None:
    livepush, app = declared(), Flask("app")
    livepush.init_app(app)
    with pytest.raises(UsageError, match="No rule knows the room"):
        livepush.emit(room, "ding")
    chat = livepush._rooms.of_pattern("chat:<int:room_id>")
    assert chat is not None
    with pytest.raises(UsageError, match="takes room_id"):
        livepush.emit(chat, "ding")


def test_refuses_reserved_events_and_data_that_is_no_json() -> None:
    livepush, app = declared(), Flask("app")
    livepush.init_app(app)
    with pytest.raises(UsageError, match="reserved"):
        livepush.emit("lobby", "livepush.reset")
    with pytest.raises(UsageError, match="reserved"):
        livepush.emit("lobby", "disconnect")
    with pytest.raises(EncodingError):
        livepush.emit("lobby", "ding", {"x": b""})
    assert livepush.position("lobby").offset == 0


def test_notifies_a_user_by_object_or_id() -> None:
    livepush, app = declared(), Flask("app")
    livepush.init_app(app)
    livepush.notify(User("7"), "ding", 1)
    livepush.notify("7", "ding", 2)
    livepush.notify(7, "ding", 3)
    assert history(livepush, app, "user:7") == [
        ("ding", "1"),
        ("ding", "2"),
        ("ding", "3"),
    ]
    livepush.notify("a/b c%20+", "ding")
    assert len(history(livepush, app, "user:a/b c%20+")) == 1


def test_invalidates_a_room_without_models() -> None:
    livepush, app = declared(), Flask("app")
    livepush.init_app(app)
    history(livepush, app, "chat:1")  # somebody has joined
    livepush.invalidate("lobby")
    chat = livepush._rooms.of_pattern("chat:<int:room_id>")
    livepush.invalidate(chat)
    for room in ("lobby", "chat:1"):
        assert history(livepush, app, room) == [("state.invalidated", "{}")]
    for wrong in ("chats:1", object(), Site):
        with pytest.raises(UsageError):
            livepush.invalidate(wrong)


def test_refuses_two_rules_for_one_pattern() -> None:
    livepush = declared()
    with pytest.raises(ConfigError, match="has a rule already"):
        livepush.room("lobby")(lambda user: False)
    with pytest.raises(ConfigError, match="has a rule already"):
        livepush.room("user:<path:name>")(lambda user, name: True)


@pytest.mark.parametrize("database", ["none", "before", "after", "one each"])
def test_holds_no_application_of_a_factory(database: str, tmp_path: Path) -> None:
    """Bug: 25 of 25 applications stayed in memory, each with its database's engine."""
    livepush = LivePush()
    livepush.room("chat:<int:room_id>")(lambda user, room_id: True)
    shared = SQLAlchemy()
    livepush.socketio.on("hello")(lambda data: data)
    url = f"sqlite:///{tmp_path / 'x.db'}"

    class Message(shared.Model):  # type: ignore[name-defined, misc]
        id = shared.Column(shared.Integer, primary_key=True)
        room_id = shared.Column(shared.Integer)

    if database in ("before", "after"):
        livepush.track(rooms=livepush._rooms.of_pattern("chat:<int:room_id>"),
                       fields=("id",))(Message)  # fmt: skip

    def create_app() -> Flask:
        app = Flask("made")
        app.config.update(SECRET_KEY="secret", SQLALCHEMY_DATABASE_URI=url)
        db = SQLAlchemy() if database == "one each" else shared
        extensions = [livepush] if database == "none" else [db, livepush]
        for extension in extensions[:: -1 if database == "after" else 1]:
            extension.init_app(app)
        page = livepush.page("chat:<int:room_id>")(lambda room_id: "page")
        app.get("/<int:room_id>")(page)
        return app

    made = []
    for _ in range(25):
        app = create_app()
        made.append(weakref.ref(app))
        with app.app_context():
            assert livepush.emit("chat:1", "hello").position.offset == 1
            assert "hello" in livepush.socketio.server.handlers["/"]
            if database in ("before", "after"):
                shared.create_all()
                shared.session.add(Message(room_id=1))
                shared.session.commit()
                assert livepush.position("chat:1").offset == 2
        assert app.test_client().get("/1").text == "page"
    gc.collect()
    assert [ref() for ref in made if ref() is not None] == [app]
    assert livepush.emit("chat:1", "hello").outcome == "stored"
    del app
    gc.collect()
    assert made[-1]() is None
    with pytest.raises(UsageError, match="keep the application"):
        livepush.emit("chat:1", "hello")


def test_handlers_declared_before_applications_hold_for_each() -> None:
    """Bug: those of the second asked the first's server, which knew nobody of them."""
    livepush = LivePush()
    livepush.socketio.on("hello")(lambda data: [data, current_app.name])
    for name in ("one", "two"):
        app = Flask(name)
        app.config.update(SECRET_KEY="secret", LIVEPUSH_ALLOW_ANONYMOUS=True)
        livepush.init_app(app)
        with app.app_context():
            server = livepush.socketio.server
        environ = EnvironBuilder(path="/socket.io/?EIO=4").get_environ()
        connection = connected(server, {**environ, "flask.app": app})
        connection.connect()
        assert connection.call("hello", 5) == [5, name]


def test_holds_the_application_it_is_made_with() -> None:
    livepush = LivePush(Flask("app"))
    livepush.room("lobby")(lambda user: True)
    gc.collect()
    assert livepush.emit("lobby", "hello").outcome == "stored"


def test_an_adopted_socketio_serves_one_application() -> None:
    from flask_socketio import SocketIO

    app = Flask("app")
    own = SocketIO(app, async_mode="threading")
    livepush = LivePush(app, socketio=own)
    assert livepush.socketio is own
    with pytest.raises(ConfigError, match="adopted"):
        livepush.init_app(Flask("another"))


def test_says_who_is_in_a_room() -> None:
    app = Flask("app")
    livepush = LivePush(app)
    livepush.room("chat:<int:room_id>")(lambda user, room_id: True)
    presence = livepush._app().presence
    presence.join("s", "chat:1", "7", '{"name":"Ada"}')
    presence.join("t", "chat:1", "8")
    assert livepush.presence("chat:1") == [
        {"id": "7", "info": {"name": "Ada"}},
        {"id": "8"},
    ]
    assert livepush.presence("chat:2") == []
    for room in ("user:7", "other"):
        with pytest.raises(UsageError):
            livepush.presence(room)
    presence.close()


def test_refuses_two_identities() -> None:
    livepush = LivePush()
    hook = livepush.identity(lambda user: {})
    assert hook(None) == {}
    with pytest.raises(ConfigError, match="keep one"):
        livepush.identity(lambda user: {})
