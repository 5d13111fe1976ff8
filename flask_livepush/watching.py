"""Tables by whose rows rights change: whose subscriptions are asked about again, where.

A :class:`Watched` is a declaration beside those of ``tracking``, and is followed as
they are. It has no rows in any room, no kind and no stamp: of what one commit did to a
row it says which rights have to be asked about. What is not known of a row makes it ask
about more: everybody in a room, or all rooms of a kind. To ask in vain is never wrong.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapper, QueryableAttribute

from .brokers.logins import Recheck
from .column_types import has_text, is_padded
from .errors import ConfigError, UsageError
from .protocol.batch import Batch
from .readings import Unreadable
from .rooms import Pattern, Room
from .row import Values
from .sources import Source
from .tracking import Change, mapper_of

# By it a value has the text that names a user.
_IDENTITY = Pattern("user:<path:user_id>")


class Watched:
    """One declaration of ``Room.recheck_on``.

    Args:
        room: Whose rules depend on the rows.
        model: A mapped class, or a table that no class is mapped to, such as the
            ``secondary`` of a relationship.
        user: The name of the column that says whose rights a row concerns; None: those
            of everybody in the rooms.
        columns: By the room's variables, the names of the columns that say which rooms
            it concerns; by default those of the same names. A variable that is left out
            stands for any value: with none, all rooms of this kind are concerned.

    Raises:
        ConfigError: Something named does not exist or does not fit; with the remedy.
    """

    #: It has no rows in rooms, and none of its functions are the application's.
    kind = ""
    rooms: tuple[Room, ...] = ()
    of: tuple[Room, ...] = ()
    paths: frozenset[str] = frozenset()
    follow: frozenset[str] = frozenset()
    calls = False

    def __init__(
        self,
        room: Room,
        model: Any,
        *,
        user: str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        self.room = room
        self.whole = Recheck(room=room.pattern.text)
        self.table: sa.Table | None = model if isinstance(model, sa.Table) else None
        self._mapper: Mapper[Any] | None = None
        if self.table is None:
            self._mapper = mapper_of(model, "recheck_on()")
        self.model: Any = model
        self.name: str = model.name if self.table is not None else model.__name__
        self._columns: dict[str, Any] = dict(
            model.columns.items()
            if self._mapper is None
            else self._mapper.columns.items()
        )
        self.user = None if user is None else self._column(user, "user=")
        self.named = self._checked_columns(columns)
        self.columns = {
            name: self._columns[name]
            for name in (*filter(None, (self.user,)), *self.named.values())
        }
        self._padded = {n for n, c in self.columns.items() if is_padded(c.type)}
        self.membership: frozenset[str] = frozenset(self.columns)
        if self._mapper is not None:
            self.primary_key = self.source.primary_key
            self.membership |= {*self.primary_key, *self.source.discriminators}
        self.reads = self.membership
        self.home = None if self._mapper is None else self.source.home(self.reads)
        self._moving = (
            frozenset()
            if self._mapper is None
            else self.source.watched(self.membership)
        )

    def __repr__(self) -> str:
        return f"<Watched {self.name} for {self.room.pattern.text!r}>"

    @property
    def mapper(self) -> Mapper[Any]:
        """The model's; a table that nothing is mapped to has none."""
        assert self._mapper is not None
        return self._mapper

    @cached_property
    def source(self) -> Source:
        """Where its columns are."""
        return Source(self.mapper, {})

    @property
    def tables(self) -> Sequence[Any]:
        """The tables whose rows are watched."""
        return (self.table,) if self._mapper is None else self._mapper.tables

    # -- what a change asks for --------------------------------------------------------

    def concerns(self, touched: frozenset[str] | None) -> bool:
        """Say whether a change of these attributes concerns rights: any does."""
        return touched is None or bool(touched)

    def moves(self, touched: frozenset[str] | None) -> bool:
        """Say whether with these attributes a row may concern other rights than it did.

        Args:
            touched: Those that were written; None: all.
        """
        return touched is None or bool(touched & self._moving)

    def push(self, change: Change, to: Batch) -> None:
        """Ask about the rights that a row concerned, and those that it concerns."""
        stays = change.before is not None and change.after is not None
        if stays and not self.concerns(change.touched):
            return
        for values in (change.before, change.after):
            if values is not None:
                self.invalidate(values, to)

    def invalidate(self, values: Values, to: Batch) -> None:
        """Ask about the rights that a row with these values concerns.

        Args:
            values: Those of the columns that are known; what is missing, or NULL, may
                be anything.
        """
        if (
            self._mapper is not None
            and self.source.discriminators <= values.keys()
            and not self.source.is_of_model(values)
        ):
            return
        user = None
        if self.user is not None:
            user = _IDENTITY.value_text("user_id", self._value(values, self.user))
        to.recheck(Recheck(user=user, room=self._room_name(values)), whole=self.whole)

    def invalidate_everywhere(self, to: Batch) -> None:
        """Ask about all subscriptions of this kind of room."""
        to.recheck(self.whole, whole=self.whole)

    def invalidate_object(self, target: object, to: Batch) -> None:
        """Ask about the rights that a loaded object concerns."""
        self.invalidate({name: getattr(target, name) for name in self.columns}, to)

    def belongs_to(self, room: Room) -> bool:
        """Say whether it has rows in a room: it has none anywhere."""
        return False

    def _room_name(self, values: Values) -> str:
        found = {v: self._value(values, name) for v, name in self.named.items()}
        if None in found.values():
            return self.room.pattern.text
        try:
            return self.room.pattern.name(found)
        except UsageError:
            return self.room.pattern.text

    def _value(self, values: Values, name: str) -> Any:
        value = values.get(name)
        if isinstance(value, Unreadable):
            return None
        if name in self._padded and isinstance(value, str):
            return value.rstrip(" ")
        return value

    # -- checks ------------------------------------------------------------------------

    def _checked_columns(self, columns: Mapping[str, str] | None) -> dict[str, str]:
        variables = self.room.pattern.variables
        if columns is None:
            for variable in variables:
                if variable not in self._columns:
                    raise ConfigError(
                        f"recheck_on() of {self.name}: the room "
                        f"{self.room.pattern.text!r} has the variable {variable!r}, "
                        "which is no column of it; its columns are "
                        f"{', '.join(self._columns)}. Say which column it is, as "
                        f"columns={{{variable!r}: 'id'}}, or columns={{}} if a row "
                        "concerns all rooms of this kind."
                    )
            columns = {variable: variable for variable in variables}
        if not isinstance(columns, Mapping):
            raise ConfigError(
                f"recheck_on() of {self.name}: columns={columns!r} must be a mapping "
                "of the room's variables to names of columns, such as "
                "columns={'room_id': 'id'}."
            )
        for variable in columns:
            if variable not in variables:
                raise ConfigError(
                    f"recheck_on() of {self.name}: the room {self.room.pattern.text!r} "
                    f"has no variable {variable!r}; its variables are "
                    f"{', '.join(variables) or 'none'}."
                )
        return {v: self._column(n, f"columns= {v!r}:") for v, n in columns.items()}

    def _column(self, name: object, what: str) -> str:
        if not isinstance(name, str) or name not in self._columns:
            raise ConfigError(
                f"recheck_on() of {self.name}: {what} {name!r} is no column of it; its "
                f"columns are {', '.join(self._columns)}.{self._instead_of(name)}"
            )
        kind = self._columns[name].type
        if not has_text(kind):
            raise ConfigError(
                f"recheck_on() of {self.name}: {what} {name!r} is a column of type "
                f"{type(kind).__name__}, whose values have no one text to be a name; "
                "leave it out, and more is asked about than needs to be."
            )
        return name

    def _instead_of(self, name: object) -> str:
        """Say what may have been meant where a column is expected."""
        if isinstance(name, (QueryableAttribute, sa.Column)):
            return f" Write its name, {name.key!r}."
        if not isinstance(name, str):
            return ""
        if self._mapper is not None and name in dir(self.model):
            return " Name the column of its foreign key."
        near = difflib.get_close_matches(name, self._columns, 1)
        return f" Did you mean {near[0]!r}?" if near else ""
