"""A server program whose connections need a login: what the doctor is sent to."""

from __future__ import annotations

import os
import sys

from flask import Flask
from flask_login import LoginManager, UserMixin, login_user

from flask_livepush import LivePush
from tests.support.servers import serve

app = Flask("visited")
app.config.update(SECRET_KEY="a key of this test alone")
if "--beating" in sys.argv:
    app.config.update(LIVEPUSH_PING_INTERVAL=0.2)
if "--strict" in sys.argv:
    app.config.update(LIVEPUSH_CONNECT_TIMEOUT=1)
if "VISITED_ENGINE" in os.environ:
    app.config.update(LIVEPUSH_ENGINE=os.environ["VISITED_ENGINE"])
livepush = LivePush(app)
logins = LoginManager(app)


@logins.user_loader
def load(name: str) -> UserMixin:
    """Know everybody."""
    user = UserMixin()
    user.id = name
    return user


@app.get("/login")
def login() -> str:
    """Log somebody in."""
    login_user(load("ada"))
    return "ok"


@app.get("/sessions")
def sessions() -> str:
    """Say how many there are."""
    return str(len(livepush.socketio.server.eio.sockets))


if __name__ == "__main__":
    serve(app)
