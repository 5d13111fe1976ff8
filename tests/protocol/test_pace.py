"""How often something may be done."""

from __future__ import annotations

from flask_livepush.protocol.pace import Pace


def test_a_burst_is_allowed_and_then_so_many_a_second() -> None:
    pace = Pace(20, 40)
    assert [pace.allows(100.0) for _ in range(41)] == [True] * 40 + [False]
    assert [pace.allows(100.125) for _ in range(3)] == [True, True, False]
    assert [pace.allows(1000.0) for _ in range(41)] == [True] * 40 + [False]
