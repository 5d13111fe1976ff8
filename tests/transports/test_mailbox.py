"""Messages of one connection are handled in order, whatever a handler does."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar

import pytest

from flask_livepush.transports.mailbox import Mailboxes
from tests.support.brokers import spawn
from tests.support.waiting import DEADLINE


class Boxes:
    """Mailboxes whose background runs when the test says so."""

    def __init__(self, limit: int = 100) -> None:
        self.started: deque[Callable[[], object]] = deque()
        self.fail = False
        self.boxes = Mailboxes(self.spawn, limit=limit)
        self.done: list[object] = []

    def spawn(self, task: Callable[[], object]) -> None:
        if self.fail:
            raise RuntimeError("can't start new thread")
        self.started.append(task)

    def run(self) -> None:
        while self.started:
            self.started.popleft()()

    def put(self, name: str, value: object) -> bool:
        return self.boxes.put(name, lambda: self.done.append(value))


def test_keeps_the_order_of_each_connection_and_starts_one_runner_for_it() -> None:
    it = Boxes()
    for number in range(5):
        assert it.put("a", number)
    it.put("b", "b")
    assert len(it.started) == 2
    it.started.rotate()
    it.run()
    assert it.done == ["b", 0, 1, 2, 3, 4]
    assert it.boxes._queues == {}


def test_each_connection_has_a_turn_before_one_has_the_next() -> None:
    """Bug: one that sent much was served to the end, and all others waited."""
    it = Boxes()
    for number in range(3):
        it.put("much", number)
    it.put("a", "a")
    it.put("b", "b")
    it.run()
    assert it.done == [0, "a", "b", 1, 2]


def test_what_begins_a_connection_has_a_lane_of_its_own() -> None:
    first: list[Callable[[], object]] = []
    it = Boxes()
    it.boxes = Mailboxes(it.spawn, limit=100, spawn_first=first.append)
    assert it.boxes.put("a", lambda: it.done.append("connect"), first=True)
    assert it.put("a", "join")
    assert not it.started
    first.pop()()
    assert it.done == ["connect"]
    assert not first
    it.run()
    assert it.done == ["connect", "join"]


def test_goes_on_in_the_same_thread_when_no_other_can_be_started() -> None:
    it = Boxes()
    for number in range(3):
        it.put("a", number)
    turn = it.started.popleft()
    it.fail = True
    turn()
    assert it.done == [0, 1, 2]
    assert it.boxes._queues == {}


def test_what_comes_while_a_task_runs_waits_for_it() -> None:
    it = Boxes()

    def first() -> None:
        it.put("a", "second")
        it.done.append("first")
        assert len(it.started) == 0

    it.boxes.put("a", first)
    it.run()
    assert it.done == ["first", "second"]


def test_refuses_what_is_too_much_and_takes_more_later() -> None:
    it = Boxes(limit=2)
    assert [it.put("a", n) for n in range(4)] == [True, True, False, False]
    assert it.put("b", "b")
    it.run()
    assert it.done == [0, "b", 1]
    assert it.put("a", 4)


def test_close_forgets_what_waits_and_runs_its_own() -> None:
    it = Boxes(limit=1)
    it.put("a", 0)
    it.boxes.close("a", lambda: it.done.append("end"))
    it.boxes.close("b", lambda: it.done.append("end of b"))
    it.run()
    assert it.done == ["end", "end of b"]
    assert it.boxes._queues == {}


def test_close_waits_for_the_task_that_runs() -> None:
    it = Boxes()

    def running() -> None:
        it.put("a", "forgotten")
        it.boxes.close("a", lambda: it.done.append("end"))
        it.done.append("running")

    it.boxes.put("a", running)
    it.run()
    assert it.done == ["running", "end"]


def test_goes_on_after_a_task_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    it = Boxes()

    def fail() -> None:
        raise LookupError("a bug")

    it.boxes.put("a", fail)
    it.put("a", "next")
    with caplog.at_level(logging.ERROR):
        it.run()
    assert it.done == ["next"]
    assert "a bug" in caplog.text


@pytest.mark.parametrize("closing", [False, True])
def test_goes_on_after_a_task_that_ends_its_thread(closing: bool) -> None:
    """Bug: gevent's Timeout is no Exception; the connection was dead, and kept."""
    it = Boxes()

    def end() -> None:
        raise SystemExit

    it.boxes.put("a", end)
    it.put("a", "next")
    if closing:
        it.boxes.close("a", lambda: it.done.append("end"))
        it.put("a", "more")
    else:
        with pytest.raises(SystemExit):
            it.run()
    it.run()
    assert it.done == (["end", "more"] if closing else ["next"])
    assert it.boxes._queues == {}


def test_who_enters_runs_at_once_and_others_wait_meanwhile() -> None:
    it = Boxes()

    def inside() -> None:
        assert it.boxes.inside("a")
        assert not it.boxes.enter("a", lambda: it.done.append("too soon"))
        assert it.put("a", "message")
        it.boxes.close("b", lambda: it.done.append("end of b"))
        it.done.append("inside")

    assert it.boxes.enter("a", inside)
    assert it.done == ["inside"]
    assert not it.boxes.inside("a")
    assert not it.boxes.enter("a", lambda: it.done.append("too soon"))
    it.run()
    assert sorted(map(str, it.done)) == ["end of b", "inside", "message"]
    assert it.boxes.enter("a", lambda: it.done.append("alone"))
    assert it.boxes._queues == {}


@pytest.mark.parametrize("fail", [False, True])
def test_who_is_closed_inside_is_closed_afterwards(fail: bool) -> None:
    it = Boxes()

    def inside() -> None:
        it.boxes.close("a", lambda: it.done.append("end"))
        it.fail = fail
        it.done.append("inside")
        raise LookupError

    with pytest.raises(LookupError):
        it.boxes.enter("a", inside)
    it.run()
    assert it.done == ["inside", "end"]
    assert it.boxes._queues == {}


def test_refuses_when_no_thread_can_be_started_and_recovers() -> None:
    """Bug: the queue stayed, with nobody to empty it."""
    it = Boxes()
    it.fail = True
    assert not it.put("a", 0)
    it.boxes.close("b", lambda: it.done.append("end of b"))
    assert it.done == ["end of b"]
    it.fail = False
    assert it.put("a", 1)
    it.run()
    assert it.done == ["end of b", 1]
    assert it.boxes._queues == {}


def test_knows_whether_it_is_called_by_a_task() -> None:
    it = Boxes()
    it.boxes.put("a", lambda: it.done.append(it.boxes.inside("a")))
    it.boxes.put("a", lambda: it.done.append(it.boxes.inside("b")))
    assert not it.boxes.inside("b")
    it.run()
    assert it.done == [True, False]
    assert not it.boxes.inside("a")


def test_never_runs_two_tasks_of_one_connection_at_once() -> None:
    boxes = Mailboxes(spawn, limit=100_000)
    running: dict[str, int] = {"a": 0, "b": 0}
    done: dict[str, list[tuple[int, int]]] = {"a": [], "b": []}
    finished = threading.Event()

    def task(name: str, reader: int, number: int) -> Callable[[], None]:
        def run() -> None:
            running[name] += 1
            assert running[name] == 1
            done[name].append((reader, number))
            running[name] -= 1
            if len(done["a"]) == len(done["b"]) == 2000:
                finished.set()

        return run

    def read(reader: int) -> None:
        for number in range(500):
            for name in "ab":
                assert boxes.put(name, task(name, reader, number))

    threads = [threading.Thread(target=read, args=(n,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert finished.wait(DEADLINE)
    for name in "ab":
        for reader in range(4):
            own = [number for r, number in done[name] if r == reader]
            assert own == list(range(500))


def test_each_task_has_a_context_of_its_own() -> None:
    """Bug: what one left in a context variable was there for the connection's next."""
    left: ContextVar[str] = ContextVar("left", default="nothing")
    left.set("by the one who starts it")
    found: list[str] = []

    def task() -> None:
        found.append(left.get())
        left.set("by a task")

    it = Boxes()
    for _ in range(3):
        assert it.boxes.put("a", task)
    it.run()
    assert it.boxes.enter("a", lambda: (task(), it.boxes.put("a", task)))
    it.run()
    it.fail = True
    it.boxes.enter("a", lambda: (task(), it.boxes.put("a", task)))
    it.boxes.close("a", task)
    assert found == ["nothing"] * 8
    assert left.get() == "by the one who starts it"
