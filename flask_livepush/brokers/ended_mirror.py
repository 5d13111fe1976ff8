"""The ended logins that one process knows: ids, since when, and only so many.

It asks nobody, and tells nobody.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from itertools import islice

from ..logs import logger
from ..metrics import OFF, Metrics
from .logins import Ended

log = logger(__name__)

#: How many a process remembers. Measured in docs/decisions.md: 170 bytes each.
MOST = 1_000_000

_ID = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)


def is_login(text: str) -> bool:
    """Say whether a text has the form of a login's id."""
    return _ID.fullmatch(text) is not None


class EndedMirror:
    """Which logins have ended.

    May be used from any thread or greenlet; whoever looks waits for nobody.

    Args:
        lifetime: Seconds for which an end must be known.
        now: Seconds of a clock that never falls.
        most: How many are remembered; the oldest go first.
        metrics: Counts what had to be forgotten.
    """

    def __init__(
        self,
        *,
        lifetime: float,
        now: Callable[[], float],
        most: int = MOST,
        metrics: Metrics = OFF,
    ) -> None:
        self.lifetime = lifetime
        self._now = now
        self._most = most
        self._metrics = metrics
        self._logged = False
        # In the order in which they became known, which is nearly that of their ends.
        self._ended: dict[str, float] = {}
        self._again: set[str] = set()
        self.after_fork()

    def after_fork(self) -> None:
        """Have a lock that no thread of the parent holds."""
        self._lock = threading.Lock()  # guards the order of changes

    def __contains__(self, login: str) -> bool:
        ended = self._ended.get(login)
        return ended is not None and self._now() - ended < self.lifetime

    def __len__(self) -> int:
        return len(self._ended)

    def add(self, logins: Iterable[Ended], *, age: float = 0.0) -> list[Ended]:
        """Enter logins that ended together; return those that were not known.

        Args:
            age: How many seconds ago they ended.
        """
        return self.add_each((ended, age) for ended in logins)

    def add_each(self, logins: Iterable[tuple[Ended, float]]) -> list[Ended]:
        """Enter logins, each with its age as above; return the new ones."""
        now = self._now()
        new = []
        with self._lock:
            for ended, age in logins:
                if age < self.lifetime and ended.login not in self:
                    self._ended.pop(ended.login, None)  # one that was over is last now
                    # A clock of another machine may be ahead.
                    self._ended[ended.login] = now - max(0.0, age)
                    if ended.again:
                        self._again.add(ended.login)
                    new.append(ended)
            self._forget(now)
        return new

    def missing_in(self, logins: set[str]) -> list[str]:
        """Return which of those that have ended are not among these."""
        with self._lock:
            return [login for login in self._ended if login not in logins]

    def dated(self, logins: Iterable[str]) -> list[tuple[Ended, float]]:
        """Return those of these that are still known, each with its age."""
        now = self._now()
        found = []
        for login in logins:
            at = self._ended.get(login)
            if at is not None and now - at < self.lifetime:
                found.append((Ended(login, login in self._again), now - at))
        return found

    def _forget(self, now: float) -> None:
        """Let go what nobody has to know any more, and what is too much."""
        gone = []
        for login, at in self._ended.items():
            if now - at < self.lifetime:
                break
            gone.append(login)
        excess = len(self._ended) - len(gone) - self._most
        if excess > 0:
            gone += islice(self._ended, len(gone), len(gone) + excess)
            self._metrics.count("logins_dropped_total", "mirror_full", excess)
            if not self._logged:
                self._logged = True
                log.error(
                    "More than %d logins have ended within PERMANENT_SESSION_LIFETIME "
                    "(%g s); the oldest are forgotten, and their cookies would work "
                    "again. Make it shorter.",
                    self._most,
                    self.lifetime,
                )
        for login in gone:
            del self._ended[login]
            self._again.discard(login)
