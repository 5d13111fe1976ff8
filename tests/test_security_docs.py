"""What docs/security.md claims is proven by a test that exists."""

from __future__ import annotations

import re
from functools import cache

import pytest

from flask_livepush.config import TABLE
from tests.support.servers import ROOT

TEXT = (ROOT / "docs" / "security.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", TEXT)


@cache
def names_in(file: str) -> set[str]:
    path = ROOT / file
    if not path.exists():
        return set()
    return set(re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.M))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_each_test_that_is_named_exists(file: str, name: str) -> None:
    assert name in names_in(file)


def test_each_threat_names_a_test_or_says_that_nothing_stops_it() -> None:
    table = TEXT.partition("## Threats\n")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 15
    for row in rows:
        *_, stops, proof, _ = row.split("|")
        assert "`tests/" in proof or "**nothing.**" in stops, row


def test_each_limit_has_the_default_of_its_setting() -> None:
    table = TEXT.partition("## Limits\n")[2].partition("\n`livepush_")[0]
    defaults = {row.key: row.default for row in TABLE}
    rows = re.findall(r"^\|([^|]*)\|([^|]*)\|\s*`(LIVEPUSH_\w+)`", table, re.M)
    assert len(rows) > 8
    units = {"MB": 1_000_000, "KiB": 1024, "MiB": 1024**2, "minutes": 60}
    for _, told, key in rows:
        number, unit = re.match(r"\s*([\d,]+)\s*(\w*)", told).groups()  # type: ignore[union-attr]
        assert int(number.replace(",", "")) * units.get(unit, 1) == defaults[key], key
