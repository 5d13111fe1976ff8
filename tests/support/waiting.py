"""Waiting for what another thread or process does: for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds that are enough on a machine that has other things to do.
DEADLINE = 20.0
_PAUSE = 0.01


def until(
    condition: Callable[[], T],
    within: float = DEADLINE,
    *,
    what: str = "it has not become true",
) -> T:
    """Wait until a condition is true, and return what it was.

    Args:
        within: Seconds.
        what: Said where it has not become true by then.
    """
    end = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(_PAUSE)
    return found
