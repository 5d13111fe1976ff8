"""Values arrive as what they were, or are refused with their path and the remedy."""

from __future__ import annotations

import enum
import json
from collections import OrderedDict, namedtuple
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import ip_address, ip_interface, ip_network
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest

from flask_livepush.errors import EncodingError
from flask_livepush.protocol.encoding import MAX_DEPTH, encode, encode_what_can_be
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


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "<Text>"


class Real(float):
    def __repr__(self) -> str:
        return "<Real>"

    __float__ = None  # type: ignore[assignment]


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
        (date.min, "0001-01-01"),
        (date.max, "9999-12-31"),
        (time(1, 2), "01:02:00"),
        (time(1, 2, 3, 4, tzinfo=EAST), "01:02:03.000004+05:30"),
        (timedelta(0), "PT0S"),
        (timedelta(days=1), "P1D"),
        (timedelta(days=1, hours=2, minutes=3, seconds=4), "P1DT2H3M4S"),
        (timedelta(minutes=90), "PT1H30M"),
        (timedelta(microseconds=50), "PT0.00005S"),
        (timedelta(seconds=-90), "-PT1M30S"),
        (timedelta.min, "-P999999999D"),
        (timedelta.max, "P999999999DT23H59M59.999999S"),
        (ip_address("10.0.0.1"), "10.0.0.1"),
        (ip_address("::1"), "::1"),
        (ip_network("10.0.0.0/8"), "10.0.0.0/8"),
        (ip_interface("10.0.0.1/8"), "10.0.0.1/8"),
        (Decimal("1.10"), "1.10"),
        (Decimal("NaN"), "NaN"),
        (Decimal("sNaN"), "sNaN"),
        (Decimal("-Infinity"), "-Infinity"),
        (Decimal("1E+3"), "1E+3"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Number(7), 7),
        (Text("a"), "a"),
        (Real(1.5), 1.5),
        ({Text("k"): Text("v")}, {"k": "v"}),
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
        (Decimal, "of type type"),
        (Number(2**53), "as text"),
        (Real("inf"), "send None"),
        ("half an emoji: \ud83d", "not valid Unicode"),
        (Text("\ud83d"), "not valid Unicode"),
        (float("nan"), "send None"),
        (float("inf"), "send None"),
        (float("-inf"), "send None"),
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


def nested(levels: int) -> Any:
    found: Any = 0
    for _ in range(levels):
        found = [found]
    return found


def deep(frames: int, function: Any) -> Any:
    """Call a function so many frames further down."""
    return deep(frames - 1, function) if frames else function()


def test_refuses_the_same_depth_wherever_it_is_asked() -> None:
    """Bug: Python's own limit decided, which depends on how deep the caller stands."""
    for frames in (0, 400):
        assert deep(frames, lambda: encode(nested(MAX_DEPTH))) == "[" * 100 + "0" + (
            "]" * 100
        )
        with pytest.raises(EncodingError, match="nested more than 100 levels"):
            deep(frames, lambda: encode(nested(MAX_DEPTH + 1)))
    with pytest.raises(EncodingError, match=r"^x is nested"):
        encode(nested(100_000), "x")


@pytest.mark.parametrize("zero", ["0.0", "-0.0"])
def test_keeps_the_sign_of_zero(zero: str) -> None:
    assert encode(float(zero)) == zero


@pytest.mark.parametrize(
    "value",
    [2**53 + 4711, {"4711": float("nan")}, ["4711\ud800"], {4711: b""}, {(4711,): 1}],
)
def test_says_what_is_wrong_without_the_data(value: Any) -> None:
    with pytest.raises(EncodingError) as caught:
        encode(value)
    assert caught.value.problem
    assert "4711" not in caught.value.problem


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": 1, "b": b"", "c": "é"}, '{"a":1,"c":"é"}'),
        ({1: 1, "1": 2, (): 3}, '{"1":2}'),
        ({"a": {"b": b""}}, "{}"),
        ([1, b""], None),
        (b"", None),
    ],
)
def test_keeps_of_a_dict_what_can_be_sent(value: Any, text: str | None) -> None:
    found, problem = encode_what_can_be(value)
    assert found == text
    assert problem
    assert encode_what_can_be({"a": [1]}) == ('{"a":[1]}', "")


def test_refuses_an_integer_too_long_to_be_shown() -> None:
    """Bug: the refusal's own text raised a bare ValueError."""
    with pytest.raises(EncodingError):
        encode({"x": 10**5000})


def test_refuses_keys_that_become_one() -> None:
    """Bug: one of the two values was dropped."""
    with pytest.raises(EncodingError):
        encode({1: "a", "1": "b"})
