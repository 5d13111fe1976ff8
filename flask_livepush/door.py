"""The door of one application's rooms: what a node asks before it lets somebody in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask import Flask

from .auth import Auth, Visitor
from .protocol.encoding import encode
from .protocol.publication import INVALIDATED
from .rooms import Rooms

if TYPE_CHECKING:
    from .live_models import LiveModels


class Door:
    """Fulfils :class:`flask_livepush.node.Door`.

    Args:
        app: The application.
        rooms: Its rooms.
        auth: Asks their rules.
        models: Returns the tracked models; None: there are none.
    """

    def __init__(
        self,
        app: Flask,
        rooms: Rooms,
        auth: Auth,
        *,
        models: Callable[[], LiveModels | None],
    ) -> None:
        self._app = app
        self._rooms = rooms
        self._auth = auth
        self._models = models

    def is_room(self, room: str) -> bool:
        """Say whether the name matches a rule."""
        return self._rooms.find(room) is not None

    def admit(self, room: str, environ: dict[str, Any]) -> Visitor:
        """Return the connection's user if the rule lets it in; raise if not."""
        return self._auth.admit(room, environ)

    def has_presence(self, room: str) -> bool:
        """Say whether the room's subscribers may know who is in it."""
        found = self._rooms.find(room)
        return found is not None and found[0].presence

    def may_whisper(self, room: str, event: str) -> bool:
        """Say whether the room allows this whisper, and it is no kind's of its."""
        found = self._rooms.find(room)
        if found is None or not found[0].allows_whisper(event):
            return False
        if event.endswith(f".{INVALIDATED}"):
            return False
        models = self._models()
        kinds = [] if models is None else models.kinds_of(found[0])
        return not any(event.startswith(f"{kind}.") for kind in kinds)

    def rows(self, room: str) -> str:
        """Read the rows of the tracked models, in a context and sessions of its own."""
        found = self._rooms.find(room)
        models = self._models()
        if found is None or models is None or not models.kinds_of(found[0]):
            return "{}"
        with self._app.app_context():
            return encode(models.snapshot(found[0], room, found[1]))

    def state(self, room: str, environ: dict[str, Any]) -> str | None:
        """Read the room's own part of a snapshot for one user."""
        return self._auth.state(room, environ)
