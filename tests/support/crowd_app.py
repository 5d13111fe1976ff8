"""An application whose processes have nothing in common but a database and Redis.

What it is told is in its environment: ``CROWD_DATABASE`` (a file of SQLite) and
``CROWD_QUEUE``. As a program its argument is the port to listen on; gunicorn is given
``tests.support.crowd_app:app``.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import sqlalchemy as sa
from flask import Flask, jsonify
from flask.typing import ResponseReturnValue
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.pool import NullPool

from flask_livepush import LivePush
from tests.support.crowd import PING_INTERVAL, PING_TIMEOUT

app = Flask("crowd")
app.config.update(
    SECRET_KEY="secret",
    SQLALCHEMY_DATABASE_URI=f"sqlite:///{os.environ['CROWD_DATABASE']}?timeout=60",
    SQLALCHEMY_ENGINE_OPTIONS={"poolclass": NullPool},
    LIVEPUSH_ALLOW_ANONYMOUS=True,
    LIVEPUSH_MESSAGE_QUEUE=os.environ["CROWD_QUEUE"],
    LIVEPUSH_PING_INTERVAL=PING_INTERVAL,
    LIVEPUSH_PING_TIMEOUT=PING_TIMEOUT,
)
db = SQLAlchemy(app)
livepush = LivePush(app)
logging.getLogger("werkzeug").setLevel(logging.WARNING)  # not each poll


@livepush.room("room:<int:room_id>")
def room(user: object, room_id: int) -> bool:
    """Let everybody in."""
    return True


@livepush.track(rooms=room, fields=("id", "value"), latest=10_000)
class Item(db.Model):  # type: ignore[name-defined,misc]
    """A row."""

    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int]
    value: Mapped[int]


with app.app_context():

    @sa.event.listens_for(db.engine, "connect")
    def on_connect(driver: Any, _: Any) -> None:
        """Let who reads not wait for who writes."""
        driver.execute("PRAGMA journal_mode=WAL")
        driver.execute("PRAGMA synchronous=OFF")

    with db.engine.begin() as connection:
        # Several workers begin at once, and create_all() looks first and creates then.
        table = Item.__table__
        connection.execute(sa.schema.CreateTable(table, if_not_exists=True))


@app.post("/put/<int:room_id>/<int:id>/<int:value>")
def put(room_id: int, id: int, value: int) -> str:
    """Commit a row."""
    db.session.merge(Item(id=id, room_id=room_id, value=value))
    db.session.commit()
    return ""


@app.post("/delete/<int:id>")
def delete(id: int) -> str:
    """Commit that there is no such row."""
    item = db.session.get(Item, id)
    if item is not None:
        db.session.delete(item)
        db.session.commit()
    return ""


@app.get("/rows")
def rows() -> ResponseReturnValue:
    """Return what the database has."""
    found = db.session.scalars(sa.select(Item))
    return jsonify([[item.room_id, item.id, item.value] for item in found])


@app.get("/kept")
def kept() -> ResponseReturnValue:
    """Return which process this is, and how much it keeps for clients."""
    engine = livepush.socketio.server.eio
    forwarding = engine._forwarding
    return jsonify(
        pid=os.getpid(),
        kept={
            "sessions": len(engine.sockets),
            "waiting": len(forwarding._waiting),
            "of_sid": len(forwarding._of_sid),
            "polls": len(forwarding._polls),
        },
    )


if __name__ == "__main__":
    from tests.support.servers import serve

    serve(app, int(sys.argv[1]))
