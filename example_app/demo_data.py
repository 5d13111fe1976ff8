"""The users, rooms and messages the chat begins with."""

from __future__ import annotations

import os
import secrets
from datetime import timedelta

from flask import Flask
from werkzeug.security import generate_password_hash

from .models import Membership, Message, Room, User, db, now

_USERS = ("Ada", "Bob", "Grace")
# Name, topic, and for a private room its members.
_ROOMS = (
    ("Lounge", "Whatever comes to mind", ()),
    ("Releases", "What ships, and when", ()),
    ("Engine room", "Ada and Grace alone", ("Ada", "Grace")),
)
_MESSAGES = (
    ("Lounge", "Grace", "Good morning! The new build is on the test machine."),
    ("Lounge", "Ada", "Thanks, I will have a look at it before lunch."),
    ("Lounge", "Bob", "Does it still need the patch from Friday?"),
    ("Lounge", "Grace", "No, that one is in."),
    ("Releases", "Ada", "Version 2.4 goes out on Thursday at ten."),
    ("Releases", "Grace", "I have written the notes; please read them over."),
    ("Engine room", "Grace", "Only the two of us can read this."),
    ("Engine room", "Ada", "Bob gets a 404 for the page, and 103 on the socket."),
)


def fill(app: Flask, *, local: bool = False, reset: bool = False) -> list[str]:
    """Create the tables, and the demo's content where there are no users yet.

    Args:
        local: Only 127.0.0.1 is served: the password may be known to all.
        reset: Delete everything first.

    Returns:
        Lines for the person who started it: who can log in, and how.
    """
    password = os.environ.get("DEMO_PASSWORD", "demo" if local else "")
    with app.app_context():
        if reset:
            db.drop_all()
        db.create_all()
        if db.session.scalar(db.select(User.id).limit(1)) is None:
            password = password or secrets.token_urlsafe(9)
            _add(password)
            db.session.commit()
    password = password or "(as printed when the database was filled)"
    return [
        f"  ada   password {password}   member of the private room",
        f"  bob   password {password}   no member of it",
    ]


def _add(password: str) -> None:
    hashed = generate_password_hash(password)
    users = {name: User(name=name, password_hash=hashed) for name in _USERS}
    rooms = {
        name: Room(name=name, topic=topic, private=bool(members))
        for name, topic, members in _ROOMS
    }
    db.session.add_all([*users.values(), *rooms.values()])
    db.session.flush()
    for name, _, members in _ROOMS:
        for member in members:
            ids = {"room_id": rooms[name].id, "user_id": users[member].id}
            db.session.add(Membership(**ids))
    for number, (room, author, body) in enumerate(_MESSAGES):
        message = Message(
            room_id=rooms[room].id,
            author_id=users[author].id,
            author_name=author,
            body=body,
            created_at=now() - timedelta(minutes=3 * (len(_MESSAGES) - number)),
        )
        db.session.add(message)
        db.session.flush()  # one at a time: their ids are in this order
