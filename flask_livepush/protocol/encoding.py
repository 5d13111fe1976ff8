"""How Python values become JSON, the same with and without Flask.

A value either arrives as what it was, or is refused with its path and the remedy:
nothing is rounded, guessed or dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from math import isfinite
from typing import Any
from uuid import UUID

from ..errors import EncodingError

# Above it a double, which is what JSON numbers are in a browser, skips integers
# (ECMA-262, Number.MAX_SAFE_INTEGER).
MAX_INTEGER = 2**53 - 1
# Dicts and lists in each other. A bound of our own, since Python's depends on how deep
# the caller stands: the same value must be refused everywhere or nowhere.
MAX_DEPTH = 100
# Made once: json.dumps makes one for each call that has arguments.
_write = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False
).encode

_NESTED = f"is nested more than {MAX_DEPTH} levels deep, or in itself; send less of it."
_NOT_UNICODE = "has text that is not valid Unicode, such as half an emoji; mend it."
_LARGE = (
    "is an integer beyond ±(2^53-1), which a browser can't hold exactly; send it as "
    "text, in fields={…: str} for a tracked column."
)
_NOT_FINITE = "is NaN or an infinity, which JSON does not have; send None."


def encode(value: object, path: str = "data") -> str:
    """Return the value as compact JSON text.

    Dates, times and date-times become ISO 8601 strings with their fraction and offset
    (naive ones as they are), a timedelta an ISO 8601 duration, Decimal, UUID and
    addresses and networks of ``ipaddress`` strings, an Enum its value, tuples lists.

    Args:
        path: What the value is, for the error.

    Raises:
        EncodingError: It holds bytes, NaN, an infinity, a set, an integer beyond
            ±(2^53-1), text that is not Unicode, an object of another type, keys that
            are no text, or is nested more than 100 levels deep.
    """
    kind = type(value)
    if kind is int and -MAX_INTEGER <= value <= MAX_INTEGER:  # type: ignore[operator]
        return str(value)
    return _write(plain(value, path))


def plain(value: object, path: str = "data") -> Any:
    """Return the value made of dict, list, str, int, float, bool and None alone.

    Args:
        path: Where the value stands, for the error.

    Raises:
        EncodingError: As :func:`encode`.
    """
    try:
        return _plain(value, 0)
    except _Refused as refused:
        where = path if refused.problem is _NESTED else path + refused.path
        raise EncodingError(f"{where} {refused.problem}", refused.problem) from None


def encode_what_can_be(value: object) -> tuple[str | None, str]:
    """Return as JSON text what of a value can be sent, and why not all of it can.

    Of a dict the items that can be sent; of anything else all or nothing.

    Returns:
        The text, or None for nothing; and the first problem, without anything of the
        data, or "" when there is none.
    """
    try:
        return encode(value), ""
    except EncodingError as error:
        problem = error.problem
    if not isinstance(value, Mapping):
        return None, problem
    found: dict[str, Any] = {}
    for key, item in value.items():
        try:
            found |= plain({key: item})
        except EncodingError:
            continue
    return _write(found), problem


class _Refused(Exception):
    """A value that can't be sent, while its path is found, from the end."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.steps: list[object] = []

    @property
    def path(self) -> str:
        return "".join(f"[{step!r}]" for step in reversed(self.steps))


def _plain(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return value if value.isascii() else _unicode(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        if -MAX_INTEGER <= value <= MAX_INTEGER:
            return value
        raise _Refused(_LARGE)
    if kind is float:
        if isfinite(value):
            return value
        raise _Refused(_NOT_FINITE)
    if kind is datetime:
        return value.isoformat()
    if kind is dict:
        return _mapping(value, depth)
    if kind is list or kind is tuple:
        return _sequence(value, depth)
    if isinstance(value, Enum):
        return _plain(value.value, depth + 1)
    # What a subclass says of itself is not asked: it is sent as what it holds.
    if isinstance(value, str):
        return _unicode(str.__str__(value))
    if isinstance(value, int):
        return _plain(int.__int__(value), depth)
    if isinstance(value, float):
        return _plain(float.__float__(value), depth)
    if isinstance(value, (date, time)):  # a subclass of datetime is a date
        return value.isoformat()
    if isinstance(value, timedelta):
        return _duration(value)
    if isinstance(value, _AS_TEXT):
        return str(value)
    if isinstance(value, Mapping):
        return _mapping(value, depth)
    if isinstance(value, (list, tuple)):
        return _sequence(value, depth)
    raise _Refused(_described(value))


_AS_TEXT = (Decimal, UUID, IPv4Address, IPv6Address, IPv4Network, IPv6Network)


def _mapping(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    if depth >= MAX_DEPTH:
        raise _Refused(_NESTED)
    found: dict[str, Any] = {}
    for key, item in value.items():
        text = _key(key)
        if text in found:
            raise _Refused("has two keys that are the same as text.")
        try:
            found[text] = _plain(item, depth + 1)
        except _Refused as refused:
            refused.steps.append(key)
            raise
    return found


def _sequence(value: list[Any] | tuple[Any, ...], depth: int) -> list[Any]:
    if depth >= MAX_DEPTH:
        raise _Refused(_NESTED)
    found: list[Any] = []
    for item in value:
        try:
            found.append(_plain(item, depth + 1))
        except _Refused as refused:
            refused.steps.append(len(found))
            raise
    return found


def _key(key: object) -> str:
    if isinstance(key, Enum):
        key = key.value
    if isinstance(key, str):
        return _unicode(str.__str__(key))
    if isinstance(key, int) and not isinstance(key, bool):
        return str(_plain(key, 0))
    raise _Refused(f"has a key of type {type(key).__name__}; JSON keys must be text.")


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Refused(_NOT_UNICODE) from None
    return text


def _duration(value: timedelta) -> str:
    """Return an ISO 8601 duration in days, hours, minutes and seconds.

    A negative one has its sign in front, as ISO 8601-2 has it and JavaScript's
    Temporal.Duration reads it.
    """
    sign, value = ("-", -value) if value < timedelta(0) else ("", value)
    minutes, seconds = divmod(value.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{value.microseconds:06}".rstrip("0") if value.microseconds else ""
    clock = "".join(
        (
            f"{hours}H" * bool(hours),
            f"{minutes}M" * bool(minutes),
            f"{seconds}{fraction}S" * bool(seconds or fraction),
        )
    )
    days = f"{value.days}D" * bool(value.days)
    if not (days or clock):
        clock = "0S"
    return f"{sign}P{days}{'T' * bool(clock)}{clock}"


def _described(value: object) -> str:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "is bytes; send text, such as base64 or a URL."
    if isinstance(value, (set, frozenset)):
        return "is a set, which has no order; send sorted(value)."
    name = type(value).__name__
    return f"is of type {name}; send text, a number, a list or a dict made from it."
