"""A server program of the cluster's benchmarks: one process of an application.

Its arguments are ``livepush`` or ``peer``, the file of its database and the URL of its
Redis. The peer is Flask-SocketIO with its message queue, as its documentation has it:
it commits, then emits. Both take ``livepush.subscribe`` and answer ``/write`` with the
same rows, so that one load client drives both.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import flask_socketio
import sqlalchemy as sa
from flask import Flask, jsonify, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column

from bench.processes import BACKLOG, METRICS_TOKEN
from flask_livepush import LivePush
from tests.support.servers import current_mode, serve

kind, file, queue = sys.argv[1:4]
app = Flask("site")
app.config.update(
    SECRET_KEY="secret",
    SQLALCHEMY_DATABASE_URI=f"sqlite:///{file}?timeout=60",
    LIVEPUSH_ALLOW_ANONYMOUS=True,
    LIVEPUSH_MESSAGE_QUEUE=queue,
    LIVEPUSH_METRICS_TOKEN=METRICS_TOKEN,
)
db = SQLAlchemy(app)
livepush = LivePush(app) if kind == "livepush" else None
socketio: Any
if livepush is not None:
    socketio = livepush.socketio
else:
    socketio = flask_socketio.SocketIO(
        app, async_mode=current_mode(), message_queue=queue
    )


class Message(db.Model):  # type: ignore[name-defined,misc]
    """A message, with the time at which it was about to be committed."""

    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int] = mapped_column(index=True)
    body: Mapped[str]
    t: Mapped[float]


with app.app_context():

    @sa.event.listens_for(db.engine, "connect")
    def _connected(connection: Any, _: Any) -> None:
        # Waiting for the disk is the same for all, and would hide what differs.
        connection.execute("PRAGMA synchronous=OFF")

    db.create_all()

if livepush is not None:

    @livepush.room("chat:<int:room_id>")
    def chat(user: object, room_id: int) -> bool:
        """Let everybody in."""
        return True

    livepush.track(rooms=chat, fields=("id", "body", "t"), latest=1_000_000)(Message)
else:

    @socketio.on("livepush.subscribe")
    def subscribe(message: Any) -> Any:
        """Let everybody in."""
        flask_socketio.join_room(message["room"])
        return {"ok": True}


def insert(room: int) -> None:
    """Commit one row, which is told to its room."""
    row = Message(room_id=room, body="x" * 100, t=time.monotonic())
    data = {"body": row.body, "t": row.t}
    db.session.add(row)
    db.session.commit()
    if livepush is None:
        socketio.emit("message.created", data, to=f"chat:{room}")


@app.post("/write/<int:room>")
def write(room: int) -> str:
    """Commit ``count`` rows, ``gap`` seconds from one to the next."""
    count = request.args.get("count", 1, int)
    gap = request.args.get("gap", 0.0, float)
    due = time.monotonic()
    for _ in range(count):
        time.sleep(max(0.0, due - time.monotonic()))
        insert(room)
        due += gap
    return ""


if livepush is not None:
    view = livepush.push_changes(lambda room: insert(room) or "")
    app.add_url_rule("/decorated/<int:room>", "decorated", view, methods=["POST"])


@app.get("/ids/<int:room>")
def ids(room: int) -> Any:
    """Return which rows the database has."""
    found = db.session.scalars(sa.select(Message.id).where(Message.room_id == room))
    return jsonify(sorted(found))


@app.get("/connections")
def connections() -> Any:
    """Return how many connections there are."""
    return jsonify(len(socketio.server.eio.sockets))


if __name__ == "__main__":
    logging.disable()  # nothing measured must pay for a terminal
    if current_mode() == "gevent":
        from gevent.pywsgi import WSGIServer

        from tests.support.servers import announce

        server = WSGIServer(("127.0.0.1", 0), app, log=None, backlog=BACKLOG)
        server.start()
        announce(server.server_port)
        server.serve_forever()
    else:
        serve(app)
