"""The door of one application's rooms: what a node asks before it lets somebody in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask import Flask

from .auth import Auth, Visitor
from .failures import Failure, Failures
from .login.caller import Handshake
from .protocol.fitting import fit
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
        max_snapshot_bytes: How large the rows of a snapshot may be, as JSON text.
        failures: Takes note of what is left out of one.
    """

    def __init__(
        self,
        app: Flask,
        rooms: Rooms,
        auth: Auth,
        *,
        models: Callable[[], LiveModels | None],
        max_snapshot_bytes: int = 12 * 1024 * 1024,
        failures: Failures | None = None,
    ) -> None:
        self._max_snapshot_bytes = max_snapshot_bytes
        self._failures = Failures() if failures is None else failures
        self._app = app
        self._rooms = rooms
        self._auth = auth
        self._models = models

    def is_room(self, room: str) -> bool:
        """Say whether the name matches a rule."""
        return self._rooms.find(room) is not None

    def admit(self, room: str, handshake: Handshake, *, user: Any = None) -> Visitor:
        """Return the connection's user if the rule lets it in; raise if not.

        Args:
            user: The handshake's user, loaded a moment ago; None: it is loaded now.
        """
        return self._auth.admit(room, handshake, user=user)

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
            kinds = models.snapshot(found[0], room, found[1])
        text, lost = fit(kinds, self._max_snapshot_bytes)
        for kind, field in lost:
            what = f"values of the field {field!r}" if field else "the oldest rows"
            reason = (
                f"Snapshots of {kind!r} go out without {what}, since they would be "
                f"larger than {self._max_snapshot_bytes} bytes. Declare less with "
                "fields= or latest=, or set LIVEPUSH_SEND_BUFFER_BYTES higher, to a "
                "twelfth of what they take."
            )
            pattern = found[0].pattern.text
            failure = Failure(
                reason, kind=kind, room=pattern, what="field" if field else "row"
            )
            self._failures.note((pattern, kind, field, "too large"), failure)
        return text

    def state(self, room: str, handshake: Handshake) -> str | None:
        """Read the room's own part of a snapshot for one user."""
        return self._auth.state(room, handshake)
