"""Polls that wait without a thread, where several things happen at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from flask_livepush.transports.engine.frames import FrameError
from flask_livepush.transports.engine.packets import Frame, message
from flask_livepush.transports.engine.poller import create
from flask_livepush.transports.engine.polls import HandingPoll, TakenRequest
from flask_livepush.transports.engine.replies import Refusal, Reply
from flask_livepush.transports.engine.session import Session
from flask_livepush.transports.engine.sessions import Limits, Reason, Sessions

LIMIT = 100


class World:
    """Sessions whose loop turns when the test says so."""

    def __init__(self) -> None:
        numbers = itertools.count()
        self.lost: list[str] = []
        self.ended: list[tuple[str, str]] = []
        self.sessions = Sessions(
            Limits(10, LIMIT, 100, 10, 10),
            ping_interval=25,
            ping_timeout=20,
            draw_id=lambda: str(next(numbers)),
            heard=lambda sid, data: None,
            ended=lambda *told: self.ended.append(told),
            lost=self.lost.append,
            now=lambda: 0.0,
        )
        self.loop = self.sessions.start(create("threading", lambda seconds: None))

    def poll(self, session: Session, mark: str = "") -> Poll:
        """Begin a poll."""
        return Poll(self, session, mark)

    def write(self, session: Session, text: str, *, droppable: bool = False) -> None:
        """Say something to a client."""
        self.sessions.write((session,), (message(text),), droppable=droppable)

    def turn(self) -> None:
        """Let the loop do what there is to do."""
        for _ in range(2):
            self.loop._poller.wake()
            self.loop._tick()


class Poll:
    """A poll, and what it was answered."""

    def __init__(self, world: World, session: Session, mark: str) -> None:
        self.answers: list[Reply] = []
        self.poll = HandingPoll(
            world.sessions, session, world.loop, self.answers.append, mark=mark
        )
        found = self.poll.now()
        self.waits = found is None
        if found is not None:
            self.answers.append(found)

    @property
    def said(self) -> str:
        """The body of its only answer."""
        (answer,) = self.answers
        return answer.body


@pytest.fixture
def world() -> Iterator[World]:
    """Sessions, and a loop that is stopped at the end."""
    made = World()
    yield made
    made.sessions.stop()
    made.loop.run()


@pytest.fixture
def session(world: World) -> Session:
    """A session that polls."""
    return world.sessions.add()


def test_answers_with_what_gathers_in_one_turn(world: World, session: Session) -> None:
    poll = world.poll(session)
    assert poll.waits
    world.write(session, "a")
    world.write(session, "b")
    world.turn()
    assert poll.said == "4a\x1e4b"
    world.write(session, "c")
    world.turn()
    assert world.poll(session).said == "4c"
    assert len(poll.answers) == 1


def test_waits_on_where_what_it_was_told_of_is_given_up(
    world: World, session: Session
) -> None:
    """Bug: it was never answered, and its connection stayed for ever.

    1. A publication comes; the poll is told, and the loop has not had its turn.
    2. More come than may wait for one client: they are given up, the first one too.
    3. The loop finds nothing, and the poll waits on.
    4. The client is told that it has lost something.
    """
    poll = world.poll(session)
    for _ in range(3):
        world.write(session, "x" * 60, droppable=True)
    assert world.lost == [session.sid]
    world.turn()
    assert poll.answers == []
    world.write(session, "lost")
    world.turn()
    assert poll.said == "4lost"


def test_a_session_that_ends_answers_its_poll(world: World, session: Session) -> None:
    poll = world.poll(session)
    session.close()
    world.turn()
    assert poll.said == "1"


def test_one_that_is_released_is_answered_by_what_there_is(
    world: World, session: Session
) -> None:
    poll = world.poll(session)
    poll.poll.release()
    world.turn()
    assert poll.said == "6"
    poll.poll.release()
    assert world.poll(session).waits


def test_what_comes_for_one_that_has_left_waits_for_the_next(
    world: World, session: Session
) -> None:
    poll = world.poll(session, "a")
    world.write(session, "hello")
    poll.poll.leave()
    world.turn()
    assert poll.answers == []
    assert world.poll(session, "a").said == "4hello"


def test_one_that_is_sent_again_takes_the_place_of_the_first(
    world: World, session: Session
) -> None:
    """A proxy does that when the process it had asked died."""
    first = world.poll(session, "a")
    second = world.poll(session, "a")
    world.turn()
    assert first.answers[0].status.startswith("400 ")
    world.write(session, "hello")
    world.turn()
    assert second.said == "4hello"
    assert len(first.answers) == 1
    assert not session.closed


def test_one_that_is_sent_again_gets_what_the_first_was_told_of(
    world: World, session: Session
) -> None:
    first = world.poll(session, "a")
    world.write(session, "hello")
    assert world.poll(session, "a").said == "4hello"
    world.turn()
    assert first.answers[0].status.startswith("400 ")


def test_one_that_was_answered_and_is_sent_again_ends_the_session(
    world: World, session: Session
) -> None:
    """Bug: the client missed what the first answer had said, and nobody told it."""
    first = world.poll(session, "a")
    world.write(session, "hello")
    world.turn()
    assert first.said == "4hello"
    with pytest.raises(Refusal, match="answered already"):
        world.poll(session, "a")
    assert world.ended == [(session.sid, Reason.TRANSPORT_ERROR)]


@pytest.mark.parametrize("marks", [("a", "b"), ("", ""), ("a", "")])
def test_another_one_meanwhile_ends_the_session(
    marks: tuple[str, str], world: World, session: Session
) -> None:
    first = world.poll(session, marks[0])
    with pytest.raises(Refusal, match="polled already"):
        world.poll(session, marks[1])
    world.turn()
    assert first.said == "1"
    assert session.closed


def test_a_client_without_marks_polls_again_and_again(
    world: World, session: Session
) -> None:
    for number in range(3):
        poll = world.poll(session)
        world.write(session, str(number))
        world.turn()
        assert poll.said == f"4{number}"


def test_one_that_comes_when_a_websocket_has_taken_over_waits_for_nothing(
    world: World, session: Session
) -> None:
    """Bug: what it waited for went over the WebSocket."""
    session.held = object()  # type: ignore[assignment]
    assert world.poll(session).said == "6"
    session.held = None


def test_is_answered_once_when_a_websocket_takes_over(
    world: World, session: Session
) -> None:
    poll = world.poll(session)
    world.write(session, "for the WebSocket")
    session.held = object()  # type: ignore[assignment]
    world.turn()
    poll.poll.ready()
    world.turn()
    assert poll.said == "6"
    session.held = None


def test_leaves_the_rest_for_the_next_after_so_many_bytes(
    world: World, session: Session
) -> None:
    texts = [Frame("4" + letter * 40) for letter in "abcd"]
    world.sessions.write((session,), texts)
    answers: list[Reply] = []
    poll = HandingPoll(world.sessions, session, world.loop, answers.append, limit=90)
    for expected in (texts[:3], texts[3:]):
        found = poll.now()
        assert found is not None
        assert found.body == "\x1e".join(frame.text for frame in expected)


@pytest.mark.parametrize("waits", [True, False], ids=["waiting", "next"])
def test_last_words_and_the_end_are_one_answer(
    waits: bool, world: World, session: Session
) -> None:
    """Bug: whoever was between two polls missed all but the first."""
    poll = world.poll(session) if waits else None
    last = [message("why"), message("leave")]
    world.sessions.close(session, Reason.SERVER_DISCONNECT, last)
    world.turn()
    assert (poll or world.poll(session)).said == "4why\x1e4leave\x1e1"
    assert world.sessions.find(session.sid) is None


def test_what_does_not_fit_into_the_last_answer_is_there_for_the_next(
    world: World, session: Session
) -> None:
    """Bug: a poll by another process left the rest to nobody."""
    answers: list[Reply] = []
    poll = HandingPoll(world.sessions, session, world.loop, answers.append, limit=90)
    assert poll.now() is None
    texts = [message(letter * 40) for letter in "abcd"]
    world.sessions.write((session,), texts)
    world.sessions.close(session, Reason.SERVER_DISCONNECT, [message("why")])
    world.turn()
    (first,) = answers
    found = world.sessions.find(session.sid)
    assert found is session
    rest = world.poll(session).said
    both = first.body + "\x1e" + rest
    assert both == "\x1e".join([*(frame.text for frame in texts), "4why", "1"])
    assert world.sessions.find(session.sid) is None


class Turns:
    """A loop that notes what it is to send last."""

    def __init__(self) -> None:
        self.finished: list[bytes] = []

    def own(self, connection: Any, hello: bytes) -> None:
        self.connection = connection

    def finish(self, connection: Any, last: bytes) -> None:
        self.finished.append(last)


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


def test_what_follows_a_request_is_thrown_away_until_it_is_too_much() -> None:
    """The connection ends then, without a word of WebSocket's."""
    loop = Turns()
    TakenRequest(loop, ()).take(_Descriptor())  # type: ignore[arg-type]
    decoder = loop.connection.decoder
    assert list(decoder.feed(b"x" * 65_536)) == []
    with pytest.raises(FrameError):
        list(decoder.feed(b"x"))
    assert decoder.goodbye(1002) == b""
