"""What falls due after one and the same time: a queue, whatever the number of items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Timeline(Generic[T]):
    """Items in the order in which they fall due.

    ``add`` may be called by any thread; the rest by the loop's alone. An item that is
    of no interest any more stays until it is due: its function looks.

    Args:
        seconds: After which an item is due.
        due: Called with each.
        now: Seconds of a clock that never falls.
        wake: Called when the first item may have come.
    """

    def __init__(
        self,
        seconds: float,
        due: Callable[[T], None],
        *,
        now: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        self._seconds = seconds
        self._due = due
        self._now = now
        self._wake = wake
        self._items: deque[tuple[float, T]] = deque()

    def add(self, item: T) -> None:
        """Let an item fall due after the seconds."""
        entry = (self._now() + self._seconds, item)
        self._items.append(entry)
        # Asked before, the last of the others could be gone by now, the loop asleep.
        with suppress(IndexError):
            if self._items[0] is entry:
                self._wake()

    def next(self) -> float | None:
        """Return when the next item is due; None: there is none."""
        return self._items[0][0] if self._items else None

    def run(self, now: float) -> None:
        """Call what is due."""
        while self._items and self._items[0][0] <= now:
            self._due(self._items.popleft()[1])
