"""Requests on their way to other processes, with a post and a clock of the test's."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from werkzeug.test import EnvironBuilder

from flask_livepush.brokers.peers import Lost
from flask_livepush.errors import BrokerError, BrokerUnavailable
from flask_livepush.metrics import Metrics
from flask_livepush.transports.engine import forwarding as module
from flask_livepush.transports.engine.forwarding import Asked, Forwarding
from flask_livepush.transports.engine.polls import HandingPoll
from flask_livepush.transports.engine.replies import Refusal, Reply, unknown_sid
from tests.support.brokers import Clock
from tests.support.connections import Site

LIMIT = 6
PATIENCE = 45.0
DRAWN = "abcdefghijklmnopqrst"


class Post:
    """Carries messages when the test says so, and loses those it says."""

    def __init__(self) -> None:
        self.processes: dict[str, Peer] = {}
        self.waiting: deque[tuple[str, bytes, Lost | None]] = deque()
        #: Why nothing arrives.
        self.error: BrokerError | None = None

    def carry(self, verbs: str = "") -> list[str]:
        """Carry all that waits, or all up to the first with another verb.

        Returns:
            The verbs of what was carried.
        """
        carried = []
        while self.waiting and verbs in ("", verb_of(self.waiting[0][1])):
            name, message, lost = self.waiting.popleft()
            carried.append(verb_of(message))
            if self.error is None and name in self.processes:
                self.processes[name].received(message)
            elif lost is not None:
                lost(self.error)
        return carried

    def drop(self) -> str:
        """Lose the next without a word; return its verb."""
        return verb_of(self.waiting.popleft()[1])


def verb_of(message: bytes) -> str:
    verb: str = json.loads(message.partition(b"\n")[0])[0]
    return verb


class Peer:
    """A process's peers."""

    def __init__(self, post: Post, name: str) -> None:
        self.name = name
        self.known = True
        self.received: Callable[[bytes], object]
        self.interrupted: Callable[[], object]
        self._post = post
        post.processes[name] = self

    def listen(
        self, received: Callable[[bytes], object], interrupted: Callable[[], object]
    ) -> None:
        self.received = received
        self.interrupted = interrupted

    def enter(self) -> bool:
        return self.known

    def post(self, name: str, message: bytes, lost: Lost | None = None) -> None:
        self._post.waiting.append((name, message, lost))


class Request:
    """A client's request, and what it was answered."""

    def __init__(self) -> None:
        self.left: Callable[[], object] | None = None
        self.answers: list[Reply] = []

    def answer(self, reply: Reply) -> None:
        self.left = None
        self.answers.append(reply)

    @property
    def status(self) -> int:
        """Of its only answer."""
        (answer,) = self.answers
        return int(answer.status[:3])


class Left(HandingPoll):
    """A poll that notes that it was left."""

    def __init__(self) -> None:
        self.times = 0
        self.released = 0

    def leave(self) -> None:
        self.times += 1

    def release(self) -> None:
        self.released += 1


class Counts(Metrics):
    """Keeps what is counted."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()

    def count(self, name: str, label: str = "", amount: float = 1) -> None:
        assert name == "forwarded_total"
        self.outcomes[label] += int(amount)


class Process:
    """One of two processes."""

    def __init__(self, post: Post, clock: Clock, name: str) -> None:
        self.peer = Peer(post, name)
        self.counts = Counts()
        self.asked: list[Asked] = []
        #: To call with the answers to what it was asked.
        self.answer: list[Callable[[Reply], object]] = []
        self.poll = Left()
        self.ended: list[str] = []
        self.spawned: list[Callable[[], None]] = []
        self.forwarding = Forwarding(
            self.peer,
            self.serve,
            self.ended.append,
            limit=LIMIT,
            patience=PATIENCE,
            spawn=self.spawned.append,
            sleep=lambda seconds: None,
            now=clock,
            metrics=self.counts,
        )

    def serve(
        self, asked: Asked, answer: Callable[[Reply], object]
    ) -> HandingPoll | None:
        self.asked.append(asked)
        if asked.method == "POST":
            answer(Reply("ok"))
            return None
        self.answer.append(answer)
        return self.poll

    def ask(self, sid: str, method: str = "GET", **more: Any) -> Request:
        """Ask the owner of a session."""
        request = Request()
        self.forwarding.ask(Asked(method, sid, **more), request)
        return request

    def refuses(self, sid: str, method: str = "GET", **more: Any) -> str:
        """Return why it does not ask."""
        with pytest.raises(Refusal) as refused:
            self.ask(sid, method, **more)
        return refused.value.status[:3]

    def counted(self) -> dict[str, int]:
        """Return how many requests ended how."""
        return dict(self.counts.outcomes)

    def keeps_nothing(self) -> bool:
        """Say whether nothing is on its way, or waits for others."""
        made = self.forwarding
        return not (made._waiting or made._of_sid or made._size or made._polls)


def sid_of(name: str, number: int = 0) -> str:
    return f"{name}{DRAWN[:-1]}{number}"


class World:
    """Two processes: ``one`` asks, ``owner`` is asked."""

    def __init__(self) -> None:
        self.post = Post()
        self.clock = Clock()
        self.one = Process(self.post, self.clock, "11111111")
        self.owner = Process(self.post, self.clock, "22222222")
        self.sid = sid_of("22222222")

    def settled(self) -> bool:
        """Let all arrive, and say whether nobody keeps anything then."""
        self.post.carry()
        return self.one.keeps_nothing() and self.owner.keeps_nothing()


@pytest.fixture
def world() -> World:
    """Two processes."""
    return World()


def test_a_poll_is_answered_when_its_owner_has_something(world: World) -> None:
    request = world.one.ask(world.sid, mark="a")
    assert world.post.carry() == ["GET"]
    assert world.owner.asked == [Asked("GET", world.sid, mark="a")]
    assert request.answers == []
    world.owner.answer[0](Reply("4hello ü"))
    assert world.settled()
    (answer,) = request.answers
    assert (answer.body, answer.status) == ("4hello ü", "200 OK")
    assert answer.headers == (("Livepush-Forwarded", "1"),)
    assert world.one.counted() == {"answered": 1}


def test_what_a_client_sends_arrives_as_it_is(world: World) -> None:
    body = b'42["a\n","\xc3\xbc"]\x1e3'
    request = world.one.ask(world.sid, "POST", body=body)
    assert world.settled()
    assert world.owner.asked == [Asked("POST", world.sid, body)]
    assert request.answers[0].body == "ok"


def test_an_owners_refusal_is_passed_on(world: World) -> None:
    request = world.one.ask(world.sid)
    world.post.carry()
    world.owner.answer[0](unknown_sid().reply())
    assert world.settled()
    assert request.status == 400
    assert json.loads(request.answers[0].body)["code"] == 1
    assert world.owner.ended == []


@pytest.mark.parametrize(
    "sid",
    ["", "x", "2" * 27, "2" * 29, "22222222" + "ä" * 20, "22222222" + "a" * 19 + "\n"],
)
def test_nobody_is_asked_for_what_is_no_id(sid: str, world: World) -> None:
    assert world.one.refuses(sid) == "400"
    assert world.settled()
    assert world.one.counted() == {"unknown": 1}


def test_a_process_does_not_ask_itself(world: World) -> None:
    assert world.one.refuses(sid_of("11111111")) == "400"
    assert world.settled()
    assert world.one.counted() == {}


def test_a_process_that_is_not_there_is_no_owner(world: World) -> None:
    requests = [world.one.ask(sid_of("33333333"), method) for method in ("GET", "POST")]
    assert world.settled()
    assert [request.status for request in requests] == [400, 400]
    assert world.one.counted() == {"unknown": 2}


# -- bounds ----------------------------------------------------------------------------


def test_only_so_much_of_one_session_is_on_its_way(world: World) -> None:
    requests = [world.one.ask(world.sid) for _ in range(module._AT_ONCE)]
    assert world.one.refuses(world.sid) == "400"
    world.one.ask(sid_of("22222222", 1))  # another one's may
    world.post.carry()
    for answer in world.owner.answer:
        answer(Reply("6"))
    assert world.settled()
    assert [request.status for request in requests] == [200] * module._AT_ONCE
    world.one.ask(world.sid)
    assert world.one.counted() == {"refused": 1, "answered": module._AT_ONCE + 1}


def test_only_so_many_are_on_their_way(world: World) -> None:
    requests = [world.one.ask(sid_of("22222222", number)) for number in range(LIMIT)]
    assert world.one.refuses(sid_of("22222222", 9)) == "503"
    left = requests[0].left
    assert left is not None
    left()
    world.one.ask(sid_of("22222222", 9))
    assert world.one.counted() == {"refused": 1, "left": 1}


def test_only_so_many_bytes_are_on_their_way(world: World) -> None:
    big = b"x" * (module._MAX_BYTES - 1)
    for _ in range(2):
        world.one.ask(world.sid, "POST", body=big)
        assert world.one.refuses(world.sid, "POST", body=b"xx") == "503"
        world.one.ask(world.sid, "POST", body=b"x")
        world.post.carry()
    assert world.settled()
    # What is allowed to be larger than that goes alone.
    world.one.ask(world.sid, "POST", body=big * 2)
    assert world.one.refuses(world.sid, "POST", body=b"x") == "503"


# -- ends ------------------------------------------------------------------------------


def test_a_poll_whose_client_goes_is_taken_back(world: World) -> None:
    request = world.one.ask(world.sid)
    left = request.left
    assert left is not None
    world.post.carry()
    left()
    assert world.settled()
    assert world.owner.poll.times == 1
    assert world.one.counted() == {"left": 1}
    world.owner.answer[0](Reply("late"))  # it was on its way
    assert world.settled()
    assert request.answers == []


def test_what_is_not_answered_in_time_is_refused(world: World) -> None:
    poll, post = world.one.ask(world.sid), world.one.ask(world.sid, "POST", body=b"3")
    while world.post.waiting:
        world.post.drop()
    world.clock.now += module._ANSWERED
    world.one.forwarding.look()
    assert (post.status, poll.answers) == (503, [])
    world.clock.now += PATIENCE - module._ANSWERED
    world.one.forwarding.look()
    assert poll.status == 503
    assert world.settled()
    assert world.one.counted() == {"failed": 2}


def test_clients_of_an_owner_that_dies_are_told_at_the_next_look(world: World) -> None:
    polls = [world.one.ask(sid_of("22222222", number)) for number in range(2)]
    world.post.carry()
    third = Process(world.post, world.clock, "33333333")
    other = world.one.ask(sid_of("33333333"))
    world.post.carry()
    del world.post.processes["22222222"]
    world.one.forwarding.look()
    world.post.carry()
    assert [poll.status for poll in polls] == [400, 400]
    assert other.answers == []
    third.answer[0](Reply("6"))
    world.post.carry()
    assert world.one.counted() == {"unknown": 2, "answered": 1}


def test_clients_of_an_owner_that_stands_still_are_told_after_some_looks(
    world: World,
) -> None:
    poll = world.one.ask(world.sid)
    world.post.carry()
    for _ in range(module._SILENT):
        world.one.forwarding.look()
        world.post.waiting.clear()  # nobody reads it
    assert poll.answers == []
    world.one.forwarding.look()
    assert poll.status == 400
    assert world.one.counted() == {"unknown": 1}


def test_an_owner_that_answers_looks_is_waited_for(world: World) -> None:
    poll = world.one.ask(world.sid)
    for _ in range(2 * module._SILENT):
        world.one.forwarding.look()
        world.post.carry()
    assert poll.answers == []


def test_an_owner_is_not_blamed_for_a_queue_that_is_away(world: World) -> None:
    """Bug: one publish that took too long cost all clients of a process a session."""
    poll = world.one.ask(world.sid)
    world.post.carry()
    world.post.error = BrokerUnavailable("away")
    for _ in range(2 * module._SILENT):
        world.one.forwarding.look()
        world.post.carry()
    assert poll.answers == []
    world.post.error = None
    world.owner.answer[0](Reply("hello"))
    assert world.settled()
    assert poll.status == 200


def test_a_process_that_ends_has_its_polls_answered(world: World) -> None:
    """Bug: clients of others lost their sessions with it, though it left politely."""
    poll = world.one.ask(world.sid)
    Process(world.post, world.clock, "33333333").ask(sid_of("22222222", 1))
    world.post.carry()
    world.one.forwarding.hand_back()
    assert world.post.carry() == ["ENDS"]
    assert world.owner.poll.released == 1
    world.owner.answer[0](Reply("6"))
    world.post.carry()
    assert poll.answers[0].body == "6"


def test_a_poll_that_could_not_be_sent_is_refused(world: World) -> None:
    world.post.error = BrokerUnavailable("away")
    poll = world.one.ask(world.sid)
    assert world.settled()
    assert poll.status == 503
    assert world.one.counted() == {"failed": 1}


def test_nobody_is_asked_while_answers_would_not_arrive(world: World) -> None:
    """Bug: the owner gave what it had to say to nobody, and the client waited."""
    world.one.peer.known = False
    assert world.one.refuses(world.sid) == "503"
    assert not world.post.waiting
    assert world.one.counted() == {"failed": 1}


def test_all_are_refused_when_answers_may_have_been_lost(world: World) -> None:
    requests = [world.one.ask(world.sid), world.one.ask(world.sid, "POST")]
    world.one.peer.interrupted()
    assert [request.status for request in requests] == [503, 503]
    assert world.one.keeps_nothing()
    assert world.one.counted() == {"failed": 2}


def test_an_answer_that_is_lost_ends_the_session_and_the_wait(world: World) -> None:
    """Bug: the client waited for 45 seconds, and what it was to be told was lost.

    A proxy that asked once more, by another process, got what came after it.
    """
    poll = world.one.ask(world.sid)
    world.post.carry()
    world.post.error = BrokerUnavailable("away")
    world.owner.answer[0](Reply("lost"))
    world.post.carry()
    assert world.owner.ended == [world.sid]
    world.post.error = None
    world.one.forwarding.look()
    assert world.settled()
    assert poll.status == 400
    assert world.one.counted() == {"unknown": 1}


def test_an_answer_to_a_process_that_died_ends_the_session(world: World) -> None:
    world.one.ask(world.sid)
    world.post.carry()
    del world.post.processes["11111111"]
    world.owner.answer[0](Reply("lost"))
    world.post.carry()
    assert world.owner.ended == [world.sid]
    assert world.owner.keeps_nothing()


def test_a_refusal_that_is_lost_ends_nothing(world: World) -> None:
    world.one.ask(world.sid)
    world.post.carry()
    del world.post.processes["11111111"]
    world.owner.answer[0](unknown_sid().reply())
    world.post.carry()
    assert world.owner.ended == []


def test_a_look_does_not_overtake_the_request(world: World) -> None:
    """Bug: the owner did not know it yet, and the client was told 400."""
    first = world.one.ask(sid_of("22222222", 1))
    post = world.one.peer.post

    def after_a_look(name: str, message: bytes, lost: Lost | None = None) -> None:
        world.one.peer.post = post  # type: ignore[method-assign]
        world.one.forwarding.look()
        post(name, message, lost)

    world.one.peer.post = after_a_look  # type: ignore[method-assign]
    poll = world.one.ask(world.sid)
    assert world.post.carry() == ["GET", "WAITING", "GET", "HERE"]
    assert first.answers == poll.answers == []


def test_a_look_does_not_overtake_the_answer(world: World) -> None:
    poll = world.one.ask(world.sid)
    world.one.forwarding.look()
    assert world.post.carry("GET") == ["GET"]
    answered = world.owner.answer[0]
    post = world.owner.peer.post

    def while_it_is_posted(name: str, message: bytes, lost: Lost | None = None) -> None:
        world.post.carry("WAITING")
        post(name, message, lost)

    world.owner.peer.post = while_it_is_posted  # type: ignore[method-assign]
    answered(Reply("hello"))
    world.owner.peer.post = post  # type: ignore[method-assign]
    assert world.settled()
    assert poll.status == 200


def test_one_watch_looks_while_something_is_on_its_way(world: World) -> None:
    world.one.ask(world.sid)
    world.one.ask(world.sid, "POST")
    assert len(world.one.spawned) == 1
    world.one.peer.interrupted()
    world.one.spawned.pop()()
    world.one.ask(world.sid)
    assert len(world.one.spawned) == 1


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\n",
        b"{}\n",
        b"[]\n",
        b'["GET"]\n',
        b'["GET",1,"11111111"]\n',
        b'["GET",{},"11111111","x",""]\n',
        b'["GET","x","11111111","x",""]\n',
        b'["ANSWER",1]\n',
        b'["ANSWER",1,200]\n\xff',
        b'["ANSWER",[],{}]\n',
        b'["WAITING","11111111",[[]]]\n',
        b'["WAITING","11111111",1]\n',
        b'["HERE","22222222",[null]]\n',
        b'["LEFT",null,null]\n',
        b'["OTHER",1]\n',
        b"\xff\xfe",
    ],
)
def test_what_is_no_message_changes_nothing(message: bytes, world: World) -> None:
    poll = world.one.ask(world.sid)
    world.post.carry()
    for process in (world.one, world.owner):
        process.peer.received(message)
    world.post.carry()
    world.owner.answer[0](Reply("hello"))
    assert world.settled()
    assert poll.status == 200


def engine_of(world: World) -> Any:
    """Return an engine that asks through ``one``'s peers, and counts there."""
    engine = Site().livepush.socketio.server.eio
    engine._metrics = world.one.counts
    engine._peers = world.one.peer
    engine._begin()
    return engine


def environ_of(sid: str, body: bytes, **more: str) -> dict[str, Any]:
    query = f"EIO=4&transport=polling&sid={sid}&t=x1"
    builder = EnvironBuilder(path=f"/socket.io/?{query}", data=body, **more)
    return builder.get_environ()


def test_what_is_too_large_is_refused_and_counted(world: World) -> None:
    engine = engine_of(world)
    body = b"4" + b"x" * engine.max_http_buffer_size
    told: list[str] = []
    engine.handle_request(
        environ_of(world.sid, body, method="POST"),
        lambda status, headers: told.append(status),
    )
    assert told == ["413 TOO LARGE"]
    assert not world.post.waiting
    assert world.one.counted() == {"refused": 1}


def test_the_body_of_a_poll_is_not_sent_along(world: World) -> None:
    """Bug: whoever has an id could let megabytes go through Redis with each."""
    engine = engine_of(world)
    request = Request()
    engine._polling._answer_later = lambda environ, start, begin: begin(request)
    engine.handle_request(
        environ_of(world.sid, b"x" * 100_000, method="GET"), lambda *args: None
    )
    world.post.carry()
    assert world.owner.asked == [Asked("GET", world.sid, mark="x1", proofs="")]


# -- what requests bear ----------------------------------------------------------------


def test_what_a_request_bears_goes_along_in_the_place_of_its_mark(world: World) -> None:
    """A process of the last release unpacks exactly five items."""
    world.one.ask(world.sid, mark="x1", proofs="p,q")
    head = json.loads(world.post.waiting[0][1].partition(b"\n")[0])
    assert len(head) == 5
    assert head[-1] == "x1~~p,q"
    world.post.carry()
    assert world.owner.asked == [Asked("GET", world.sid, mark="x1", proofs="p,q")]


def test_a_process_of_the_last_release_bears_nothing_and_is_served(
    world: World,
) -> None:
    """It is told by the head without a separator, while such processes live."""
    head = ["GET", 1, "11111111", world.sid, "x1"]
    world.owner.peer.received(json.dumps(head).encode() + b"\n")
    (asked,) = world.owner.asked
    assert (asked.mark, asked.proofs) == ("x1", None)


def test_polls_without_a_mark_differ_for_a_process_of_the_last_release(
    world: World,
) -> None:
    """It would take the second for the first, sent again, and end the session."""
    engine = engine_of(world)
    engine._polling._answer_later = lambda environ, start, begin: begin(Request())
    for _ in range(2):
        environ = environ_of(world.sid, b"", method="GET")
        environ["QUERY_STRING"] = environ["QUERY_STRING"].removesuffix("&t=x1")
        engine.handle_request(environ, lambda *args: None)
    marks = [json.loads(m.partition(b"\n")[0])[-1] for _, m, _ in world.post.waiting]
    assert len(set(marks)) == 2
    world.post.carry()
    assert {asked.mark for asked in world.owner.asked} == {""}


@pytest.mark.parametrize("text", ["", "x1", "~", "~~", "x1~n", "x1~n~p~q", "\u00e9~\n"])
def test_any_text_is_read_as_a_mark(text: str) -> None:
    asked = Asked.read("GET", "sid", b"", text)
    assert "~" not in asked.mark
    assert (asked.proofs is None) == ("~" not in text)
    asked.about()


class Mine:
    """Binds to the text of a cookie."""

    needs_origin = False

    def bond(self, environ: dict[str, Any]) -> Mine:
        return self

    def is_borne(self, environ: dict[str, Any]) -> bool:
        return bool(environ.get("HTTP_COOKIE") == "mine")

    def is_proved(self, proofs: str, about: bytes) -> bool:
        return proofs == f"mine {about!r}"

    def proofs(self, environ: dict[str, Any], about: bytes) -> str:
        return f"{environ.get('HTTP_COOKIE')} {about!r}"


class Borne(Metrics):
    """Counts requests that do not bear what they must."""

    def __init__(self) -> None:
        self.times = 0

    def count(self, name: str, label: str = "", amount: float = 1) -> None:
        assert name == "unborne_total"
        self.times += 1


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_owner_answers_only_who_proves_what_the_session_bears(method: str) -> None:
    """Bug: whoever knew the id could read and write through another process."""
    owner, asker = Mine(), Mine()
    engine = Site(LIVEPUSH_ENGINE="loop").livepush.socketio.server.eio
    engine._metrics = counts = Borne()
    engine._begin()
    session = engine._open({"HTTP_COOKIE": "mine"})
    session.bond = owner
    told: list[Reply] = []
    for cookie, expected in (("", 1), ("stolen", 2), ("mine", 2)):
        asked = Asked(method, session.sid, b"3" if method == "POST" else b"", "t1")
        proofs = asker.proofs({"HTTP_COOKIE": cookie}, asked.about())
        engine._polling.serve(replace(asked, proofs=proofs), told.append)
        assert counts.times == expected
    refused = told[:2]
    assert [json.loads(reply.body)["code"] for reply in refused] == [1, 1]
    assert {reply.status for reply in refused} == {"400 BAD REQUEST"}
    # Proofs of another request are none: not of another poll, nor of another body.
    other = replace(asked, mark="t2", body=b"4", proofs=proofs)
    engine._polling.serve(other, told.append)
    assert counts.times == 3
    # A process of the last release does not say.
    engine._polling.serve(Asked(method, session.sid, asked.body, "t1"), told.append)
    assert counts.times == 3
    engine.shutdown()
