"""How Python values become JSON, the same with and without Flask.

A value either arrives as what it was, or is refused with its path and the remedy:
nothing is rounded, guessed or dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from math import isfinite
from typing import Any
from uuid import UUID

from ..errors import EncodingError

# Above it a double, which is what JSON numbers are in a browser, skips integers
# (ECMA-262, Number.MAX_SAFE_INTEGER).
MAX_INTEGER = 2**53 - 1
# Made once: json.dumps makes one for each call that has arguments.
_write = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False
).encode


def encode(value: object, path: str = "data") -> str:
    """Return the value as compact JSON text.

    Dates and date-times become ISO 8601 strings with their fraction and offset (naive
    ones as they are), Decimal and UUID strings, an Enum its value, tuples lists.

    Args:
        path: What the value is, for the error.

    Raises:
        EncodingError: It holds bytes, NaN, an infinity, a time without a date, a
            timedelta, a set, an integer beyond ±(2^53-1), text that is not Unicode,
            or an object of another type.
    """
    if type(value) is int and -MAX_INTEGER <= value <= MAX_INTEGER:
        return str(value)
    try:
        text = _write(plain(value, path))
        text.encode()
    except RecursionError:
        raise EncodingError("The data is nested too deeply, or in itself.") from None
    except UnicodeEncodeError:
        raise EncodingError("A text in the data is not valid Unicode.") from None
    return text


def plain(value: object, path: str = "data") -> Any:
    """Return the value made of dict, list, str, int, float, bool and None alone.

    Args:
        path: Where the value stands, for the error.

    Raises:
        EncodingError: As :func:`encode`.
    """
    if value is None or value is True or value is False or type(value) is str:
        return value
    if isinstance(value, Enum):
        return plain(value.value, path)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        if -MAX_INTEGER <= value <= MAX_INTEGER:
            return int(value)
        digits = f"of {value.bit_length()} bits" if abs(value) > 2**64 else str(value)
        raise EncodingError(
            f"{path} is {digits}, which a browser can't hold exactly; send it as text, "
            f"in fields={{…: str}} for a tracked column."
        )
    if isinstance(value, float):
        if isfinite(value):
            return float(value)
        raise EncodingError(f"{path} is {value}, which JSON does not have; send None.")
    if isinstance(value, date):  # datetime is one
        return value.isoformat()
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    if isinstance(value, Mapping):
        items = {
            _key(key, path): plain(item, f"{path}[{key!r}]")
            for key, item in value.items()
        }
        if len(items) < len(value):
            raise EncodingError(f"{path} has two keys that are the same as text.")
        return items
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{path}[{i}]") for i, item in enumerate(value)]
    raise EncodingError(f"{path} is {_described(value)}")


def _key(key: object, path: str) -> str:
    if isinstance(key, Enum):
        key = key.value
    if isinstance(key, str):
        return str(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return str(plain(key, f"the key of {path}"))
    raise EncodingError(f"{path} has the key {key!r}; JSON keys must be text.")


def _described(value: object) -> str:
    name = type(value).__name__
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "bytes; send text, such as base64 or a URL."
    if isinstance(value, timedelta):
        return "a timedelta; send value.total_seconds()."
    if isinstance(value, time):
        return "a time without a date; send value.isoformat()."
    if isinstance(value, (set, frozenset)):
        return "a set, which has no order; send sorted(value)."
    return f"of type {name}; send text, a number, a list or a dict made from it."
