"""What comes in on one connection is handled in the order in which it came.

A reader must not wait for a handler: it hands over and reads on. python-socketio starts
a thread a message instead, so that a room can be asked for before the connection it is
asked on is known.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context

from ..logs import logger

log = logger(__name__)

Task = Callable[[], object]
Spawn = Callable[[Task], object]


class _Queue:
    __slots__ = ("runner", "tasks")

    def __init__(self) -> None:
        # Each with whether it is one of those that begin a connection.
        self.tasks: deque[tuple[Task, bool]] = deque()
        self.runner: int | None = None  # the thread or greenlet whose turn it is


class Mailboxes:
    """One queue of tasks a connection, of which one at a time is run.

    A turn is one task: then the other connections have theirs, so that who sends much
    waits for itself. Each task has a context (``contextvars``) of its own, which is
    empty: what one sets is nobody else's, and what belongs to whoever let a thread
    begin is no task's.

    Args:
        spawn: Runs a function in the background.
        limit: How many tasks may wait in one queue.
        spawn_first: Runs those tasks that begin a connection; by default ``spawn``.
    """

    def __init__(
        self, spawn: Spawn, *, limit: int, spawn_first: Spawn | None = None
    ) -> None:
        self._spawn = spawn
        self._spawn_first = spawn_first or spawn
        self._limit = limit
        self._lock = threading.Lock()  # guards the queues
        self._queues: dict[str, _Queue] = {}

    def put(self, name: str, task: Task, *, first: bool = False) -> bool:
        """Let a task wait for its turn; False if too many do, or none can begin.

        Args:
            first: Whether it begins a connection, and waits for no other's messages.
        """
        with self._lock:
            queue = self._queues.get(name)
            if queue is not None and len(queue.tasks) >= self._limit:
                return False
            self._append(name, task, first)
        if queue is not None or self._begin(name, first):
            return True
        with self._lock:
            del self._queues[name]
        return False

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
            Context().run(task)
        finally:
            if not self._pass_on(name):
                self._run(name)
        return True

    def close(self, name: str, task: Task) -> None:
        """Forget what waits; the given task is run last, whatever the limit."""
        with self._lock:
            queue = self._queues.get(name)
            if queue is not None:
                queue.tasks.clear()
            self._append(name, task, False)
        if queue is None and not self._begin(name, False):
            self._run(name)

    def inside(self, name: str) -> bool:
        """Say whether the caller is a task of this queue."""
        queue = self._queues.get(name)
        return queue is not None and queue.runner == threading.get_ident()

    def _append(self, name: str, task: Task, first: bool) -> None:
        self._queues.setdefault(name, _Queue()).tasks.append((task, first))

    def _begin(self, name: str, first: bool) -> bool:
        """Let the next task of a queue have its turn; False: nothing can be started."""
        spawn = self._spawn_first if first else self._spawn
        try:
            spawn(lambda: self._run(name))
        except Exception:
            log.exception("Handling messages can't begin")
            return False
        return True

    def _pass_on(self, name: str) -> bool:
        """End a turn; False: it has to go on, as nothing can be started."""
        with self._lock:
            queue = self._queues[name]
            queue.runner = None
            if not queue.tasks:
                # Only now may another thread begin with this connection.
                del self._queues[name]
                return True
            first = queue.tasks[0][1]
        return self._begin(name, first)

    def _run(self, name: str) -> None:
        """Run one task; more of them where there is nobody else to do so."""
        while True:
            with self._lock:
                queue = self._queues[name]
                queue.runner = threading.get_ident()
                task, _ = queue.tasks.popleft()
            try:
                Context().run(task)
            except Exception:
                log.exception("Handling a message failed")
            except BaseException:
                # Such as gevent's Timeout: this greenlet ends, the connection does not.
                self._pass_on(name)
                raise
            if self._pass_on(name):
                return
