"""Which names a room may have, whatever the pattern."""

from __future__ import annotations

from typing import Any

import pytest

from flask_livepush.errors import InvalidRoom
from flask_livepush.protocol.rooms import check_room_name
from tests.support.vectors import vectors


@pytest.mark.parametrize("case", vectors("rooms"), ids=lambda case: repr(case)[:50])
def test_takes_and_refuses(case: dict[str, Any]) -> None:
    if case["valid"]:
        assert check_room_name(case["name"]) == case["name"]
    else:
        with pytest.raises(InvalidRoom):
            check_room_name(case["name"])


@pytest.mark.parametrize("number", [*range(32), 127])
def test_refuses_every_control_character(number: int) -> None:
    with pytest.raises(InvalidRoom, match="control character"):
        check_room_name(f"a{chr(number)}b")
