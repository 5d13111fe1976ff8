"""An application's Flask-SocketIO, made or adopted."""

from __future__ import annotations

import sys

import flask_socketio
import pytest
from flask import Flask

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
