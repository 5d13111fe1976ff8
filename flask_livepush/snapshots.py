"""What a newcomer starts from: the rows of one room, read from the database.

Which rows a room has is the declaration's to say (``tracking``). Nothing is known here
of commits, nor of who asks.

Rows are read first, and functions of the application called when the database has been
left: on SQLite an open cursor and a writer would wait for each other. Where rows that
were read are not in the room after all, more are read, from the start: one statement
shows one moment, and what changes after it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from . import conditions
from .errors import Unavailable
from .failures import Failure
from .readings import fetch_piecemeal, is_of_a_value
from .rooms import Room
from .row import Values
from .tracking import Tracked

Connect = Callable[[], AbstractContextManager[Connection]]
Apart = Callable[[], AbstractContextManager[None]]

# A snapshot looks at this many rows at most: for those that functions put in the room,
# and for those whose names are the room's.
_MAX_CALLED = 5_000
_MAX_LOOKED_AT = 20_000
_MORE = 5  # times as many rows are read when those that were are too few
_STREAMED = 500


def read(
    tracked: Tracked,
    room: Room,
    name: str,
    values: Values,
    *,
    connect: Connect,
    apart: Apart,
) -> dict[str, Any]:
    """Read the newest rows of one room, the newest last.

    Args:
        room: One that the declaration belongs to.
        name: The room's name.
        values: The values in it.
        connect: Opens a connection in a fresh session, and closes both.
        apart: Lets functions of the application have sessions of their own.

    Returns:
        ``{"key": str, "rows": [...], "partial": bool}``; partial: there are, or may
        be, more.

    Raises:
        Unavailable: A function that says which rows are in the room raised.
    """
    reading = _Reading(tracked, room, name, values, connect=connect)
    with apart() if tracked.calls else nullcontext():
        if tracked.select is not None:
            reading.select(tracked.select)
    limit = tracked.latest + 1
    most = max(limit, _MAX_CALLED if tracked.selects else _MAX_LOOKED_AT)
    while True:
        found, is_all = reading.rows(limit)
        if tracked.selects:
            with apart():
                found = [row for row in found if reading.is_in(row)]
        if is_all or len(found) > tracked.latest or limit == most:
            break
        limit = min(limit * _MORE, most)
    with apart() if tracked.calls else nullcontext():
        rows = [tracked.fields_of(row) for row in found[: tracked.latest]]
    return {
        "key": tracked.key,
        # One whose key can't be sent is in no room.
        "rows": [row for row in reversed(rows) if tracked.key in row],
        "partial": not is_all or len(found) > tracked.latest,
    }


class _Reading:
    """One snapshot of a declaration that is being read."""

    def __init__(
        self,
        tracked: Tracked,
        room: Room,
        name: str,
        values: Values,
        *,
        connect: Connect,
    ) -> None:
        self._tracked = tracked
        self._room = room
        self._name = name
        self._values = values
        self._connect = connect
        self._names = sorted(tracked.reads)
        self._asked: dict[tuple[Any, ...], tuple[Values, bool]] = {}
        self._selected: Any = None

    def select(self, function: Callable[..., Any]) -> None:
        """Let an application's function say by which query the rows are found."""

        def selected() -> Any:
            return _is_selected(self._tracked, function(**self._values))

        self._selected = self._call(selected)

    def rows(self, limit: int) -> tuple[list[Values], bool]:
        """Read rows that may be in the room, the newest first.

        Returns:
            At most as many as are wanted, and whether there are no others.
        """
        tracked = self._tracked
        wanted = limit if tracked.selects else tracked.latest + 1
        with self._connect() as connection:
            statement = self._statement(connection).limit(limit)
            options = {"yield_per": _STREAMED}
            try:
                with connection.execute(statement, execution_options=options) as result:
                    found, looked_at = self._kept(result, wanted)
            except Exception as error:
                if not is_of_a_value(error):
                    raise
                keys = [tracked.source.columns[name] for name in tracked.primary_key]
                whole = fetch_piecemeal(connection, statement, keys=keys)
                found, looked_at = self._kept(whole, wanted)
        return found, looked_at < limit and len(found) < wanted

    def _kept(
        self, result: Iterable[Sequence[Any]], wanted: int
    ) -> tuple[list[Values], int]:
        """Return rows that may be in the room, and how many were looked at for them."""
        found: list[Values] = []
        looked_at = 0
        for each in result:
            looked_at += 1
            row = dict(zip(self._names, each, strict=True))
            if self._tracked.may_be_in(self._room, self._name, row):
                found.append(row)
                if len(found) == wanted:
                    break
        return found, looked_at

    def is_in(self, row: Values) -> bool:
        """Ask the declaration's functions whether a row is in the room, once a row."""
        key = tuple(row[name] for name in self._tracked.primary_key)
        asked = self._asked.get(key)
        if asked is None or asked[0] != row:
            answer = self._call(lambda: self._tracked.is_in(self._name, row))
            asked = self._asked[key] = (row, answer)
        return asked[1]

    def _call(self, function: Callable[[], Any]) -> Any:
        """Call what an application gave; a failure of it is noted, and Unavailable."""
        tracked = self._tracked
        try:
            return function()
        except Exception as error:
            tracked.failures.note(
                (tracked, "snapshot"),
                Failure(
                    f"Which rows of {tracked.name} a newcomer gets is not known, as a "
                    "function given to track() failed; who joins is told to try again. "
                    "See the traceback, and mend it there.",
                    kind=tracked.kind,
                    room=self._room.pattern.text,
                ),
                error=error,
            )
            raise Unavailable("The room's snapshot could not be read.") from error

    def _statement(self, connection: Connection) -> sa.Select[Any]:
        tracked = self._tracked
        source = tracked.source
        statement = source.select(self._names).where(source.criterion())
        if self._selected is not None:
            statement = statement.where(self._selected)
        if tracked.rooms:
            statement = statement.where(*self._conditions(connection))
        dialect = connection.dialect.name
        return statement.order_by(*_newest_first(tracked, dialect))

    def _conditions(self, connection: Connection) -> list[Any]:
        pattern = self._room.pattern
        found = (
            conditions.of_column(
                self._tracked.column(variable),
                self._tracked.column(variable).type,
                pattern,
                variable,
                value=value,
                dialect=connection.dialect,
            )
            for variable, value in self._values.items()
        )
        return [condition for condition in found if condition is not None]


def _is_selected(tracked: Tracked, statement: Any) -> Any:
    """Return the condition that a row is one that an application's SELECT finds."""
    keys = [tracked.column(name) for name in tracked.primary_key]
    statement = getattr(statement, "statement", statement)  # of a Query
    if isinstance(statement, sa.Select):
        own = [getattr(tracked.model, name) for name in tracked.primary_key]
        statement = statement.with_only_columns(*own, maintain_column_froms=True)
    elif not isinstance(statement, sa.SelectBase):
        raise TypeError(
            f"snapshot= of {tracked.name} returned a {type(statement).__name__}; it "
            f"must return select({tracked.name}), with conditions."
        )
    found = statement.subquery()
    # MySQL takes no LIMIT in the subquery of an IN; so it is one level down.
    inner = sa.select(*(found.c[c.key] for c in tracked.mapper.primary_key))
    return (keys[0] if len(keys) == 1 else sa.tuple_(*keys)).in_(inner)


def _newest_first(tracked: Tracked, dialect: str) -> list[Any]:
    """Return what sorts rows, the newest first; NULL is the lowest."""
    found = []
    for given, descends in tracked.order:
        column = tracked.column(given) if isinstance(given, str) else given
        ordered = column.desc() if descends else column.asc()
        if dialect == "postgresql" and getattr(column, "nullable", True):
            # Where NULL is the highest; elsewhere it is the lowest.
            ordered = ordered.nulls_last() if descends else ordered.nulls_first()
        found.append(ordered)
    return found
