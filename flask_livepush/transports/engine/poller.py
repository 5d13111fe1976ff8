"""Waits until descriptors can be read or written, in each async mode.

An epoll object is itself a descriptor that one can wait for. So where the process is
patched by eventlet or gevent, the patched ``select`` waits for the *real* epoll object,
which is then asked without waiting: one loop for the three modes, and no watcher a
connection. Where there is no epoll it is what ``selectors`` has.
"""

from __future__ import annotations

import _socket
import select
import selectors
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

# Descriptors that one wait reports at most.
_AT_ONCE = 1024

Ready = tuple[int, bool, bool]  # descriptor, can be read (or has failed), written


class Poller(Protocol):
    """Knows descriptors; but for ``watch…`` and ``wake`` the loop's alone.

    What it reports is level-triggered: again, until it was read or written.
    """

    def watch(self, fd: int) -> None:
        """Report when it can be read, or has failed."""

    def watch_writes(self, fd: int, wanted: bool) -> None:
        """Report also when it can be written, or no more; nothing if it is unknown."""

    def forget(self, fd: int) -> None:
        """Report nothing any more; it is still open."""

    def wait(self, timeout: float | None) -> list[Ready]:
        """Wait until there is something to report, or :meth:`wake`, or seconds."""

    def wake(self) -> None:
        """Let a wait that runs, or else the next one, return at once."""

    def close(self) -> None:
        """Free its descriptors."""


def create(mode: str, sleep: Callable[[float], object]) -> Poller:
    """Return what fits an async mode and the system.

    Args:
        sleep: Waits for seconds; 0 lets other greenlets run.
    """
    epoll = _epoll(mode)
    if epoll is None:
        return _Selector(None if mode == "threading" else sleep)
    return _Epoll(epoll(), None if mode == "threading" else sleep)


def _epoll(mode: str) -> Any:
    """Return the class of the system's epoll objects; None: it has none."""
    if mode == "eventlet":
        return getattr(
            sys.modules["eventlet.patcher"].original("select"), "epoll", None
        )
    if mode == "gevent":
        try:
            return sys.modules["gevent.monkey"].get_original("select", "epoll")
        except AttributeError:
            return None
    return getattr(select, "epoll", None)


class _Pipe:
    """What a wait is woken by.

    A pair of plain sockets, since eventlet's ``os.write`` waits, for one greenlet at a
    time.
    """

    def __init__(self) -> None:
        self._start, self._end = _socket.socketpair()
        self._start.setblocking(False)
        self._end.setblocking(False)
        self.fd = self._end.fileno()

    def write(self) -> None:
        with suppress(OSError):  # it is full of wake-ups already, or nobody waits
            self._start.send(b"\0")

    def read(self) -> None:
        with suppress(BlockingIOError):
            self._end.recv(4096)

    def close(self) -> None:
        self._start.close()
        self._end.close()


class _Epoll:
    def __init__(self, epoll: Any, sleep: Callable[[float], object] | None) -> None:
        self._epoll = epoll
        self._sleep = sleep
        self._pipe = _Pipe()
        epoll.register(self._pipe.fd, select.EPOLLIN)

    def watch(self, fd: int) -> None:
        self._epoll.register(fd, select.EPOLLIN)

    def watch_writes(self, fd: int, wanted: bool) -> None:
        writes = select.EPOLLOUT if wanted else 0
        with suppress(OSError, ValueError):  # it was forgotten meanwhile, or all was
            self._epoll.modify(fd, select.EPOLLIN | writes)

    def forget(self, fd: int) -> None:
        with suppress(OSError):
            self._epoll.unregister(fd)

    def wait(self, timeout: float | None) -> list[Ready]:
        if self._sleep is None:
            found = self._epoll.poll(-1 if timeout is None else timeout, _AT_ONCE)
        else:
            self._sleep(0)  # what is always busy lets the others run
            if timeout != 0:
                select.select([self._epoll.fileno()], [], [], timeout)
            found = self._epoll.poll(0, _AT_ONCE)
        ready = []
        for fd, events in found:
            if fd == self._pipe.fd:
                self._pipe.read()
            else:
                writes = bool(events & select.EPOLLOUT)
                ready.append((fd, bool(events & ~select.EPOLLOUT), writes))
        return ready

    def wake(self) -> None:
        self._pipe.write()

    def close(self) -> None:
        self._epoll.close()
        self._pipe.close()


class _Selector:
    """On systems without epoll; in eventlet it costs time with each connection."""

    def __init__(self, sleep: Callable[[float], object] | None) -> None:
        self._selector = selectors.DefaultSelector()
        self._sleep = sleep
        self._pipe = _Pipe()
        self._selector.register(self._pipe.fd, selectors.EVENT_READ)

    def watch(self, fd: int) -> None:
        self._selector.register(fd, selectors.EVENT_READ)
        self.wake()  # not every selector notices it while it waits

    def watch_writes(self, fd: int, wanted: bool) -> None:
        writes = selectors.EVENT_WRITE if wanted else 0
        with suppress(KeyError, ValueError, OSError):
            self._selector.modify(fd, selectors.EVENT_READ | writes)
        if wanted:
            self.wake()  # as above: another thread may have sent

    def forget(self, fd: int) -> None:
        with suppress(KeyError, ValueError, OSError):
            self._selector.unregister(fd)

    def wait(self, timeout: float | None) -> list[Ready]:
        if self._sleep is not None:
            self._sleep(0)
        ready = []
        for key, events in self._selector.select(timeout):
            if key.fd == self._pipe.fd:
                self._pipe.read()
            else:
                reads = bool(events & selectors.EVENT_READ)
                ready.append((key.fd, reads, bool(events & selectors.EVENT_WRITE)))
        return ready

    def wake(self) -> None:
        self._pipe.write()

    def close(self) -> None:
        self._selector.close()
        self._pipe.close()
