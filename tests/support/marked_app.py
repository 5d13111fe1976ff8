"""A server program whose users, rooms and values have names that no log may have.

Its arguments are the URL of its message queue and the file of its database. All of the
package's loggers print everything.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import flask_login
import sqlalchemy as sa
from flask import Flask, request, session
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.pool import NullPool

from flask_livepush import LivePush

logging.basicConfig(level=logging.WARNING)
logging.getLogger("flask_livepush").setLevel(logging.DEBUG)

app = Flask("marked")
app.config.update(
    SECRET_KEY="secret",
    SQLALCHEMY_DATABASE_URI=f"sqlite:///{sys.argv[2]}?timeout=60",
    SQLALCHEMY_ENGINE_OPTIONS={"poolclass": NullPool},
    LIVEPUSH_MESSAGE_QUEUE=sys.argv[1],
    LIVEPUSH_CHECK_INTERVAL=0.5,
    LIVEPUSH_PRESENCE_DAMPING=0,
    LIVEPUSH_REVALIDATE_INTERVAL=1,
    LIVEPUSH_MAX_PUBLICATION_BYTES=2000,
    LIVEPUSH_METRICS_TOKEN="a-token-of-sixteen",
)
app.config.from_prefixed_env()
db = SQLAlchemy(app)
livepush = LivePush(app)
login = flask_login.LoginManager(app)


class User(flask_login.UserMixin):  # type: ignore[misc]
    """Anybody, known by its id."""

    def __init__(self, id: str) -> None:
        self.id = id


login.user_loader(User)
failing: set[str] = set()


def fail(what: str, value: str) -> None:
    """Fail as dicts do, if that is wanted."""
    if what in failing:
        {}[value]


@livepush.user_info
def info(user: Any) -> dict[str, Any]:
    """Tell the name."""
    fail("info", user.id)
    return {"name": user.id}


@livepush.room("chat:<name>", whisper=("typing",))
def chat(user: Any, name: str) -> bool:
    """Let everybody in, but for one room."""
    fail("rule", name)
    return name != "ROOMMARK-closed"


@chat.snapshot
def state(user: Any, name: str) -> dict[str, Any]:
    """Return something of the room."""
    fail("snapshot", name)
    return {"name": name}


def places(row: Any) -> Any:
    """Return the room's name, or one that no rule knows."""
    fail("rooms", row.body)
    return "nowhere:ROOMMARK" if "unknown" in failing else f"chat:{row.name}"


def shortened(row: Any) -> Any:
    """Return something of the text."""
    fail("field", row.body)
    return b"VALUEMARK" if "bytes" in failing else row.body[:20]


@livepush.track(
    rooms=places,
    of=chat,
    columns=("name", "body"),
    fields={"id": "id", "body": "body", "short": shortened},
)
class Message(db.Model):  # type: ignore[name-defined,misc]
    """A message."""

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    body: Mapped[str]
    code: Mapped[str | None] = mapped_column(unique=True)


with app.app_context():
    db.create_all()


@app.post("/login/<kind>")
def log_in(kind: str) -> str:
    """Log the marked user in."""
    session.permanent = True
    flask_login.login_user(User(f"USERMARK-{kind}"))
    return ""


@app.post("/logout")
def log_out() -> str:
    """End the login."""
    flask_login.logout_user()
    return ""


@app.post("/failing")
def choose() -> str:
    """Say what fails from now on."""
    failing.clear()
    failing.update(request.get_json())
    return ""


@app.post("/write")
def write() -> str:
    """Commit a change of each kind."""
    row = Message(name="ROOMMARK", body="VALUEMARK" * int(request.args.get("n", 1)))
    db.session.add(row)
    db.session.commit()
    row.body += "-changed"
    db.session.commit()
    db.session.execute(sa.update(Message).values(code=None))
    db.session.commit()
    db.session.delete(row)
    db.session.commit()
    return ""


@app.post("/collide")
def collide() -> str:
    """Let the database refuse a commit."""
    for _ in range(2):
        db.session.add(Message(name="ROOMMARK", body="VALUEMARK", code="VALUEMARK"))
        try:
            db.session.commit()
        except sa.exc.IntegrityError:
            db.session.rollback()
    return ""


@app.post("/tell")
def tell() -> str:
    """Say something to rooms and users by hand."""
    livepush.emit("chat:ROOMMARK", "said", {"text": "VALUEMARK"})
    livepush.notify("USERMARK-a", "told", "VALUEMARK")
    livepush.invalidate("chat:ROOMMARK")
    livepush.recheck(room="chat:ROOMMARK")
    livepush.recheck("USERMARK-a")
    return ""


if __name__ == "__main__":
    from tests.support.servers import serve

    serve(app)
