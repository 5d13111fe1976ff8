"""The door: who is let in, and what may be whispered there."""

from __future__ import annotations

import json

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column

from flask_livepush import LivePush
from flask_livepush.door import Door
from tests.support.judging import auth as auth_of


@pytest.mark.parametrize(
    ("room", "event", "allowed"),
    [
        ("chat:1", "typing", True),
        ("chat:1", "note.created", True),
        ("chat:1", "message", True),
        ("chat:1", "message.created", False),
        ("chat:1", "message.anything", False),
        ("chat:1", "note.invalidated", False),
        ("desk:1", "typing", True),
        ("desk:1", "pointing", True),
        ("desk:1", "closed", False),
        ("desk:1", "message.seen", False),
        ("quiet:1", "typing", False),
        ("user:1", "typing", False),
        ("nowhere", "typing", False),
    ],
)
def test_nothing_is_whispered_that_a_store_would_take(
    room: str, event: str, allowed: bool
) -> None:
    app = Flask("app")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db = SQLAlchemy(app)
    livepush = LivePush(app)
    chat = livepush.room("chat:<int:room_id>", whisper=True)(lambda user, room_id: True)
    names = iter(["typing", "pointing", "message.seen"])
    desk = livepush.room("desk:<int:room_id>", whisper=names, presence=False)(
        lambda user, room_id: True
    )
    livepush.room("quiet:<int:room_id>", presence=False)(lambda user, room_id: True)

    @livepush.track(rooms=[chat, desk], fields=("id",))
    class Message(db.Model):  # type: ignore[name-defined,misc]
        id: Mapped[int] = mapped_column(primary_key=True)
        room_id: Mapped[int]

    auth = auth_of(app, livepush)
    door = Door(app, livepush._rooms, auth, models=lambda: livepush._models)
    assert door.may_whisper(room, event) is allowed
    assert door.has_presence(room) is (room == "chat:1")


def test_a_snapshot_has_the_rows_of_the_rooms_kinds_alone() -> None:
    app = Flask("app")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db = SQLAlchemy(app)
    livepush = LivePush(app)
    chat = livepush.room("chat:<int:room_id>")(lambda user, room_id: True)
    livepush.room("desk:<int:room_id>")(lambda user, room_id: True)

    @livepush.track(rooms=chat, fields=("id",))
    class Message(db.Model):  # type: ignore[name-defined,misc]
        id: Mapped[int] = mapped_column(primary_key=True)
        room_id: Mapped[int]

    with app.app_context():
        db.create_all()
        db.session.add_all([Message(room_id=1), Message(room_id=2)])
        db.session.commit()
    auth = auth_of(app, livepush)
    door = Door(app, livepush._rooms, auth, models=lambda: livepush._models)
    shown = json.loads(door.rows("chat:1"))
    assert shown["message"]["rows"] == [{"id": 1}]
    assert door.rows("desk:1") == door.rows("nowhere") == "{}"


def test_a_snapshot_is_no_larger_than_a_connection_takes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Bug: one row of 17 MB, and every page of the room was disconnected for ever."""
    app = Flask("app")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db = SQLAlchemy(app)
    livepush = LivePush(app)
    lobby = livepush.room("lobby")(lambda user: True)

    @livepush.track(rooms=lobby, fields=("id", "body"))
    class Message(db.Model):  # type: ignore[name-defined,misc]
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str]

    auth = auth_of(app, livepush)
    door = Door(app, livepush._rooms, auth, models=lambda: livepush._models)
    with app.app_context():
        db.create_all()
        db.session.add_all([Message(body="secret" * 3_000_000), Message(body="b")])
        db.session.commit()
        for _ in range(2):
            rows = json.loads(door.rows("lobby"))["message"]["rows"]
            assert rows == [{"id": 1}, {"id": 2, "body": "b"}]
    assert caplog.text.count("LIVEPUSH_SEND_BUFFER_BYTES") == 1
    assert "secret" not in caplog.text
