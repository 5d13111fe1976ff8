"""A snapshot that is too large loses its large values, then its oldest rows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flask_livepush.protocol.fitting import fit


def kind(*rows: dict[str, Any], partial: bool = False) -> dict[str, Any]:
    return {"key": "id", "rows": list(rows), "partial": partial}


def fitted(kinds: dict[str, Any], limit: int) -> tuple[Any, list[tuple[str, str]]]:
    text, lost = fit(kinds, limit)
    assert len(text.encode()) <= limit
    return json.loads(text), lost


def test_leaves_what_fits_as_it_is() -> None:
    kinds = {"a": kind({"id": 1, "x": "é" * 100}), "b": kind(partial=True)}
    exactly = len(json.dumps(kinds, ensure_ascii=False, separators=(",", ":")).encode())
    assert fitted(kinds, exactly) == (kinds, [])
    assert fitted(kinds, exactly - 1)[1] == [("a", "x")]


def test_leaves_large_values_out_first() -> None:
    kinds = {
        "a": kind({"id": 1, "x": "x" * 10_000, "y": "y"}, {"id": 2, "x": "x"}),
        "b": kind({"id": 1, "x": [["x" * 50_000]]}),
    }
    found, lost = fitted(kinds, 10_000)
    assert found == {"a": kind({"id": 1, "y": "y"}, {"id": 2, "x": "x"}),
                     "b": kind({"id": 1})}  # fmt: skip
    assert lost == [("a", "x"), ("b", "x")]
    assert kinds["a"]["rows"][0]["x"]  # what was handed in is somebody else's


@pytest.mark.parametrize("letter", ["x", "é", "💬"])
def test_then_leaves_the_oldest_rows_out(letter: str) -> None:
    rows = [{"id": i, "x": letter * 30} for i in range(300)]
    found, lost = fitted({"a": kind(*rows), "b": kind({"id": 1})}, 10_000)
    kept = found["a"]["rows"]
    assert kept
    assert kept == rows[-len(kept) :]
    assert found["a"]["partial"] is True
    assert found["b"] == kind({"id": 1})
    assert lost == [("a", "")]
