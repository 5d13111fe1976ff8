"""How often somebody may do something: a number a second, and some more at once."""

from __future__ import annotations


class Pace:
    """A bucket that fills with time, and that each use takes one out of.

    Args:
        rate: Uses a second, in the long run.
        burst: Uses that may follow each other at once.
    """

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._left = float(burst)
        self._at: float | None = None

    def allows(self, now: float) -> bool:
        """Use it once if that is allowed at this time; say whether it was.

        Args:
            now: Seconds of a clock that never falls.
        """
        if self._at is not None:
            filled = self._left + (now - self._at) * self._rate
            self._left = min(float(self._burst), filled)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
