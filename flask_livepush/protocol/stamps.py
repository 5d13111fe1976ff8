"""When a database's clock can be believed to order the versions of rows.

A clock that is set back, or a replica that takes over with a clock that is behind,
gives new versions lower stamps than old ones have. Driven by one caller at a time; the
moments are arguments.
"""

from __future__ import annotations

# How much slower than ours a clock may run that nobody sets: twice what NTP slews at
# most (https://docs.ntpsec.org/latest/clock.html).
_DRIFT = 0.001
_MICROSECONDS = 1_000_000


class RisingClock:
    """Compares one database's clock with this process's monotonic one.

    A stamp that was read between two of our moments says by how much the clock is
    ahead of ours, at least and at most. One whose most is below an earlier one's
    least shows that the clock has fallen.
    """

    __slots__ = ("_ahead_at_least", "_ahead_at_most", "_believed_above", "_read")

    def __init__(self) -> None:
        self._read: float | None = None
        self._ahead_at_least = 0.0
        self._ahead_at_most = 0.0
        self._believed_above = -1

    def believes(self, stamp: int, *, asked: float, answered: float) -> bool:
        """Say whether a stamp is above all that the clock may have given before.

        Args:
            stamp: Microseconds, as the database's clock has it.
            asked: Before it was read, in seconds of a monotonic clock.
            answered: After it was read.
        """
        at_least = stamp - answered * _MICROSECONDS
        at_most = stamp - asked * _MICROSECONDS
        if self._read is None:
            known = at_least
        else:
            drifted = (answered - self._read) * _DRIFT * _MICROSECONDS
            known = self._ahead_at_least - drifted
            if at_most < known:
                before = int(answered * _MICROSECONDS + self._ahead_at_most)
                self._believed_above = max(self._believed_above, before)
        if at_most < known or at_least >= known:
            self._read = answered
            self._ahead_at_least, self._ahead_at_most = at_least, at_most
        return stamp > self._believed_above
