"""Rows as a database has them, with a mark in place of values that can't be read.

A column may hold what its type can't make a Python value of: a member that the Enum
does not have (any more), JSON or a date that is none, an infinite date, a text that
another key has encrypted. One such value must not hide all other rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection


class UnreadableValue(ValueError):
    """A value is used that can't be read."""


class Unreadable:
    """In place of a value that can't be read; it can't be used either.

    Args:
        reason: The name of the error that came of reading it.
    """

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"<Unreadable: {self.reason}>"

    @property
    def error(self) -> UnreadableValue:
        """What is raised where it is used."""
        return UnreadableValue(f"the database has a value that raises {self.reason}")

    def __str__(self) -> str:
        raise self.error

    def __bool__(self) -> bool:
        raise self.error


def fetch(
    connection: Connection,
    statement: sa.Select[Any],
    parameters: Mapping[str, Any] | None = None,
    *,
    keys: Sequence[Any],
) -> Sequence[Sequence[Any]]:
    """Return all rows that a SELECT finds.

    Args:
        keys: The columns, or expressions, that tell the rows apart.
    """
    try:
        return connection.execute(statement, parameters).fetchall()
    except Exception as error:
        if not is_of_a_value(error):
            raise
        return fetch_piecemeal(connection, statement, parameters, keys=keys)


def fetch_piecemeal(
    connection: Connection,
    statement: sa.Select[Any],
    parameters: Mapping[str, Any] | None = None,
    *,
    keys: Sequence[Any],
) -> Sequence[Sequence[Any]]:
    """Return the same in more statements, when one has failed by a value."""
    return _Piecemeal(connection, statement, parameters, keys).rows()


def is_of_a_value(error: Exception) -> bool:
    """Say whether an error may have come of one value, after the database's answer."""
    return not isinstance(error, sa.exc.SQLAlchemyError) or isinstance(
        error, sa.exc.DataError
    )


class _Piecemeal:
    """Reads rows column by column, and what can't be read so, value by value."""

    def __init__(
        self,
        connection: Connection,
        statement: sa.Select[Any],
        parameters: Mapping[str, Any] | None,
        keys: Sequence[Any],
    ) -> None:
        self._connection = connection
        self._statement = statement
        self._parameters = parameters
        self._keys = list(keys)

    def rows(self) -> list[list[Any]]:
        columns = list(self._statement.selected_columns)
        found: dict[tuple[Any, ...], list[Any]] = {
            tuple(row): [None] * len(columns) for row in self._read()
        }
        # The last first: a clock stands there, and is to be read before the values.
        for place, column in reversed(list(enumerate(columns))):
            values = self._values(column, list(found))
            for key, row in list(found.items()):
                if key in values:
                    row[place] = values[key]
                else:
                    del found[key]  # the row is gone by now
        return list(found.values())

    def _values(
        self, column: Any, keys: list[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], Any]:
        try:
            return {tuple(key): value for *key, value in self._read(column)}
        except Exception as error:
            if not is_of_a_value(error):
                raise
        values = {}
        for key in keys:
            one = (k == value for k, value in zip(self._keys, key, strict=True))
            try:
                for *_, value in self._read(column, *one):
                    values[key] = value
            except Exception as error:
                if not is_of_a_value(error):
                    raise
                values[key] = Unreadable(type(error).__name__)
        return values

    def _read(self, column: Any = None, *conditions: Any) -> Sequence[Any]:
        columns = self._keys if column is None else [*self._keys, column]
        statement = self._statement.with_only_columns(
            *columns, maintain_column_froms=True
        ).where(*conditions)
        return self._connection.execute(statement, self._parameters).fetchall()
