"""Threads that start when they are needed."""

from __future__ import annotations

import sys
import threading
from contextvars import ContextVar
from typing import Any

import pytest

from flask_livepush.transports.engine.workers import Workers
from tests.support.waiting import DEADLINE, until


def test_runs_tasks_in_their_order_on_one_thread() -> None:
    workers = Workers(1, "one")
    done: list[int] = []
    ended = threading.Event()
    for number in range(100):
        workers.run(lambda number=number: done.append(number))
    workers.run(ended.set)
    assert ended.wait(DEADLINE)
    assert done == list(range(100))
    assert workers._threads == 1


def test_as_many_run_at_once_as_there_may_be_threads() -> None:
    workers = Workers(3, "three")
    together = threading.Barrier(4)
    names: list[str] = []

    def meet() -> None:
        names.append(threading.current_thread().name)
        together.wait(DEADLINE)

    for _ in range(3):
        workers.run(meet)
    together.wait(DEADLINE)
    assert sorted(names) == ["three-1", "three-2", "three-3"]
    ended = threading.Event()
    workers.run(ended.set)
    assert ended.wait(DEADLINE)
    assert workers._threads == 3


@pytest.mark.parametrize(("count", "spared"), [(1, 1), (2, 1), (8, 2)])
@pytest.mark.parametrize("lane", [0, 1])
def test_tasks_of_one_lane_never_have_all_threads(
    count: int, spared: int, lane: int
) -> None:
    """Bug: joins that waited for a Redis that hung kept everybody from connecting."""
    workers = Workers(count, "lanes", lanes=2)
    go_on, done = threading.Event(), threading.Semaphore(0)

    def hang() -> None:
        go_on.wait(DEADLINE)
        done.release()

    for _ in range(100):
        workers.run(hang, lane)
    others = [threading.Event() for _ in range(20)]
    for other in others:
        workers.run(other.set, 1 - lane)
    for other in others:
        assert other.wait(DEADLINE)
    together = threading.Barrier(spared + 1)
    for _ in range(spared):
        workers.run(lambda: together.wait(DEADLINE), 1 - lane)
    together.wait(DEADLINE)
    go_on.set()
    for _ in range(100):
        assert done.acquire(timeout=DEADLINE)
    assert workers._threads <= max(count, 2)


def test_threads_end_when_idle_and_others_begin() -> None:
    workers = Workers(2, "idle", idle=0.01)
    for _ in range(3):
        ended = threading.Event()
        workers.run(ended.set)
        assert ended.wait(DEADLINE)
        until(lambda: workers._threads == 0)
    # Whatever they do in the moment in which more comes.
    done = threading.Semaphore(0)
    for _ in range(300):
        workers.run(done.release)
        assert done.acquire(timeout=DEADLINE)
    assert 0 <= workers._threads <= 2


def test_a_task_that_fails_ends_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    workers = Workers(1, "one")
    ended = threading.Event()

    def fail() -> None:
        raise RuntimeError("not expected")

    workers.run(fail)
    workers.run(ended.set)
    assert ended.wait(DEADLINE)
    assert "A task failed" in caplog.text


def test_a_task_may_wait_for_one_that_comes_later() -> None:
    """Bug: a thread that had just got a task counted as one that waits for the next.

    Then no thread was started for that, and it waited for the first to end.
    """
    for _ in range(40):
        workers = Workers(2, "two")
        ready = threading.Event()
        workers.run(ready.set)
        assert ready.wait(DEADLINE)
        second, both = threading.Event(), threading.Event()

        def wait(second: threading.Event = second, both: Any = both) -> None:
            if second.wait(DEADLINE):
                both.set()

        workers.run(wait)
        workers.run(second.set)
        assert both.wait(DEADLINE)


def test_a_task_that_ends_its_thread_does_not(caplog: pytest.LogCaptureFixture) -> None:
    """Bug: a handler that called sys.exit() took one of the threads along."""
    workers = Workers(1, "one")
    ended = threading.Event()
    workers.run(sys.exit)
    workers.run(ended.set)
    assert ended.wait(DEADLINE)
    assert "A task failed" in caplog.text


def test_a_task_is_not_kept_when_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bug: it was run later, when whoever handed it in had been told it would not."""
    workers = Workers(1, "one")
    done: list[str] = []
    ended = threading.Event()

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError):
            workers.run(lambda: done.append("refused"))
    workers.run(lambda: done.append("taken"))
    workers.run(ended.set)
    assert ended.wait(DEADLINE)
    assert done == ["taken"]


def test_each_task_has_a_context_of_its_own() -> None:
    """Bug: with libraries that let threads inherit, that of who was there first."""
    left: ContextVar[str] = ContextVar("left", default="nothing")
    workers = Workers(1, "one")
    found: list[str] = []
    ended = threading.Event()

    def task() -> None:
        found.append(left.get())
        left.set("by a task")

    for _ in range(3):
        workers.run(task)
    workers.run(ended.set)
    assert ended.wait(DEADLINE)
    assert found == ["nothing"] * 3
