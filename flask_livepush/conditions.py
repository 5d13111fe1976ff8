"""Which rows may be in a room, as a condition that an index of the database can serve.

What SQL calls equal and what a room's name says differ: collations ignore case, accents
and trailing spaces, numbers are rounded, types of the application change what is kept.
Which rows are in a room their computed names say, once they are read (``tracking``); a
condition in here may let others pass, and must let all of these.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from .rooms import Pattern, uuid_texts

# A float of a column's precision that is compared with one of Python's, and a decimal
# that SQLite keeps as a float, are equal up to this share of theirs.
_FLOAT = 1e-5
_DECIMAL = Decimal("1e-12")
# Beyond these powers of ten databases refuse to compare.
_POWERS = range(-300, 300)
_MAX_PADDED = 100


def of_column(
    column: Any,
    kind: Any,
    pattern: Pattern,
    variable: str,
    *,
    value: Any,
    dialect: Dialect,
) -> Any | None:
    """Return a condition that the column's values must fulfil for a room's variable.

    Args:
        column: What is compared.
        kind: Its type.
        value: The variable's value in the room's name.

    Returns:
        None when no condition is known: any value may have that text.
    """
    # What the variable is in the name: what values of the column must become.
    text = pattern.value_text(variable, value)
    if value is None or text is None:
        return sa.false()
    variants = getattr(kind, "_variant_mapping", {})
    kind = variants.get(dialect.name, kind)

    def named(values: Iterable[Any]) -> list[Any]:
        return [v for v in values if pattern.value_text(variable, v) == text]

    if isinstance(kind, sa.types.TypeDecorator):
        return _decorated(column, kind, value, text, dialect=dialect, named=named)
    if isinstance(kind, sa.Enum):
        members = kind.enum_class
        known = kind.enums if members is None else list(members.__members__.values())
        return _one_of(column, named(known))
    if isinstance(kind, sa.Boolean):
        # What is neither 0 nor 1 is read as true.
        given = named((True, False))
        return sa.or_(sa.false(), *(column.is_not(not v) for v in given))
    try:
        return _plain(column, kind, value, text, dialect)
    except (ValueError, ArithmeticError):
        return sa.false()


def _plain(
    column: Any, kind: Any, value: Any, text: str, dialect: Dialect
) -> Any | None:
    """Return the condition for a type whose values are converted by SQLAlchemy alone.

    Raises:
        ValueError: The value is none of that type.
    """
    if isinstance(kind, sa.Integer):
        number = int(value) if isinstance(value, str) else _integer(value)
        return column == number if _fits(kind, number) else sa.false()
    if isinstance(kind, sa.Uuid):
        found = value if isinstance(value, UUID) else UUID(str(value))
        return column == (found if kind.as_uuid else str(found))
    if isinstance(kind, (sa.Numeric, sa.Float)):
        decimal = Decimal(str(value))
        if not decimal.is_finite() or decimal.adjusted() not in _POWERS:
            return sa.false()
        if isinstance(kind, sa.Float) or not kind.asdecimal:
            middle = float(decimal)
            return column.between(*_around(middle, abs(middle) * _FLOAT))
        scale = 10 if kind.scale is None else kind.scale
        step = max(Decimal(1).scaleb(-scale), abs(decimal) * _DECIMAL)
        return column.between(*_around(decimal, step))
    if isinstance(kind, sa.DateTime):
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return _near(column, moment, timedelta(seconds=1))
    if isinstance(kind, sa.Date):
        day = value if isinstance(value, date) else date.fromisoformat(value)
        return _near(column, day, timedelta(days=1))
    if isinstance(kind, sa.Time):
        return column == (
            value if isinstance(value, time) else time.fromisoformat(value)
        )
    if isinstance(kind, sa.String):
        if isinstance(value, UUID):
            return column.in_(_padded(kind, uuid_texts(value), dialect))
        return column.in_(_padded(kind, (text,), dialect))
    return None


def _decorated(
    column: Any,
    kind: Any,
    value: Any,
    text: str,
    *,
    dialect: Dialect,
    named: Any,
) -> Any | None:
    """Return the condition for a type of the application's.

    It says itself what is kept of a value, and what that is read as.
    """
    cls, base = type(kind), sa.types.TypeDecorator
    binds = cls.process_bind_param is not base.process_bind_param
    reads = cls.process_result_value is not base.process_result_value
    if reads and not binds:
        return None  # what is kept can't be told from what is read

    def read(stored: Any) -> Any:
        return kind.process_result_value(stored, dialect) if reads else stored

    candidates = [value, text]
    if text.isdecimal():
        candidates.append(int(text))
    if isinstance(kind.load_dialect_impl(dialect), sa.String) and not binds:
        candidates.extend(uuid_texts(value) if isinstance(value, UUID) else ())
    conditions = []
    for candidate in candidates:
        try:
            stored = kind.process_bind_param(candidate, dialect) if binds else candidate
            if not named([read(stored)]):
                continue
            also = [
                other
                for other in _other_cases(kind, stored, dialect)
                if named([read(other)])
            ]
        except Exception:  # noqa: BLE001, whatever the application's type raises
            continue  # it takes no such value
        bound = sa.bindparam(None, candidate, type_=kind, unique=True)
        conditions.append(column == bound)
        if also:
            # Several kept texts are read as one: a UUID's, or such as ignore case.
            if not stored.isascii():
                return None
            kept = sa.type_coerce(column, sa.String())
            if isinstance(read(stored), UUID):
                conditions.append(kept.in_(also))
            else:
                conditions.append(sa.func.lower(kept) == stored.lower())
    return sa.or_(*conditions) if conditions else None


def _other_cases(kind: Any, stored: Any, dialect: Dialect) -> set[str]:
    if not isinstance(stored, str) or not isinstance(
        kind.load_dialect_impl(dialect), sa.String
    ):
        return set()
    return {stored.upper(), stored.lower(), stored.swapcase()} - {stored}


def _one_of(column: Any, values: list[Any]) -> Any:
    return column.in_(values) if values else sa.false()


def _integer(value: Any) -> int:
    number = int(value)
    if number != value:
        raise ValueError("no whole number")
    return number


def _fits(kind: Any, value: int) -> bool:
    """Say whether a column can hold an integer; databases refuse to compare others."""
    big = isinstance(kind, sa.BigInteger)
    bits = 64 if big else 16 if isinstance(kind, sa.SmallInteger) else 32
    return value in range(-(1 << (bits - 1)), 1 << (bits - 1))


def _around(middle: Any, step: Any) -> tuple[Any, Any]:
    return middle - step, middle + step


def _near(column: Any, moment: Any, step: timedelta) -> Any:
    # SQLite keeps texts, which others may have written with fewer digits.
    try:
        return column.between(moment - step, moment + step)
    except OverflowError:
        return column == moment


def _padded(kind: Any, texts: Iterable[str], dialect: Dialect) -> list[str]:
    """Return the texts that are kept for these: in a CHAR, with spaces behind.

    PostgreSQL and MariaDB ignore them when they compare; SQLite does not.
    """
    texts = list(texts)
    if dialect.name != "sqlite" or not isinstance(kind, (sa.CHAR, sa.NCHAR)):
        return texts
    length = min(kind.length or 0, _MAX_PADDED)
    return [
        text + " " * spaces
        for text in texts
        for spaces in range(max(length - len(text), 0) + 1)
    ]
