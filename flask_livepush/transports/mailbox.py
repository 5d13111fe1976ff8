"""What comes in on one connection is handled in the order in which it came.

A reader must not wait for a handler: it hands over and reads on. python-socketio starts
a thread a message instead, so that a room can be asked for before the connection it is
asked on is known.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from ..logs import logger

log = logger(__name__)

Task = Callable[[], object]


class _Queue:
    __slots__ = ("runner", "tasks")

    def __init__(self) -> None:
        self.tasks: deque[Task] = deque()
        self.runner: int | None = None  # the thread or greenlet that empties it


class Mailboxes:
    """One queue of tasks a connection, emptied by one thread or greenlet at a time.

    Args:
        spawn: Runs a function in the background.
        limit: How many tasks may wait in one queue.
    """

    def __init__(self, spawn: Callable[[Task], object], *, limit: int) -> None:
        self._spawn = spawn
        self._limit = limit
        self._lock = threading.Lock()  # guards the queues
        self._queues: dict[str, _Queue] = {}

    def put(self, name: str, task: Task) -> bool:
        """Let a task wait for its turn; False if too many do, or none can begin."""
        with self._lock:
            queue = self._queues.get(name)
            if queue is not None and len(queue.tasks) >= self._limit:
                return False
            self._append(name, task)
        return queue is not None or self._begin(name)

    def enter(self, name: str, task: Task) -> bool:
        """Run a task here and now if nothing of its queue waits or runs.

        What comes meanwhile waits for it, and is run in the background.

        Returns:
            Whether it was run.
        """
        with self._lock:
            if name in self._queues:
                return False
            queue = self._queues[name] = _Queue()
            queue.runner = threading.get_ident()
        try:
            task()
        finally:
            with self._lock:
                queue.runner = None
                waits = bool(queue.tasks)
                if not waits:
                    del self._queues[name]
            if waits and not self._begin(name):
                for waiting in queue.tasks:
                    waiting()
        return True

    def close(self, name: str, task: Task) -> None:
        """Forget what waits; the given task is run last, whatever the limit."""
        with self._lock:
            queue = self._queues.get(name)
            if queue is not None:
                queue.tasks.clear()
            self._append(name, task)
        if queue is None and not self._begin(name):
            task()

    def inside(self, name: str) -> bool:
        """Say whether the caller is a task of this queue."""
        queue = self._queues.get(name)
        return queue is not None and queue.runner == threading.get_ident()

    def _append(self, name: str, task: Task) -> None:
        self._queues.setdefault(name, _Queue()).tasks.append(task)

    def _begin(self, name: str) -> bool:
        try:
            self._spawn(lambda: self._empty(name))
        except Exception:
            log.exception("Handling messages can't begin")
            with self._lock:
                del self._queues[name]
            return False
        return True

    def _empty(self, name: str) -> None:
        while True:
            with self._lock:
                queue = self._queues[name]
                if not queue.tasks:
                    # Only now may another thread begin with this connection.
                    del self._queues[name]
                    return
                queue.runner = threading.get_ident()
                task = queue.tasks.popleft()
            try:
                task()
            except Exception:
                log.exception("Handling a message failed")
            except BaseException:
                # Such as gevent's Timeout: this greenlet ends, the connection does not.
                self._begin(name)
                raise
