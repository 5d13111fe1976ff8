from __future__ import annotations

import json
from functools import partial

from bench.view_cost import OPERATIONS, VARIANTS

from . import running

run = partial(running.run, "view_cost", "--quick")


def test_prints_every_row() -> None:
    header, *lines, last = run("--only", "insert").splitlines()
    assert "median" in header
    assert lines[0].startswith("insert")
    for line, variant in zip(lines, VARIANTS, strict=True):
        assert f" {variant.name} " in line
    assert last.startswith("frames written: ")


def test_gives_every_row_as_json() -> None:
    found = json.loads(run("--json"))
    rows = [(row["operation"], row["variant"]) for row in found["rows"]]
    assert rows == [(o, v.name) for o in OPERATIONS for v in VARIANTS]
    assert {row["requests"] for row in found["rows"]} == {6}


def test_writes_to_those_subscribed_alone() -> None:
    frames = json.loads(run("--json", "--only", "insert"))["frames"]
    for variant in VARIANTS:
        # The last may still be on their way when the figures are printed.
        assert (frames[variant.name] > 0) == (variant.subscribers > 0)


def test_measures_on_postgresql_too() -> None:
    header, *lines, _ = run("--only", "insert", "--database", "postgresql").splitlines()
    assert "median" in header
    assert len(lines) == len(VARIANTS)
