"""The ends of logins of one process alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from ..brokers.logins import Ended, LoginListener, Logins, Recheck


class LocalLogins(Logins):
    """Fulfils the contract where there is one process.

    Args:
        now: Seconds of a clock that never falls.
    """

    def __init__(self, *, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()  # guards what follows
        self._ended: set[str] = set()
        self._spent: dict[str, float] = {}
        self._listener: LoginListener | None = None

    def listen(self, listener: LoginListener) -> None:
        self._listener = listener

    def end(self, logins: Iterable[Ended]) -> None:
        found = list(logins)
        with self._lock:
            self._ended.update(one.login for one in found)
        if self._listener is not None:
            self._listener.ended(found)

    def recheck(self, orders: Iterable[Recheck]) -> None:
        if self._listener is not None:
            self._listener.recheck(list(orders))

    def has_ended(self, login: str) -> bool:
        return login in self._ended

    def is_current(self) -> bool:
        return True

    def confirm(self) -> None:
        pass

    def spend(self, ticket: str, seconds: float) -> bool:
        now = self._now()
        with self._lock:
            self._spent = {k: v for k, v in self._spent.items() if v > now}
            if ticket in self._spent:
                return False
            self._spent[ticket] = now + seconds
            return True

    def finish(self, seconds: float) -> bool:
        return True

    def close(self) -> None:
        pass
