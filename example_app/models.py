"""The tables, who may read what, and which of it is live.

Everything that makes the chat live on the server is in this file and in the four
decorators and two calls of ``views.py`` that have ``livepush`` in them.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from flask_login import UserMixin
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import (
    Connection,
    DateTime,
    Dialect,
    Engine,
    ForeignKey,
    Select,
    String,
    event,
    select,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from flask_livepush import LivePush


class Base(DeclarativeBase):
    """What Flask-SQLAlchemy makes ``db.Model`` from."""


db = SQLAlchemy(model_class=Base)
livepush = LivePush()


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time. SQLite forgets the offset, and browsers would guess it."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(
        self, value: datetime | None, dialect: Dialect
    ) -> datetime | None:
        """Say that what has no offset is UTC."""
        return value.replace(tzinfo=timezone.utc) if value else None


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(timezone.utc)


class User(UserMixin, db.Model):
    """Somebody who can log in."""

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40), unique=True)
    password_hash: Mapped[str] = mapped_column(String(255))

    def rooms(self) -> Select[Any]:
        """Select the rooms this user may read, which is all there is to permissions."""
        joined = select(Membership.room_id).where(Membership.user_id == self.id)
        readable = Room.private.is_(False) | Room.id.in_(joined)
        return select(Room).where(readable).order_by(Room.id)

    def room(self, room_id: int) -> Room | None:
        """Return one of them; None where it does not exist or is not theirs."""
        found: Room | None = db.session.scalar(self.rooms().where(Room.id == room_id))
        return found

    def unread(self) -> dict[int, list[int]]:
        """Return the unread messages of each room, the ids of the newest thousand."""
        found: dict[int, list[int]] = {}
        query = (
            select(Message.room_id, Message.id)
            .outerjoin(
                Reading,
                (Reading.room_id == Message.room_id) & (Reading.user_id == self.id),
            )
            .where(
                Message.room_id.in_(self.rooms().with_only_columns(Room.id)),
                Message.author_id != self.id,
                Message.id > db.func.coalesce(Reading.last_read_id, 0),
            )
            .order_by(Message.id.desc())
            .limit(1000)
        )
        for room_id, message_id in db.session.execute(query):
            found.setdefault(room_id, []).append(message_id)
        return found


class Room(db.Model):
    """A place to talk: open to all users, or private to its members."""

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40), unique=True)
    topic: Mapped[str] = mapped_column(String(120))
    private: Mapped[bool] = mapped_column(default=False)

    def reader_ids(self) -> list[int]:
        """Return the ids of the users who may read this room."""
        if not self.private:
            return list(db.session.scalars(select(User.id)))
        members = select(Membership.user_id).where(Membership.room_id == self.id)
        return list(db.session.scalars(members))


class Membership(db.Model):
    """That a user may read a private room."""

    room_id: Mapped[int] = mapped_column(ForeignKey(Room.id), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey(User.id), primary_key=True)


# 1. Who may follow a room's messages: the same question as for its page. Without such
#    a rule, nobody may.
@livepush.room("chat:<int:room_id>", whisper=("typing",))  # kept nowhere
def chat(user: User, room_id: int) -> bool:
    """Say whether a user may follow a room."""
    return user.room(room_id) is not None


# Who is put out of a private room is put out of its live room too, and whoever is no
# member when it becomes private: the rule is asked again when such rows are committed.
chat.recheck_on(Membership, user="user_id")
chat.recheck_on(Room, columns={"room_id": "id"})


# What the others in a room may know of a user who is there.
@livepush.user_info
def user_info(user: User) -> dict[str, str]:
    """Tell a user's name."""
    return {"name": user.name}


# 2. What goes to the room: these fields of each message, whoever commits it. Its column
#    room_id says which room. A newcomer starts from the latest hundred.
FIELDS = ("id", "body", "author_id", "author_name", "created_at", "edited_at")


@livepush.track(rooms=chat, fields=FIELDS, latest=100)
class Message(db.Model):
    """What somebody said."""

    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int] = mapped_column(ForeignKey(Room.id), index=True)
    author_id: Mapped[int] = mapped_column(ForeignKey(User.id))
    # A copy: what is pushed comes from this row alone.
    author_name: Mapped[str] = mapped_column(String(40))
    body: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    edited_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Reading(db.Model):
    """How far a user has read a room."""

    user_id: Mapped[int] = mapped_column(ForeignKey(User.id), primary_key=True)
    room_id: Mapped[int] = mapped_column(ForeignKey(Room.id), primary_key=True)
    last_read_id: Mapped[int] = mapped_column(default=0)


# 3. What goes to one user, on every device: `notify` in views.py says which message
#    became unread, and this is what a device starts from that missed some of it. They
#    are ids and no counts: "message 7 is unread" is true in any order, and twice.
@livepush.user.snapshot
def unread(user: User, user_id: str) -> dict[int, list[int]]:
    """Return the ids of the user's unread messages, by room."""
    return user.unread()


def set_up_sqlite(engine: Engine) -> None:
    """Leave BEGIN to us: Python's driver forgets it, so that savepoints would leak.

    Source: SQLAlchemy's page on pysqlite, "Serializable isolation, savepoints …".
    """

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # IMMEDIATE: writers wait for each other, instead of failing half-way with
        # "database is locked".
        connection.exec_driver_sql("BEGIN IMMEDIATE")
