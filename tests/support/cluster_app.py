"""A server program: one of several processes of an application, joined by Redis.

Its arguments are the file of its database and the URL of its message queue.
"""

from __future__ import annotations

import sys

from flask import Flask, jsonify
from flask.typing import ResponseReturnValue
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.pool import NullPool

from flask_livepush import LivePush

app = Flask("clustered")
app.config.update(
    SECRET_KEY="secret",
    SQLALCHEMY_DATABASE_URI=f"sqlite:///{sys.argv[1]}?timeout=60",
    SQLALCHEMY_ENGINE_OPTIONS={"poolclass": NullPool},
    LIVEPUSH_ALLOW_ANONYMOUS=True,
    LIVEPUSH_MESSAGE_QUEUE=sys.argv[2],
    LIVEPUSH_CHECK_INTERVAL=1,
)
db = SQLAlchemy(app)
livepush = LivePush(app)


@livepush.room("chat:<int:room_id>")
def chat(user: object, room_id: int) -> bool:
    """Let everybody in."""
    return True


@livepush.track(rooms=chat, fields=("id", "body"))
class Message(db.Model):  # type: ignore[name-defined,misc]
    """A message."""

    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int]
    body: Mapped[str]


with app.app_context():
    db.create_all()


@app.post("/write/<int:room_id>/<body>")
def write(room_id: int, body: str) -> ResponseReturnValue:
    """Commit a message."""
    message = Message(room_id=room_id, body=body)
    db.session.add(message)
    db.session.commit()
    return jsonify(message.id)


@app.get("/polled/<sid>")
def polled(sid: str) -> ResponseReturnValue:
    """Return which poll of a session waits in this process; 0: none does."""
    session = livepush.socketio.server.eio.sockets.get(sid)
    return jsonify(0 if session is None or session.poll is None else id(session.poll))


@app.post("/plain/<text>")
def plain(text: str) -> str:
    """Emit as an application does that knows Socket.IO alone."""
    livepush.socketio.emit("news", text)
    return ""


if __name__ == "__main__":
    from tests.support.servers import serve

    serve(app)
