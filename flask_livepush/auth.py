"""Who is connecting, and may they join this room.

The user is Flask-Login's, loaded anew from the session cookie of the connection's
handshake each time something is decided: never what a handler remembered. Nothing in
here writes a session, and nobody is let in by default.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import flask_login
from flask import Flask, current_app, request, session
from werkzeug.exceptions import HTTPException

from .errors import InvalidRoom, NotAuthorised, Unavailable
from .failures import Failure, Failures, place_of
from .logs import logger
from .protocol.encoding import encode_what_can_be
from .rooms import Room, Rooms

log = logger(__name__)

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
        failures: Takes note of rules and the like that fail.
    """

    def __init__(
        self,
        app: Flask,
        rooms: Rooms,
        *,
        allow_anonymous: bool,
        identity: Callable[[], Identity | None] = lambda: None,
        failures: Failures | None = None,
    ) -> None:
        self._app = app
        self._rooms = rooms
        self._allow_anonymous = allow_anonymous
        self._identity = identity
        self._failures = Failures() if failures is None else failures
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
            Unavailable: The rule, or loading the user, failed. Where the identity hook
                does, nothing is told of the user.
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
            return Visitor(id_of(user), self._info(hook, user))

    def state(self, name: str, environ: dict[str, Any]) -> str | None:
        """Return what the room's own snapshot gives a user, as JSON text.

        Of a dict without the items that can't be sent, which is noted.

        Returns:
            None where there is no such snapshot, or nothing of it can be sent.

        Raises:
            Unavailable: The function failed.
        """
        room, values = self._find(name)
        function = room.state
        if function is None:
            return None
        with (
            self._answering("snapshot", room, function),
            self._visitor(environ) as user,
        ):
            text, problem = encode_what_can_be(function(user, **values))
        if problem:
            self._note(
                f"What the snapshot {_named(function)} returned is sent without what "
                f"can't be: a value {problem}",
                room=room.pattern.text,
            )
        return text

    def _info(self, identity: Identity | None, user: Any) -> str:
        """Return what others may know of a user; nobody is kept out by it."""
        if identity is None:
            return ""
        try:
            told = identity(user)
        except Exception as error:  # noqa: BLE001
            self._note(
                f"@livepush.identity {_named(identity)} raised {type(error).__name__}; "
                "nothing is told of the user but the id.",
                error=error,
            )
            return ""
        if not isinstance(told, Mapping):
            self._note(
                f"@livepush.identity {_named(identity)} returned "
                f"{type(told).__name__}; it must be a dict. Nothing is told of the "
                "user but the id."
            )
            return ""
        text, problem = encode_what_can_be(told)
        if problem:
            self._note(
                f"What @livepush.identity {_named(identity)} returned is told without "
                f"what can't be sent: a value {problem}"
            )
        return "" if text in (None, "{}") else str(text)

    def _note(
        self, reason: str, *, room: str = "", error: Exception | None = None
    ) -> None:
        failure = Failure(reason, room=room, what="state")
        self._failures.note((reason, room), failure, error=error)

    def _find(self, name: str) -> tuple[Room, dict[str, Any]]:
        found = self._rooms.find(name)
        if found is None:
            raise InvalidRoom("No rule knows a room of this name.")
        return found

    @contextmanager
    def _visitor(self, environ: dict[str, Any]) -> Iterator[Any]:
        """Enter a request of the handshake's visitor, with a session of its own."""
        handshake = {k: v for k, v in environ.items() if k not in _STALE}
        handshake["wsgi.input"] = io.BytesIO()
        context = self._app.request_context(handshake)
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
            name = _named(function)
            self._failures.note(
                (what, room.pattern.text, place_of(error)),
                Failure(
                    f"The {what} {name} of room {room.pattern.text!r} raised "
                    f"{type(error).__name__}; the client is told to try again.",
                    room=room.pattern.text,
                ),
                error=error,
            )
            raise Unavailable("The server failed; try again later.") from error


def current_id() -> str | None:
    """Return the id of the user of the request at hand; None: not logged in."""
    if not hasattr(current_app, "login_manager"):
        return None
    return id_of(flask_login.current_user)


def expected_id() -> str | None:
    """Return the id of the user that Flask-Login is to load, without loading it.

    By the session, or the cookie of "remember me"; it may turn out to be nobody's.
    None: not logged in, or no id is known before a query, as with a request loader.
    """
    manager = getattr(current_app, "login_manager", None)
    if manager is None or getattr(manager, "id_attribute", "get_id") != "get_id":
        return None
    found = session.get("_user_id")
    if found is None and session.get("_remember") != "clear":
        name = current_app.config.get("REMEMBER_COOKIE_NAME", flask_login.COOKIE_NAME)
        cookie = request.cookies.get(name)
        found = None if cookie is None else flask_login.decode_cookie(cookie)
    return None if found is None else str(found)


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


def _named(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))


def _is_authenticated(user: Any) -> bool:
    return bool(getattr(user, "is_authenticated", False))
