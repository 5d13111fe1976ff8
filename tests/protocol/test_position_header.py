"""The header that Python writes is the one that the client reads."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import pytest

from flask_livepush.protocol import position_header
from flask_livepush.protocol.publication import Position
from tests.support.vectors import vectors

CASES = vectors("position_header")
ENTRY = re.compile(r"([^=:, ]+)=([A-Za-z0-9_.~-]+):(0|[1-9][0-9]*)")


def positions(case: dict[str, Any]) -> dict[str, Position]:
    return {
        room: Position(at["epoch"], at["offset"])
        for room, at in case["positions"].items()
    }


def read(header: str) -> dict[str, Position]:
    """Read a header as strictly as the client."""
    found = {}
    for entry in filter(None, header.split(", ")):
        match = ENTRY.fullmatch(entry)
        assert match is not None, entry
        found[unquote(match[1], errors="strict")] = Position(match[2], int(match[3]))
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["header"][:40])
def test_writes_what_the_client_reads(case: dict[str, Any]) -> None:
    wanted = positions(case)
    written = position_header.write(wanted)
    assert read(written) == wanted
    assert written.isascii()


def test_writes_the_clients_own_examples_to_the_letter() -> None:
    same = [c for c in CASES if position_header.write(positions(c)) == c["header"]]
    assert [c["header"] for c in same[:3]] == [c["header"] for c in CASES[:3]]
    assert len(same) >= 8


def test_encodes_as_encode_uri_component() -> None:
    room = "".join(map(chr, range(32, 127))) + "é💬"
    assert position_header.write({room: Position("e", 1)}) == (
        "%20!%22%23%24%25%26'()*%2B%2C-.%2F0123456789%3A%3B%3C%3D%3E%3F%40"
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ%5B%5C%5D%5E_%60abcdefghijklmnopqrstuvwxyz"
        "%7B%7C%7D~%C3%A9%F0%9F%92%AC=e:1"
    )


def test_leaves_out_what_a_proxy_would_refuse() -> None:
    many = {f"room:{i}": Position("k3Jd9" * 4, i) for i in range(500)}
    written = position_header.write(many)
    assert 3900 < len(written) <= position_header.MAX_LENGTH
    found = read(written)
    assert found == {name: many[name] for name in list(many)[: len(found)]}
