"""A server program: users who log in by a cookie and share rooms, joined by Redis.

Its argument is the URL of its message queue. With ``RELEASE`` in the environment, the
directory of another version of the package, it runs that one.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

if "RELEASE" in os.environ:
    sys.path.insert(0, os.environ["RELEASE"])

import flask_login
from flask import Flask, abort, jsonify, session
from flask.typing import ResponseReturnValue

from flask_livepush import LivePush

app = Flask("logins")
app.config.update(
    SECRET_KEY="secret",
    LIVEPUSH_MESSAGE_QUEUE=sys.argv[1],
    LIVEPUSH_CHECK_INTERVAL=1,
    LIVEPUSH_PRESENCE_DAMPING=0,
)
app.config.from_prefixed_env()
livepush = LivePush(app)
login = flask_login.LoginManager(app)


class User(flask_login.UserMixin):  # type: ignore[misc]
    """Anybody, known by its id."""

    def __init__(self, id: str) -> None:
        self.id = id


login.user_loader(User)


@livepush.room("chat:<int:room_id>", whisper=("typing",))
def chat(user: Any, room_id: int) -> bool:
    """Let everybody in who is logged in."""
    return bool(user.is_authenticated)


@app.post("/login/<name>")
def log_in(name: str) -> str:
    """Log a user in."""
    session.permanent = True
    flask_login.login_user(User(name))
    return ""


@app.post("/logout")
def log_out() -> str:
    """End the login of the cookie."""
    flask_login.logout_user()
    return ""


@app.get("/who")
def who() -> ResponseReturnValue:
    """Return who the cookie's user is."""
    user = flask_login.current_user
    return jsonify(user.id if user.is_authenticated else None)


@app.post("/emit/<int:room_id>/<text>")
def emit(room_id: int, text: str) -> str:
    """Emit an event to a room."""
    chat.emit("said", text, room_id=room_id)
    return ""


@app.get("/presence/<int:room_id>")
def presence(room_id: int) -> ResponseReturnValue:
    """Return who is in a room."""
    return jsonify(
        sorted(one["id"] for one in livepush.presence(chat.name(room_id=room_id)))
    )


@app.post("/talk/<int:room_id>/<float:pause>")
def talk(room_id: int, pause: float) -> ResponseReturnValue:
    """Emit to a room again and again, as long as this process lives."""
    if pause <= 0:
        abort(400)

    def go_on() -> None:
        while True:
            with app.app_context():
                chat.emit("said", "", room_id=room_id)
            time.sleep(pause)

    threading.Thread(target=go_on, daemon=True).start()
    return ""


@app.get("/sockets")
def sockets() -> ResponseReturnValue:
    """Return how many connections there are."""
    return jsonify(len(livepush.socketio.server.eio.sockets))


if __name__ == "__main__":
    from tests.support.servers import serve

    serve(app)
