"""The one id of a user: in ``user:<id>``, notifications, presence and the session.

It is the primary key, or what ``@livepush.identity`` returns; never what ``get_id()``
does, which may be a credential. Nothing in here loads anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from ..errors import UsageError
from ..failures import Failure, Failures, place_of
from ..protocol.encoding import encode_what_can_be
from ..rooms import Pattern

Hook = Callable[[Any], Any]

_VARIABLE = "user_id"


class Identities:
    """Says which id a user has.

    Args:
        pattern: That of users' own rooms; an id is written as it is in their names.
        failures: Takes note of hooks that fail, and of users without an id.
    """

    def __init__(self, pattern: Pattern, failures: Failures | None = None) -> None:
        self._pattern = pattern
        self._failures = Failures() if failures is None else failures
        #: What ``@livepush.identity`` decorates.
        self.hook: Hook | None = None
        #: What ``@livepush.user_info`` decorates.
        self.info_hook: Hook | None = None
        # Whether the first tells others of a user, as it once did, instead of an id.
        self._tells = False

    def of(self, user: Any) -> str | None:
        """Return the id of a user, as text; None: it has none, or is nobody."""
        found = _unwrapped(user)
        if found is None or not getattr(found, "is_authenticated", True):
            return None
        return self._identity(found)

    def _identity(self, found: Any) -> str | None:
        hook = self.hook
        if hook is None or self._tells:
            return self._default(found)
        try:
            said = hook(found)
        except Exception as error:  # noqa: BLE001
            # The default may be another one's id by what the hook says of him.
            self._note(
                f"@livepush.identity {_named(hook)} raised {type(error).__name__}; the "
                "user has no room, notifications or presence of its own until it says "
                "who it is.",
                place=place_of(error),
                error=error,
            )
            return None
        if isinstance(said, Mapping):
            self._tells = True
            return self._default(found)
        return self._text(
            said,
            f"@livepush.identity {_named(hook)} returned {type(said).__name__}, which "
            "is no id of a user; return a text, a whole number or a UUID.",
        )

    def named(self, user_or_id: Any) -> str | None:
        """Return the id of a user, given the user or its id.

        Of one who is deactivated too: mostly those are to be disconnected.
        """
        if isinstance(user_or_id, (str, int, UUID)):
            return self._written(user_or_id)
        found = _unwrapped(user_or_id)
        if found is None or getattr(found, "is_anonymous", False):
            return None
        return self._identity(found)

    def info(self, user: Any) -> str:
        """Return what others may know of a user, as JSON text; empty: nothing.

        Nobody is kept out by it.
        """
        hook, what = self.info_hook, "@livepush.user_info"
        if hook is None and self._tells:
            hook, what = self.hook, "@livepush.identity"
        if hook is None:
            return ""
        try:
            told = hook(user)
        except Exception as error:  # noqa: BLE001
            self._note(
                f"{what} {_named(hook)} raised {type(error).__name__}; nothing is told "
                "of the user but the id.",
                place=place_of(error),
                error=error,
            )
            return ""
        if not isinstance(told, Mapping):
            self._note(
                f"{what} {_named(hook)} returned {type(told).__name__}; it must be a "
                "dict. Nothing is told of the user but the id."
            )
            return ""
        text, problem = encode_what_can_be(told)
        if problem:
            self._note(
                f"What {what} {_named(hook)} returned is told without what can't be "
                f"sent: a value {problem}"
            )
        return "" if text in (None, "{}") else str(text)

    def _default(self, user: Any) -> str | None:
        kind = type(user).__qualname__
        remedy = (
            "Say which one with @livepush.identity: a function that takes a user and "
            "returns its id. Until then such users have no room, notifications or "
            "presence of their own."
        )
        if hasattr(user, "_sa_instance_state"):
            # SQLAlchemy is there already, or there would be no such object.
            from ..primary_keys import primary_key

            key = primary_key(user)
            if key is None or len(key) != 1:
                self._note(f"{kind} has no primary key of one column. {remedy}")
                return None
            return self._text(
                key[0], f"The primary key of {kind} has no text. {remedy}"
            )
        found = getattr(user, "id", None)
        if callable(found):
            found = None
        return self._text(found, f"{kind} has no id that can be written. {remedy}")

    def _text(self, value: Any, problem: str) -> str | None:
        text = None if value is None else self._written(value)
        if text is None:
            self._note(problem)
        return text

    def _written(self, value: Any) -> str | None:
        text = self._pattern.value_text(_VARIABLE, value)
        if text is not None:
            try:
                self._pattern.name({_VARIABLE: text})
            except UsageError:
                return None
        return text

    def _note(
        self, reason: str, *, place: Any = None, error: Exception | None = None
    ) -> None:
        failure = Failure(reason, what="state")
        self._failures.note(("identity", place or reason), failure, error=error)


def _unwrapped(user: Any) -> Any:
    unwrap = getattr(user, "_get_current_object", None)
    return unwrap() if callable(unwrap) else user


def _named(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))
