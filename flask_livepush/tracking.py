"""Which models are live: in which rooms, under which kind, with which fields.

A :class:`Tracked` is a declaration, checked when it is made. Given what one commit did
to one row it says what is pushed. When commits happen, and to which rows, is
``capture``'s part; which rows a newcomer starts from that of ``snapshots``.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapper, QueryableAttribute, RelationshipProperty
from sqlalchemy.sql import operators

from . import secrecy
from .column_types import has_text, is_padded, is_random, unsendable
from .errors import ConfigError, EncodingError, UsageError
from .failures import Failure, Failures, What, place_of
from .logs import logger
from .protocol.batch import Batch
from .protocol.encoding import encode, plain
from .protocol.publication import Draft
from .readings import Unreadable, UnreadableValue
from .rooms import Room
from .row import (
    NotRead,
    PropertyRaised,
    Row,
    Values,
    getter_of,
    got,
    reads_of_first,
)
from .sources import DISCRIMINATOR, NoPath, Path, Source, find_path

log = logger(__name__)

Field = str | Callable[[Row], Any]

# Types that convert one column's value, as fields={"id": str} does; every other
# callable is given the row.
_CONVERSIONS = (str, int, float, bool)
_KIND = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_RESERVED_KINDS = ("livepush", "state")


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit did to one row, all in all.

    Args:
        before: The columns of :attr:`Tracked.membership` before it; None: no row.
        after: The columns of :attr:`Tracked.reads` after it; None: no row.
        touched: The columns that were written; None: all.
        stamp: Orders the versions of the row, in microseconds; None: nothing does,
            and its rooms are told to read the kind anew.
    """

    before: Values | None
    after: Values | None
    touched: frozenset[str] | None
    stamp: int | None


class _FunctionRaised(Exception):
    """A function that an application gave to ``track`` raised."""


class Tracked:
    """One declaration of ``livepush.track``.

    Args:
        model: A mapped class.
        rooms: A Room whose variables are columns of the model, several, or a callable
            that is given the row and returns a name, several, or None.
        fields: What is pushed: names of columns, or a mapping of names to a column's
            name, ``str`` (the column of that name as text) or a callable of the row.
        kind: The model's name on the wire; by default its own in snake case.
        key: The primary key or a unique column, by which clients know a row.
        when: Given the row, whether it is in its rooms at all.
        latest: How many rows a snapshot has, the newest by ``order_by``.
        order_by: What sorts rows: names of columns ("-name" for newest first), or
            expressions; the primary key by default, and among equal rows. As in the
            client's stores, the last rows are the newest, or the first where the first
            that is given descends.
        columns: The names of the columns that callables read.
        of: With a callable for rooms, the Rooms in which it may put rows.
        snapshot: With a callable for rooms, a function that is given the values of one
            of these rooms and returns a SELECT of the model that has its rows.
        allow_secret: True, or the names of those fields and columns, where they are
            meant to be seen although they look secret.
        knows: Says whether a rule knows a room's name.
        failures: Takes note of what fails at run time.

    Raises:
        ConfigError: Something named does not exist or does not fit; with the remedy.
    """

    def __init__(
        self,
        model: Any,
        *,
        rooms: Any,
        fields: Any,
        kind: str | None = None,
        key: str = "id",
        when: Callable[[Row], Any] | None = None,
        latest: int = 100,
        order_by: Any = None,
        columns: Sequence[str] | None = None,
        of: Any = None,
        snapshot: Callable[..., Any] | None = None,
        allow_secret: bool | Sequence[str] = False,
        knows: Callable[[str], bool] = lambda name: True,
        failures: Failures | None = None,
    ) -> None:
        self.mapper = mapper_of(model)
        self.failures = Failures() if failures is None else failures
        self.knows = knows
        self._warned = False
        self.model: type = model
        self.name = model.__name__
        self.kind = self._checked_kind(kind)
        self._columns = dict(self.mapper.columns.items())
        self._own = Source(self.mapper, {})
        if not self._own.attributes:
            raise ConfigError(
                f"track() of {self.name}: it has no table of its own; track each "
                "concrete class that is derived from it."
            )
        self._allow_secret = self._checked_allow_secret(allow_secret)
        self.primary_key = self._own.primary_key
        self.key = self._checked_key(key)
        self.rooms, self._rooms_of = self._checked_rooms(rooms)
        if when is not None and not callable(when):
            raise ConfigError(
                f"track() of {self.name}: when={when!r} must be a callable that is "
                "given the row."
            )
        self._when = when
        self.of, self.select = self._checked_of(of, snapshot)
        self.latest = self._checked_latest(latest)
        self._check_names_of_rooms(columns)
        self._read_by_callables = self._checked_columns(columns, rooms, fields)
        self._properties: list[Field] = []
        self.fields = self._checked_fields(fields)
        #: Whether functions of the application are called, which may query.
        self.calls = self.selects or any(
            callable(f) and f not in (*_CONVERSIONS, *self._properties)
            for f in self.fields.values()
        )
        self.order = self._checked_order(order_by)
        self._labels = [f"{encode(name)}:" for name in self.fields]
        variables = {v for room in self.rooms for v in room.pattern.variables}
        self._padded = {v for v in variables if is_padded(self._columns[v].type)}
        by_callables = set(self._read_by_callables)
        self.membership: frozenset[str] = frozenset(
            {self.key, *self.primary_key, *variables, *self._own.discriminators}
            | (by_callables if when is not None or not self.rooms else set())
        )
        named = {f for f in self.fields.values() if isinstance(f, str)}
        named |= {n for n, f in self.fields.items() if f in _CONVERSIONS}
        self.paths: frozenset[str] = frozenset(n for n in named if "." in n)
        self.reads: frozenset[str] = self.membership | by_callables | named
        #: The table that has all that is read; None: several have.
        self.home = None if self.paths else self._own.home(self.reads)
        # What an UPDATE of any other column may change too, SQL expressions among it.
        self.follow = frozenset(
            name
            for name in self.reads - self.paths - {DISCRIMINATOR}
            if not isinstance(column := self._columns[name], sa.Column)
            or column.onupdate is not None
            or column.server_onupdate is not None
            or column is self.mapper.version_id_col
        )

    @cached_property
    def source(self) -> Source:
        """Where its columns are, those of related rows too.

        Raises:
            ConfigError: A field is no path; seen once all models are mapped.
        """
        return Source(self.mapper, {text: self._path(text) for text in self.paths})

    def check_paths(self) -> None:
        """Raise a ConfigError where a field is no path; all models must be mapped."""
        for text in self.paths:
            self._path(text)

    def _path(self, text: str) -> Path:
        try:
            path = find_path(self.mapper, text)
        except NoPath as error:
            raise ConfigError(
                f"track() of {self.name}: the field {text!r} is no path to a column: "
                f"{error}. For anything else give a callable that queries it by the "
                "row's foreign key."
            ) from None
        problem = unsendable(path.target.columns[path.column].type)
        if problem is not None:
            raise ConfigError(
                f"track() of {self.name}: the field {text!r} holds {problem[0]}, which "
                "JSON can't. Leave it out, or give a callable that makes text of it."
            )
        end = path.target.columns[path.column]
        self._refuse_secret("field", text, secrecy.of_column(path.column, end))
        return path

    @cached_property
    def _watched(self) -> frozenset[str]:
        return self.source.watched(self.reads)

    @cached_property
    def _moving(self) -> frozenset[str]:
        return self.source.watched(self.membership)

    def concerns(self, touched: frozenset[str] | None) -> bool:
        """Say whether what is read may have changed with these attributes.

        Args:
            touched: Those that were written; None: all.
        """
        if touched is None or touched & self._watched:
            return True
        # Every UPDATE of a row, of whichever of its tables, counts it up.
        return bool(touched) and any(
            self._columns.get(name) is self.mapper.version_id_col
            for name in self.follow
        )

    def moves(self, touched: frozenset[str] | None) -> bool:
        """Say whether a row's rooms may have changed with these attributes."""
        return touched is None or bool(touched & self._moving)

    def __repr__(self) -> str:
        return f"<Tracked {self.name} as {self.kind!r}>"

    # -- what a change becomes -------------------------------------------------------

    def push(self, change: Change, to: Batch) -> None:
        """Hand over what one commit did to one row, as its rooms are to see it.

        Functions of the application run in here. One that raises is noted: the row is
        sent without a field of it, and where it says in which rooms a row is, those
        that may hold it are told to read the kind anew.
        """
        try:
            new = self._names(change.after)
            same = change.before is change.after
            old = new if same else self._names(change.before)
        except Exception as error:  # noqa: BLE001
            self._note_rooms(error)
            self.invalidate_everywhere(to)
            return
        if old == new and not self._concerns(change):
            return
        if change.stamp is None:
            for room in old | new:
                to.invalidate(room, self.kind)
            return
        try:
            self._push(change, old, new, to)
        except Exception as error:  # noqa: BLE001
            self._note(
                f"push {place_of(error)}",
                f"A changed {self.name} can't be pushed ({type(error).__name__}); its "
                "rooms are told to read anew.",
                what="other",
                error=error,
            )
            for room in old | new:
                to.invalidate(room, self.kind)

    def _push(self, change: Change, old: set[str], new: set[str], to: Batch) -> None:
        # A row whose key can't be sent is in no room, and was in none.
        old_key = self._key_of(change.before) if change.before and old else None
        new_key = self._key_of(change.after) if change.after and new else None
        old, new = old if old_key else set(), new if new_key else set()
        # Everything that may fail is done before the first is handed over.
        data = self._encoded(change.after) if change.after and new else ""
        for room in sorted(old):
            if room not in new or old_key != new_key:
                gone = f"{{{encode(self.key)}:{old_key}}}"
                to.delete(room, self._draft("deleted", gone, old_key, change.stamp))
        for room in sorted(new):
            event = "updated" if room in old and old_key == new_key else "created"
            to.put(room, self._draft(event, data, new_key, change.stamp))

    def _draft(self, what: str, data: str, key: str | None, stamp: int | None) -> Draft:
        return Draft(f"{self.kind}.{what}", data, self.kind, key, stamp)

    def _concerns(self, change: Change) -> bool:
        if change.before is None or change.after is None:
            return True
        return self.concerns(change.touched)

    def _names(self, values: Values | None) -> set[str]:
        if values is None or values[self.key] is None:
            return set()  # nothing would tell two rows without a key apart
        if not self._own.is_of_model(values):
            return set()
        if self._when is not None and not self._is_in(Row(self.model, values)):
            return set()
        if self._rooms_of is not None:
            row = Row(self.model, values)
            return self._checked_names(self._call("rooms=", self._rooms_of, row))
        names = (self._name(room, values) for room in self.rooms)
        return {name for name in names if name is not None}

    def _name(self, room: Room, values: Values) -> str | None:
        """Return the name of a row's room; None: no name can be made of its values."""
        wanted = {v: values[v] for v in room.pattern.variables}
        if self._padded:
            for variable in self._padded & wanted.keys():
                if isinstance(wanted[variable], str):
                    wanted[variable] = wanted[variable].rstrip(" ")
        if None in wanted.values():
            return None
        try:
            return room.pattern.name(wanted)
        except UsageError:
            return None

    def _checked_names(self, names: Any) -> set[str]:
        several = [] if names is None else [names] if isinstance(names, str) else names
        if not isinstance(several, (list, tuple, set, frozenset)) or not all(
            isinstance(name, str) for name in several
        ):
            raise _FunctionRaised(
                f"rooms= of {self.name} returned {type(names).__name__}; it must "
                "return a room's name, several, or None"
            )
        for name in several:
            if not self.knows(name) and not self._warned:
                self._warned = True
                log.warning(
                    "rooms= of %s returned a name that no rule knows: nobody can see "
                    "its rows there. Declare the pattern with @livepush.room.",
                    self.name,
                )
        inside = {name for name in several if self._may_be_in(name)}
        if len(inside) < len(set(several)):
            self._note(
                "of=",
                f"rooms= of {self.name} put a row into a room of a kind that it was "
                "not declared for, and whose newcomers would not get it; it is left "
                "out there. Add that Room to of=.",
                what="row",
            )
        return inside

    def _key_of(self, values: Values) -> str | None:
        """Return a row's key as JSON text; None, noted: it can't be sent."""
        field = self.fields[self.key]
        value = values[self.key]
        try:
            return encode(value if isinstance(field, str) else field(value))
        except Exception as error:  # noqa: BLE001
            self._note_key(error)
            return None

    def fields_of(self, values: Values) -> dict[str, Any]:
        """Return the fields of a row: what was declared and nothing else.

        A field whose value can't be sent, or whose function raises, is missing, which
        is noted. A row without its key is in no room.
        """
        row = Row(self.model, values)
        try:
            return {
                name: plain(self._field(name, field, values, row))
                for name, field in self.fields.items()
            }
        except Exception:  # noqa: BLE001
            return self._what_can_be_sent(values, row)

    def _encoded(self, values: Values) -> str:
        """Return the same as JSON text, of a row whose key can be sent."""
        row = Row(self.model, values)
        try:
            texts = [
                label + encode(self._field(name, field, values, row))
                for label, (name, field) in zip(
                    self._labels, self.fields.items(), strict=True
                )
            ]
        except Exception:  # noqa: BLE001
            return encode(self._what_can_be_sent(values, row))
        return f"{{{','.join(texts)}}}"

    def _what_can_be_sent(self, values: Values, row: Row) -> dict[str, Any]:
        found = {}
        for name, field in self.fields.items():
            try:
                value = self._field(name, field, values, row)
                if isinstance(value, Unreadable):
                    raise value.error
                found[name] = plain(value)
            except Exception as error:  # noqa: BLE001
                if name == self.key:
                    self._note_key(error)
                else:
                    self._note_field(name, error)
        return found

    def _note_key(self, error: Exception) -> None:
        self._note(
            self.key,
            f"A {self.name} is in no room, since its key {self.key!r} "
            f"{_problem(error)} Give a key that can be sent: fields={{{self.key!r}: "
            "str}, or key= another unique column.",
            what="row",
        )

    def _note_field(self, name: str, error: Exception) -> None:
        if isinstance(error, _FunctionRaised):
            why = f"{error}."
            if not isinstance(error.__cause__, NotRead):
                why += " Catch it there, and return something that can be sent."
        else:
            why = f"its value {_problem(error)} A callable in fields= may do that."
        self._note(
            name,
            f"The field {name!r} of {self.name} is left out of a row: {why}",
            what="field",
            error=error.__cause__ if isinstance(error, _FunctionRaised) else None,
        )

    def _note_rooms(self, error: Exception) -> None:
        told = error if isinstance(error, _FunctionRaised) else type(error).__name__
        self._note(
            f"rooms {place_of(error.__cause__ or error)}",
            f"The rooms of a changed {self.name} are not known: {told}. All that may "
            "hold it are told to read anew.",
            what="other",
            error=error,
        )

    def _note(
        self, place: str, reason: str, *, what: What, error: BaseException | None = None
    ) -> None:
        failure = Failure(reason, kind=self.kind, room=self._patterns(), what=what)
        self.failures.note((self, place), failure, error=error)

    def _patterns(self) -> str:
        return ", ".join(room.pattern.text for room in self.rooms or self.of)

    def _is_in(self, row: Row) -> bool:
        return self._when is None or bool(self._call("when=", self._when, row))

    def _field(self, name: str, field: Field, values: Values, row: Row) -> Any:
        if isinstance(field, str):
            return values[field]
        if field in _CONVERSIONS:
            value = values[name]
            return None if value is None else field(value)
        return self._call(f"the field {name!r}", field, row)

    def _call(self, what: str, function: Callable[[Row], Any], row: Row) -> Any:
        try:
            return function(row)
        except Exception as error:
            named = getattr(function, "__qualname__", repr(function))
            if isinstance(error, NotRead):
                raised = f"asks for what it is not given: {str(error).rstrip('.')}"
            else:
                cause = error.__cause__ if isinstance(error, PropertyRaised) else error
                raised = f"raised {type(cause).__name__}"
            raise _FunctionRaised(
                f"{named}, given as {what} of {self.name}, {raised}"
            ) from error

    def rooms_of(self, row: object) -> set[str]:
        """Return the names of the rooms of a loaded object, for ``invalidate``."""
        return self._names(self._values_of(row))

    def _values_of(self, target: object) -> dict[str, Any]:
        """Return what is read of a loaded object, as if it had been read."""
        values = {}
        for name in self.reads - {DISCRIMINATOR}:
            value: Any = target
            for step in name.split("."):
                value = None if value is None else getattr(value, step)
            values[name] = value
        if self._own.discriminators:
            values[DISCRIMINATOR] = sa.inspect(type(target)).polymorphic_identity
        return values

    def invalidate(self, values: Values, to: Batch) -> None:
        """Tell the rooms of a row with these values to read its kind anew."""
        try:
            names = self._names(values)
        except Exception as error:  # noqa: BLE001
            self._note_rooms(error)
            self.invalidate_everywhere(to)
            return
        for name in names:
            to.invalidate(name, self.kind)

    def invalidate_object(self, target: object, to: Batch) -> None:
        """Tell the rooms of a loaded object to read its kind anew."""
        for name in self.rooms_of(target):
            to.invalidate(name, self.kind)

    def invalidate_everywhere(self, to: Batch) -> None:
        """Tell every room that may hold rows of the model to read them anew."""
        to.invalidate_everywhere(self.kind, self._may_be_in)

    def _may_be_in(self, name: str) -> bool:
        # Of a callable that was declared for no Room, the rooms may be any.
        rooms = self.rooms or self.of
        return not rooms or any(room.has_name(name) for room in rooms)

    def row(self, target: object) -> dict[str, Any]:
        """Return the declared fields of a loaded object, as :meth:`fields_of` does."""
        return self.fields_of(self._values_of(target))

    # -- which rows are in a room ----------------------------------------------------

    def belongs_to(self, room: Room) -> bool:
        """Say whether the room's snapshot may have rows of this model."""
        if self._rooms_of is None:
            return room in self.rooms
        if self.of:
            return room in self.of
        return self.select is None or _takes(self.select, room)

    @property
    def selects(self) -> bool:
        """Whether functions say which rows are in a room, and SQL can't."""
        return self._when is not None or self._rooms_of is not None

    def may_be_in(self, room: Room, name: str, values: Values) -> bool:
        """Say whether a row is in a room as far as that takes no function."""
        if values[self.key] is None:
            return False
        return not self.rooms or self._name(room, values) == name

    def is_in(self, name: str, values: Values) -> bool:
        """Say whether a row is in the room of that name; functions may raise."""
        return name in self._names(values)

    def column(self, name: str) -> Any:
        """Return a column of the model, by its attribute's name."""
        return self._columns[name]

    # -- checks ----------------------------------------------------------------------

    def _checked_kind(self, kind: str | None) -> str:
        if kind is None:
            kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_",
                          self.name).lower()  # fmt: skip
        if not isinstance(kind, str) or not _KIND.fullmatch(kind):
            raise ConfigError(
                f"track() of {self.name}: the kind {kind!r} must be a name such as "
                "'message', of letters, digits, '_' and '-'."
            )
        if kind in _RESERVED_KINDS:
            raise ConfigError(
                f"track() of {self.name}: the kind {kind!r} is reserved; give another "
                "with kind=."
            )
        return kind

    def _column(self, name: object, what: str) -> str:
        if isinstance(name, str) and name in self._columns:
            return name
        raise ConfigError(
            f"track() of {self.name}: {what} {name!r} is no column of it; its columns "
            f"are {', '.join(self._columns)}."
            + (" Name the one that clients know a row by with key=." * (what == "key"))
            + self._instead_of(name, what)
        )

    def _instead_of(self, name: object, what: str) -> str:
        """Say what may have been meant where a column is expected."""
        if isinstance(name, QueryableAttribute):
            return f" Write its name, {name.key!r}."
        if not isinstance(name, str):
            return ""
        found = inspect.getattr_static(self.model, name, None)
        # Not found.property, which needs all models to be there already.
        step = getattr(getattr(found, "comparator", None), "prop", None)
        if isinstance(step, RelationshipProperty):
            remedy = " It is a relationship; name the column of its foreign key"
            if "field" in what:
                remedy += (
                    ", or a path to a column of the related row, as "
                    f"fields={{{name!r}: '{name}.name'}}"
                )
            return f"{remedy}."
        if inspect.isfunction(found) and "field" in what:
            return f" It is a method: fields={{{name!r}: lambda row: row.{name}()}}."
        near = difflib.get_close_matches(name, self._columns, 1)
        return f" Did you mean {near[0]!r}?" if near else ""

    def _text_column(self, name: object, what: str) -> str:
        """Return a column that JSON can hold, as far as its type says."""
        found = self._column(name, what)
        problem = unsendable(self._columns[found].type)
        if problem is not None:
            held, remedy = problem
            raise ConfigError(
                f"track() of {self.name}: {what} {name!r} holds {held}, which JSON "
                "can't; give a callable that makes text, a number or a list of it, as "
                f"fields={{{found!r}: lambda row: {remedy.format(f'row.{found}')}}}."
            )
        return found

    def _checked_key(self, key: str) -> str:
        column = self._columns[self._column(key, "key")]
        if self.primary_key == (key,) or self._is_unique(column):
            self._check_deferrable(key, column)
            return key
        raise ConfigError(
            f"track() of {self.name}: key {key!r} is neither its primary key nor "
            "unique; give a unique column with key=."
        )

    def _check_deferrable(self, key: str, column: Any) -> None:
        """Refuse a key that two rows may have until their transaction ends.

        What is pushed of the one would be taken for a version of the other.
        """
        table = getattr(column, "table", None)
        own = [
            c
            for c in getattr(table, "constraints", ())
            if isinstance(c, (sa.UniqueConstraint, sa.PrimaryKeyConstraint))
            and list(c.columns) == [column]
        ]
        at_once = any(
            index.unique and list(index.columns) == [column]
            for index in getattr(table, "indexes", ())
        )
        if own and not at_once and all(c.deferrable or c.initially for c in own):
            raise ConfigError(
                f"track() of {self.name}: key {key!r} is unique only at the end of a "
                "transaction, as its constraint is DEFERRABLE, so that two rows may "
                "have it meanwhile and nothing orders their versions; give a column "
                "with key= whose constraint is not, such as the primary key, or "
                "leave deferrable= and initially= out."
            )

    def _is_unique(self, column: Any) -> bool:
        table = getattr(column, "table", None)
        if getattr(column, "unique", False):
            return True
        alone = [
            list(c.columns)
            for c in getattr(table, "constraints", ())
            if isinstance(c, sa.UniqueConstraint)
        ]
        alone += [list(i.columns) for i in getattr(table, "indexes", ()) if i.unique]
        return [column] in alone

    def _checked_rooms(
        self, rooms: Any
    ) -> tuple[tuple[Room, ...], Callable[[Row], Any] | None]:
        if isinstance(rooms, Room):
            rooms = (rooms,)
        if isinstance(rooms, (tuple, list)) and rooms:
            for room in rooms:
                if not isinstance(room, Room):
                    raise ConfigError(
                        f"track() of {self.name}: {room!r} in rooms= is no Room; "
                        "give what @livepush.room(pattern) made of the rule, by its "
                        "name."
                    )
                for variable in room.pattern.variables:
                    if variable not in self._columns:
                        raise ConfigError(
                            f"track() of {self.name}: the room {room.pattern.text!r} "
                            f"has the variable {variable!r}, which is no column of it; "
                            f"its columns are {', '.join(self._columns)}. Rename the "
                            "variable, or give rooms= a callable and columns=."
                        )
                    self._check_text(room, variable)
            return tuple(rooms), None
        if getattr(rooms, "__qualname__", "") == "LivePush.room.<locals>.decorate":
            raise ConfigError(
                f"track() of {self.name}: rooms= is livepush.room(pattern) without a "
                "rule; decorate the function that says who may join, and give that."
            )
        if callable(rooms):
            return (), rooms
        raise ConfigError(
            f"track() of {self.name}: rooms={rooms!r} must be a Room (what "
            "@livepush.room(pattern) made of the rule, by its name), several, or a "
            "callable."
        )

    def _check_text(self, room: Room, variable: str) -> None:
        kind = self._columns[variable].type
        if has_text(kind):
            return
        raise ConfigError(
            f"track() of {self.name}: the room {room.pattern.text!r} has the variable "
            f"{variable!r}, a column of type {type(kind).__name__}, whose values have "
            "no one text to be a name. Take another column, or give rooms= a callable "
            f"that makes the name, with of= and columns=({variable!r},)."
        )

    def _checked_of(
        self, of: Any, snapshot: Any
    ) -> tuple[tuple[Room, ...], Callable[..., Any] | None]:
        if self._rooms_of is None:
            if of is not None or snapshot is not None:
                raise ConfigError(
                    f"track() of {self.name}: of= and snapshot= say of a callable in "
                    "rooms= which rooms it names and how their rows are found; leave "
                    "them out where rooms= are Rooms."
                )
            return (), None
        of = () if of is None else (of,) if isinstance(of, Room) else of
        if not isinstance(of, (tuple, list)) or not all(
            isinstance(room, Room) for room in of
        ):
            raise ConfigError(
                f"track() of {self.name}: of={of!r} must be a Room or several, those "
                "in which rooms= may put rows; livepush.room(pattern) returns one."
            )
        if snapshot is not None and not callable(snapshot):
            raise ConfigError(
                f"track() of {self.name}: snapshot={snapshot!r} must be a function of "
                "a room's values that returns a SELECT, such as "
                f"lambda user_id: select({self.name}).where(…)."
            )
        for room in of if snapshot is not None else ():
            if not _takes(snapshot, room):
                raise ConfigError(
                    f"track() of {self.name}: snapshot= must take "
                    f"({', '.join(room.pattern.variables)}), the values of the room "
                    f"{room.pattern.text!r}."
                )
        if not of and snapshot is None:
            log.warning(
                "track() of %s: rooms= is a callable, of which nobody knows what rooms "
                "it names, so that each newcomer of any room has it called for the "
                "newest rows, and older ones are not found. Say so: of=timeline, the "
                "Room or Rooms, and snapshot=lambda user_id: select(%s).where(…), how "
                "the rows of one are found.",
                self.name,
                self.name,
            )
        return tuple(of), snapshot

    def _checked_order(self, order_by: Any) -> tuple[tuple[Any, bool], ...]:
        """Return what sorts rows, the newest first, each with whether it descends."""
        several = order_by if isinstance(order_by, (tuple, list)) else [order_by]
        if order_by is None:
            several = []
            self._warn_of_keys_without_order()
        order: list[tuple[Any, bool]] = []
        for given in several:
            if isinstance(given, str):
                name = self._column(given.removeprefix("-"), "order_by")
                order.append((name, given.startswith("-")))
                continue
            if hasattr(given, "__clause_element__"):
                given = given.__clause_element__()
            if not isinstance(given, sa.ColumnElement):
                raise ConfigError(
                    f"track() of {self.name}: order_by={given!r} must be names of "
                    "columns, such as 'created_at', or expressions, such as "
                    f"{self.name}.created_at."
                )
            while getattr(given, "modifier", None) in (
                operators.nulls_first_op,
                operators.nulls_last_op,
            ):
                given = given.element
            descends = getattr(given, "modifier", None) is operators.desc_op
            if getattr(given, "modifier", None) in (
                operators.desc_op,
                operators.asc_op,
            ):
                given = given.element
            order.append((given, descends))
        first_descends = bool(order) and order[0][1]
        return (
            *((given, descends is first_descends) for given, descends in order),
            *((name, True) for name in self.primary_key),
        )

    def _warn_of_keys_without_order(self) -> None:
        named = {v for room in self.rooms for v in room.pattern.variables}
        for name in self.primary_key:
            kind = self._columns[name].type
            if name not in named and is_random(kind):
                log.warning(
                    "track() of %s: the primary key %r is a %s, by which a later row "
                    "is not the higher one; where a room has more than latest=%d rows, "
                    "a snapshot has any of them. Say what sorts them, such as "
                    "order_by='created_at' (order_by=%r if the keys ascend after "
                    "all).",
                    self.name,
                    name,
                    type(kind).__name__,
                    self.latest,
                    name,
                )

    def _checked_latest(self, latest: int) -> int:
        if isinstance(latest, bool) or not isinstance(latest, int) or latest < 0:
            raise ConfigError(
                f"track() of {self.name}: latest={latest!r} must be a whole number, 0 "
                "or more."
            )
        return latest

    def _checked_columns(
        self, columns: Sequence[str] | None, rooms: Any, fields: Any
    ) -> tuple[str, ...]:
        if columns is not None:
            if isinstance(columns, str):
                raise ConfigError(
                    f"track() of {self.name}: columns={columns!r} must be a tuple of "
                    "names."
                )
            return tuple(self._column(name, "column") for name in columns)
        if self._rooms_of is not None:
            raise ConfigError(
                f"track() of {self.name}: name the columns that the callable "
                "rooms= reads in columns=, so that a move between rooms is noticed."
            )
        has_callables = self._when is not None or self._functions(fields)
        return tuple(self._columns) if has_callables else ()

    def _functions(self, fields: Any) -> bool:
        """Say whether fields are made by functions: callables, and properties."""
        if isinstance(fields, str) or not isinstance(fields, Iterable):
            return False
        given = fields.values() if isinstance(fields, Mapping) else fields
        return any(
            f not in self._columns and getter_of(self.model, f) is not None
            if isinstance(f, str)
            else callable(f) and f not in _CONVERSIONS
            for f in given
        )

    def _checked_fields(self, fields: Any) -> dict[str, Field]:
        if isinstance(fields, str) or not isinstance(fields, (Mapping, Iterable)):
            raise ConfigError(
                f"track() of {self.name}: fields={fields!r} must be a tuple of names "
                "or a mapping."
            )
        if isinstance(fields, Mapping):
            checked = {n: self._checked_field(n, f) for n, f in fields.items()}
        else:
            checked = {n: self._checked_field(n, n, "field") for n in fields}
        for name, field in checked.items():
            found = secrecy.of_field(self.mapper, name, field)
            self._refuse_secret("field", name, found)
        key = checked.setdefault(self.key, self.key)
        if key == self.key and (held := unsendable(self._columns[key].type)):
            raise ConfigError(
                f"track() of {self.name}: the key {key!r} holds {held[0]}, which JSON "
                "can't; name another unique column with key=."
            )
        if key != self.key and key not in _CONVERSIONS:
            raise ConfigError(
                f"track() of {self.name}: the field {self.key!r} is its key and must "
                f"be that column itself, or str: fields={{{self.key!r}: str}}."
            )
        return {self.key: key} | checked

    def _checked_field(self, name: object, field: Any, what: str = "") -> Field:
        if not isinstance(name, str):
            raise ConfigError(
                f"track() of {self.name}: the field {name!r} must be a text."
                f"{self._instead_of(name, what)}"
            )
        if field in _CONVERSIONS:
            self._column(name, "field")
            return field  # type: ignore[no-any-return]
        if callable(field):
            return field  # type: ignore[no-any-return]
        if isinstance(field, str) and "." in field:
            return self._checked_path(field)
        getter = None
        if isinstance(field, str) and field not in self._columns:
            getter = getter_of(self.model, field)
        if getter is not None:
            return self._checked_property(field, getter)
        return self._text_column(field, what or f"the column of field {name!r},")

    def _checked_property(self, name: str, getter: Callable[[Any], Any]) -> Field:
        """Return a field that a property of the model makes of a row's columns."""
        for read in reads_of_first(getter):
            if not self.mapper.has_property(read):
                continue
            if isinstance(self.mapper.get_property(read), RelationshipProperty):
                raise ConfigError(
                    f"track() of {self.name}: the property {name!r} reads the "
                    f"relationship {read!r}, and fields are made of this row's columns "
                    f"alone. Give a path to the column, such as {read + '.name'!r}, or "
                    "a callable that queries."
                )

        found = secrecy.of_property(self.mapper, name)
        self._refuse_secret("property", name, found)

        def read_property(row: Row) -> Any:
            return got(getter, row)

        read_property.__qualname__ = f"{self.name}.{name}"
        self._properties.append(read_property)
        return read_property

    def _checked_allow_secret(self, allow: object) -> bool | tuple[str, ...]:
        if isinstance(allow, bool):
            return allow
        if isinstance(allow, (tuple, list)) and all(isinstance(n, str) for n in allow):
            return tuple(allow)
        raise ConfigError(
            f"track() of {self.name}: allow_secret={allow!r} must be True, or a tuple "
            "of the fields and columns that may be seen although they look secret."
        )

    def _check_names_of_rooms(self, columns: Sequence[str] | None) -> None:
        """Refuse rooms and keys by what looks secret: clients are told them too."""
        self._refuse_secret(
            "key", self.key, secrecy.of_column(self.key, self._columns[self.key])
        )
        for room in self.rooms or self.of:
            for variable in room.pattern.variables:
                self._refuse_secret(
                    f"room {room.pattern.text!r} by",
                    variable,
                    secrecy.of_field(self.mapper, variable, variable),
                )
        # Of a callable nobody knows which of them it makes names of.
        for name in (columns or ()) if self._rooms_of is not None else ():
            if name in self._columns:
                found = secrecy.of_column(name, self._columns[name])
                self._refuse_secret("column of rooms=", name, found)

    def _refuse_secret(self, what: str, name: str, found: str | None) -> None:
        """Raise a ConfigError where a name looks secret and nobody has allowed it."""
        allow = self._allow_secret
        if found is None or allow is True or (allow and name in allow):
            return
        via = "" if found == name else f" (by {found!r})"
        raise ConfigError(
            f"track() of {self.name}: the {what} {name!r} looks as if it held a "
            f"secret{via}, and whoever may join its rooms is told it. Leave it out; "
            "where it is none, or they are meant to know it, say "
            f"allow_secret=({name!r},), or True for all."
        )

    def _relationships(self) -> list[str]:
        """Return the names of relationships, which need not be mapped yet."""
        names = (name for cls in self.model.__mro__ for name in vars(cls))
        return sorted({n for n in names if self._is_relationship(n)})

    def _is_relationship(self, name: str) -> bool:
        return self.mapper.has_property(name) and isinstance(
            self.mapper.get_property(name), RelationshipProperty
        )

    def _checked_path(self, text: str) -> str:
        """Return a path as far as it can be checked before all models are mapped."""
        first = text.partition(".")[0]
        if not hasattr(self.model, first) or first in self._columns:
            raise ConfigError(
                f"track() of {self.name}: the field {text!r} is no path to a column: "
                f"{self.name} has no relationship {first!r}; its relationships are "
                f"{', '.join(self._relationships()) or 'none'}."
            )
        return text


def _problem(error: Exception) -> str:
    """Say why a value can't be sent, without the value."""
    if isinstance(error, EncodingError):
        return error.problem
    if isinstance(error, UnreadableValue):
        return f"can't be read: {error}. Mend it in the database, or the column's type."
    return f"can't be converted ({type(error).__name__})."


def _takes(function: Callable[..., Any], room: Room) -> bool:
    """Say whether a function may be called with the values of a room."""
    try:
        inspect.signature(function).bind(**dict.fromkeys(room.pattern.variables))
    except (TypeError, ValueError):
        return False
    return True


def mapper_of(model: Any, what: str = "track()") -> Mapper[Any]:
    """Return the mapper of a class that is declared.

    Args:
        what: By what, for the message.

    Raises:
        ConfigError: It is no mapped class, or has no table.
    """
    try:
        mapper = sa.inspect(model, raiseerr=False) if isinstance(model, type) else None
    except sa.orm.exc.UnmappedClassError:  # an AbstractConcreteBase
        mapper = None
    if not isinstance(mapper, Mapper) and (
        hasattr(model, "metadata") or hasattr(model, "__mapper__")
    ):
        raise ConfigError(
            f"{what} of {getattr(model, '__name__', model)}: it has no table of its "
            "own, as it is abstract; name each class that is derived from it."
        )
    if not isinstance(mapper, Mapper):
        raise ConfigError(
            f"{what} of {model!r}: it is no model; give a class that SQLAlchemy maps, "
            "such as one derived from db.Model."
        )
    return mapper
