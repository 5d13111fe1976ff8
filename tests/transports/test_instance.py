"""An application's Flask-SocketIO, made or adopted."""

from __future__ import annotations

import sys

import flask_socketio
import pytest
import socketio
from flask import Flask

from flask_livepush import LivePush
from flask_livepush.errors import ConfigError
from flask_livepush.transports import instance
from tests.support.connections import Site


def test_chooses_threading_when_nothing_is_patched() -> None:
    import eventlet.patcher
    import gevent.monkey

    assert {"eventlet", "gevent"} <= set(sys.modules)  # installed, imported
    assert not gevent.monkey.is_module_patched("threading")
    assert not eventlet.patcher.is_monkey_patched("thread")
    assert instance.choose_async_mode(None) == "threading"
    assert instance.choose_async_mode("threading") == "threading"
    for mode in ("eventlet", "gevent"):
        with pytest.raises(ConfigError, match="monkey"):
            instance.choose_async_mode(mode)
    assert Site().livepush.socketio.async_mode == "threading"


@pytest.mark.parametrize("mode", ["eventlet", "gevent"])
def test_refuses_to_adopt_a_mode_the_process_is_not_patched_for(mode: str) -> None:
    """Flask-SocketIO chooses what is installed, where nothing else is said."""
    socketio = flask_socketio.SocketIO(Flask("app"), async_mode=mode)
    with pytest.raises(ConfigError, match=f"runs in '{mode}'.*async_mode='threading'"):
        instance.check_adopted(socketio, None)


@pytest.mark.parametrize("engine", ["loop", "stock"])
@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost", "200 OK"),
        ("https://www.example.org", "200 OK"),
        ("https://www.example.com", "400 BAD REQUEST"),
    ],
)
def test_other_origins_are_let_in_besides_the_sites_own(
    engine: str, origin: str, status: str
) -> None:
    """Bug: with LIVEPUSH_CORS_ORIGINS the site's own pages were refused."""
    site = Site(LIVEPUSH_CORS_ORIGINS="https://www.example.org", LIVEPUSH_ENGINE=engine)
    answer = site.app.test_client().get(
        "/socket.io/?EIO=4&transport=polling", headers={"Origin": origin}
    )
    assert answer.status == status
    allowed = answer.headers.get("Access-Control-Allow-Origin")
    assert allowed == (origin if status.startswith("200") else None)


# -- an application that has a SocketIO of its own -----------------------------------


def with_own(**options: object) -> tuple[Flask, flask_socketio.SocketIO]:
    app = Flask("site")
    return app, flask_socketio.SocketIO(app, async_mode="threading", **options)


@pytest.mark.parametrize("path", ["socket.io", "/own/"])
def test_a_socketio_that_is_not_given_is_refused(path: str) -> None:
    """Bug: LivePush(app) took its place, and none of its handlers was called."""
    app, own = with_own(path=path)
    application = app.wsgi_app
    for set_up in (LivePush, LivePush().init_app):
        with pytest.raises(ConfigError, match=r"'site'.*LivePush\(app, socketio="):
            set_up(app)
    assert app.extensions["socketio"] is own
    assert app.wsgi_app is application
    LivePush(app, socketio=own)


@pytest.mark.parametrize("later", ["made with it", "set up"])
def test_a_socketio_that_comes_later_is_refused(later: str) -> None:
    """Bug: the other way round it took ours, and nothing was pushed, without a word."""
    app = Flask("site")
    livepush = LivePush(app)
    application = app.wsgi_app
    own = flask_socketio.SocketIO()
    set_up = flask_socketio.SocketIO if later == "made with it" else own.init_app
    with pytest.raises(ConfigError, match=r"'site'.*LivePush\(app, socketio="):
        set_up(app, async_mode="threading")
    assert app.wsgi_app is application
    assert app.extensions["socketio"] is livepush.socketio
    app.extensions["other"] = "anything"
    app.extensions.setdefault("another", "anything")


def test_another_application_may_have_one() -> None:
    LivePush(Flask("one"))
    with_own()
    flask_socketio.SocketIO()


@pytest.mark.parametrize("kind", ["of no application", "by its queue"])
def test_a_write_only_socketio_is_refused(kind: str) -> None:
    """Bug: an AttributeError of what such a one has not."""
    app = Flask("site")
    if kind == "of no application":
        own = flask_socketio.SocketIO(message_queue="redis://127.0.0.1:1")
    else:
        queue = socketio.RedisManager("redis://127.0.0.1:1", write_only=True)
        own = flask_socketio.SocketIO(app, async_mode="threading", client_manager=queue)
    with pytest.raises(ConfigError, match=r"write-only.*LivePush\(app, socketio="):
        LivePush(app, socketio=own)
    with pytest.raises(ConfigError, match="write-only"):
        LivePush().init_app(app, socketio=own)


def test_a_socketio_of_another_application_is_refused() -> None:
    _, own = with_own()
    with pytest.raises(ConfigError, match=r"'site', not on this one, 'other'"):
        LivePush(Flask("other"), socketio=own)


def test_init_app_adopts() -> None:
    livepush = LivePush()
    livepush.socketio.on("early")(lambda data: ["early", data])
    app, own = with_own()
    own.on("mine")(lambda data: ["mine", data])
    livepush.init_app(app, socketio=own)
    with app.app_context():
        assert livepush.socketio is own
    client = own.test_client(app)
    assert client.emit("mine", 1, callback=True) == ["mine", 1]
    assert client.emit("early", 2, callback=True) == ["early", 2]
    # Each application with its own, and one with ours.
    second, another = with_own()
    livepush.init_app(second, socketio=another)
    third = Flask("third")
    livepush.init_app(third)
    with second.app_context():
        assert livepush.socketio is another
    with third.app_context():
        assert livepush.socketio not in (own, another)


def test_one_of_two_socketios_has_to_be_chosen() -> None:
    app, own = with_own()
    _, other = with_own()
    with pytest.raises(ConfigError, match="another SocketIO"):
        LivePush(socketio=other).init_app(app, socketio=own)
    LivePush(socketio=own).init_app(app, socketio=own)
