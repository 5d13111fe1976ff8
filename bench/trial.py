"""One trial of bench.engine: one fresh server, its clients, what they cost it.

What is done with them is a scenario's.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

from tests.support.servers import Server

from .clients import Clients, Collected
from .processes import DEADLINE
from .subjects import Subject, serving

# Seconds after which the program of the clients ends by itself, whatever happens.
LIFETIME = 600
# How many clients warm a server up, and with how many events.
WARM_CLIENTS, WARM_EVENTS = 50, 20


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything.

    Args:
        clients: How many; in some scenarios others are added.
        events: How many are published.
        gap: Seconds of pause after each.
        pad: Bytes of text in each.
        warm: Clients of the warm-up.
        settle: Seconds of rest after it, and while nothing happens.
        patience: Seconds after which deliveries are given up as lost.
        recovery: Seconds after which slow clients are given up.
    """

    clients: int
    events: int = 0
    gap: float = 0
    pad: int = 100
    warm: int = WARM_CLIENTS
    settle: float = 1
    patience: float = DEADLINE
    recovery: float = 60


class Trial:
    """A server that is warm, and what a scenario does with it.

    Args:
        program: The clients'.
        size: How much of everything.
        has_login: Whether users can log in.
    """

    def __init__(
        self, server: Server, program: Path, size: Size, *, has_login: bool
    ) -> None:
        self.size = size
        self.has_login = has_login
        self._server = server
        self._program = program
        root = psutil.Process(server.pid)
        # gunicorn's worker is one of them.
        self._processes = [root, *root.children(recursive=True)]

    def get(self, path: str) -> requests.Response:
        """Ask the server for something."""
        answer = requests.get(f"{self._server.url}{path}", timeout=DEADLINE)
        answer.raise_for_status()
        return answer

    def clients(self, cookie: str = "") -> Clients:
        """Return clients of the server, none of them open yet."""
        return Clients(
            self._program, self._server.port, lifetime=LIFETIME, cookie=cookie
        )

    def publish(
        self, clients: Clients, *, readers: int, events: int | None = None
    ) -> Collected:
        """Publish events, and return what so many reading clients got of them."""
        size = self.size
        count = size.events if events is None else events
        clients.collect(count * readers, timeout=size.patience)
        self.get(f"/publish?count={count}&gap={size.gap}&pad={size.pad}")
        return clients.collected()

    def cpu(self) -> float:
        """Return the seconds of processor time it has taken."""
        return sum(sum(p.cpu_times()[:2]) for p in self._processes)

    def memory(self) -> int:
        """Return its resident bytes."""
        return sum(p.memory_info().rss for p in self._processes)

    def threads(self) -> int:
        """Return how many threads it has."""
        return sum(p.num_threads() for p in self._processes)

    @contextmanager
    def peak(self, what: Callable[[], int]) -> Iterator[Callable[[], int]]:
        """Watch a figure meanwhile; give what returns its peak."""
        highest = what()
        stop = threading.Event()

        def watch() -> None:
            nonlocal highest
            # Where the server has ended, the block itself fails.
            with suppress(psutil.Error):
                while not stop.wait(0.1):
                    highest = max(highest, what())

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield lambda: max(highest, what())
        finally:
            stop.set()
            thread.join()

    @contextmanager
    def meanwhile(self, task: Callable[[], None], *, threads: int) -> Iterator[None]:
        """Repeat a task in threads of this process."""
        stop = threading.Event()

        def repeat() -> None:
            while not stop.is_set():
                with suppress(requests.RequestException):
                    task()

        workers = [threading.Thread(target=repeat) for _ in range(threads)]
        for worker in workers:
            worker.start()
        try:
            yield
        finally:
            stop.set()
            for worker in workers:
                worker.join()

    def warm_up(self) -> None:
        """Have it import, compile and cache what it does once."""
        with self.clients() as clients:
            clients.open(self.size.warm, timeout=DEADLINE)
            clients.collect(self.size.warm * WARM_EVENTS, timeout=DEADLINE)
            self.get(f"/publish?count={WARM_EVENTS}&gap=0.001")
            clients.collected()
        self.get("/burn?seconds=0.001")
        time.sleep(self.size.settle)


@contextmanager
def trial(subject: Subject, program: Path, folder: Path, size: Size) -> Iterator[Trial]:
    """Start a server and warm it up; it ends with the block."""
    with ExitStack() as stack:
        with on_first_core():
            most = 2 * size.clients + 100  # of two lots in turn, and of a few more
            server = stack.enter_context(serving(subject, folder, clients=most))
        # gunicorn's worker may come after it listens.
        requests.get(f"{server.url}/burn?seconds=0", timeout=DEADLINE)
        made = Trial(server, program, size, has_login=subject.mode is not None)
        made.warm_up()
        yield made


def cores() -> list[int]:
    """Return the cores for the server and for its clients.

    None where there is but one, or a system that can't bind a process to some.
    """
    if not hasattr(os, "sched_setaffinity"):
        return []
    found = sorted(_ALL_CORES)
    return [found[0], found[-1]] if len(found) > 1 else []


_ALL_CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


@contextmanager
def on_last_core() -> Iterator[None]:
    """Keep this thread, and what it starts, on the core of the clients."""
    with _on(cores()[1:]):
        yield


@contextmanager
def on_first_core() -> Iterator[None]:
    """Keep what this thread starts on the core of the server."""
    with _on(cores()[:1]):
        yield


@contextmanager
def _on(wanted: list[int]) -> Iterator[None]:
    if not wanted:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, wanted)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
