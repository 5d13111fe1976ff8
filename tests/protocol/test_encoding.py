"""Values arrive as what they were, or are refused with their path and the remedy."""

from __future__ import annotations

import enum
import json
from collections import OrderedDict, namedtuple
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest

from flask_livepush.errors import EncodingError
from flask_livepush.protocol.encoding import encode
from tests.support.vectors import vectors

EAST = timezone(timedelta(hours=5, minutes=30))
Pair = namedtuple("Pair", "a b")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Number(int):
    def __repr__(self) -> str:
        return "<Number>"


@pytest.mark.parametrize("case", vectors("encoding"), ids=lambda case: repr(case)[:40])
def test_json_arrives_as_it_was(case: dict[str, Any]) -> None:
    if case.get("refused"):
        with pytest.raises(EncodingError):
            encode(case["data"])
        return
    text = encode(case["data"])
    assert text == case["json"]
    assert json.loads(text) == case["data"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),
        (datetime(2026, 1, 2, 3, 4, 5, 60), "2026-01-02T03:04:05.000060"),
        (
            datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
            "2026-01-02T03:04:05+00:00",
        ),
        (
            datetime(2026, 1, 2, 3, 4, 5, 7, tzinfo=EAST),
            "2026-01-02T03:04:05.000007+05:30",
        ),
        (date(2026, 1, 2), "2026-01-02"),
        (Decimal("1.10"), "1.10"),
        (Decimal("1E+3"), "1E+3"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Number(7), 7),
        ((1, 2), [1, 2]),
        (Pair(1, Colour.RED), [1, "red"]),
        ({1: "a", Colour.RED: "b"}, {"1": "a", "red": "b"}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    ],
)
def test_writes_what_python_has_and_json_has_not(value: object, expected: Any) -> None:
    assert json.loads(encode({"x": [value]})) == {"x": [expected]}


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        (b"x", "send text"),
        (bytearray(b"x"), "send text"),
        (memoryview(b"x"), "send text"),
        (float("nan"), "send None"),
        (float("inf"), "send None"),
        (float("-inf"), "send None"),
        (time(1, 2), "isoformat"),
        (timedelta(1), "total_seconds"),
        ({1}, "sorted"),
        (frozenset({1}), "sorted"),
        (2**53, "as text"),
        (-(2**53), "as text"),
        (object(), "of type object"),
        (len, "of type builtin_function_or_method"),
        (1j, "of type complex"),
        ({None: 1}, "keys must be text"),
        ({True: 1}, "keys must be text"),
        ({1.5: 1}, "keys must be text"),
        ({(1,): 1}, "keys must be text"),
    ],
)
def test_refuses_with_the_path_and_the_remedy(value: object, remedy: str) -> None:
    with pytest.raises(EncodingError, match=remedy) as caught:
        encode({"rows": [0, {"x": value}]})
    assert "data['rows'][1]['x']" in str(caught.value)


def test_refuses_what_holds_itself() -> None:
    loop: list[Any] = []
    loop.append({"again": loop})
    with pytest.raises(EncodingError, match="nested"):
        encode(loop)


def test_refuses_an_integer_too_long_to_be_shown() -> None:
    """Bug: the refusal's own text raised a bare ValueError."""
    with pytest.raises(EncodingError):
        encode({"x": 10**5000})


def test_refuses_keys_that_become_one() -> None:
    """Bug: one of the two values was dropped."""
    with pytest.raises(EncodingError):
        encode({1: "a", "1": "b"})
