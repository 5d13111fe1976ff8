"""Keeps ended logins in a table, if there is one, also where the database is away.

What can't be written is tried again until it is there; what is too much for that is
left to the log. It knows no database and no broker.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..failures import Failure, Failures
from ..metrics import OFF, Metrics
from .logins import Ended, LoginTable

# Seconds between two attempts, and how many logins may wait for one.
_AGAIN = 1.0
_MOST = 100_000
# Seconds between two purges, and two looks for what others have added.
_PURGE_EVERY = 600.0
_READ_EVERY = 30.0
# Logins that are added at once.
_BATCH = 500
_ADDING = (
    "The table livepush_ended_logins did not take a login that has ended, which is "
    "tried again until it does; see whether the database answers and lets this "
    "application write there."
)
_READING = (
    "The table livepush_ended_logins can't be read, so that nobody vouches for "
    "logins; see whether the database answers and lets this application read there."
)


class EndedKeeper:
    """One process's way to the table.

    Args:
        table: The table; None: nothing is kept.
        failures: Takes note of what fails.
        spawn: Runs a function in the background.
        sleep: Waits for seconds.
        now: Seconds of a clock that never falls.
        metrics: Counts what is given up.
    """

    def __init__(
        self,
        table: LoginTable | None,
        *,
        failures: Failures,
        spawn: Callable[[Callable[[], None]], object],
        sleep: Callable[[float], object],
        now: Callable[[], float],
        metrics: Metrics = OFF,
    ) -> None:
        self._table = table
        self._failures = failures
        self._spawn = spawn
        self._sleep = sleep
        self._now = now
        self._metrics = metrics
        self._purged = now()
        self._read_at = float("-inf")
        self.after_fork()

    def after_fork(self) -> None:
        """Leave to the parent what it has begun."""
        self._lock = threading.Lock()  # guards what waits, and whether somebody writes
        self._waiting: dict[str, float] = {}
        self._writes = self._looks = False

    @property
    def exists(self) -> bool:
        return self._table is not None

    @property
    def is_done(self) -> bool:
        """Whether nothing waits to be written."""
        return not self._waiting

    def add(self, ended: Iterable[Ended]) -> None:
        """Add logins that have just ended; what fails is tried again. Never raises."""
        if self._table is None:
            return
        logins = [each.login for each in ended]
        at = self._now()
        # Behind others that wait it would fail as they do, after as long a time.
        if self._waiting or not self._write(logins, at):
            with self._lock:
                room = _MOST - len(self._waiting)
                self._waiting.update(dict.fromkeys(logins[:room], at))
            if len(logins) > room:
                lost = len(logins) - room
                self._metrics.count("logins_dropped_total", "table", lost)
            self._begin()
        elif at - self._purged > _PURGE_EVERY:
            self._purged = at
            self._spawn(self._purge)

    def read(self) -> Iterator[Sequence[tuple[Ended, float]]]:
        """Read all that the table has, in parts.

        Raises:
            Exception: What the database raises; noted.
        """
        return self._read(None)

    @property
    def is_due(self) -> bool:
        """Whether it is time to look for what others have added."""
        return (
            self._table is not None
            and not self._looks
            and self._now() - self._read_at > _READ_EVERY
        )

    def look(self, found: Callable[[Sequence[tuple[Ended, float]]], object]) -> None:
        """Read in the background what may have come since the last reading."""
        self._looks = True

        def read() -> None:
            try:
                # A machine's clock may be wrong by a minute, a transaction take one.
                for part in self._read(self._now() - self._read_at + 120):
                    found(part)
            except Exception:  # noqa: BLE001  (noted)
                self._read_at += _READ_EVERY
            finally:
                self._looks = False

        self._spawn(read)

    def _read(self, within: float | None) -> Iterator[Sequence[tuple[Ended, float]]]:
        if self._table is None:
            return
        began = self._now()
        try:
            for part in self._table.read(within):
                yield [(Ended(login), age) for login, age in part]
        except Exception as error:
            self._failures.note("logins: read", Failure(_READING), error=error)
            raise
        self._failures.over("logins: read")
        self._read_at = began

    def _write(self, logins: Sequence[str], at: float) -> bool:
        assert self._table is not None
        try:
            self._table.add(logins, self._now() - at)
        except Exception as error:  # noqa: BLE001  (whatever the driver raises)
            self._failures.note("logins: add", Failure(_ADDING), error=error)
            return False
        self._failures.over("logins: add")
        return True

    def _begin(self) -> None:
        with self._lock:
            begins = not self._writes
            self._writes = True
        if begins:
            try:
                self._spawn(self._write_waiting)
            except BaseException:
                self._writes = False
                raise

    def _write_waiting(self) -> None:
        lock = self._lock
        try:
            while True:
                with lock:
                    if not self._waiting:
                        self._writes = False
                        return
                    at = next(iter(self._waiting.values()))
                    logins = [each for each, a in self._waiting.items() if a == at]
                    del logins[_BATCH:]
                if self._write(logins, at):
                    with lock:
                        for login in logins:
                            self._waiting.pop(login, None)
                else:
                    self._sleep(_AGAIN)
        except BaseException:
            self._writes = False  # whoever adds next begins another one
            raise

    def _purge(self) -> None:
        assert self._table is not None
        try:
            self._table.purge()
        except Exception as error:  # noqa: BLE001  (whatever the driver raises)
            reason = "Old rows of the table livepush_ended_logins can't be deleted."
            self._failures.note("logins: purge", Failure(reason), error=error)
