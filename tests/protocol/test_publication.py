"""Which events an application may emit."""

from __future__ import annotations

from typing import Any

import pytest

from flask_livepush.errors import UsageError
from flask_livepush.protocol.publication import Draft, check_event, invalidated


@pytest.mark.parametrize(
    "event", ["a", "note.added", "message", "error", "é", "Connect", "livepush", "*"]
)
def test_takes_a_name(event: str) -> None:
    assert check_event(event) == event


@pytest.mark.parametrize(
    "event",
    [
        "",
        None,
        1,
        b"a",
        ["a"],
        "connect",
        "connect_error",
        "disconnect",
        "disconnecting",
        "newListener",
        "removeListener",
        "livepush.",
        "livepush.reset",
    ],
)
def test_refuses_what_is_reserved_or_no_name(event: Any) -> None:
    with pytest.raises(UsageError, match="The event"):
        check_event(event)


def test_an_invalidation_orders_nothing() -> None:
    assert invalidated("message") == Draft("message.invalidated", "{}")
