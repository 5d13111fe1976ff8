"""May they join this room: the rules, asked with the user as of now.

Whose a connection is, ``login`` says, anew each time something is decided: never what a
handler remembered. Nothing in here writes a session, and nobody is let in by default.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from werkzeug.exceptions import HTTPException

from .errors import InvalidRoom, NotAuthorised, Unavailable
from .failures import Failure, Failures, place_of
from .login.caller import Handshake
from .login.handshakes import Handshakes
from .login.identity import Identities
from .login.session import is_authenticated
from .protocol.encoding import encode_what_can_be
from .rooms import Room, Rooms


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who was let into a room.

    Args:
        user: The user's identity; None: an anonymous visitor, or a user without one.
        info: What others may know of the user, as JSON text; empty: nothing.
    """

    user: str | None
    info: str = ""


class Auth:
    """Answers for one application.

    Args:
        handshakes: Says whose a connection is.
        rooms: The application's rooms.
        identities: Says which id a user has, and what others may know.
        allow_anonymous: Whether visitors may join who are not logged in.
        failures: Takes note of rules and the like that fail.
    """

    def __init__(
        self,
        handshakes: Handshakes,
        rooms: Rooms,
        identities: Identities,
        *,
        allow_anonymous: bool,
        failures: Failures | None = None,
    ) -> None:
        self._handshakes = handshakes
        self._rooms = rooms
        self._identities = identities
        self._allow_anonymous = allow_anonymous
        self._failures = Failures() if failures is None else failures

    def admit(self, name: str, handshake: Handshake, *, user: Any = None) -> Visitor:
        """Ask the room's rule; return who it is if it says yes.

        Args:
            user: The handshake's user, loaded a moment ago; None: it is loaded now.

        Raises:
            InvalidRoom: No rule knows the name.
            NotAuthorised: The rule said no, or raised an HTTPException; or the login
                has ended.
            RefreshLogin: The login must be renewed over HTTP.
            Unavailable: The rule, or loading the user, failed; or nobody can say
                whether the login holds.
        """
        room, values = self._find(name)
        with self._handshakes.entered(handshake, user) as found:
            self._ask(room, values, found)
            if not is_authenticated(found):
                return Visitor(None)
            identity = self._identities.of(found)
            if identity is None or not room.presence:
                return Visitor(identity)
            return Visitor(identity, self._identities.info(found))

    def check(self, name: str, user: Any) -> None:
        """Ask the room's rule in the request that was entered; it says yes, or raises.

        Raises:
            ClientError: As :meth:`admit`.
        """
        room, values = self._find(name)
        self._ask(room, values, user)

    def covers(self, given: str, name: str) -> bool:
        """Say whether a room is meant by its name, or by the pattern of its kind."""
        return self._rooms.covers(given, name)

    def identity(self, user: Any) -> str | None:
        """Return the id that a user has everywhere; None: nobody's, or not known."""
        return self._identities.of(user)

    def _ask(self, room: Room, values: dict[str, Any], user: Any) -> None:
        if not self._allow_anonymous and not is_authenticated(user):
            raise NotAuthorised("Not logged in.")
        with self._answering("rule", room, room.rule):
            answer = room.rule(user, **values)
            if inspect.isawaitable(answer):
                raise TypeError("the rule returned an awaitable, which says nothing")
        if not answer:
            raise NotAuthorised("The room's rule does not allow it.")

    def state(self, name: str, handshake: Handshake) -> str | None:
        """Return what the room's own snapshot gives a user, as JSON text.

        Of a dict without the items that can't be sent, which is noted.

        Returns:
            None where there is no such snapshot, or nothing of it can be sent.

        Raises:
            ClientError: The login holds no more, or the function failed.
        """
        room, values = self._find(name)
        function = room.state
        if function is None:
            return None
        with (
            self._handshakes.entered(handshake) as user,
            self._answering("snapshot", room, function),
        ):
            text, problem = encode_what_can_be(function(user, **values))
        if problem:
            reason = (
                f"What the snapshot {_named(function)} returned is sent without what "
                f"can't be: a value {problem}"
            )
            failure = Failure(reason, room=room.pattern.text, what="state")
            self._failures.note((reason, room.pattern.text), failure)
        return text

    def _find(self, name: str) -> tuple[Room, dict[str, Any]]:
        found = self._rooms.find(name)
        if found is None:
            raise InvalidRoom("No rule knows a room of this name.")
        return found

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


def _named(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))
