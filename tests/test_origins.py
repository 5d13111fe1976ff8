"""Servers that every site may use are refused where visitors log in by cookie."""

from __future__ import annotations

from typing import Any

import flask_login
import pytest
from flask import Flask
from flask_socketio import SocketIO

from flask_livepush import ConfigError, LivePush

OPEN: list[Any] = ["*", ["*"], ("*",), {"*"}, ["https://a.example", "*"], [], "null"]
CLOSED: list[Any] = [
    None,
    "https://a.example",
    ["https://a.example"],
    ("https://a.example", "https://b.example"),
    (),  # engineio compares with [] alone: nobody is let in
    lambda origin, environ: origin == "https://a.example",
]


def application(allowed: Any) -> tuple[Flask, SocketIO]:
    app = Flask("site")
    app.config["SECRET_KEY"] = "secret"
    return app, SocketIO(app, async_mode="threading", cors_allowed_origins=allowed)


def log_in_by_cookie(app: Flask) -> None:
    manager = flask_login.LoginManager(app)
    manager.user_loader(lambda user_id: None)


@pytest.mark.parametrize("allowed", OPEN, ids=repr)
def test_refuses_to_adopt_a_server_that_every_site_may_use(allowed: Any) -> None:
    app, socketio = application(allowed)
    log_in_by_cookie(app)
    with pytest.raises(ConfigError) as caught:
        LivePush(app, socketio=socketio)
    sentence = str(caught.value)
    assert "cors_allowed_origins" in sentence
    assert "['https://www.example.org']" in sentence


@pytest.mark.parametrize("allowed", CLOSED, ids=repr)
def test_adopts_a_server_that_says_whose_pages_may(allowed: Any) -> None:
    app, socketio = application(allowed)
    log_in_by_cookie(app)
    LivePush(app, socketio=socketio)


@pytest.mark.parametrize("allowed", ["*", []], ids=repr)
def test_refuses_connections_where_the_login_is_set_up_later(allowed: Any) -> None:
    app, socketio = application(allowed)
    LivePush(app, socketio=socketio)
    log_in_by_cookie(app)
    app.get("/")(lambda: "shown")
    client = app.test_client()
    with pytest.raises(ConfigError, match="log in by cookie"):
        client.get("/socket.io/?EIO=4&transport=polling")
    assert client.get("/").text == "shown"


@pytest.mark.parametrize("logins", ["none", "tokens"])
def test_adopts_it_where_no_cookie_says_who_a_visitor_is(logins: str) -> None:
    app, socketio = application("*")
    if logins == "tokens":
        manager = flask_login.LoginManager(app)
        manager.request_loader(lambda request: None)
    LivePush(app, socketio=socketio)
    answer = app.test_client().get(
        "/socket.io/?EIO=4&transport=polling", headers={"Origin": "https://b.example"}
    )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "origins", ["*", ["*"], ["https://*.example.org"], ["https://a.example", "*"]]
)
def test_our_own_setting_has_no_star(origins: Any) -> None:
    app = Flask("site")
    app.config["LIVEPUSH_CORS_ORIGINS"] = origins
    with pytest.raises(ConfigError, match=r"list .*origins? of your own front ends"):
        LivePush(app)
