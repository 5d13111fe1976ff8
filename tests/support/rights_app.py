"""A server program: users and members of rooms in a database, joined by Redis.

Its arguments are the URL of its message queue and that of its database, whose tables
are there already (:func:`create`).
"""

from __future__ import annotations

import sys
from typing import Any

import flask_login
import sqlalchemy as sa
from flask import Flask, jsonify
from flask.typing import ResponseReturnValue
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column

from flask_livepush import LivePush

db = SQLAlchemy()


class User(flask_login.UserMixin, db.Model):  # type: ignore[misc, name-defined]
    """Somebody; known by the name, too."""

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(50))
    active: Mapped[bool] = mapped_column(default=True)

    @property
    def is_active(self) -> bool:
        """Whether the user may do anything."""
        return self.active


class Member(db.Model):  # type: ignore[misc, name-defined]
    """A user may be in a room."""

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int]
    room_id: Mapped[int]


def app_of(queue: str | None, database: str, **settings: Any) -> Flask:
    """Return the application."""
    app = Flask("rights")
    app.config.update(
        SECRET_KEY="secret",
        SQLALCHEMY_DATABASE_URI=database,
        LIVEPUSH_MESSAGE_QUEUE=queue,
        LIVEPUSH_PRESENCE_DAMPING=0,
        **settings,
    )
    app.config.from_prefixed_env()
    db.init_app(app)
    livepush = LivePush(app)
    login = flask_login.LoginManager(app)
    login.user_loader(lambda key: db.session.get(User, int(key)))

    @livepush.room("chat:<int:room_id>", whisper=("typing",))
    def chat(user: Any, room_id: int) -> bool:
        member = sa.select(Member).filter_by(user_id=user.id, room_id=room_id)
        return db.session.scalar(member) is not None

    chat.recheck_on(Member, user="user_id")

    @app.post("/login/<int:user_id>")
    def log_in(user_id: int) -> str:
        flask_login.login_user(db.session.get(User, user_id))
        return ""

    @app.post("/leave/<int:user_id>/<int:room_id>")
    def leave(user_id: int, room_id: int) -> str:
        found = sa.select(Member).filter_by(user_id=user_id, room_id=room_id)
        db.session.delete(db.session.scalars(found).one())
        db.session.commit()
        return ""

    @app.post("/join/<int:user_id>/<int:room_id>")
    def join(user_id: int, room_id: int) -> str:
        db.session.add(Member(user_id=user_id, room_id=room_id))
        db.session.commit()
        return ""

    @app.post("/emit/<int:room_id>/<text>")
    def emit(room_id: int, text: str) -> str:
        chat.emit("said", text, room_id=room_id)
        return ""

    @app.post("/recheck/<int:user_id>")
    def recheck(user_id: int) -> str:
        livepush.recheck(user_id)
        return ""

    @app.get("/presence/<int:room_id>")
    def presence(room_id: int) -> ResponseReturnValue:
        users = livepush.presence(chat.name(room_id=room_id))
        return jsonify(sorted(one["id"] for one in users))

    return app


def create(database: str) -> None:
    """Make the tables: users 1, 2 and 3, all in the rooms 1 and 2."""
    engine = sa.create_engine(database)
    with engine.begin() as connection:
        db.metadatas[None].create_all(connection)
        for number in (1, 2, 3):
            user = {"id": number, "name": f"user {number}", "active": True}
            connection.execute(sa.insert(User.__table__), user)
            for room in (1, 2):
                member = {"user_id": number, "room_id": room}
                connection.execute(sa.insert(Member.__table__), member)
    engine.dispose()


if __name__ == "__main__":
    from tests.support.servers import serve

    serve(app_of(*sys.argv[1:]))
