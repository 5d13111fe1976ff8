"""A bounded number of threads that run what they are handed, in the order it came.

Each task has a context (``contextvars``) of its own, which is empty.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context

from ...logs import logger

log = logger(__name__)

Task = Callable[[], object]

# Threads that have nothing to do keep all that they know of from being collected.
_IDLE = 30.0


class Workers:
    """Threads that start when they are needed, up to a number, and end when idle.

    With two lanes, some threads are always free of the tasks of either: those of one
    can't keep the other waiting, whatever they wait for themselves. What waits is
    bounded by whoever hands it in: a connection's mailbox hands in one task at a time.

    Args:
        count: How many threads there may be; two lanes have one each at the least.
        name: What their names begin with.
        lanes: 1 or 2.
        idle: Seconds without a task after which a thread ends.
    """

    def __init__(
        self, count: int, name: str, *, lanes: int = 1, idle: float = _IDLE
    ) -> None:
        self._count = max(count, lanes)
        self._name = name
        self._idle = idle
        # How many tasks of one lane may have a thread, or be the next to get one.
        spared = max(1, self._count // 4) if lanes > 1 else 0
        self._most = self._count - spared
        self._lanes = lanes
        self._begin()

    def _begin(self) -> None:
        self._tasks: queue.SimpleQueue[tuple[Task, int]] = queue.SimpleQueue()
        # Guards the following: the number of threads; of each lane, how many tasks
        # were given to them and are not done, and which wait for that.
        self._lock = threading.Lock()
        self._threads = 0
        self._numbers = itertools.count(1)
        self._given = [0] * self._lanes
        self._waiting: list[deque[Task]] = [deque() for _ in self._given]
        self._pid = os.getpid()

    def run(self, task: Task, lane: int = 0) -> None:
        """Let a task be run by the first thread that is free.

        Raises:
            RuntimeError: There is no thread, and none can be started.
        """
        if self._pid != os.getpid():
            self._begin()  # threads do not survive a fork
        with self._lock:
            if self._given[lane] >= self._most:
                self._waiting[lane].append(task)
                return
            # A task never waits for another while there may be one more thread: the
            # other may be waiting for what this one does.
            if sum(self._given) >= self._threads and self._threads < self._count:
                self._start()
            self._give(task, lane)

    def _give(self, task: Task, lane: int) -> None:
        self._given[lane] += 1
        self._tasks.put((task, lane))

    def _start(self) -> None:
        thread = threading.Thread(
            target=self._work, name=f"{self._name}-{next(self._numbers)}", daemon=True
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
            try:
                task, lane = self._tasks.get(timeout=self._idle)
            except queue.Empty:
                with self._lock:
                    if self._tasks.empty():
                        self._threads -= 1
                        return
                continue
            try:
                # In no task's, nor in that of whoever started this thread: libraries
                # let threads begin with a copy of it.
                Context().run(task)
            except BaseException:
                # Nobody is above; a thread that ended would never be replaced.
                log.exception("A task failed")
            del task
            with self._lock:
                self._given[lane] -= 1
                if self._waiting[lane]:
                    self._give(self._waiting[lane].popleft(), lane)
