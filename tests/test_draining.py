"""How a process leaves, by a clock that passes when somebody waits."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from flask_livepush import LivePush, config, draining
from flask_livepush.draining import Draining
from tests.support.brokers import Clock


class Process:
    """Connections, users and a queue, as draining sees them.

    Args:
        clients: How many there are.
        obeys: After how many seconds a client that is asked goes; None: never.
    """

    def __init__(
        self, clients: int = 0, *, obeys: float | None = None, seconds: float = 10
    ) -> None:
        self.clock = Clock()
        self.start = self.clock.now
        self.open = {f"client {number}" for number in range(clients)}
        self.obeys = obeys
        self.untold = self.sockets = self.others = 0
        self.is_sent: Callable[[], bool] = lambda: True
        self.asked: list[float] = []
        self.closed: list[float] = []
        self.retired = self.moves = False
        self.keeps_users = False
        self._goes: float | None = None
        self._work: list[Callable[[], None]] = []
        self.draining = Draining(
            config.read({"LIVEPUSH_DRAIN_SECONDS": seconds}),
            "threading",
            clients=self,
            untold=lambda: self.untold,
            open_sockets=lambda: self.sockets,
            hand_back=self.hand_back,
            users=self,
            sent=self.has_sent,
            spawn=self._work.append,
            sleep=self.sleep,
            now=self.clock,
        )

    def sleep(self, seconds: float) -> None:
        self.clock.now += seconds
        if self._goes is not None and self.clock.now >= self._goes:
            self.open.clear()

    @property
    def passed(self) -> float:
        return self.clock.now - self.start

    def run(self) -> None:
        """Do what was begun in the background, once."""
        for work in self._work:
            work()
        self._work.clear()

    def has_sent(self) -> bool:
        return self.is_sent()

    def ask_all(self, within: float) -> None:
        self.asked.append(within)
        if self.obeys is not None and self._goes is None:
            self._goes = self.clock.now + self.obeys

    def hand_back(self) -> None:
        assert not self.open
        self.sockets -= self.others
        self.others = 0

    def connections(self) -> list[str]:
        return sorted(self.open)

    def close(self, eio_sid: str) -> None:
        self.open.remove(eio_sid)
        self.closed.append(self.passed)

    def expect_moves(self) -> None:
        self.moves = True

    def retire(self) -> None:
        assert not self.open
        self.retired = not self.keeps_users


def leave(process: Process, **options: Any) -> float:
    """Let a process leave; return how many seconds it took."""
    process.draining.begin(**options)
    assert process.draining.begun
    process.run()
    assert process.draining.done
    return process.passed


def test_without_clients_it_is_done_at_once() -> None:
    process = Process()
    assert leave(process) == 0
    assert process.moves
    assert process.retired


def test_what_waits_for_other_processes_does_not_keep_it() -> None:
    process = Process(10, obeys=3)
    process.sockets = process.others = 5
    assert leave(process) == pytest.approx(3, abs=0.1)


def test_it_is_done_as_soon_as_all_have_gone() -> None:
    process = Process(10, obeys=3)
    assert 3 <= leave(process) < 3.1
    assert process.closed == []
    # They are told what is left of half of the time.
    assert process.asked[0] == 5
    assert process.asked == sorted(process.asked, reverse=True)


def test_who_does_not_go_is_closed_one_after_the_other() -> None:
    process = Process(100)
    assert 6 <= leave(process) <= 7.1
    assert len(process.closed) == 100
    assert process.closed[0] >= 6
    most = max(process.closed.count(moment) for moment in process.closed)
    assert most <= 100 / 20 + 1


def test_it_never_takes_longer_than_it_may(caplog: pytest.LogCaptureFixture) -> None:
    process = Process(3)
    process.untold = process.sockets = 1
    process.keeps_users = True
    process.is_sent = lambda: False
    assert leave(process) == pytest.approx(10, abs=0.1)
    assert "Publications still wait for the message broker" in caplog.text


def test_what_waits_is_sent_before_it_is_done() -> None:
    process = Process()
    process.is_sent = lambda: process.passed > 4
    assert 4 < leave(process) < 4.2


def test_handlers_of_disconnects_are_waited_for_and_lazy_sockets_are_not() -> None:
    process = Process(1, obeys=0)
    process.sockets = 1  # its client never ends its side
    assert leave(process) < 1.3


def test_no_time_closes_all_at_once() -> None:
    process = Process(50, seconds=0)
    assert leave(process) == 0
    assert len(process.closed) == 50


def test_it_begins_once_and_may_be_told_to_hurry() -> None:
    process = Process(10)
    process.draining.begin(within=1)
    process.draining.begin(within=5)
    process.run()
    assert process.asked[0] == 1
    assert process.closed[0] < 2.1


def test_a_failure_does_not_keep_the_process(caplog: pytest.LogCaptureFixture) -> None:
    process = Process(1)

    def fail() -> bool:
        raise RuntimeError("no queue")

    process.is_sent = fail
    with caplog.at_level(logging.ERROR):
        leave(process)
    assert "Leaving politely failed" in caplog.text


def test_waiting_ends_when_it_is_done_or_the_time_is_over() -> None:
    process = Process(1)
    process.draining.begin()
    assert not process.draining.wait(2)
    assert process.passed == pytest.approx(2)
    process.run()
    passed = process.passed
    assert process.draining.wait(100)
    assert process.passed == passed


def test_all_applications_of_a_process_leave_together() -> None:
    one, other = Process(1, obeys=1), Process()
    assert {one.draining, other.draining} <= set(draining.of_this_process())
    drain = draining.begin([one.draining, other.draining])
    other.run()
    assert not drain.done
    one.run()
    assert drain.done
    assert drain.wait(1)


def test_an_application_that_is_gone_is_forgotten() -> None:
    process = Process()
    known = process.draining
    assert known in draining.of_this_process()
    count = len(draining.of_this_process())
    del process, known
    gc.collect()
    assert len(draining.of_this_process()) < count


def test_livepush_drains_its_applications() -> None:
    livepush = LivePush()
    apps = [Flask("one"), Flask("two")]
    for app in apps:
        livepush.init_app(app)
        assert app.test_client().get("/livepush/ready").status_code == 200
    assert livepush.drain().wait()
    assert livepush.drain().done
    for app in apps:
        client = app.test_client()
        assert client.get("/livepush/ready").status_code == 503
        handshake = client.get("/socket.io/?EIO=4&transport=polling")
        assert handshake.status_code == 503
        other = client.get("/socket.io/?EIO=4&transport=polling&sid=x")
        assert other.status_code == 400
