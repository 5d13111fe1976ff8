"""What a newcomer starts from: the rows of one room, read from the database.

Which rows a room has is the declaration's to say (``tracking``). Nothing is known here
of commits, nor of who asks.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .tracking import Tracked, Values

# A snapshot looks at this many rows at most for those that functions put in the room.
_MAX_SCANNED = 5_000


def read(
    tracked: Tracked, session: Session, name: str, values: Values
) -> dict[str, Any]:
    """Read the newest rows of one room, ascending by primary key.

    Args:
        session: A fresh one; the caller closes it.
        name: The room's name.
        values: The values in it.

    Returns:
        ``{"key": str, "rows": [...], "partial": bool}``.
    """
    names = sorted(tracked.reads)
    if not tracked.rooms:
        values = {}  # functions say which rows are in the room
    statement = (
        _columns(tracked, names)
        .where(*(_equals(tracked, v, value) for v, value in values.items()))
        .order_by(*(getattr(tracked.model, p).desc() for p in tracked.primary_key))
        .limit(_MAX_SCANNED if tracked.selects else tracked.latest + 1)
    )
    connection = session.connection(bind_arguments={"mapper": tracked.mapper})
    rows: list[dict[str, Any]] = []
    partial = False
    scanned = 0
    with connection.execution_options(yield_per=500).execute(statement) as result:
        for found in result:
            scanned += 1
            row = dict(zip(names, found, strict=True))
            if tracked.selects and not tracked.is_in_room(name, row):
                continue
            if len(rows) == tracked.latest:
                partial = True
                break
            fields = tracked.fields_of(row)
            if tracked.key in fields:
                rows.append(fields)
    limit = _MAX_SCANNED if tracked.selects else tracked.latest + 1
    partial = partial or scanned == limit
    return {"key": tracked.key, "rows": rows[::-1], "partial": partial}


def _columns(tracked: Tracked, names: list[str]) -> sa.Select[Any]:
    """Return a SELECT of columns, by their attributes' names, in that order."""
    return sa.select(*(getattr(tracked.model, name) for name in names))


def _equals(tracked: Tracked, name: str, value: Any) -> Any:
    column = getattr(tracked.model, name)
    kind = tracked.column(name).type
    if isinstance(value, str) and isinstance(kind, sa.Integer):
        # A room's name is text; of the room user:7, the column is 7.
        value = int(value) if value.isdecimal() else None
    if isinstance(value, int) and not _fits(kind, value):
        value = None
    return sa.false() if value is None else column == value


def _fits(kind: Any, value: int) -> bool:
    """Say whether a column can hold an integer; databases refuse to compare others."""
    bits = 16 if isinstance(kind, sa.SmallInteger) else 32
    if not isinstance(kind, sa.Integer) or isinstance(kind, sa.BigInteger):
        return True
    return value in range(-(1 << (bits - 1)), 1 << (bits - 1))
