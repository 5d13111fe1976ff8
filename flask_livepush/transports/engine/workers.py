"""A bounded number of threads that run what they are handed, in the order it came."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

from ...logs import logger

log = logger(__name__)

Task = Callable[[], object]


class Workers:
    """Threads that start when they are needed, up to a number, and stay.

    What waits is bounded by whoever hands it in: a connection's mailbox hands in one
    task at a time.

    Args:
        count: How many threads there may be.
        name: What their names begin with.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._begin()

    def _begin(self) -> None:
        self._tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        # Guards the two numbers: of threads, and of tasks that wait or run.
        self._lock = threading.Lock()
        self._threads = 0
        self._undone = 0
        self._pid = os.getpid()

    def run(self, task: Task) -> None:
        """Let a task be run by the first thread that is free.

        Raises:
            RuntimeError: There is no thread, and none can be started.
        """
        if self._pid != os.getpid():
            self._begin()  # threads do not survive a fork
        with self._lock:
            # A task never waits for another while there may be one more thread: the
            # other may be waiting for what this one does.
            if self._undone >= self._threads and self._threads < self._count:
                self._start()
            self._undone += 1
            self._tasks.put(task)

    def _start(self) -> None:
        thread = threading.Thread(
            target=self._work, name=f"{self._name}-{self._threads + 1}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:
                raise
        else:
            self._threads += 1

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                task()
            except BaseException:
                # Nobody is above; a thread that ended would never be replaced.
                log.exception("A task failed")
            del task
            with self._lock:
                self._undone -= 1
