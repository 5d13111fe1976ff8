"""Ended logins of one process: what there is without a message queue.

When the process ends all is forgotten, but for what a table keeps.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence

from ..errors import BrokerUnavailable
from ..failures import Failures
from ..logs import logger
from ..metrics import OFF, Metrics
from .ended_keeper import EndedKeeper
from .ended_mirror import MOST, EndedMirror
from .logins import Ended, LoginListener, Logins, LoginTable, Recheck

log = logger(__name__)

# Tickets that are remembered at once, which a client can't reach that has to ask for
# each over HTTP.
_MOST_TICKETS = 100_000
# Seconds to wait for a table, and between two looks whether it was read or written.
_CONFIRM = 1.0
_LOOK_AGAIN = 0.02
_READ_AGAIN = 0.5


class MemoryLogins(Logins):
    """Ended logins in a dictionary.

    Args:
        lifetime: Seconds for which an end must be known.
        spawn: Runs a function in the background.
        sleep: Waits for seconds.
        now: Seconds of a clock that never falls.
        table: Keeps them as well.
        failures: Takes note of what fails with the table.
        most: How many are remembered.
        metrics: Counts.
    """

    def __init__(
        self,
        *,
        lifetime: float,
        spawn: Callable[[Callable[[], None]], object],
        sleep: Callable[[float], object],
        now: Callable[[], float],
        table: LoginTable | None = None,
        failures: Failures | None = None,
        most: int = MOST,
        metrics: Metrics = OFF,
    ) -> None:
        self._spawn = spawn
        self._sleep = sleep
        self._now = now
        self._metrics = metrics
        self._listener: LoginListener | None = None
        self._mirror = EndedMirror(
            lifetime=lifetime, now=now, most=most, metrics=metrics
        )
        self._keeper = EndedKeeper(
            table,
            failures=failures or Failures(),
            spawn=spawn,
            sleep=sleep,
            now=now,
            metrics=metrics,
        )
        self._tickets: dict[str, float] = {}
        self._is_read = not self._keeper.exists
        self._closed = False
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()  # guards the tickets, and who reads the table
        self._reads = False

    def _after_fork(self) -> None:
        self._mirror.after_fork()
        self._keeper.after_fork()
        self._begin()

    def listen(self, listener: LoginListener) -> None:
        self._listener = listener

    def end(self, logins: Iterable[Ended]) -> None:
        new = self._mirror.add(logins)
        self._tell(new, "here")
        self._keeper.add(new)

    def recheck(self, orders: Iterable[Recheck]) -> None:
        found = list(orders)
        if found and self._listener is not None and not self._closed:
            try:
                self._listener.recheck(found)
            except Exception:
                log.exception("Asking again failed; going on")

    def has_ended(self, login: str) -> bool:
        if not self._is_read:
            self._start()
        return login in self._mirror

    def is_current(self) -> bool:
        if not self._is_read:
            self._start()
        return self._is_read

    def confirm(self) -> None:
        end = self._now() + _CONFIRM
        while not self.is_current():
            if self._now() >= end:
                raise BrokerUnavailable(
                    "The table of ended logins is not read yet; try again later."
                )
            self._sleep(_LOOK_AGAIN)

    def spend(self, ticket: str, seconds: float) -> bool:
        now = self._now()
        with self._lock:
            if len(self._tickets) >= _MOST_TICKETS:
                live = {t: end for t, end in self._tickets.items() if end > now}
                self._tickets = live
            known = self._tickets.get(ticket, 0.0) > now
            if not known and len(self._tickets) >= _MOST_TICKETS:
                raise BrokerUnavailable("Too many tickets are spent at this time.")
            if not known:
                self._tickets[ticket] = now + seconds
            return not known

    def finish(self, seconds: float) -> bool:
        end = self._now() + seconds
        while not self._keeper.is_done and self._now() < end:
            self._sleep(_LOOK_AGAIN)
        return self._keeper.is_done

    def close(self) -> None:
        self._closed = True

    def _tell(self, new: Sequence[Ended], where: str) -> None:
        if not new:
            return
        self._metrics.count("logins_ended_total", where, len(new))
        if self._listener is not None and not self._closed:
            try:
                self._listener.ended(new)
            except Exception:
                log.exception("Ending a login failed; going on")

    def _start(self) -> None:
        with self._lock:
            begins = not self._reads
            self._reads = True
        if begins:
            self._spawn(self._read)

    def _read(self) -> None:
        while not self._closed and not self._is_read:
            try:
                for part in self._keeper.read():
                    self._tell(self._mirror.add_each(part), "elsewhere")
            except Exception:
                log.debug("The table of ended logins can't be read", exc_info=True)
                self._sleep(_READ_AGAIN)
            else:
                self._is_read = True


def _begin_again() -> None:
    for logins in _all:
        logins._after_fork()


_all: weakref.WeakSet[MemoryLogins] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    # Before a thread of the child can ask.
    os.register_at_fork(after_in_child=_begin_again)
