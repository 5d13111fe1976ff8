"""Rooms by pattern: which names there are, and which of them a name is.

A pattern is written as a Flask URL rule is, with Werkzeug's converters. A name belongs
to it only if the pattern rebuilt from the name's values is that very name: ``chat:05``
and ``chat:٥`` are no names of room 5. Nothing in here asks who may join.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from urllib.parse import unquote
from uuid import UUID

from werkzeug.exceptions import HTTPException
from werkzeug.routing import AnyConverter, BaseConverter, Map, UUIDConverter
from werkzeug.routing.converters import DEFAULT_CONVERTERS, NumberConverter
from werkzeug.routing.rules import parse_converter_args

from .errors import ConfigError, EncodingError, InvalidRoom, UsageError
from .protocol.encoding import plain
from .protocol.publication import INVALIDATED, check_event
from .protocol.rooms import MAX_ROOM_BYTES, check_room_name

Rule = Callable[..., Any]

_VARIABLE = re.compile(
    r"<(?:(?P<converter>[a-zA-Z_][a-zA-Z0-9_]*)(?:\((?P<arguments>.*?)\))?:)?"
    r"(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)>"
)
# What databases can compare a column with; more digits are a room of nobody's.
_INTEGERS = range(-(2**63), 2**63)
# What converters raise for what is none of theirs; a ValidationError is a ValueError.
_CONVERTER_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    HTTPException,
)
# Names are built again and again for the same values of these types.
_REMEMBERED = (int, str, UUID)
_MAX_REMEMBERED = 1000


# Names that are remembered with what they are.
_MAX_FOUND = 10_000
# A name of 200 bytes is matched against three in 16 ms, against four in 1.5 s.
_MAX_TEXTS = 3


def _takes_any_text(converter: BaseConverter) -> bool:
    bounded = (AnyConverter, NumberConverter, UUIDConverter)
    return not isinstance(converter, bounded)


# Werkzeug's; a converter that has one of them writes as Werkzeug does.
_WERKZEUGS: frozenset[Any] = frozenset(c.to_url for c in DEFAULT_CONVERTERS.values())


def _written(converter: BaseConverter, value: Any) -> str:
    """Return what a converter makes of a value, as plain text."""
    if type(converter).to_url in _WERKZEUGS:
        if isinstance(value, Enum):
            value = value.value
        if isinstance(converter, NumberConverter):
            value = _as_number(converter, value)
        elif isinstance(converter, UUIDConverter):
            value = _as_uuid(value)
        elif type(value) is not str:
            value = _as_text(value)
    return unquote(converter.to_url(value))


def _as_number(converter: NumberConverter, value: Any) -> Any:
    number = converter.num_convert(value)
    if isinstance(value, str):
        same = unquote(converter.to_url(number)) == value
    else:
        same = bool(number == value) or (
            isinstance(value, Decimal) and Decimal(str(number)) == value
        )
    if not same:
        raise ValueError("a value that the converter changes")
    return number


def _as_uuid(value: Any) -> UUID:
    if isinstance(value, UUID):
        return value
    found = UUID(value)
    if value not in uuid_texts(found):
        raise ValueError("a UUID that is written in yet another way")
    return found


def uuid_texts(value: UUID) -> tuple[str, ...]:
    """Return the texts as which a UUID may be kept."""
    lower = (str(value), value.hex)
    return (*lower, *(text.upper() for text in lower))


def _as_text(value: Any) -> str:
    if isinstance(value, int):
        # As a field, integers have an end; as text, they need none.
        return str(plain(value)).lower() if isinstance(value, bool) else str(int(value))
    if isinstance(value, datetime) and value.utcoffset() is not None:
        value = value.astimezone(timezone.utc)
    try:
        found = plain(value)
    except EncodingError:
        # An object of the application's, which says of itself what it is.
        if isinstance(value, _WITHOUT_TEXT) or not _says_what_it_is(value):
            raise
        found = str(value)
    if found is None or isinstance(found, (dict, list)):
        raise TypeError("a value that has no text")
    if isinstance(value, Decimal) and not value.is_finite():
        raise ValueError("a number that equals nothing")
    return str(found)


def _says_what_it_is(value: Any) -> bool:
    own: Any = type(value).__str__
    return own is not object.__str__


_WITHOUT_TEXT = (bytes, bytearray, memoryview, set, frozenset, float, Decimal)


class Pattern:
    """A room's pattern, such as ``chat:<int:room_id>``.

    Args:
        text: Literal text with ``<converter(arguments):variable>``.
        converters: Converters by name; Werkzeug's own by default.

    Raises:
        ConfigError: The text is no pattern.
    """

    def __init__(
        self,
        text: str,
        converters: Mapping[str, type[BaseConverter]] = DEFAULT_CONVERTERS,
    ) -> None:
        if not isinstance(text, str) or not text:
            raise ConfigError(
                f"The room {text!r} must be a text: @livepush.room('chat:<int:id>')."
            )
        self.text = text
        #: The names of the variables, in order.
        self.variables: tuple[str, ...] = ()
        self._parts: list[str | tuple[str, BaseConverter]] = []
        regex: list[str] = []
        end = 0
        for found in _VARIABLE.finditer(text):
            self._literal(text[end : found.start()], regex)
            name = found["name"]
            if name == "user":
                raise ConfigError(
                    f"The room {text!r} can't have a variable 'user', as the rule's "
                    "first argument is called so; take another name."
                )
            if name in self.variables:
                raise ConfigError(f"The room {text!r} has the variable {name!r} twice.")
            converter = self._converter(found, converters)
            self._parts.append((name, converter))
            self.variables = (*self.variables, name)
            regex.append(f"(?P<{name}>{converter.regex})")
            end = found.end()
        self._literal(text[end:], regex)
        if sum(_takes_any_text(c) for c in self._converters()) > _MAX_TEXTS:
            raise ConfigError(
                f"The room {text!r} has more than {_MAX_TEXTS} variables of any text, "
                "which takes too long to match; use <int:…>, <uuid:…> or <any(…):…>."
            )
        self._regex = re.compile("".join(regex))
        self._built: dict[tuple[object, ...], str] = {}

    def _converters(self) -> list[BaseConverter]:
        return [part[1] for part in self._parts if not isinstance(part, str)]

    @property
    def shape(self) -> tuple[object, ...]:
        """What two patterns have in common that match the same names."""
        return tuple(
            part if isinstance(part, str) else (type(part[1]), part[1].regex)
            for part in self._parts
        )

    @property
    def rank(self) -> tuple[tuple[int, int], ...]:
        """Sorts patterns so that the more special one is asked first, as in URLs."""
        return tuple(
            (0, -len(part)) if isinstance(part, str) else (1, part[1].weight)
            for part in self._parts
        )

    def name(self, values: Mapping[str, Any]) -> str:
        """Return the name of the room with these values.

        Raises:
            UsageError: A value is missing, unknown, or makes no name of this pattern.
        """
        # Types are part of the key: True equals 1, and makes another name.
        key = tuple((k, type(v), v) for k, v in values.items())
        if not all(kind in _REMEMBERED for _, kind, _ in key):
            return self._build(values)
        name = self._built.get(key)
        if name is None:
            name = self._build(values)
            if len(self._built) >= _MAX_REMEMBERED:
                self._built.clear()
            self._built[key] = name
        return name

    def _build(self, values: Mapping[str, Any]) -> str:
        if set(values) != set(self.variables):
            wanted = ", ".join(self.variables) or "no value"
            given = ", ".join(values) or "none"
            call = ", ".join(f"{name}=…" for name in self.variables)
            raise UsageError(
                f"The room {self.text!r} takes {wanted}; given: {given}. Build its "
                f"name with Room.name({call})."
            )
        try:
            name = check_room_name(self._rebuild(values))
        except (*_CONVERTER_ERRORS, InvalidRoom):
            name = ""
        found = self.match(name) if name else None
        # Of "a:b" and "c" and of "a" and "b:c" the same name may be made; it is that of
        # the values that are read from it.
        if found is None or any(
            self.value_text(v, found[v]) != self.value_text(v, values[v])
            for v in self.variables
        ):
            raise UsageError(
                f"{dict(values)!r} makes no name of room {self.text!r}: it must have "
                f"at most {MAX_ROOM_BYTES} bytes, each value must be what its "
                "converter takes (<path:…> for a text with '/', <int(signed=True):…> "
                "for numbers below 0), and be read from the name again."
            )
        return name

    def value_text(self, variable: str, value: Any) -> str | None:
        """Return what a value of a variable is in a name; None: it can be in none.

        Whatever the value is kept as, it has one text: that which it has as a field. An
        Enum has its value's, a Boolean ``true`` or ``false``, a date-time with an
        offset that of UTC. What Werkzeug's converters take as numbers or UUIDs may be
        kept as text, written as they write it; a UUID in capitals and without dashes
        too. Other converters are given the value as it is.
        """
        for part in self._parts:
            if not isinstance(part, str) and part[0] == variable:
                try:
                    return _written(part[1], value)
                except _CONVERTER_ERRORS:
                    return None
        return None

    def match(self, name: str) -> dict[str, Any] | None:
        """Return the values in a name, or None if it is no name of this pattern."""
        found = self._regex.fullmatch(name)
        if found is None:
            return None
        values: dict[str, Any] = {}
        try:
            for part in self._parts:
                if not isinstance(part, str):
                    values[part[0]] = part[1].to_python(found[part[0]])
            if self._rebuild(values) != name:
                return None
        except _CONVERTER_ERRORS:
            return None
        if any(isinstance(v, int) and v not in _INTEGERS for v in values.values()):
            return None
        return values

    def _rebuild(self, values: Mapping[str, Any]) -> str:
        # Converters write for URLs, percent-encoded; a room's name is plain text.
        return "".join(
            part if isinstance(part, str) else _written(part[1], values[part[0]])
            for part in self._parts
        )

    def _literal(self, text: str, regex: list[str]) -> None:
        if "<" in text or ">" in text:
            raise ConfigError(
                f"The room {self.text!r} has a '<' or '>' that is part of no variable; "
                "write variables as <name> or <converter:name>, such as <int:room_id>."
            )
        if text:
            self._parts.append(text)
            regex.append(re.escape(text))

    def _converter(
        self, found: re.Match[str], converters: Mapping[str, type[BaseConverter]]
    ) -> BaseConverter:
        name = found["converter"] or "default"
        if name not in converters:
            raise ConfigError(
                f"The room {self.text!r} has the converter {name!r}, which is not one "
                f"of {', '.join(sorted(set(converters) - {'default'}))}. Give a "
                "converter of your own with room(…, converters={name: class})."
            )
        try:
            args, kwargs = parse_converter_args(found["arguments"] or "")
            return converters[name](Map(), *args, **kwargs)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"The room {self.text!r} gives the converter {name!r} arguments that "
                f"it does not take: {error}"
            ) from error


class Room:
    """A kind of room: the pattern of its names, who may join, what it starts from.

    Made by ``livepush.room(pattern)``, which gives it the rule, and whether its
    subscribers may whisper, by which names, and are told who is there.
    """

    def __init__(
        self,
        pattern: Pattern,
        rule: Rule,
        emit: Callable[..., Any],
        *,
        whisper: bool | Iterable[str] = False,
        presence: bool = True,
        watch: Callable[..., None] | None = None,
    ) -> None:
        self.pattern = pattern
        self.whisper = _whispers(whisper, pattern)
        self.presence = presence
        self.rule = rule
        self.state: Rule | None = None
        self._emit = emit
        self._watch = watch
        _check_signature("rule", rule, pattern)

    def __repr__(self) -> str:
        return f"<Room {self.pattern.text!r}>"

    def name(self, **values: Any) -> str:
        """Return the name of the room with these values: ``chat.name(room_id=42)``.

        Raises:
            UsageError: A value is missing, unknown or impossible.
        """
        return self.pattern.name(values)

    def allows_whisper(self, event: str) -> bool:
        """Say whether subscribers may whisper an event of this name."""
        if isinstance(self.whisper, bool):
            return self.whisper
        return event in self.whisper

    def has_name(self, name: str) -> bool:
        """Say whether this is the name of a room of this kind."""
        return self.pattern.match(name) is not None

    def emit(
        self,
        event: str,
        data: Any = None,
        /,
        *,
        after_commit: bool | None = None,
        **values: Any,
    ) -> Any:
        """Emit an event to the room with these values, as ``livepush.emit`` does."""
        return self._emit(self.name(**values), event, data, after_commit=after_commit)

    def recheck_on(
        self,
        model: Any,
        user: str | None = None,
        *,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        """Ask the rule again whenever rows are committed that it depends on.

        As ``chat.recheck_on(Membership, user="user_id")``: who loses the right loses
        the room, within a second in every process. May be called for several models.

        Args:
            model: A model, or a table that is the ``secondary`` of a relationship.
            user: The name of the column that says whose rights a row concerns, by the
                id that users have in ``user:<id>``. None: those of everybody in the
                rooms.
            columns: By the room's variables, the names of the columns that say which
                rooms a row concerns; by default those of the same names. With ``{}`` a
                row concerns all rooms of this kind.

        Raises:
            ConfigError: Something named does not exist or does not fit.
        """
        if self._watch is None:
            raise UsageError(
                f"The room {self.pattern.text!r} was not made by livepush.room(…), and "
                "nobody follows commits for it."
            )
        self._watch(self, model, user=user, columns=columns)

    def snapshot(self, function: Rule) -> Rule:
        """Decorate the function that gives the room's own part of a snapshot.

        It is called as the rule is, ``(user, **values)``, once for each newcomer, and
        returns what JSON can hold; it arrives as the snapshot's ``state``.
        """
        if self.state is not None:
            raise ConfigError(f"The room {self.pattern.text!r} has a snapshot already.")
        _check_signature("snapshot", function, self.pattern)
        self.state = function
        return function


class Rooms:
    """All kinds of rooms of one extension."""

    def __init__(self) -> None:
        self._rooms: list[Room] = []
        # What names were found to be; each join asks several times.
        self._found: dict[str, tuple[Room, dict[str, Any]]] = {}

    def add(self, room: Room) -> None:
        """Add a kind of room.

        Raises:
            ConfigError: Another one has a pattern that matches the same names.
        """
        for other in self._rooms:
            if other.pattern.shape == room.pattern.shape:
                raise ConfigError(
                    f"The room {room.pattern.text!r} has a rule already, "
                    f"{_name(other.rule)} for {other.pattern.text!r}; keep one of them."
                )
        self._rooms.append(room)
        self._rooms.sort(key=lambda r: r.pattern.rank)
        self._found.clear()

    def of_pattern(self, text: str) -> Room | None:
        """Return the kind of room that was declared with this pattern."""
        return next((r for r in self._rooms if r.pattern.text == text), None)

    def patterns(self) -> list[str]:
        """Return the patterns of all kinds of rooms."""
        return [room.pattern.text for room in self._rooms]

    def find(self, name: str) -> tuple[Room, dict[str, Any]] | None:
        """Return the kind of room that a name belongs to, and its values."""
        found = self._found.get(name)
        if found is None:
            found = self._look(name)
            if found is not None:
                if len(self._found) >= _MAX_FOUND:
                    self._found.clear()
                self._found[name] = found
        return None if found is None else (found[0], dict(found[1]))

    def covers(self, given: str, name: str) -> bool:
        """Say whether a room is meant by its name, or by the pattern of its kind.

        A pattern that is not known, mostly of another version of the application, may
        mean any room.
        """
        if given == name:
            return True
        kind = self.of_pattern(given)
        if kind is not None:
            return kind.has_name(name)
        return "<" in given and self.find(given) is None

    def _look(self, name: str) -> tuple[Room, dict[str, Any]] | None:
        try:
            check_room_name(name)
        except InvalidRoom:
            return None
        for room in self._rooms:
            values = room.pattern.match(name)
            if values is not None:
                return room, values
        return None


def _whispers(allowed: object, pattern: Pattern) -> bool | frozenset[str]:
    """Return whether a room's subscribers may whisper: all, nothing, or which names."""
    if isinstance(allowed, bool):
        return allowed
    if isinstance(allowed, str) or not isinstance(allowed, Iterable):
        raise ConfigError(
            f"whisper={allowed!r} of the room {pattern.text!r} must be True, False or "
            "names of events. Write whisper=('typing',)."
        )
    names = frozenset(allowed)
    for name in names:
        try:
            check_event(name)
        except UsageError as error:
            raise ConfigError(
                f"The room {pattern.text!r} can't have that whispered: {error}"
            ) from None
        if name.endswith(f".{INVALIDATED}"):
            raise ConfigError(
                f"The room {pattern.text!r} can't have {name!r} whispered: stores "
                "would take it for a change. Choose another name."
            )
    return names


def _check_signature(what: str, function: Rule, pattern: Pattern) -> None:
    called = (function, vars(type(function)).get("__call__"))
    if any(
        inspect.iscoroutinefunction(f)
        or inspect.isgeneratorfunction(f)
        or inspect.isasyncgenfunction(f)
        for f in called
    ):
        # What calling it returns is true, whatever it would have said.
        raise ConfigError(
            f"The {what} {_name(function)} of room {pattern.text!r} must be a plain "
            "function, without async or yield."
        )
    try:
        inspect.signature(function).bind(None, **dict.fromkeys(pattern.variables))
    except TypeError:
        wanted = ", ".join(("user", *pattern.variables))
        raise ConfigError(
            f"The {what} {_name(function)} of room {pattern.text!r} must take "
            f"({wanted})."
        ) from None


def _name(function: Rule) -> str:
    return getattr(function, "__qualname__", repr(function))
