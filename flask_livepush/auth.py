"""Who is connecting, and may they join this room.

The user is Flask-Login's, loaded anew from the session cookie of the connection's
handshake each time something is decided: never what a handler remembered. Nothing in
here writes a session, and nobody is let in by default.
"""

from __future__ import annotations

import inspect
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import flask_login
from flask import Flask, current_app
from werkzeug.exceptions import HTTPException

from .errors import InvalidRoom, NotAuthorised, Unavailable
from .protocol.encoding import encode
from .rooms import Room, Rooms

log = logging.getLogger(__name__)

# Left out of the handshake's environment: Flask-SocketIO's copy of the session, frozen
# when the first event came, and what belongs to the request that is over.
_STALE = ("saved_session", "werkzeug.request", "wsgi.input", "werkzeug.socket")


Identity = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who was let into a room.

    Args:
        user: The id as Flask-Login has it; None: an anonymous visitor.
        info: What the identity hook tells of the user, as JSON text; empty: nothing.
    """

    user: str | None
    info: str = ""


class Auth:
    """Answers for one application.

    Args:
        app: The application, with Flask-Login set up or not.
        rooms: Its rooms.
        allow_anonymous: Whether visitors may connect who are not logged in.
        identity: Returns the hook that says what others may know of a user, or None.
    """

    def __init__(
        self,
        app: Flask,
        rooms: Rooms,
        *,
        allow_anonymous: bool,
        identity: Callable[[], Identity | None] = lambda: None,
    ) -> None:
        self._app = app
        self._rooms = rooms
        self._allow_anonymous = allow_anonymous
        self._identity = identity
        self._warned = False

    def may_connect(self, environ: dict[str, Any]) -> bool:
        """Say whether the visitor of a handshake may have a connection."""
        if self._allow_anonymous:
            return True
        with self._visitor(environ) as user:
            return _is_authenticated(user)

    def admit(self, name: str, environ: dict[str, Any]) -> Visitor:
        """Ask the room's rule; return who it is if it says yes.

        Raises:
            InvalidRoom: No rule knows the name.
            NotAuthorised: The rule said no, or raised an HTTPException.
            Unavailable: The rule, the identity hook, or loading the user, failed.
        """
        room, values = self._find(name)
        with self._answering("rule", room, room.rule), self._visitor(environ) as user:
            if not self._allow_anonymous and not _is_authenticated(user):
                raise NotAuthorised("Not logged in.")
            answer = room.rule(user, **values)
            if inspect.isawaitable(answer):
                raise TypeError("the rule returned an awaitable, which says nothing")
            if not answer:
                raise NotAuthorised("The room's rule does not allow it.")
            if not _is_authenticated(user):
                return Visitor(None)
            hook = self._identity() if room.presence else None
            return Visitor(id_of(user), _info(hook, user))

    def state(self, name: str, environ: dict[str, Any]) -> tuple[bool, Any]:
        """Return whether the room has a snapshot of its own, and what it gives a user.

        Raises:
            Unavailable: The function failed.
        """
        room, values = self._find(name)
        function = room.state
        if function is None:
            return False, None
        with (
            self._answering("snapshot", room, function),
            self._visitor(environ) as user,
        ):
            return True, function(user, **values)

    def _find(self, name: str) -> tuple[Room, dict[str, Any]]:
        found = self._rooms.find(name)
        if found is None:
            raise InvalidRoom("No rule knows a room of this name.")
        return found

    @contextmanager
    def _visitor(self, environ: dict[str, Any]) -> Iterator[Any]:
        """Enter a request of the handshake's visitor, with a session of its own."""
        request = {k: v for k, v in environ.items() if k not in _STALE}
        request["wsgi.input"] = io.BytesIO()
        context = self._app.request_context(request)
        # Nobody asks which view this is; url_for needs the adapter afterwards.
        adapter, context.url_adapter = context.url_adapter, None
        # The application context is pushed by itself, so that it is a new one even
        # where another is active: database sessions are scoped to it.
        with self._app.app_context(), context:
            context.url_adapter = adapter
            yield self.user()

    def user(self) -> Any:
        """Return the user of the request at hand."""
        if not hasattr(self._app, "login_manager"):
            if not self._warned:
                self._warned = True
                log.warning(
                    "The application has no Flask-Login LoginManager: every visitor is "
                    "anonymous. Set it up with login_manager.init_app(app)."
                )
            return flask_login.AnonymousUserMixin()
        return flask_login.current_user._get_current_object()

    @contextmanager
    def _answering(
        self, what: str, room: Room, function: Callable[..., Any]
    ) -> Iterator[None]:
        try:
            yield
        except HTTPException as error:
            raise NotAuthorised("The room's rule does not allow it.") from error
        except (NotAuthorised, Unavailable):
            raise
        except Exception as error:
            name = getattr(function, "__qualname__", repr(function))
            log.exception("The %s %s of room %r raised", what, name, room.pattern.text)
            raise Unavailable("The server failed; try again later.") from error


def current_id() -> str | None:
    """Return the id of the user of the request at hand; None: not logged in."""
    if not hasattr(current_app, "login_manager"):
        return None
    return id_of(flask_login.current_user)


def id_of(user: Any) -> str | None:
    """Return the id under which Flask-Login knows a user.

    Args:
        user: A user object, or its id.

    Returns:
        None when it is no user, or an anonymous one.
    """
    if isinstance(user, (str, int)):
        return str(user)
    identity = user.get_id() if hasattr(user, "get_id") else None
    return None if identity is None else str(identity)


def _info(identity: Identity | None, user: Any) -> str:
    if identity is None:
        return ""
    told = identity(user)
    if not isinstance(told, Mapping):
        raise TypeError(
            f"@livepush.identity returned {type(told).__name__}; it must be a dict"
        )
    return encode(told, "the identity") if told else ""


def _is_authenticated(user: Any) -> bool:
    return bool(getattr(user, "is_authenticated", False))
