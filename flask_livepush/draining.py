"""How a process leaves: its clients go elsewhere first, one after the other.

Told as a timeline, for ``LIVEPUSH_DRAIN_SECONDS`` of 10:

1. At 0 s the process is not ready any more and refuses new connections. Every client
   is asked to come back, elsewhere, at a random moment in the next 5 s.
2. At 6 s those that are still there are closed, spread over a second.
3. What waits for the broker is sent, and users who are in rooms are handed over.
4. As soon as nobody is there and nothing waits, at 10 s at the latest, it may end.

It knows no connections, no broker and no signals but what it is handed.
"""

from __future__ import annotations

import os
import signal
import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Protocol

from .config import Config
from .logs import logger

log = logger(__name__)

# Parts of the time: in which clients are asked to go, until the rest is closed, and
# over which that is spread.
_WITHIN = 0.5
_LATE = 0.1
_SPREAD = 0.1
# Seconds for closed sockets to take what they are still to be told.
_FLUSH = 1.0
# Seconds between two looks, and between two whether a SIGTERM came.
_STEP = 0.05
_LOOK = 0.1


class Clients(Protocol):
    """The connections of an application."""

    def ask_all(self, within: float) -> None:
        """Ask those that were not asked yet to come back in so many seconds."""

    def connections(self) -> list[str]:
        """Return those that are open."""

    def close(self, eio_sid: str) -> None:
        """End one; it never waits."""


class Users(Protocol):
    """Who is in the rooms of this process."""

    def expect_moves(self) -> None:
        """Give who leaves the time to come elsewhere."""

    def retire(self) -> None:
        """Hand over, soon."""

    @property
    def retired(self) -> bool:
        """Whether that is done."""


class Draining:
    """The end of one application's part in a process, once.

    Args:
        config: The application's.
        async_mode: How its server waits.
        clients: Its connections.
        untold: How many connections the application was not told of yet as gone.
        open_sockets: How many sockets are still to be told something.
        hand_back: Has polls that wait here for other processes answered soon.
        users: Who is in its rooms.
        sent: Says whether nothing waits for the broker any more.
        spawn: Runs a function in the background.
        sleep: Waits for seconds.
        now: Seconds of a clock that never falls.
    """

    def __init__(
        self,
        config: Config,
        async_mode: str,
        *,
        clients: Clients,
        untold: Callable[[], int],
        open_sockets: Callable[[], int],
        hand_back: Callable[[], object],
        users: Users,
        sent: Callable[[], bool],
        spawn: Callable[[Callable[[], None]], object],
        sleep: Callable[[float], object],
        now: Callable[[], float],
    ) -> None:
        self.config = config
        self.async_mode = async_mode
        self._clients = clients
        self._untold = untold
        self._open_sockets = open_sockets
        self._hand_back = hand_back
        self._users = users
        self._sent = sent
        self._spawn = spawn
        self._sleep = sleep
        self._now = now
        self._start: float | None = None
        #: Whether the process may end.
        self.done = False
        _all.add(self)

    @property
    def begun(self) -> bool:
        """Whether the process is leaving."""
        return self._start is not None

    def begin(self, *, within: float | None = None) -> None:
        """Let the process leave; another call changes nothing. Never waits.

        Args:
            within: Seconds in which clients are asked to go; None: half the time.
        """
        if self._start is not None:
            return
        self._start = self._now()
        usual = _WITHIN * self.config.drain_seconds
        within = usual if within is None else min(usual, within)
        self._spawn(lambda: self._run(within))

    def wait(self, seconds: float) -> bool:
        """Wait until it is done, but no longer; return whether it is."""
        end = self._now() + seconds
        while not self.done and (left := end - self._now()) > 0:
            self._sleep(min(_STEP, left))
        return self.done

    def _run(self, within: float) -> None:
        assert self._start is not None
        count = len(self._clients.connections())
        log.info("This process leaves; %d clients are asked to go elsewhere", count)
        try:
            self._drain(within, self._start + self.config.drain_seconds)
        except Exception:
            log.exception("Leaving politely failed; the process ends")
        finally:
            self.done = True
        log.info("This process is done, after %.1f s", self._now() - self._start)

    def _drain(self, within: float, end: float) -> None:
        seconds = self.config.drain_seconds
        start = end - seconds
        self._users.expect_moves()
        while self._clients.connections():
            left = start + within - self._now()
            self._clients.ask_all(max(0.0, left))
            if left + _LATE * seconds <= 0:
                break
            self._sleep(_STEP)
        self._close_all(_SPREAD * seconds)
        self._until(lambda: not self._untold(), end)
        self._hand_back()
        self._until(lambda: not self._open_sockets(), min(end, self._now() + _FLUSH))
        self._users.retire()
        self._until(lambda: self._sent() and self._users.retired, end)
        if not self._sent():
            log.error(
                "Publications still wait for the message broker, and are lost with "
                "this process; LIVEPUSH_DRAIN_SECONDS is %g",
                seconds,
            )

    def _close_all(self, seconds: float) -> None:
        """Close who is still there, evenly over some time."""
        for turns in range(max(1, round(seconds / _STEP)), 0, -1):
            found = self._clients.connections()
            if not found:
                return
            for eio_sid in found[: -(-len(found) // turns)]:
                self._clients.close(eio_sid)
            if turns > 1:
                self._sleep(_STEP)

    def _until(self, condition: Callable[[], bool], end: float) -> None:
        while not condition() and self._now() < end:
            self._sleep(_STEP)


class Drain:
    """What :meth:`LivePush.drain` has begun: a process that leaves."""

    def __init__(self, parts: Iterable[Draining]) -> None:
        self._parts = tuple(parts)

    @property
    def done(self) -> bool:
        """Whether the process may end."""
        return all(part.done for part in self._parts)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the process may end.

        Args:
            seconds: No longer than that; None: as long as it takes, which is
                ``LIVEPUSH_DRAIN_SECONDS`` and a moment at most.

        Returns:
            Whether it may.
        """
        for part in self._parts:
            part.wait(part.config.drain_seconds + 1 if seconds is None else seconds)
        return self.done


# Those of this process; a server's hooks know the process, and no application.
_all: weakref.WeakSet[Draining] = weakref.WeakSet()


def of_this_process() -> list[Draining]:
    """Return those of all applications that were set up in this process."""
    return list(_all)


def begin(
    parts: Iterable[Draining] | None = None, *, within: float | None = None
) -> Drain:
    """Let applications leave: all of the process, unless some are given."""
    found = of_this_process() if parts is None else list(parts)
    for part in found:
        part.begin(within=within)
    return Drain(found)


def at_sigterm(
    spawn: Callable[[Callable[[], None]], object], sleep: Callable[[float], object]
) -> None:
    """Let a SIGTERM end this process only when it has drained; a second one at once.

    Nothing happens where signals are somebody else's: an application's, or not to be
    had outside of the main thread.

    Args:
        spawn: Runs a function in the background.
        sleep: Waits for seconds.
    """
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return
    came: list[int] = []
    drains: list[Drain] = []

    def handle(number: int, frame: object) -> None:
        # It may have interrupted anything, so it takes no lock and starts nothing.
        came.append(number)
        if drains and drains[0].done:
            sys.exit(0)
        if len(came) > 1:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def watch() -> None:
        while not came:
            sleep(_LOOK)
        drains.append(begin())
        drains[0].wait()
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        signal.signal(signal.SIGTERM, handle)
    except ValueError:
        return
    spawn(watch)
