"""A server program whose logins end when a test says so.

Its argument, if it has one, is the URL of its message queue.
"""

from __future__ import annotations

import gc
import os
import sys
from types import SimpleNamespace
from typing import Any

import flask_login
import psutil
from flask import Flask, jsonify, request

from flask_livepush import LivePush
from flask_livepush.brokers.logins import Ended
from tests.support.ends import wire

app = Flask("ending")
app.config.update(
    SECRET_KEY="secret",
    LIVEPUSH_MESSAGE_QUEUE=sys.argv[1] if len(sys.argv) > 1 else None,
    LIVEPUSH_PRESENCE_DAMPING=0,
)
app.config.from_prefixed_env()  # such as FLASK_LIVEPUSH_ENGINE
livepush = LivePush(app)
manager = flask_login.LoginManager(app)
server = livepush.socketio.server
events = server._trigger_event.__self__
logins = wire(SimpleNamespace(app=app, events=events))


class User(flask_login.UserMixin):  # type: ignore[misc]
    """Anybody."""

    def __init__(self, id: str) -> None:
        self.id = id


manager.user_loader(User)


@livepush.room("chat:<int:room_id>", whisper=("typing",))
def chat(user: Any, room_id: int) -> bool:
    """Let everybody in."""
    return True


@app.get("/login/<name>")
def login(name: str) -> str:
    """Log somebody in."""
    flask_login.login_user(User(name))
    return ""


@app.post("/end")
def end() -> str:
    """End logins, by the names of their users."""
    names = request.get_json()["users"]
    again = bool(request.get_json().get("again"))
    logins.end([Ended(f"login-{name}", again) for name in names])
    return ""


@app.post("/emit/<int:room_id>")
def emit(room_id: int) -> str:
    """Tell a room something."""
    livepush.emit(f"chat:{room_id}", "ding", request.args.get("text"))
    return ""


@app.get("/state")
def state() -> Any:
    """Tell what the process holds."""
    gc.collect()
    process = psutil.Process()
    return jsonify(
        held=[
            len(events._connections.all()),
            len(server.environ),
            len(events._known) + len(events._ended),
            len(server.eio.sockets),
            len(events._node._hub._joined) + len(events._node._hub._rooms),
            len(events._mailboxes._queues),
            sum(map(len, server.manager.rooms.values())),
        ],
        files=len(os.listdir("/proc/self/fd")),
        memory=process.memory_info().rss,
    )


if __name__ == "__main__":
    from tests.support.servers import serve

    serve(app)
