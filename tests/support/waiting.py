"""Waiting for what another thread or process does: for a condition, with a deadline.

A bound on time in a test is one of two things. A promise is what the product says it
keeps, also where others work: the test asks for that number and no other. All else is
a deadline: it ends what hangs, so it is :data:`DEADLINE`, whatever is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds after which what has not happened never will, also where a dozen programs
#: want the same processor. No guess at how long something takes.
DEADLINE = 120.0
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
