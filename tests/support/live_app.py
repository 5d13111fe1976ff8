"""A server program: an application with a database, rooms, and doors for the tests.

Its only argument is the file of its database. Under gunicorn, which has arguments of
its own, the file is in the environment.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import flask_login
import sqlalchemy as sa
from flask import Flask, jsonify, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.pool import NullPool

from flask_livepush import LivePush
from tests.support.waiting import DEADLINE

app = Flask("live")
file = os.environ.get("LIVE_DATABASE") or sys.argv[1]
app.config.update(
    SECRET_KEY="secret",
    SQLALCHEMY_DATABASE_URI=f"sqlite:///{file}?timeout=60",
    SQLALCHEMY_ENGINE_OPTIONS={"poolclass": NullPool},
    LIVEPUSH_HISTORY_SIZE=1000,
    LIVEPUSH_MAX_PENDING_MESSAGES=200,
)
app.config.from_prefixed_env()  # such as FLASK_LIVEPUSH_ENGINE
db = SQLAlchemy(app)
livepush = LivePush(app)
login = flask_login.LoginManager(app)
gate = threading.Event()
asked = threading.Event()


class User(flask_login.UserMixin):  # type: ignore[misc]
    """Whoever says so."""

    id = "1"


@login.request_loader
def load(incoming: Any) -> User | None:
    """Let everybody be a user who sends the header."""
    return User() if incoming.headers.get("X-User") else None


@livepush.room("chat:<int:room_id>")
def chat(user: Any, room_id: int) -> bool:
    """Let users in, except into room 7."""
    return room_id != 7


@livepush.room("slow:<int:number>")
def slow(user: Any, number: int) -> bool:
    """Answer when the gate is opened."""
    asked.set()
    return gate.wait(DEADLINE)


@livepush.track(rooms=chat, fields=("id", "body"), latest=10_000)
class Message(db.Model):  # type: ignore[name-defined,misc]
    """A message."""

    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int]
    body: Mapped[str]


with app.app_context():
    if db.engine.dialect.name == "sqlite":
        # The driver's own transactions would commit at a SAVEPOINT.
        @sa.event.listens_for(db.engine, "connect")
        def _connected(connection: Any, record: Any) -> None:
            connection.isolation_level = None

        @sa.event.listens_for(db.engine, "begin")
        def _begun(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    db.create_all()


@app.post("/write/<int:room_id>")
def write(room_id: int) -> str:
    """Commit messages, one by one."""
    tail = "x" * int(request.args.get("size", 0))
    for number in range(int(request.args.get("count", 1))):
        db.session.add(Message(room_id=room_id, body=f"{number}{tail}"))
        db.session.commit()
    return ""


@app.get("/ids/<int:room_id>")
def ids(room_id: int) -> Any:
    """Return what the database has."""
    found = db.session.scalars(
        sa.select(Message.id).where(Message.room_id == room_id).order_by(Message.id)
    )
    return jsonify(list(found))


@app.post("/gate/<state>")
def turn(state: str) -> str:
    """Open the gate of slow rooms, or close it."""
    if state == "open":
        gate.set()
    else:
        gate.clear()
        asked.clear()
    return ""


@app.get("/asked")
def was_asked() -> str:
    """Wait until a slow room's rule is being asked."""
    return str(asked.wait(DEADLINE))


@app.get("/left")
def left() -> Any:
    """Return how many subscribers, rooms and connections there are."""
    server = livepush.socketio.server
    node = server._trigger_event.__self__._node
    hub = node._hub
    return jsonify([len(hub._joined), len(hub._rooms), len(server.environ)])


if __name__ == "__main__":
    from tests.support.servers import serve

    serve(app)
