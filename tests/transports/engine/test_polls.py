"""Polls that wait without a thread, where several things happen at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask_livepush.transports.engine.packets import message
from flask_livepush.transports.engine.polls import HandingPoll, TakenRequest
from flask_livepush.transports.engine.replies import Reply
from flask_livepush.transports.engine.sessions import Limits, Sessions

LIMITS = Limits(connections=10, send_bytes=100, messages=100, upgrade=1, connect=1)


class Turns:
    """A loop whose turns are the test's."""

    def __init__(self) -> None:
        self.tasks: list[Callable[[], object]] = []
        self.finished: list[bytes] = []

    def soon(self, task: Callable[[], object]) -> None:
        self.tasks.append(task)

    def turn(self) -> None:
        tasks, self.tasks = self.tasks, []
        for task in tasks:
            task()

    def own(self, connection: Any, hello: bytes) -> None:
        """Nothing comes from it."""

    def finish(self, connection: Any, last: bytes) -> None:
        self.finished.append(last)


class Case:
    """A session, whose poll waits."""

    def __init__(self) -> None:
        self.loop = Turns()
        self.lost: list[str] = []
        self.sessions = Sessions(
            LIMITS,
            ping_interval=25,
            ping_timeout=20,
            draw_id=lambda: "sid",
            heard=lambda sid, data: None,
            ended=lambda sid, why: None,
            lost=self.lost.append,
        )
        self.session = self.sessions.add()
        self.answers: list[list[str]] = []
        self.poll = HandingPoll(
            self.sessions,
            self.session,
            self.loop,  # type: ignore[arg-type]
            lambda batch: self.answers.append([frame.text for frame in batch]),
        )
        assert self.poll.now() is None

    def write(self, text: str, *, droppable: bool = False) -> None:
        self.sessions.write([self.session], [message(text)], droppable=droppable)


def test_what_gathers_before_the_loops_turn_is_one_answer() -> None:
    case = Case()
    case.write("a")
    case.write("b")
    case.loop.turn()
    assert case.answers == [["4a", "4b"]]
    case.write("c")
    case.loop.turn()
    assert case.answers == [["4a", "4b"]]
    assert case.session.take()[0].text == "4c"


def test_a_poll_whose_news_were_dropped_before_the_turn_waits_on() -> None:
    """Bug: it was called once, and never answered.

    1. A publication comes, and the loop is told.
    2. Before its turn so much more comes that all of it is given up.
    3. The loop finds nothing. Then comes what says so.
    """
    case = Case()
    case.write("x" * 60, droppable=True)
    case.write("x" * 60, droppable=True)
    assert case.lost == ["sid"]
    case.loop.turn()
    assert case.answers == []
    case.write("reset")
    case.loop.turn()
    assert case.answers == [["4reset"]]


def test_a_session_that_ends_answers_its_poll() -> None:
    case = Case()
    case.session.close()
    case.loop.turn()
    assert case.answers == [["1"]]


def test_a_poll_that_left_is_not_answered() -> None:
    case = Case()
    case.write("a")
    case.poll.leave()
    case.loop.turn()
    assert case.answers == []
    assert [frame.text for frame in case.session.take()] == ["4a"]


def test_an_answer_that_is_limited_leaves_the_rest_for_the_next() -> None:
    case = Case()
    frames = [message("x" * 30) for _ in range(4)]
    assert case.session.put(frames, False, LIMITS.send_bytes)
    assert len(case.session.take(70)) == 3
    assert len(case.session.take(1)) == 1
    assert case.session.take() == []
    assert case.session.size == 0


def test_a_request_may_be_answered_before_its_socket_is_there() -> None:
    """The answer comes from another thread than the socket."""
    loop = Turns()
    left: list[str] = []
    request = TakenRequest(loop, ())  # type: ignore[arg-type]
    request.left = lambda: left.append("left")
    request.answer(Reply("hello"))
    assert loop.finished == []
    request.take(_Descriptor())
    (answer,) = loop.finished
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Length: 5\r\n" in answer
    assert answer.endswith(b"\r\n\r\nhello")
    request.gone()
    assert left == []


class _Descriptor:
    def fileno(self) -> int:
        return -1
