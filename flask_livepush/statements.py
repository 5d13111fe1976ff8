"""What a statement of an application says of itself: whether it writes, which rows it
is on, or else which rooms.

``None`` always means: can't be known. Being wrong is not allowed, not knowing is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice, product
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import FromStatement, Mapper
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, BooleanClauseList

from .errors import UsageError
from .tracking import Tracked

_Found = dict[str, list[Any]]  # column -> the values it may have

# Of more rows than these a screen had better read anew.
_MAX_KEYS = 1_000
# Texts that only read, by their first word; what a function does is not seen.
_READS = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*"
    r"(?:SELECT|VALUES|TABLE|SHOW|DESCRIBE|DESC|EXPLAIN|PRAGMA|WITH)\b",
    re.IGNORECASE | re.DOTALL,
)
_WRITES = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE|INTO)\b", re.IGNORECASE)
# A text between quotes, a comment that no database executes, and the lock that a SELECT
# may ask for.
_NO_VERBS = re.compile(
    r"'(?:[^']|'')*'"
    r'|"(?:[^"]|"")*"'
    r"|--[^\n]*|/\*(?!M?!).*?\*/"
    r"|\bFOR\s+(?:NO\s+KEY\s+)?UPDATE\b",
    re.IGNORECASE | re.DOTALL,
)


def unwrapped(statement: Any) -> Any:
    """Return what ``select(…).from_statement(…)`` executes, or the statement itself."""
    return statement.element if isinstance(statement, FromStatement) else statement


def writes(statement: Any) -> bool:
    """Say whether a statement may change the database; a SELECT of any kind does not.

    What is inside the WITH of one is seen only when it is compiled.
    """
    if isinstance(statement, UpdateBase):
        return True
    if isinstance(statement, (sa.TextClause, sa.TextualSelect)):
        inner: Any = getattr(statement, "element", statement)
        text = str(inner.text)
        # Some databases take a backslash before a quote as part of the text, some not.
        verbs = text if "\\" in text else _NO_VERBS.sub("", text)
        return not _READS.match(text) or bool(_WRITES.search(verbs))
    reads = (sa.SelectBase, sa.sql.ColumnElement, sa.sql.functions.FunctionElement)
    return not isinstance(statement, reads)


@dataclass(frozen=True, slots=True)
class Keys:
    """The rows that a statement is on.

    Args:
        found: Their primary keys.
        touched: The attributes that are set; None: the rows are deleted.
        certain: Whether it fails unless all of them are there; else the number of rows
            that it says it has matched tells.
        ordered: Whether it goes through them in the order of their keys.
    """

    found: list[tuple[Any, ...]]
    touched: frozenset[str] | None
    certain: bool
    ordered: bool


def keys_of(mapper: Mapper[Any], statement: Any, parameters: Any) -> Keys | None:
    """Return the rows of one table that an ORM UPDATE or DELETE gives the keys of."""
    if not isinstance(statement, (sa.Update, sa.Delete)) or len(mapper.tables) != 1:
        return None
    columns = _Columns(mapper)
    primary_key = [mapper.get_property_by_column(c).key for c in mapper.primary_key]
    deletes = isinstance(statement, sa.Delete)
    if isinstance(parameters, (list, tuple)):
        return None if deletes else _keys_of_many(columns, primary_key, parameters)
    bound = _bound(columns, statement.whereclause, parameters)
    if any(name not in bound for name in primary_key):
        return None
    found = [
        key
        for key in product(*(bound[name] for name in primary_key))
        if not any(value is _UNKNOWN or value is None for value in key)
    ]
    wanted = product(*(bound[name] for name in primary_key))
    if len(found) < sum(1 for _ in wanted) or not 0 < len(found) <= _MAX_KEYS:
        return None
    touched = None
    if not deletes:
        values = _set(columns, statement, parameters)
        if values is None or values.keys() & set(primary_key):
            return None
        touched = frozenset(values)
    return Keys(list(dict.fromkeys(found)), touched, certain=False, ordered=True)


def _keys_of_many(
    columns: _Columns, primary_key: list[str], parameters: Sequence[Any]
) -> Keys | None:
    """Return the rows of an UPDATE by primary key, of ``session.execute(…, [{…}])``."""
    found = []
    touched: set[str] = set()
    if len(parameters) > _MAX_KEYS:
        return None
    for given in parameters:
        named = _plain(columns, given)
        if any(named.get(name) is None for name in primary_key):
            return None
        found.append(tuple(named[name] for name in primary_key))
        touched |= named.keys() - set(primary_key)
    try:
        ordered = found == sorted(found)
    except TypeError:
        ordered = False
    return Keys(
        list(dict.fromkeys(found)), frozenset(touched), certain=True, ordered=ordered
    )


def rooms_of(
    tracked: Tracked, statement: Any, parameters: Any, dialect: str
) -> set[str] | None:
    """Return the rooms of the rows that an ORM INSERT, UPDATE or DELETE is on."""
    if statement._prefixes:
        return None  # INSERT OR REPLACE takes other rows away
    if isinstance(statement, sa.Insert):
        return rooms_of_insert(tracked, statement, parameters, dialect)
    if isinstance(statement, sa.Update):
        return rooms_of_update(tracked, statement, parameters, dialect)
    if isinstance(statement, sa.Delete):
        return rooms_of_delete(tracked, statement, parameters, dialect)
    return None


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
    columns = _Columns(tracked.mapper)
    bound = _bound(columns, statement.whereclause, parameters)
    values = _set(columns, statement, parameters)
    if values is None:
        return None
    variables = {v for room in tracked.rooms for v in room.pattern.variables}
    if (variables & tracked.follow) - set(values):
        return None  # the database, or onupdate=, sets it
    new = bound | {c: [v] for c, v in values.items()}
    return _names(tracked, dialect, [bound, new])


def rooms_of_delete(
    tracked: Tracked, statement: Any, parameters: Any, dialect: str
) -> set[str] | None:
    """Return the rooms of the rows that an ORM DELETE takes away."""
    columns = _Columns(tracked.mapper)
    bound = _bound(columns, statement.whereclause, parameters)
    return _names(tracked, dialect, [bound])


def written(context: Any, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a statement says of columns of the rows it is on, before and after.

    It is looked at just before the driver is given it, whoever has made it.

    Args:
        context: Its SQLAlchemy ``ExecutionContext``.
        columns: Columns of its table, by any names.

    Returns:
        A dict for each row or condition it gives, of what is certain; empty: any rows.
    """
    compiled = context.compiled
    statement = compiled.statement
    dialect = context.dialect.name
    given = list(context.compiled_parameters)
    if statement._prefixes or (
        context.isinsert
        and (statement.select is not None or _has_conflict_clause(statement))
    ):
        return [{}]  # other rows are taken away, or changed
    exact = {n: c for n, c in columns.items() if _is_exact(c.type, dialect)}
    found = []
    for parameters in given:
        was: _Found = {}
        if not context.isinsert:
            was = _bound_in(compiled, exact, parameters)
        new = {
            name: [parameters[column.key]]
            for name, column in exact.items()
            if column.key in parameters and column.key not in _where(compiled)
        }
        if not context.isinsert:
            found += _rows_of(exact, was)
        computed = _computed(statement, columns) - new.keys()
        if context.isinsert or new or computed:
            kept = {n: values for n, values in was.items() if n not in computed}
            found += _rows_of(exact, kept | new)
    return found or [{}]


def _computed(statement: Any, columns: Mapping[str, Any]) -> set[str]:
    """Return the columns that an UPDATE sets."""
    if not isinstance(statement, sa.Update):
        return set()
    several = getattr(statement, "_ordered_values", None)
    given = dict(several) if several else getattr(statement, "_values", None) or {}
    keys = {column if isinstance(column, str) else column.key for column in given}
    return {name for name, column in columns.items() if column.key in keys}


def is_by_key(context: Any, table: Any) -> bool:
    """Say whether an UPDATE or DELETE gives the primary key of each of its rows."""
    compiled = context.compiled
    columns = {c.key: c for c in table.primary_key}
    found = _bound_in(compiled, columns, dict.fromkeys(compiled.bind_names.values()))
    return bool(columns) and columns.keys() <= found.keys()


def _where(compiled: Any) -> set[str]:
    """Return the names of the parameters of a statement's WHERE."""
    clause = getattr(compiled.statement, "whereclause", None)
    names = compiled.bind_names
    return {
        names[part]
        for part in (() if clause is None else visitors.iterate(clause))
        if isinstance(part, BindParameter) and part in names
    }


def _bound_in(
    compiled: Any, columns: Mapping[str, Any], parameters: Mapping[str, Any]
) -> _Found:
    """Return the columns that a WHERE clause holds to values, for these parameters."""
    names = compiled.bind_names
    found: _Found = {}
    for condition in _conjuncts(compiled.statement.whereclause):
        if not isinstance(condition, BinaryExpression):
            continue
        right = condition.right
        if not isinstance(right, BindParameter) or right not in names:
            continue
        name = _column_named(columns, condition.left)
        if name is None:
            continue
        bound = names[right]
        if condition.operator is operators.eq and bound in parameters:
            found[name] = [parameters[bound]]
        elif condition.operator is operators.in_op:
            # By now each value has a parameter of its own.
            values = [parameters[n] for n in _expanded(bound, parameters)]
            if values:
                found[name] = values
    return found


def _expanded(name: str, parameters: Mapping[str, Any]) -> Iterable[str]:
    for number in count(1):
        if (one := f"{name}_{number}") not in parameters:
            return
        yield one


def _column_named(columns: Mapping[str, Any], column: Any) -> str | None:
    table = getattr(column, "table", None)
    for name, own in columns.items():
        # As in _Columns: an annotated table has the hash of the one it is made from.
        if (
            table is not None
            and getattr(column, "key", None) == own.key
            and hash(table) == hash(own.table)
        ):
            return name
    return None


def _rows_of(columns: Mapping[str, Any], found: _Found) -> list[dict[str, Any]]:
    """Return the rows that the values of columns make, of what is kept as it is."""
    certain = {
        name: values
        for name, values in found.items()
        if all(v is not None and _is_kept_as(columns[name].type, v) for v in values)
    }
    rows = list(islice(product(*certain.values()), _MAX_KEYS + 1))
    if len(rows) > _MAX_KEYS:
        return [{}]
    return [dict(zip(certain, values, strict=True)) for values in rows]


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


class _Columns:
    """The columns of a model by what statements call them."""

    def __init__(self, mapper: Mapper[Any]) -> None:
        self._columns = dict(mapper.columns.items())

    def name_of(self, given: Any) -> str | None:
        """Return the attribute that a name or a column stands for.

        A name is an attribute's, else a column's, as SQLAlchemy takes it.
        """
        if not isinstance(given, str):
            return self.attribute(given)
        if given in self._columns:
            return given
        for name, column in self._columns.items():
            if getattr(column, "key", None) == given:
                return name
        return None

    def attribute(self, column: Any) -> str | None:
        """Return the attribute of a column; None: it is none of this model's tables."""
        table = getattr(column, "table", None)
        for name, own in self._columns.items():
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


def _set(columns: _Columns, statement: Any, parameters: Any) -> dict[str, Any] | None:
    """Return the attributes that an UPDATE sets; None: not all of them are known."""
    several = getattr(statement, "_ordered_values", None)
    given = dict(several) if several else getattr(statement, "_values", None) or {}
    values = _values(columns, given, parameters)
    if values is None or None in values:
        return None
    return values | _plain(columns, parameters)


def _inserted(
    tracked: Tracked, statement: Any, parameters: Any
) -> list[dict[str, Any]] | None:
    columns = _Columns(tracked.mapper)
    several = getattr(statement, "_multi_values", None)
    if several:
        rows = [_values(columns, row, {}) for group in several for row in group]
        return None if None in rows else [row for row in rows if row is not None]
    rows = []
    fixed = getattr(statement, "_values", None) or {}
    for given in parameters if isinstance(parameters, (list, tuple)) else [parameters]:
        values = _values(columns, fixed, given)
        if values is None:
            return None
        rows.append(values | _plain(columns, given))
    return [row for row in rows if row is not None]


def _values(columns: _Columns, values: Any, parameters: Any) -> dict[str, Any] | None:
    if not isinstance(values, Mapping):
        return None
    found: dict[str, Any] = {}
    for column, value in values.items():
        name = columns.name_of(column)
        if name is not None:
            found[name] = _value(value, parameters)
    return found


def _plain(columns: _Columns, parameters: Any) -> dict[str, Any]:
    if not isinstance(parameters, Mapping):
        return {}
    named = ((columns.name_of(key), value) for key, value in parameters.items())
    return {name: _value(value, {}) for name, value in named if name is not None}


def _bound(columns: _Columns, clause: Any, parameters: Any) -> _Found:
    """Return the columns that a WHERE clause holds to given values."""
    found: _Found = {}
    for condition in _conjuncts(clause):
        if not isinstance(condition, BinaryExpression):
            continue
        name = columns.attribute(condition.left)
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
