"""A server program with all that can end a login or a right; two of them share a queue.

Its arguments are the URL of its message queue and the file of its database, whose
tables are there already (:func:`create`).
"""

from __future__ import annotations

import sys
from typing import Any

import flask_login
import sqlalchemy as sa
from flask import Flask, abort, jsonify, request, session
from flask.typing import ResponseReturnValue
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.pool import NullPool

from flask_livepush import LivePush

#: How many users there are, all members of the rooms 1 and 2.
USERS = 40

db = SQLAlchemy()


class User(flask_login.UserMixin, db.Model):  # type: ignore[misc, name-defined]
    """Somebody, whom cookies know by an id that can be changed."""

    id: Mapped[int] = mapped_column(primary_key=True)
    alternative_id: Mapped[str] = mapped_column(unique=True)
    active: Mapped[bool] = mapped_column(default=True)

    @property
    def is_active(self) -> bool:
        """Whether the user may do anything."""
        return self.active

    def get_id(self) -> str:
        """Return what cookies have of the user."""
        return self.alternative_id


class Member(db.Model):  # type: ignore[misc, name-defined]
    """A user may be in a room."""

    user_id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int] = mapped_column(primary_key=True)


class Note(db.Model):  # type: ignore[misc, name-defined]
    """What a room shows."""

    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int]
    text: Mapped[str]


def app_of(queue: str, file: str) -> Flask:
    """Return the application."""
    app = Flask("table")
    app.config.update(
        SECRET_KEY="secret",
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{file}?timeout=60",
        SQLALCHEMY_ENGINE_OPTIONS={"poolclass": NullPool},
        LIVEPUSH_MESSAGE_QUEUE=queue,
        LIVEPUSH_PRESENCE_DAMPING=0,
        LIVEPUSH_REVALIDATE_INTERVAL=1,
    )
    app.config.from_prefixed_env()
    db.init_app(app)
    livepush = LivePush(app)
    login = flask_login.LoginManager(app)

    @login.user_loader
    def load(key: str) -> User | None:
        return db.session.scalars(sa.select(User).filter_by(alternative_id=key)).first()

    @livepush.room("chat:<int:room_id>", whisper=("typing",))
    def chat(user: Any, room_id: int) -> bool:
        return db.session.get(Member, (user.id, room_id)) is not None

    chat.recheck_on(Member, user="user_id")
    livepush.track(rooms=chat, fields=("id", "text"))(Note)

    def user_of(number: int) -> User:
        return db.session.get(User, number) or abort(404)

    @app.post("/login/<int:number>")
    def log_in(number: int) -> str:
        session.permanent = app.config.get("SESSION_PERMANENT", True)
        flask_login.login_user(user_of(number), remember="remember" in request.args)
        return ""

    @app.post("/logout")
    def log_out() -> str:
        flask_login.logout_user()
        return ""

    @app.post("/clear")
    def clear() -> str:
        session.clear()
        return ""

    @app.post("/delete/<int:number>")
    def delete(number: int) -> str:
        db.session.delete(user_of(number))
        db.session.commit()
        return ""

    @app.post("/deactivate/<int:number>")
    def deactivate(number: int) -> str:
        user_of(number).active = False
        db.session.commit()
        return ""

    @app.post("/rename/<int:number>")
    def rename(number: int) -> str:
        user_of(number).alternative_id += "-changed"
        db.session.commit()
        return ""

    @app.post("/disconnect/<int:number>")
    def disconnect(number: int) -> str:
        livepush.disconnect_user(user_of(number))
        return ""

    @app.post("/leave/<int:number>/<int:room_id>")
    def leave(number: int, room_id: int) -> str:
        db.session.delete(db.session.get(Member, (number, room_id)))
        db.session.commit()
        return ""

    @app.post("/write/<int:room_id>/<text>")
    def write(room_id: int, text: str) -> str:
        db.session.add(Note(room_id=room_id, text=text))
        db.session.commit()
        return ""

    @app.get("/presence/<int:room_id>")
    def presence(room_id: int) -> ResponseReturnValue:
        users = livepush.presence(chat.name(room_id=room_id))
        return jsonify([one["id"] for one in users])

    @app.get("/who")
    def who() -> ResponseReturnValue:
        user = flask_login.current_user
        return jsonify(user.id if user.is_authenticated else None)

    return app


def create(file: str) -> None:
    """Make the tables."""
    engine = sa.create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        db.metadatas[None].create_all(connection)
        for number in range(1, USERS + 1):
            user = {"id": number, "alternative_id": f"key-{number}", "active": True}
            connection.execute(sa.insert(User.__table__), user)
            for room in (1, 2):
                member = {"user_id": number, "room_id": room}
                connection.execute(sa.insert(Member.__table__), member)
    engine.dispose()


if __name__ == "__main__":
    from tests.support.servers import serve

    serve(app_of(*sys.argv[1:]))
