"""What the blog did with Socket.IO before."""

from __future__ import annotations

from typing import Any

from flask_login import current_user
from flask_socketio import emit, join_room

from . import socketio

WRITING = "writing"


@socketio.on("connect")
def connect(auth: Any) -> bool | None:
    """Greet whoever is logged in."""
    if not current_user.is_authenticated:
        return False
    join_room("readers")
    emit("hello", {"name": current_user.name, "auth": auth})
    return None


@socketio.on(WRITING)
def writing() -> str:
    """Tell the others who writes."""
    message = {"name": current_user.name}
    emit(WRITING, message, to="readers", include_self=False)
    return "told"


@socketio.on("connect", namespace="/moderators")
def connect_moderator() -> bool:
    """Let moderators in."""
    return bool(getattr(current_user, "is_moderator", False))
