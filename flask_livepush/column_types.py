"""What columns hold by their types: whether it can be sent, and can name rooms."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa


def is_random(kind: Any) -> bool:
    """Say whether a key's type is one of which a later row need not have more."""
    while isinstance(kind, sa.types.TypeDecorator):
        kind = kind.impl
    # Of an Enum there are few rows.
    return isinstance(kind, (sa.Uuid, sa.String, sa.LargeBinary)) and not isinstance(
        kind, sa.Enum
    )


_NO_TEXT = (sa.JSON, sa.ARRAY, sa.PickleType, sa.LargeBinary)


def has_text(kind: Any) -> bool:
    """Say whether the values of a column have a text by which rooms can be named."""
    if isinstance(kind, _NO_TEXT):
        return False
    if isinstance(kind, sa.types.TypeDecorator):
        return True  # what it makes of what is stored, it need not say
    try:
        return kind.python_type not in (bytes, dict, list, tuple)
    except NotImplementedError:
        return True


def is_padded(kind: Any) -> bool:
    """Say whether a column's trailing spaces are nothing that was written."""
    while isinstance(kind, sa.types.TypeDecorator):
        kind = kind.impl
    return isinstance(kind, (sa.CHAR, sa.NCHAR))


# By the modules of their classes: dialects are not imported for a question.
_OF_DIALECTS = {
    "sqlalchemy.dialects.postgresql.ranges": ("ranges", "[{0}.lower, {0}.upper]"),
    "sqlalchemy.dialects.mysql.enumerated": ("sets", "sorted({0})"),
}


def unsendable(kind: Any) -> tuple[str, str] | None:
    """Return what a type holds none of whose values can be sent, and what makes more.

    None where some can be, or nobody knows: a decorated type need not say what it makes
    of what is stored. The remedy is Python, with the value to be filled in.
    """
    if isinstance(kind, sa.PickleType):
        return "pickled objects", "{0}.name"
    if isinstance(kind, sa.types.TypeDecorator):
        return None
    if isinstance(kind, sa.ARRAY):
        inner = unsendable(kind.item_type)
        return inner and (
            f"a list of {inner[0]}",
            f"[{inner[1].format('x')} for x in {{0}}]",
        )
    try:
        if issubclass(kind.python_type, (bytes, bytearray, memoryview)):
            return "bytes", "base64.b64encode({0}).decode()"
    except NotImplementedError:
        pass
    if isinstance(kind, sa.Enum):
        return None
    classes = type(kind).__mro__
    if any(cls.__name__ == "AbstractMultiRange" for cls in classes):
        return "lists of ranges", "[[x.lower, x.upper] for x in {0}]"
    return next(filter(None, (_OF_DIALECTS.get(c.__module__) for c in classes)), None)
