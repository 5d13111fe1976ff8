"""An API that pages of another origin use, with tokens and tickets.

Its arguments are the origin whose pages may, and its port where it has had one. Who
they are is said as docs/logins.md has it.
"""

from __future__ import annotations

import datetime
import sys
from typing import Any

import flask_login
from flask import Flask, Request, jsonify, request
from flask.typing import ResponseReturnValue
from flask_jwt_extended import JWTManager, create_access_token, decode_token
from flask_jwt_extended.exceptions import JWTExtendedException
from flask_sqlalchemy import SQLAlchemy
from jwt.exceptions import PyJWTError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import StaticPool

from flask_livepush import LivePush
from tests.support.servers import serve


class Base(DeclarativeBase):
    """The models' base."""


app = Flask("api")
app.config.update(
    SECRET_KEY="secret",
    JWT_SECRET_KEY="a secret of thirty-two bytes or more",
    SQLALCHEMY_DATABASE_URI="sqlite://",
    SQLALCHEMY_ENGINE_OPTIONS={"poolclass": StaticPool},
    # What a browser sends to other sites, where it sends any.
    SESSION_COOKIE_SAMESITE="None",
    SESSION_COOKIE_SECURE=True,
    LIVEPUSH_CORS_ORIGINS=[sys.argv[1]],
    LIVEPUSH_REVALIDATE_INTERVAL=1,
)
app.config.from_prefixed_env()
db = SQLAlchemy(app, model_class=Base)
livepush = LivePush(app)
login_manager = flask_login.LoginManager(app)
JWTManager(app)
seen: dict[str, list[Any]] = {"requests": [], "connects": []}


class User(db.Model, flask_login.UserMixin):  # type: ignore[misc, name-defined]
    """Whoever has a key."""

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str]


@livepush.authenticate
def authenticate(payload: Any) -> User | None:
    """Say whose a token is."""
    try:
        claims = decode_token(payload["token"])
    except (KeyError, TypeError, PyJWTError, JWTExtendedException):
        return None  # nobody, or no longer
    return db.session.get(User, int(claims["sub"]))


@login_manager.user_loader
def load_user(name: str) -> User | None:
    """Load the user of a session, or of a ticket."""
    return db.session.get(User, int(name))


@login_manager.request_loader
def load_by_key(request: Request) -> User | None:
    """Load the user of a key."""
    key = request.headers.get("Authorization", "").removeprefix("Bearer ")
    found = db.select(User).filter_by(key=key)
    return db.session.scalar(found) if key else None


@livepush.room("user:<int:user_id>")
def own(user: User, user_id: int) -> bool:
    """Let users into their own rooms."""
    return bool(user.is_authenticated and user.id == user_id)


@livepush.socketio.on("connect")
def connect(auth: Any = None) -> None:
    """Note down that somebody was let in, and with which cookies."""
    seen["connects"].append(dict(request.cookies))


@app.get("/login")
def log_in() -> str:
    """Log the first user in by a cookie."""
    flask_login.login_user(db.session.get(User, 1))
    return "logged in"


@app.get("/token/<seconds>")
def token(seconds: str) -> str:
    """Give the test a token of the first user that is good for so long."""
    lifetime = datetime.timedelta(seconds=float(seconds))
    return str(create_access_token("1", expires_delta=lifetime))


@app.post("/say/<text>")
def say(text: str) -> str:
    """Push something to the first user."""
    livepush.emit("user:1", "said", text)
    return ""


@app.post("/cut")
def cut() -> str:
    """End each connection as a network does: the client comes back."""
    for socket in list(livepush.socketio.server.eio.sockets.values()):
        socket.close(wait=False, abort=True)
    return ""


@app.get("/seen")
def tell() -> ResponseReturnValue:
    """Tell what came, and how many connections there are."""
    return jsonify(**seen, open=len(livepush.socketio.server.eio.sockets))


def note(environ: dict[str, Any], start_response: Any) -> Any:
    """Note down requests that come from pages."""
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None:
        asked = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "")
        seen["requests"].append(
            {
                "origin": origin,
                "method": environ["REQUEST_METHOD"],
                "path": environ["PATH_INFO"],
                "asked": asked.lower(),
                "key": environ.get("HTTP_LIVEPUSH_KEY"),
                "cookie": environ.get("HTTP_COOKIE"),
            }
        )
    return app(environ, start_response)


if __name__ == "__main__":
    with app.app_context():
        db.create_all()
        db.session.add(User(id=1, key="key-of-1"))
        db.session.commit()
    serve(note, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
