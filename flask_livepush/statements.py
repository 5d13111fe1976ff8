"""Which rooms a bulk statement concerns, as far as the statement itself says.

``None`` always means: can't be known. Being wrong is not allowed, not knowing is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, BooleanClauseList

from .errors import UsageError
from .tracking import Tracked

_Found = dict[str, list[Any]]  # column -> the values it may have


def rooms_of_insert(
    tracked: Tracked, statement: Any, parameters: Any, dialect: str
) -> set[str] | None:
    """Return the rooms of the rows that an ORM INSERT adds."""
    if statement.select is not None or _has_conflict_clause(statement):
        return None
    given = _inserted(tracked, statement, parameters)
    if given is None:
        return None
    for row in given:
        for name, value in row.items():
            column = tracked.mapper.columns[name]
            if value is None and (column.default or column.server_default) is not None:
                row[name] = _UNKNOWN  # None is left out, and the default inserted
    return _names(tracked, dialect, ({c: [v] for c, v in r.items()} for r in given))


def rooms_of_update(
    tracked: Tracked, statement: Any, parameters: Any, dialect: str
) -> set[str] | None:
    """Return the rooms of the rows that an ORM UPDATE changes, old and new."""
    if isinstance(parameters, (list, tuple)):
        return None  # by primary key
    bound = _bound(tracked, statement.whereclause, parameters)
    values = _values(tracked, getattr(statement, "_values", None) or {}, parameters)
    if values is None:
        return None
    values |= _plain(tracked, parameters)
    variables = {v for room in tracked.rooms for v in room.pattern.variables}
    if (variables & tracked.follow) - set(values):
        return None  # the database, or onupdate=, sets it
    new = bound | {c: [v] for c, v in values.items()}
    return _names(tracked, dialect, [bound, new])


def rooms_of_delete(
    tracked: Tracked, statement: Any, parameters: Any, dialect: str
) -> set[str] | None:
    """Return the rooms of the rows that an ORM DELETE takes away."""
    bound = _bound(tracked, statement.whereclause, parameters)
    return _names(tracked, dialect, [bound])


def _names(tracked: Tracked, dialect: str, rows: Iterable[_Found]) -> set[str] | None:
    variables = {v for room in tracked.rooms for v in room.pattern.variables}
    if not tracked.rooms or not all(
        _is_exact(tracked.mapper.columns[v].type, dialect) for v in variables
    ):
        return None
    names = set()
    for row in rows:
        for room in tracked.rooms:
            own = room.pattern.variables
            if any(variable not in row for variable in own):
                return None
            for values in product(*(row[variable] for variable in own)):
                if _UNKNOWN in values or not all(
                    _is_kept_as(tracked.mapper.columns[v].type, value)
                    for v, value in zip(own, values, strict=True)
                ):
                    return None
                if None in values:
                    continue
                try:
                    names.add(room.name(**dict(zip(own, values, strict=True))))
                except UsageError:
                    continue  # such rows are in no room
    return names


def _is_exact(kind: Any, dialect: str) -> bool:
    """Say whether a column holds just the values it is given, and finds only those.

    Databases compare texts by collations that may ignore case, and types of the
    application may change what is written.
    """
    kind = getattr(kind, "_variant_mapping", {}).get(dialect, kind)
    if type(kind) in _EXACT:
        return True
    return (
        type(kind) in (sa.String, sa.Text)
        and kind.collation is None
        and dialect in ("sqlite", "postgresql")
    )


def _is_kept_as(kind: Any, value: Any) -> bool:
    """Say whether a value is read as it was given: 7 where "07" equals it, is not."""
    wanted: type = UUID if type(kind) is sa.Uuid else int
    if type(kind) in (sa.String, sa.Text):
        wanted = str
    return value is None or type(value) is wanted


_EXACT = (sa.Integer, sa.BigInteger, sa.SmallInteger, sa.Uuid)


class _Unknown:
    """An SQL expression's value."""


_UNKNOWN = _Unknown()


def _has_conflict_clause(statement: Any) -> bool:
    # Set by on_conflict_do_update and on_duplicate_key_update; absent otherwise.
    return getattr(statement, "_post_values_clause", None) is not None


def _inserted(
    tracked: Tracked, statement: Any, parameters: Any
) -> list[dict[str, Any]] | None:
    several = getattr(statement, "_multi_values", None)
    if several:
        rows = [_values(tracked, row, {}) for group in several for row in group]
        return None if None in rows else [row for row in rows if row is not None]
    rows = []
    fixed = getattr(statement, "_values", None) or {}
    for given in parameters if isinstance(parameters, (list, tuple)) else [parameters]:
        values = _values(tracked, fixed, given)
        if values is None:
            return None
        rows.append(values | _plain(tracked, given))
    return [row for row in rows if row is not None]


def _values(tracked: Tracked, values: Any, parameters: Any) -> dict[str, Any] | None:
    if not isinstance(values, Mapping):
        return None
    found: dict[str, Any] = {}
    for column, value in values.items():
        name = column if isinstance(column, str) else _attribute(tracked, column)
        if name is not None:
            found[name] = _value(value, parameters)
    return found


def _plain(tracked: Tracked, parameters: Any) -> dict[str, Any]:
    if not isinstance(parameters, Mapping):
        return {}
    return {
        name: _value(parameters[name], {})
        for name in tracked.mapper.columns.keys()
        if name in parameters
    }


def _bound(tracked: Tracked, clause: Any, parameters: Any) -> _Found:
    """Return the columns that a WHERE clause holds to given values."""
    found: _Found = {}
    for condition in _conjuncts(clause):
        if not isinstance(condition, BinaryExpression):
            continue
        name = _attribute(tracked, condition.left)
        if name is None or not isinstance(condition.right, BindParameter):
            continue
        value = _value(condition.right, parameters)
        if condition.operator is operators.eq:
            found[name] = [value]
        elif condition.operator is operators.in_op and isinstance(value, (list, tuple)):
            found[name] = list(value)
    return found


def _conjuncts(clause: Any) -> Iterable[Any]:
    if isinstance(clause, BooleanClauseList) and clause.operator is operators.and_:
        for part in clause.clauses:
            yield from _conjuncts(part)
    elif clause is not None:
        yield clause


def _value(value: Any, parameters: Any) -> Any:
    if isinstance(value, BindParameter):
        if isinstance(parameters, Mapping) and value.key in parameters:
            return parameters[value.key]
        return _UNKNOWN if value.required else value.effective_value
    return _UNKNOWN if isinstance(value, sa.ClauseElement) else value


def _attribute(tracked: Tracked, column: Any) -> str | None:
    table = getattr(column, "table", None)
    for name, own in tracked.mapper.columns.items():
        if (
            isinstance(own, sa.Column)
            and getattr(column, "key", None) == own.key
            and table is not None
            # An annotated table equals and hashes as the one it was made from; an
            # alias of the table, which is another row, does not.
            and hash(table) == hash(own.table)
        ):
            return name
    return None
