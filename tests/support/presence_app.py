"""A server program: one of several processes that know who is in their rooms.

Its argument is the URL of its message queue.
"""

from __future__ import annotations

import sys

from flask import Flask, Request, jsonify
from flask.typing import ResponseReturnValue
from flask_login import LoginManager, UserMixin

from flask_livepush import LivePush

app = Flask("present")
app.config.update(SECRET_KEY="secret", LIVEPUSH_MESSAGE_QUEUE=sys.argv[1])
livepush = LivePush(app)
login = LoginManager(app)


class User(UserMixin):
    """Somebody who is who the query says."""

    def __init__(self, name: str) -> None:
        self.id = name


@login.request_loader
def load(request: Request) -> User | None:
    """Believe the query."""
    name = request.args.get("user")
    return User(name) if name else None


@livepush.user_info
def user_info(user: User) -> dict[str, str]:
    """Tell the name."""
    return {"name": user.id.title()}


@livepush.room("chat:<int:room_id>", whisper=True)
def chat(user: User, room_id: int) -> bool:
    """Let everybody in."""
    return True


@app.get("/present/<int:room_id>")
def present(room_id: int) -> ResponseReturnValue:
    """Say who is in a room."""
    return jsonify(livepush.presence(chat.name(room_id=room_id)))


if __name__ == "__main__":
    from tests.support.servers import serve

    serve(app)
