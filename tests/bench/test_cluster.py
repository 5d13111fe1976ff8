"""Each benchmark of the cluster runs, and finds what holds at any size and speed."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from . import running

TINY = ("--quick", "--rounds", "1")
run = partial(running.run, "cluster")


def rows(*arguments: str) -> list[dict[str, Any]]:
    """Run the benchmark, and return its figures."""
    found: list[dict[str, Any]] = json.loads(run(*arguments, "--json"))
    return found


def test_latency_counts_every_delivery_and_no_byte_of_rooms_not_served() -> None:
    ours, peer = rows("latency", *TINY, "--clients", "3", "--seconds", "0.2")
    assert (ours["kind"], peer["kind"]) == ("livepush", "peer")
    assert ours["deliveries"] == peer["deliveries"] == 3 * 4
    # A byte or two of each may be of what all processes ask Redis once a second.
    assert abs(ours["bytes_elsewhere"]) * 20 < peer["bytes_elsewhere"]


def test_hang_ends_with_every_row_on_every_screen() -> None:
    (found,) = rows("hang", *TINY, "--seconds", "1.5")
    assert found["failed"] == found["missing"] == found["repeated"] == 0
    assert found["rows"] == found["requests"]
    assert found["outcomes"]["queued"] > 0
    assert found["outcomes"]["dropped"] == found["outcomes"]["failed"] == 0


def test_reconnect_recovers_every_client() -> None:
    found = rows("reconnect", *TINY, "--clients", "10")
    assert [row["kind"] for row in found] == ["socket.io", "bare", "missed"]
    assert {row["recovered"] for row in found} == {10}


def test_prints_lines_for_people() -> None:
    header, *lines = run("reconnect", *TINY, "--clients", "2").splitlines()
    assert "recovered" in header
    assert lines[2].startswith("missed")
