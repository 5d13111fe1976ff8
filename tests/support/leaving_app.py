"""A server program that is told to leave while clients are there.

Its settings are JSON in ``LEAVING_SETTINGS``. Under gunicorn it is
``tests.support.leaving_app:app``, or ``:wrapped``, the same behind a middleware. As a
program it is served by ``livepush.run``; its argument is the port.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable
from typing import Any

import flask_login
from flask import Flask, Request, abort, jsonify, request

from flask_livepush import LivePush
from tests.support.waiting import until

app = Flask("leaving")
app.config.update(
    SECRET_KEY="secret",
    LIVEPUSH_ALLOW_ANONYMOUS=True,
    LIVEPUSH_HISTORY_SIZE=10_000,
)
app.config.update(json.loads(os.environ.get("LEAVING_SETTINGS", "{}")))
login = flask_login.LoginManager(app)
livepush = LivePush(app)


class User(flask_login.UserMixin):  # type: ignore[misc]
    """Somebody who is who the query says."""

    def __init__(self, name: str) -> None:
        self.id = name


@login.request_loader
def load(incoming: Request) -> User | None:
    """Believe the query."""
    name = incoming.args.get("user")
    return User(name) if name else None


@livepush.room("chat:<int:room_id>")
def chat(user: Any, room_id: int) -> bool:
    """Let everybody in."""
    return True


@app.before_request
def refuse_everybody() -> None:
    """Let no view be seen without a login: health is asked for without one."""
    if request.path.startswith("/livepush/"):
        abort(401)


@app.post("/emit/<int:room_id>/<int:number>")
def emit(room_id: int, number: int) -> str:
    """Tell a room a number."""
    chat.emit("tick", number, room_id=room_id)
    return ""


@app.get("/present/<int:room_id>")
def present(room_id: int) -> Any:
    """Say who is in a room."""
    return jsonify([user["id"] for user in livepush.presence(f"chat:{room_id}")])


@app.get("/polled/<sid>")
def polled(sid: str) -> Any:
    """Say whether a poll of a session of this process waits."""
    session = livepush.socketio.server.eio.sockets.get(sid)
    return jsonify(session is not None and session.poll is not None)


@app.get("/pid")
def pid() -> Any:
    """Return the process's id, and how many threads it has."""
    return jsonify(pid=os.getpid(), threads=threading.active_count())


@app.get("/slow")
def slow() -> str:
    """Answer when a file is gone."""
    until(lambda: not os.path.exists(request.args["gate"]))
    return "done"


def wrapped(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Be a middleware of which nobody can tell what is behind it."""
    return app(environ, start_response)


if __name__ == "__main__":
    livepush.run(app, port=int(sys.argv[1]), log_output=False)
